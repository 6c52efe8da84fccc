"""Exact Euclidean distance maps on the host, by SciPy.

`unet_jax.losses.distance` computes the same maps on the devices; both agree to rounding.
"""

import numpy as np
from etils import epy

with epy.lazy_imports():  # imported when it is used, because importing it takes long
    from scipy import ndimage


def signed_distance_map(mask: np.ndarray) -> np.ndarray:
    """Compute the signed distance in pixels to each class mask, as `boundary_loss(distance=...)` takes it.

    Outside the mask it is the distance to the mask. Inside it is -(distance to the background - 1), which is 0 on the
    mask's own edge pixels. It is 0 everywhere for empty and full masks.

    Args:
      mask: `[h w k]` uint8, inside from 128 on, as everywhere on the host; or bool.

    Returns:
      `[h w k]` float32, in pixels.

    Reference:
      Kervadec et al., Boundary loss for highly unbalanced segmentation, 2018 (arXiv:1812.07032).

    Example:
      >>> import numpy as np
      >>> from unet_jax.data.distance import signed_distance_map
      >>> mask = np.array([[0, 0, 1, 1, 1, 0]], bool)[..., None]
      >>> signed_distance_map(mask)[0, :, 0].tolist()
      [2.0, 1.0, 0.0, -1.0, 0.0, 1.0]
    """
    inside = mask if mask.dtype == np.bool_ else mask >= 128
    distance = np.zeros(mask.shape, np.float32)
    for k in range(mask.shape[-1]):
        own = inside[..., k]
        if own.any() and not own.all():
            outer, inner = (np.asarray(ndimage.distance_transform_edt(side)) for side in (~own, own))
            distance[..., k] = np.where(own, 1.0 - inner, outer)
    return distance
