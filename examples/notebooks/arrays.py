# %% [markdown]
# # My own data as NumPy arrays
#
# No folders are needed: `unet_jax.fit` takes arrays, or anything with `__len__` and `__getitem__`.

# %%
# %pip install .
import os

import numpy as np

import unet_jax

TINY = os.environ.get("TINY") == "1"  # as little as possible, for tests

# %% [markdown]
# ## Arrays
#
# Images are `[n h w c]` (uint8, uint16, int16 or floats), masks `[n h w k]`: one channel per class, which may overlap.
# Here bright spots are to be found, and what is very bright within them.

# %%
rng = np.random.default_rng(0)
size, count = 32 if TINY else 64, 20 if TINY else 120
rows, columns = np.mgrid[:size, :size]
centers = rng.integers(size // 4, 3 * size // 4, (count, 2))
distance = np.hypot(rows - centers[:, 0, None, None], columns - centers[:, 1, None, None])
bright = 180.0 * np.exp(-((distance / (size / 6)) ** 2))
images = np.clip(bright + rng.normal(40, 15, bright.shape), 0, 255).astype(np.uint8)[..., None]
masks = np.stack([distance < size / 6, distance < size / 12], axis=-1)
print(images.shape, masks.shape)

# %% [markdown]
# ## Train

# %%
source = unet_jax.ArraySource(images, masks, ["spot", "core"])
settings = {"data.image_size": size}
if TINY:
    settings |= {"train.num_epochs": 1, "train.num_pictures": 0, "model.widths": (4,), "model.center_width": 8}
config = unet_jax.replace(unet_jax.PRESETS["small"](), settings)
result = unet_jax.fit(source, config=config, out="ARRAYS")
print(result.best_metrics)

# %% [markdown]
# ## Predict

# %%
run = unet_jax.load_run("ARRAYS")
probs = unet_jax.predict_probs(run, images[:4])  # [4 h w 2] float32
print((probs > run.threshold).mean(axis=(1, 2)))
