"""Scores from integer pixel counts, so that they do not depend on the batch size.

Counts are summed first and divided once. Where a denominator is 0 the score is 1: for Dice and IoU the class is then
neither there nor predicted, for precision nothing is predicted, and for recall nothing is there. A class that is absent
from an image but predicted in it has a Dice score, IoU and precision of 0.

Ignored pixels are not counted. Where no pixel is counted at all, every score is NaN: nobody can tell.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8


class Counts(NamedTuple):
    """Numbers of pixels, usually `[b k]`: per image and class. They are int32 on a device and int64 on the host."""

    tp: Any
    """True positives: predicted, and truly in the class."""
    fp: Any
    """False positives: predicted, but not in the class."""
    fn: Any
    """False negatives: in the class, but not predicted."""
    tn: Any
    """True negatives: neither predicted nor in the class."""


def counts_from_logits(
    logits: Float[Array, "*b h w c"],
    labels: UInt8[Array, "*b h w c"],
    *,
    threshold: float,
    num_subpixels: int = 1,
    valid: UInt8[Array, "*b h w c"] | None = None,
) -> Counts:
    """Count pixels per image and class, on the device.

    Args:
      logits: `[*b h w c]`; predicted where sigmoid(logit) > threshold.
      labels: `[*b h w c]`, uint8, 0 to 255; in the class from 128 on.
      threshold: probability between 0 and 1, both excluded.
      num_subpixels: number of pixels in a block if all are packed (`unet_jax.model.packing`): c = num_subpixels * k.
      valid: `[*b h w c]`, uint8; pixels are counted from 128 on. None counts all.

    Returns:
      int32 `[*b k]` for each count.

    Example:
      >>> import jax.numpy as jnp
      >>> from unet_jax import metrics
      >>> logits = jnp.array([2.0, 2.0, -2.0]).reshape(1, 3, 1)
      >>> labels = jnp.array([255, 0, 0], jnp.uint8).reshape(1, 3, 1)
      >>> counts = metrics.counts_from_logits(logits, labels, threshold=0.5)
      >>> print(counts.tp, counts.fp, counts.fn, counts.tn)
      [1] [1] [0] [1]
    """
    predicted = logits > np.log(threshold / (1.0 - threshold))
    counts = _counts(predicted, labels >= 128, None if valid is None else valid >= 128, jnp)
    return Counts(*(c.reshape(*c.shape[:-1], num_subpixels, -1).sum(axis=-2) for c in counts))


def counts_from_masks(
    predicted: Bool[np.ndarray, "*b h w k"],
    truth: Bool[np.ndarray, "*b h w k"],
    valid: Bool[np.ndarray, "*b h w k"] | None = None,
) -> Counts:
    """Count pixels per image and class, on the host.

    Args:
      predicted: `[*b h w k]`, bool.
      truth: `[*b h w k]`, bool.
      valid: `[*b h w k]`, bool, the pixels that are counted. None counts all.

    Returns:
      int64 `[*b k]` for each count.

    Example:
      >>> import numpy as np
      >>> from unet_jax import metrics
      >>> predicted, truth = np.array([1, 1, 0], bool).reshape(1, 3, 1), np.array([1, 0, 0], bool).reshape(1, 3, 1)
      >>> counts = metrics.counts_from_masks(predicted, truth)
      >>> print(counts.tp, counts.fp, counts.fn, counts.tn)
      [1] [1] [0] [1]
    """
    return _counts(predicted, truth, valid, np)


def _counts(predicted: Any, truth: Any, valid: Any, xp: Any) -> Counts:
    """Return the four counts with the array module `xp`, NumPy or jax.numpy."""
    dtype = xp.int32 if xp is jnp else xp.int64
    tp, fp, fn, tn = (
        xp.sum(hits if valid is None else hits & valid, axis=(-3, -2), dtype=dtype)
        for hits in (predicted & truth, predicted & ~truth, ~predicted & truth, ~predicted & ~truth)
    )
    return Counts(tp, fp, fn, tn)


def sum_counts(counts: Counts, axis: int = 0) -> Counts:
    """Sum counts over images, in int64, so that scores of the sum are those of all pixels together.

    Args:
      counts: `[b k]` for each count.
      axis: axis of the images.

    Returns:
      int64 `[k]` for each count.

    Example:
      >>> import numpy as np
      >>> from unet_jax import metrics
      >>> counts = metrics.Counts(*(np.array([[n], [1]]) for n in (4, 2, 2, 8)))  # two images, one class
      >>> print(metrics.sum_counts(counts).tp)
      [5]
    """
    return Counts(*(np.sum(np.asarray(c, np.int64), axis=axis) for c in counts))


def dice(counts: Counts) -> np.ndarray:
    """Compute the Dice score, also called F1: 2 TP / (2 TP + FP + FN).

    Args:
      counts: counts of any shape.

    Returns:
      float64 of the same shape, in [0, 1]; 1 where the class is neither there nor predicted,
      NaN where no pixel was counted.

    Example:
      >>> import numpy as np
      >>> from unet_jax import metrics
      >>> counts = metrics.Counts(tp=np.array([4]), fp=np.array([2]), fn=np.array([3]), tn=np.array([7]))
      >>> print(np.round(metrics.dice(counts), 3))  # 8 / 13
      [0.615]
    """
    return _ratio(counts, 2 * _int(counts.tp), 2 * _int(counts.tp) + _int(counts.fp) + _int(counts.fn))


def iou(counts: Counts) -> np.ndarray:
    """Compute intersection over union, also called the Jaccard index: TP / (TP + FP + FN).

    Args:
      counts: counts of any shape.

    Returns:
      float64 of the same shape, in [0, 1]; 1 where the class is neither there nor predicted,
      NaN where no pixel was counted.

    Example:
      >>> import numpy as np
      >>> from unet_jax import metrics
      >>> counts = metrics.Counts(tp=np.array([4]), fp=np.array([2]), fn=np.array([3]), tn=np.array([7]))
      >>> print(np.round(metrics.iou(counts), 3))  # 4 / 9
      [0.444]
    """
    return _ratio(counts, _int(counts.tp), _int(counts.tp) + _int(counts.fp) + _int(counts.fn))


def precision(counts: Counts) -> np.ndarray:
    """Compute precision, the share of predicted pixels that are in the class: TP / (TP + FP).

    Args:
      counts: counts of any shape.

    Returns:
      float64 of the same shape, in [0, 1]; 1 where nothing is predicted, NaN where no pixel was counted.

    Example:
      >>> import numpy as np
      >>> from unet_jax import metrics
      >>> counts = metrics.Counts(tp=np.array([4]), fp=np.array([2]), fn=np.array([3]), tn=np.array([7]))
      >>> print(np.round(metrics.precision(counts), 3))  # 4 / 6
      [0.667]
    """
    return _ratio(counts, _int(counts.tp), _int(counts.tp) + _int(counts.fp))


def recall(counts: Counts) -> np.ndarray:
    """Compute recall, the share of the class's pixels that are predicted: TP / (TP + FN).

    Args:
      counts: counts of any shape.

    Returns:
      float64 of the same shape, in [0, 1]; 1 where the class is not there.

    Example:
      >>> import numpy as np
      >>> from unet_jax import metrics
      >>> counts = metrics.Counts(tp=np.array([4]), fp=np.array([2]), fn=np.array([3]), tn=np.array([7]))
      >>> print(np.round(metrics.recall(counts), 3))  # 4 / 7
      [0.571]
    """
    return _ratio(counts, _int(counts.tp), _int(counts.tp) + _int(counts.fn))


def accuracy(counts: Counts) -> np.ndarray:
    """Compute accuracy, the share of pixels that are right: (TP + TN) / all pixels.

    Args:
      counts: counts of any shape.

    Returns:
      float64 of the same shape, in [0, 1]; NaN where no pixel was counted.

    Example:
      >>> import numpy as np
      >>> from unet_jax import metrics
      >>> counts = metrics.Counts(tp=np.array([4]), fp=np.array([2]), fn=np.array([3]), tn=np.array([7]))
      >>> print(np.round(metrics.accuracy(counts), 3))  # 11 / 16
      [0.688]
    """
    right = _int(counts.tp) + _int(counts.tn)
    return _ratio(counts, right, right + _int(counts.fp) + _int(counts.fn))


def _int(count: Any) -> np.ndarray:
    """Return a count as int64 on the host."""
    return np.asarray(count, np.int64)


def num_counted(counts: Counts) -> np.ndarray:
    """Return the number of pixels that were counted, int64, of the counts' shape.

    Example:
      >>> import numpy as np
      >>> from unet_jax.metrics.counts import Counts, num_counted
      >>> print(num_counted(Counts(tp=np.array([4]), fp=np.array([2]), fn=np.array([3]), tn=np.array([7]))))
      [16]
    """
    return _int(counts.tp) + _int(counts.fp) + _int(counts.fn) + _int(counts.tn)


def _ratio(counts: Counts, numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Return numerator / denominator, 1 where the denominator is 0, and NaN where no pixel was counted."""
    ratio = np.where(denominator == 0, 1.0, numerator / np.maximum(denominator, 1))
    return np.where(num_counted(counts) == 0, np.nan, ratio)
