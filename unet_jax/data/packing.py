"""Packing of images and masks on the host, as bytes: blocks of pixels become channels (docs/packing.md).

On a device, packing is a transposition of narrow rows, which accelerators do badly: a TPU's compiler estimated for it,
in float, a quarter of all cycles of a training step (docs/tpu.md). Measured on one core of a host with 1024x1024 pixels
and blocks of 4x4: 6.5 ms for an image and 0.8 ms for two masks with `cv2.mixChannels`, 13.4 and 8.9 ms with NumPy's
transposition.
"""

import cv2
import numpy as np

from unet_jax._types import Sample
from unet_jax.config.packing import Factor, Packing, num_subpixels, subpixels

_MOST_CHANNELS = 128  # most channels of an array in OpenCV 5


def pack_pixels(x: np.ndarray, factor: Factor) -> np.ndarray:
    """Pack `[h w c]` by a factor (r, s) to `[h/r w/s r*s*c]`, in the layout of `unet_jax.model.packing.pack`."""
    if factor == (1, 1):
        return x
    (r, s), (h, w, c) = factor, x.shape
    packed = np.empty((h // r, w // s, num_subpixels(factor) * c), x.dtype)
    if packed.shape[-1] > _MOST_CHANNELS:
        for target, (i, j) in enumerate(subpixels(factor)):
            packed[..., target * c : (target + 1) * c] = x[i::r, j::s]
        return packed
    rows = x.reshape(h // r, r, w // s, s * c)
    sources = [np.ascontiguousarray(rows[:, i]) for i in range(r)]
    from_to = []
    for target, (i, j) in enumerate(subpixels(factor)):
        for k in range(c):
            from_to += [i * s * c + j * c + k, target * c + k]
    cv2.mixChannels(sources, [packed], from_to)
    return packed


def pack_sample(sample: Sample, packing: Packing) -> Sample:
    """Pack image and masks, each by its own factor."""
    valid = None if sample.valid is None else pack_pixels(sample.valid, packing.label)
    return Sample(pack_pixels(sample.image, packing.image), pack_pixels(sample.mask, packing.label), valid)
