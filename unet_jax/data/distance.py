"""Exact Euclidean distance maps on the host, equal to those of `unet_jax.losses.distance` on the device."""

import numpy as np
from scipy import ndimage


def signed_distance_map(mask: np.ndarray) -> np.ndarray:
    """Signed distance in pixels of a mask `[h w k]`, per class: what `boundary_loss(distance=...)` takes.

    Distance to the mask outside of it, and -(distance to the background - 1) inside: 0 on the mask's own edge. 0
    everywhere for empty and full masks.

    Args:
      mask: uint8, inside from 128 on as everywhere on the host, or bool.

    Returns:
      float32 `[h w k]`.
    """
    inside = mask if mask.dtype == np.bool_ else mask >= 128
    distance = np.zeros(mask.shape, np.float32)
    for k in range(mask.shape[-1]):
        own = inside[..., k]
        if own.any() and not own.all():
            outer, inner = (np.asarray(ndimage.distance_transform_edt(side)) for side in (~own, own))
            distance[..., k] = np.where(own, 1.0 - inner, outer)
    return distance
