"""Scores of one image and class that pixel counts alone do not give: calibration and distance between borders.

Borders are pixels of a mask that touch, by an edge, a pixel outside of it or the image's frame, as in MONAI.
"""

import math

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

NUM_BINS = 15
SURFACE_TOLERANCE = 2.0
"""In pixels."""


def brier(probs: Float[np.ndarray, "h w"], truth: Bool[np.ndarray, "h w"]) -> float:
    """Mean over pixels of (p - t)^2 (Brier 1950)."""
    return float(np.mean((probs.astype(np.float64) - truth) ** 2))


def calibration_error(
    probs: Float[np.ndarray, "h w"], truth: Bool[np.ndarray, "h w"], num_bins: int = NUM_BINS
) -> float:
    """Expected calibration error (arXiv:1706.04599) of a class's probability over the pixels of an image.

    Pixels are put into `num_bins` equal bins by p; the sum over bins of (share of pixels) * |mean p - share of truth|.
    """
    p, t = probs.astype(np.float64).ravel(), truth.ravel().astype(np.float64)
    bins = np.clip(np.ceil(p * num_bins).astype(int) - 1, 0, num_bins - 1)  # upper edges belong to their bin
    return float(np.abs(np.bincount(bins, p - t, minlength=num_bins)).sum() / p.size)


def border_distances(
    predicted: Bool[np.ndarray, "h w"], truth: Bool[np.ndarray, "h w"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " m"]]:
    """Euclidean distance in pixels of each border pixel to the other mask's border; both masks must hold a pixel."""
    borders = [mask & ~ndimage.binary_erosion(mask) for mask in (predicted, truth)]
    first, second = borders
    to_first, to_second = (np.asarray(ndimage.distance_transform_edt(~border)) for border in borders)
    return to_second[first], to_first[second]


def hausdorff95(predicted: Bool[np.ndarray, "h w"], truth: Bool[np.ndarray, "h w"]) -> float:
    """The larger of the 95th percentiles of the distances of one border to the other, in pixels.

    0 when both masks are empty. When one is, there is no distance: the image's diagonal, the largest there could be.
    """
    if not (predicted.any() and truth.any()):
        return 0.0 if predicted.any() == truth.any() else math.hypot(*truth.shape)
    return float(max(np.percentile(distances, 95) for distances in border_distances(predicted, truth)))


def surface_dice(
    predicted: Bool[np.ndarray, "h w"], truth: Bool[np.ndarray, "h w"], tolerance: float = SURFACE_TOLERANCE
) -> float:
    """Share of the pixels of both borders that lie within `tolerance` of the other border (arXiv:1809.04430).

    1 when both masks are empty, 0 when one is.
    """
    if not (predicted.any() and truth.any()):
        return float(predicted.any() == truth.any())
    near, far = border_distances(predicted, truth)
    return float(((near <= tolerance).sum() + (far <= tolerance).sum()) / (near.size + far.size))
