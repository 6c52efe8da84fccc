"""Skeletons of masks, for the score clDice of thin structures such as vessels."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool

from unet_jax._types import InputError


def find_skeletonize() -> Callable[[np.ndarray], np.ndarray]:
    """Return scikit-image's function that finds the skeleton of a mask.

    Raises:
      InputError: scikit-image is not installed.
    """
    try:
        from skimage.morphology import skeletonize
    except ImportError as error:
        raise InputError(
            "the score cldice needs scikit-image, which is not installed: pip install 'unet_jax[cldice]'."
        ) from error
    return skeletonize


def skeleton_sums(
    predicted: Bool[np.ndarray, "h w"], truth: Bool[np.ndarray, "h w"]
) -> tuple[float, float, float, float]:
    """Count the pixels of both masks' skeletons, and those that lie in the other mask.

    Args:
      predicted: `[h w]`, bool, predicted mask.
      truth: `[h w]`, bool, true mask.

    Returns:
      Pixels of the predicted skeleton in the true mask, pixels of the predicted skeleton, pixels of the true skeleton
      in the predicted mask, pixels of the true skeleton. clDice is the harmonic mean of the two shares.

    Raises:
      InputError: scikit-image is not installed.

    Reference:
      Shit et al., clDice, 2021 (arXiv:2003.07311).

    Example:
      >>> line = np.zeros((5, 9), bool)
      >>> line[2, 1:8] = True
      >>> skeleton_sums(line, line)[:2]
      (7.0, 7.0)
    """
    skeletonize = find_skeletonize()
    of_predicted, of_truth = (np.asarray(skeletonize(mask), bool) for mask in (predicted, truth))
    counts = (of_predicted & truth, of_predicted, of_truth & predicted, of_truth)
    first, second, third, fourth = (float(count.sum()) for count in counts)
    return first, second, third, fourth
