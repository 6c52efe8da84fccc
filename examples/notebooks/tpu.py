# %% [markdown]
# # On a free TPU: plan first, then train
#
# Colab and Kaggle lend a v5e. Minutes there are few, so ask the TPU's compiler before: it needs no TPU.

# %%
# %pip install '.[tpu]'
import os
import subprocess

from etils import epath

import unet_jax
from unet_jax.data.synthetic import write_synthetic

TINY = os.environ.get("TINY") == "1"  # as little as possible, for tests

# %% [markdown]
# ## Plan
#
# Memory, cycles and padding of one step, for the devices that you will get: `v5e:1x1` is one chip, `v5e:2x4` eight.

# %%
small = ["--model.widths", "4", "--model.center-width", "8", "--data.image-size", "32"] if TINY else []
plan = ["python", "-m", "unet_jax", "plan", "small", "--topology", "v5e:1x1", "--images-per-device", "8", *small]
if not TINY:  # the compiler takes minutes
    subprocess.run(plan, check=True)

# %% [markdown]
# ## Train
#
# The same call on every machine: all devices are used, and the images are packed for TPUs by themselves.

# %%
write_synthetic(
    epath.Path("DATA"), num_images=16 if TINY else 200, image_size=64 if TINY else 128, num_classes=2, seed=0
)
settings = {"data.root": "DATA"}
if TINY:
    settings |= {"data.image_size": 32, "train.num_epochs": 1, "train.num_pictures": 0}
    settings |= {"model.widths": (4,), "model.center_width": 8}
else:
    settings |= {"model.dtype": "bfloat16"}
config = unet_jax.replace(unet_jax.PRESETS["small"](), settings)
result = unet_jax.train(config, "RUN")
print(result.best_metrics)
