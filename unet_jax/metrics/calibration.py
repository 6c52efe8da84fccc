"""Probabilities and thresholds fitted to a held-out split: one temperature and one threshold per class.

Guo et al., On calibration of modern neural networks, 2017 (arXiv:1706.04599): logits are divided by the temperature
that minimises the binary cross entropy. The threshold maximises the mean per-image Dice. Both are found on histograms
of logits, so that an image of any size takes some kilobytes.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import optimize, special

from unet_jax.metrics.counts import Counts, dice

_LARGEST_LOGIT = 16.0  # of a float32 probability below 1
_NUM_BINS = 1280
_EDGES = np.linspace(-_LARGEST_LOGIT, _LARGEST_LOGIT, _NUM_BINS + 1)
_CENTERS = 0.5 * (_EDGES[1:] + _EDGES[:-1])
_LARGEST_TEMPERATURE = 20.0
_THRESHOLDS = (0.02, 0.98)  # beyond them a threshold says more of a few pixels than of the class
_NUM_ECE_BINS = 15


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What turns a network's probabilities into better ones, and those into masks."""

    temperature: tuple[float, ...]
    """Per class: logits are divided by it."""
    threshold: tuple[float, ...]
    """Per class, of the probabilities that come out."""

    def probs(self, probs: Float[np.ndarray, "*b k"]) -> Float[np.ndarray, "*b k"]:
        """Calibrated probabilities, float32."""
        return special.expit(_logits(probs) / np.asarray(self.temperature)).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Fit:
    """A calibration and what it changes on the images that it was fitted to; arrays are `[k]`, of before and after."""

    calibration: Calibration
    nll: tuple[np.ndarray, np.ndarray]
    """Mean binary cross entropy over pixels."""
    ece: tuple[np.ndarray, np.ndarray]
    """Calibration error of all pixels together: mean of |share inside - probability| over 15 equal bins."""
    dice: tuple[np.ndarray, np.ndarray]
    """Mean over images."""


def histogram(probs: Float[np.ndarray, "h w k"], truth: Bool[np.ndarray, "h w k"]) -> Int[np.ndarray, "2 k n"]:
    """An image's pixels outside and inside of each class, counted by logit."""
    logits = _logits(probs)
    counts = np.empty((2, probs.shape[-1], _NUM_BINS), np.int64)
    for k in range(probs.shape[-1]):
        for inside in (0, 1):
            counts[inside, k] = np.histogram(logits[..., k][truth[..., k] == bool(inside)], _EDGES)[0]
    return counts


def fit_calibration(histograms: Int[np.ndarray, "i 2 k n"], threshold: float) -> Fit:
    """Temperature and threshold of each class.

    Args:
      histograms: of all images.
      threshold: the one used so far, to compare with.
    """
    num_classes = histograms.shape[2]
    pooled = histograms.sum(axis=0)
    temperature = np.array([_fit_temperature(pooled[:, k]) for k in range(num_classes)])
    before, raw = np.ones(num_classes), np.empty(num_classes)
    dice = np.empty((2, num_classes))
    for k in range(num_classes):
        curve = _dice_by_edge(histograms[:, :, k])
        allowed = (special.logit(_THRESHOLDS[0]) <= _EDGES) & (special.logit(_THRESHOLDS[1]) >= _EDGES)
        best = np.flatnonzero(allowed & (curve >= curve[allowed].max()))
        raw[k] = _EDGES[best[len(best) // 2]]  # the middle of equals
        dice[:, k] = np.interp(special.logit(threshold), _EDGES, curve), curve[best[0]]
    calibration = Calibration(tuple(temperature.tolist()), tuple(special.expit(raw / temperature).tolist()))
    return Fit(
        calibration,
        (_nll(pooled, before), _nll(pooled, temperature)),
        (_ece(pooled, before), _ece(pooled, temperature)),
        (dice[0], dice[1]),
    )


def _fit_temperature(counts: Int[np.ndarray, "2 n"]) -> float:
    """1 where a class has no pixel or nothing else: every temperature is too large there."""
    if not counts.sum(axis=-1).all():
        return 1.0
    largest = np.log(_LARGEST_TEMPERATURE)
    found = optimize.minimize_scalar(
        lambda log: _nll(counts[:, None], np.exp([log]))[0], bounds=(-largest, largest), method="bounded"
    )
    return float(np.exp(found.x))


def _nll(counts: Int[np.ndarray, "2 k n"], temperature: np.ndarray) -> Float[np.ndarray, " k"]:
    z = _CENTERS / temperature[:, None]
    total = (counts[0] * np.logaddexp(0.0, z) + counts[1] * np.logaddexp(0.0, -z)).sum(axis=-1)
    return total / counts.sum(axis=(0, 2))


def _ece(counts: Int[np.ndarray, "2 k n"], temperature: np.ndarray) -> Float[np.ndarray, " k"]:
    errors = []
    for k, t in enumerate(temperature):
        p, pixels = special.expit(_CENTERS / t), counts[:, k].sum(axis=0)
        of_bin = np.minimum((p * _NUM_ECE_BINS).astype(int), _NUM_ECE_BINS - 1)
        gaps = np.bincount(of_bin, counts[1, k] - p * pixels, _NUM_ECE_BINS)
        errors.append(np.abs(gaps).sum() / pixels.sum())
    return np.array(errors)


def _dice_by_edge(counts: Int[np.ndarray, "i 2 n"]) -> Float[np.ndarray, " n+1"]:
    """Mean per-image Dice of the masks above each edge of the histogram."""
    above = np.concatenate([counts[..., ::-1].cumsum(axis=-1)[..., ::-1], np.zeros((*counts.shape[:2], 1), int)], -1)
    fp, tp = above[:, 0], above[:, 1]
    fn = tp[:, :1] - tp
    return dice(Counts(tp, fp, fn, fp[:, :1] - fp)).mean(axis=0)


def _logits(probs: np.ndarray) -> Float[np.ndarray, "..."]:
    return np.clip(special.logit(np.asarray(probs, np.float64)), -_LARGEST_LOGIT, _LARGEST_LOGIT)
