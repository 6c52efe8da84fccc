"""Scores of one image and class that pixel counts alone cannot give: calibration, and distance between borders.

A border is the set of a mask's pixels that share an edge with a pixel outside the mask or with the image's frame, as in
MONAI.
"""

import math

import numpy as np
from etils import epy
from jaxtyping import Bool, Float

with epy.lazy_imports():  # imported when it is used, because importing it takes long
    from scipy import ndimage

NUM_BINS = 15
"""Number of bins of the calibration error."""
SURFACE_TOLERANCE = 2.0
"""Tolerance of `surface_dice`, in pixels."""


def brier(probs: Float[np.ndarray, "h w"], truth: Bool[np.ndarray, "h w"]) -> float:
    """Compute the Brier score: the mean over pixels of (p - t)^2.

    Args:
      probs: `[h w]`, probabilities in [0, 1].
      truth: `[h w]`, bool, true mask.

    Returns:
      Number in [0, 1]; 0 is best.

    Reference:
      Brier 1950.

    Example:
      >>> import numpy as np
      >>> from unet_jax.metrics.image_scores import brier
      >>> brier(np.array([[0.5, 1.0]]), np.array([[True, True]]))
      0.125
    """
    return float(np.mean((probs.astype(np.float64) - truth) ** 2))


def calibration_error(
    probs: Float[np.ndarray, "h w"], truth: Bool[np.ndarray, "h w"], num_bins: int = NUM_BINS
) -> float:
    """Compute the expected calibration error of one class's probabilities over the pixels of an image.

    Formula: sum over bins of (share of pixels) * |mean p - share of truth|. The bins of p have equal width.

    Args:
      probs: `[h w]`, probabilities in [0, 1].
      truth: `[h w]`, bool, true mask.
      num_bins: number of bins.

    Returns:
      Number in [0, 1]; 0 is best.

    Reference:
      Guo et al., On calibration of modern neural networks, 2017 (arXiv:1706.04599).

    Example:
      >>> import numpy as np
      >>> from unet_jax.metrics.image_scores import calibration_error
      >>> calibration_error(np.full((1, 4), 0.75), np.array([[True, False, False, False]]))
      0.5
    """
    return float(np.abs(calibration_sums(probs, truth, num_bins)).sum() / probs.size)


def calibration_sums(
    probs: Float[np.ndarray, "*s"], truth: Bool[np.ndarray, "*s"], num_bins: int = NUM_BINS
) -> Float[np.ndarray, " bins"]:
    """Return the sum of p - t over the pixels of each bin of p; the calibration error is that of their absolute values.

    Args:
      probs: probabilities in [0, 1], of any shape.
      truth: true mask, of the same shape.
      num_bins: number of bins of equal width.

    Example:
      >>> from unet_jax.metrics.image_scores import calibration_sums
      >>> calibration_sums(np.array([0.25, 0.75]), np.array([False, True]), num_bins=2).tolist()
      [0.25, -0.25]
    """
    p, t = probs.astype(np.float64).ravel(), truth.ravel().astype(np.float64)
    bins = np.clip(np.ceil(p * num_bins).astype(int) - 1, 0, num_bins - 1)  # an upper edge belongs to its bin
    return np.bincount(bins, p - t, minlength=num_bins)


def border_of(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Return the border of a mask, as defined above."""
    return mask & ~np.asarray(ndimage.binary_erosion(mask), bool)


def border_distances(
    predicted: Bool[np.ndarray, "h w"], truth: Bool[np.ndarray, "h w"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " m"]]:
    """Return the Euclidean distance of each border pixel to the other mask's border, in pixels.

    Args:
      predicted: `[h w]`, bool, a mask of at least one pixel.
      truth: `[h w]`, bool, a mask of at least one pixel.

    Returns:
      Distances of the n border pixels of `predicted`, and of the m border pixels of `truth`.

    Example:
      >>> import numpy as np
      >>> from unet_jax.metrics.image_scores import border_distances
      >>> there, back = border_distances(np.array([[1, 1, 0, 0]], bool), np.array([[0, 0, 0, 1]], bool))
      >>> print(there, back)
      [3. 2.] [2.]
    """
    borders = [border_of(mask) for mask in (predicted, truth)]
    first, second = borders
    to_first, to_second = (np.asarray(ndimage.distance_transform_edt(~border)) for border in borders)
    return to_second[first], to_first[second]


def border_sums(
    predicted: Bool[np.ndarray, "h w"], truth: Bool[np.ndarray, "h w"], tolerance: float = SURFACE_TOLERANCE
) -> tuple[float, float, float]:
    """Measure the borders of two masks: the number of near pixels, the number of all, and the 95 % Hausdorff distance.

    Args:
      predicted: `[h w]`, bool, predicted mask.
      truth: `[h w]`, bool, true mask.
      tolerance: distance in pixels up to which a border pixel is near the other border.

    Returns:
      Border pixels of both masks within `tolerance` of the other border, border pixels of both masks, and the result
      of `hausdorff95`.

    Example:
      >>> from unet_jax.metrics.image_scores import border_sums
      >>> predicted, truth = np.array([[1, 1, 0, 0, 0]], bool), np.array([[0, 0, 0, 1, 1]], bool)
      >>> [round(number, 2) for number in border_sums(predicted, truth)]
      [2.0, 4.0, 2.95]
    """
    if not (predicted.any() and truth.any()):
        size = sum(int(border_of(mask).sum()) for mask in (predicted, truth))
        return 0.0, float(size), math.hypot(*truth.shape) if size else 0.0
    distances = border_distances(predicted, truth)
    near = sum(int((values <= tolerance).sum()) for values in distances)
    return float(near), float(sum(map(len, distances))), float(max(np.percentile(values, 95) for values in distances))


def hausdorff95(predicted: Bool[np.ndarray, "h w"], truth: Bool[np.ndarray, "h w"]) -> float:
    """Compute the 95 % Hausdorff distance: the larger of the two borders' 95th percentiles of distance to the other.

    Args:
      predicted: `[h w]`, bool, predicted mask.
      truth: `[h w]`, bool, true mask.

    Returns:
      Distance in pixels; 0 if both masks are empty. If only one is empty there is no distance, and the result is the
      image's diagonal, which no distance exceeds.

    Example:
      >>> import numpy as np
      >>> from unet_jax.metrics.image_scores import hausdorff95
      >>> predicted, truth = np.zeros((5, 5), bool), np.zeros((5, 5), bool)
      >>> predicted[0, 0] = truth[3, 4] = True
      >>> hausdorff95(predicted, truth)
      5.0
    """
    return border_sums(predicted, truth)[2]


def surface_dice(
    predicted: Bool[np.ndarray, "h w"], truth: Bool[np.ndarray, "h w"], tolerance: float = SURFACE_TOLERANCE
) -> float:
    """Compute the share of the pixels of both borders that lie within `tolerance` of the other border.

    Args:
      predicted: `[h w]`, bool, predicted mask.
      truth: `[h w]`, bool, true mask.
      tolerance: distance in pixels that is still accepted.

    Returns:
      Share in [0, 1]; 1 if both masks are empty, 0 if only one is.

    Reference:
      arXiv:1809.04430.

    Example:
      >>> import numpy as np
      >>> from unet_jax.metrics.image_scores import surface_dice
      >>> predicted, truth = np.array([[1, 1, 0, 0, 0]], bool), np.array([[0, 0, 0, 1, 1]], bool)
      >>> surface_dice(predicted, truth, tolerance=2.0)  # of each border, one pixel of two is near enough
      0.5
    """
    near, size, _ = border_sums(predicted, truth, tolerance)
    return near / size if size else 1.0
