# %% [markdown]
# # First steps
#
# From folders of images and masks to masks of new images. It runs on Colab, Kaggle or any machine, on a CPU or a GPU.

# %%
# In a notebook, install first (`'.[gpu]'` in the place of `.` on a machine with an NVIDIA GPU):
# %pip install .
import os
from pathlib import Path

from etils import epath

import unet_jax
from unet_jax.data.synthetic import write_synthetic

TINY = os.environ.get("TINY") == "1"  # as little as possible, for tests

# %% [markdown]
# ## Data
#
# Here they are made. Your own: `DATA/images/ID.png` and, for each class, `DATA/masks/CLASS/ID.png`.

# %%
write_synthetic(
    epath.Path("DATA"), num_images=16 if TINY else 80, image_size=64 if TINY else 128, num_classes=2, seed=0
)
print(sorted(path.name for path in Path("DATA/masks").iterdir()))

# %% [markdown]
# ## Train
#
# The same call continues a run that was stopped.

# %%
settings = {"data.root": "DATA"}
if TINY:
    settings |= {"data.image_size": 32, "train.num_epochs": 1, "train.num_pictures": 0}
    settings |= {"model.widths": (4,), "model.center_width": 8}
config = unet_jax.replace(unet_jax.PRESETS["small"](), settings)
result = unet_jax.train(config, "RUN")
print(result.best_metrics)

# %% [markdown]
# ## Look
#
# `RUN/report.html` is a page with everything; `result.history` is a list of records for pandas.

# %%
for row in result.history[-3:]:
    print(row["step"], row["train/loss"], row["eval/loss"], row["eval/dice"])

# %% [markdown]
# ## Predict

# %%
run = unet_jax.load_run("RUN")
image = unet_jax.read_pixels(min(Path("DATA/images").iterdir()))
(probs,) = unet_jax.predict_images(run, [image])  # [h w k] float32 at the image's own size
for name, mask in zip(run.class_names, (probs > run.threshold).transpose(2, 0, 1), strict=True):
    print(name, f"{mask.mean():.1%} of the pixels")
