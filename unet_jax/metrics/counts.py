"""Scores from integer counts, so that they do not depend on the batch size.

Counts are summed first and divided once. Where a denominator is 0 the score is 1: nothing was there, and nothing was
claimed to be there. A class that is absent from an image but predicted in it scores 0.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8


class Counts(NamedTuple):
    """Numbers of pixels, int32 on a device or int64 on the host, usually `[b k]`: per image and class."""

    tp: Any
    fp: Any
    fn: Any
    tn: Any


def counts_from_logits(
    logits: Float[Array, "*b h w c"], labels: UInt8[Array, "*b h w c"], *, threshold: float, num_subpixels: int = 1
) -> Counts:
    """Counts per image and class, on the device: predicted where sigmoid(logit) > threshold, true from 128 on.

    Both may be packed (`unet_jax.model.packing`), with `num_subpixels` pixels in a block: c = num_subpixels * k.
    """
    predicted = logits > np.log(threshold / (1.0 - threshold))
    counts = _counts(predicted, labels >= 128, jnp)
    return Counts(*(c.reshape(*c.shape[:-1], num_subpixels, -1).sum(axis=-2) for c in counts))


def counts_from_masks(predicted: Bool[np.ndarray, "*b h w k"], truth: Bool[np.ndarray, "*b h w k"]) -> Counts:
    """Counts per image and class, on the host."""
    return _counts(predicted, truth, np)


def _counts(predicted: Any, truth: Any, xp: Any) -> Counts:
    dtype = xp.int32 if xp is jnp else xp.int64
    tp, fp, fn, tn = (
        xp.sum(hits, axis=(-3, -2), dtype=dtype)
        for hits in (predicted & truth, predicted & ~truth, ~predicted & truth, ~predicted & ~truth)
    )
    return Counts(tp, fp, fn, tn)


def sum_counts(counts: Counts, axis: int = 0) -> Counts:
    """One image's counts per class from many images'."""
    return Counts(*(np.sum(np.asarray(c, np.int64), axis=axis) for c in counts))


def dice(counts: Counts) -> np.ndarray:
    """2 TP / (2 TP + FP + FN), also called F1."""
    return _ratio(2 * _int(counts.tp), 2 * _int(counts.tp) + _int(counts.fp) + _int(counts.fn))


def iou(counts: Counts) -> np.ndarray:
    """TP / (TP + FP + FN), also called the Jaccard index."""
    return _ratio(_int(counts.tp), _int(counts.tp) + _int(counts.fp) + _int(counts.fn))


def precision(counts: Counts) -> np.ndarray:
    """TP / (TP + FP)."""
    return _ratio(_int(counts.tp), _int(counts.tp) + _int(counts.fp))


def recall(counts: Counts) -> np.ndarray:
    """TP / (TP + FN)."""
    return _ratio(_int(counts.tp), _int(counts.tp) + _int(counts.fn))


def accuracy(counts: Counts) -> np.ndarray:
    """(TP + TN) / all pixels."""
    right = _int(counts.tp) + _int(counts.tn)
    return _ratio(right, right + _int(counts.fp) + _int(counts.fn))


def _int(count: Any) -> np.ndarray:
    return np.asarray(count, np.int64)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.where(denominator == 0, 1.0, numerator / np.maximum(denominator, 1))
