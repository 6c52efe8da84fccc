# %% [markdown]
# # Losses, and a study that compares them
#
# A single run says little about a loss: another seed would give another number. A study trains each variant with
# several seeds, everything else equal, and says what may be concluded.

# %%
# %pip install .
import os
import subprocess
from pathlib import Path

import jax.numpy as jnp
from etils import epath

import unet_jax
from unet_jax.data.synthetic import write_synthetic

TINY = os.environ.get("TINY") == "1"  # as little as possible, for tests
count, size = (30, 32) if TINY else (80, 96)
write_synthetic(epath.Path("DATA"), num_images=count, image_size=size, num_classes=2, seed=0)

# %% [markdown]
# ## A loss is a function
#
# Logits and labels are `[b h w k]`. The result has a value per pixel, per class, or per image and class.

# %%
logits = jnp.array([2.0, -1.0, 0.5, -3.0]).reshape(1, 2, 2, 1)
labels = jnp.array([1.0, 0.0, 0.0, 0.0]).reshape(1, 2, 2, 1)
print(unet_jax.losses.soft_dice_loss(logits, labels), unet_jax.losses.tversky_loss(logits, labels))

# %% [markdown]
# ## The study
#
# `python -m unet_jax study STUDY.toml` can be stopped and continues. The page is `STUDY/study.html`.

# %%
network = "widths = [4]\ncenter_width = 8" if TINY else "widths = [8, 16, 32]\ncenter_width = 64"
Path("study.toml").write_text(f"""
[study]
out = "STUDY"
seeds = {[0, 1] if TINY else [0, 1, 2]}
baseline = "bce+dice"

[config.data]
root = "DATA"
splits = "DATA/splits.csv"
image_size = {32 if TINY else 96}

[config.model]
{network}

[config.train]
num_epochs = {1 if TINY else 20}

[[variant]]
name = "bce+dice"

[[variant]]
name = "tversky"
terms = [{{name = "bce"}}, {{name = "tversky"}}]
""")
subprocess.run(["python", "-m", "unet_jax", "study", "study.toml"], check=True)
