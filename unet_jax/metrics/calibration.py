"""One temperature and one threshold per class, fitted to a held-out split.

Logits are divided by the temperature that minimises the binary cross entropy (Guo et al., On calibration of modern
neural networks, 2017, arXiv:1706.04599). The threshold maximises the mean per-image Dice. Both are computed from
histograms of logits, so that an image of any size takes some kilobytes.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np
from etils import epy
from jaxtyping import Bool, Float, Int

from unet_jax.metrics.counts import Counts, dice
from unet_jax.metrics.object_rules import ObjectRules

with epy.lazy_imports():  # imported when it is used, because importing it takes long
    from scipy import optimize, special

_LARGEST_LOGIT = 16.0  # about that of the largest float32 probability below 1, which is 16.6
_NUM_BINS = 1280
_EDGES = np.linspace(-_LARGEST_LOGIT, _LARGEST_LOGIT, _NUM_BINS + 1)
_CENTERS = 0.5 * (_EDGES[1:] + _EDGES[:-1])
_LARGEST_TEMPERATURE = 20.0
_THRESHOLDS = (0.02, 0.98)  # beyond these, a threshold depends on a few pixels more than on the class
_NUM_ECE_BINS = 15


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Temperatures and thresholds per class, which correct a network's probabilities and make masks of them.

    Example:
      >>> import numpy as np
      >>> from unet_jax.metrics.calibration import Calibration
      >>> calibration = Calibration(temperature=(2.0,), threshold=(0.5,))
      >>> print(np.round(calibration.probs(np.array([0.9])), 3))  # logit(0.9) / 2 = log(3)
      [0.75]
    """

    temperature: tuple[float, ...]
    """One temperature per class, by which its logits are divided."""
    threshold: tuple[float, ...]
    """One threshold per class, in (0, 1), for the calibrated probabilities."""
    rules: tuple[ObjectRules, ...] = ()
    """Rules for the objects of each class's masks, or none."""

    def probs(self, probs: Float[np.ndarray, "*b k"]) -> Float[np.ndarray, "*b k"]:
        """Return calibrated probabilities.

        Args:
          probs: `[*b k]`, probabilities of the network, in [0, 1].

        Returns:
          Float32 `[*b k]`.
        """
        return special.expit(_logits(probs) / np.asarray(self.temperature)).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Fit:
    """A calibration and its effect on the images it was fitted to. Each pair is (before, after), two arrays `[k]`.

    The numbers of a class of which all pixels are ignored are NaN.
    """

    calibration: Calibration
    """The fitted temperatures and thresholds."""
    nll: tuple[np.ndarray, np.ndarray]
    """Mean binary cross entropy over pixels, in nats."""
    ece: tuple[np.ndarray, np.ndarray]
    """Calibration error of all pixels together: mean of |share inside - probability| over 15 bins of equal width,
    weighted by their numbers of pixels."""
    dice: tuple[np.ndarray, np.ndarray]
    """Mean Dice over images, with the threshold used so far and with the fitted one."""


def empty_histogram(num_classes: int) -> Int[np.ndarray, "2 k n"]:
    """Return the histogram of no pixels, to which those of parts of an image are added."""
    return np.zeros((2, num_classes, _NUM_BINS), np.int64)


def histogram(
    probs: Float[np.ndarray, "h w k"],
    truth: Bool[np.ndarray, "h w k"],
    valid: Bool[np.ndarray, "h w k"] | None = None,
) -> Int[np.ndarray, "2 k n"]:
    """Count the pixels of one image outside and inside each class, by logit.

    Args:
      probs: `[h w k]`, probabilities of the network, in [0, 1].
      truth: `[h w k]`, bool, true masks.
      valid: `[h w k]`, bool, the pixels that are counted. None counts all.

    Returns:
      int64 `[2 k n]`: the first axis is 0 for pixels outside the class and 1 for pixels inside it, the last axis is n
      bins of logits from -16 to 16.

    Example:
      >>> import numpy as np
      >>> from unet_jax.metrics.calibration import histogram
      >>> counts = histogram(np.array([[[0.9], [0.2], [0.1]]]), np.array([[[True], [False], [False]]]))
      >>> print(counts.sum(axis=-1))  # two pixels outside, one inside
      [[2]
       [1]]
    """
    logits = _logits(probs)
    counts = np.empty((2, probs.shape[-1], _NUM_BINS), np.int64)
    for k in range(probs.shape[-1]):
        for inside in (0, 1):
            chosen = truth[..., k] == bool(inside)
            if valid is not None:
                chosen &= valid[..., k]
            counts[inside, k] = np.histogram(logits[..., k][chosen], _EDGES)[0]
    return counts


# A temperature does not change the order of the logits, so it does not change which masks a threshold can make. The
# threshold is therefore sought among raw logits, and only then divided by the temperature. It needs one histogram per
# image, since a mean of Dice scores does not follow from pooled counts; the cross entropy does.
def fit_calibration(histograms: Iterable[Int[np.ndarray, "2 k n"]], threshold: float) -> Fit:
    """Fit the temperature and the threshold of each class. A class without a true pixel keeps the threshold.

    An image has no part in the Dice of a class of which it has no counted pixel.

    Args:
      histograms: results of `histogram` for all images, at least one. Each is used as it comes, and none is kept.
      threshold: probability used as threshold so far, for comparison.

    Returns:
      The calibration, and cross entropy, calibration error and Dice before and after it.

    Reference:
      Guo et al., On calibration of modern neural networks, 2017 (arXiv:1706.04599).

    Example:
      >>> import numpy as np
      >>> from unet_jax.metrics.calibration import fit_calibration, histogram
      >>> probs, truth = np.full((1, 10, 1), 0.99), np.arange(10).reshape(1, 10, 1) > 0  # sure to 99 %, right in 90 %
      >>> fit = fit_calibration(np.stack([histogram(probs, truth)]), threshold=0.5)
      >>> print(round(float(fit.calibration.probs(probs)[0, 0, 0]), 2))
      0.9
    """
    totals: list[np.ndarray] = []
    for counts in histograms:
        curves = np.stack([_dice_by_edge(counts[:, k]) for k in range(counts.shape[1])])
        terms = [counts, curves, counts.any(axis=(0, 2)).astype(np.int64)]
        totals = [total + term for total, term in zip(totals, terms, strict=True)] if totals else terms
    pooled, curves, num_counted = totals
    num_classes = pooled.shape[1]
    temperature = np.array([_fit_temperature(pooled[:, k]) for k in range(num_classes)])
    before, raw = np.ones(num_classes), np.empty(num_classes)
    dice = np.empty((2, num_classes))
    for k in range(num_classes):
        if not num_counted[k]:
            raw[k], dice[:, k] = special.logit(threshold), np.nan
            continue
        curve = curves[k] / num_counted[k]
        allowed = (special.logit(_THRESHOLDS[0]) <= _EDGES) & (special.logit(_THRESHOLDS[1]) >= _EDGES)
        best = np.flatnonzero(allowed & (curve >= curve[allowed].max()))
        raw[k] = _EDGES[best[len(best) // 2]]  # the middle one of equally good edges
        dice[:, k] = np.interp(special.logit(threshold), _EDGES, curve), curve[best[0]]
        if not pooled[1, k].any():  # the best threshold would be the one that never predicts the class
            raw[k], dice[1, k] = special.logit(threshold), dice[0, k]
    calibration = Calibration(tuple(temperature.tolist()), tuple(special.expit(raw / temperature).tolist()))
    return Fit(
        calibration,
        (_nll(pooled, before), _nll(pooled, temperature)),
        (_ece(pooled, before), _ece(pooled, temperature)),
        (dice[0], dice[1]),
    )


def dice_curves(
    histograms: Iterable[Int[np.ndarray, "2 k n"]], thresholds: Float[np.ndarray, " t"]
) -> Float[np.ndarray, "k t"]:
    """Return the mean Dice over images of the masks above each threshold; NaN for a class without a counted pixel.

    Args:
      histograms: results of `histogram` for all images, at least one.
      thresholds: probabilities, in (0, 1). They are rounded to the histograms' bins, 1/40 of a logit.

    Example:
      >>> probs, truth = np.array([[[0.9], [0.6], [0.2]]]), np.array([[[True], [False], [False]]])
      >>> print(np.round(dice_curves([histogram(probs, truth)], np.array([0.1, 0.5, 0.8])), 2))
      [[0.5  0.67 1.  ]]
    """
    edges, total, count = special.logit(thresholds), 0.0, 0
    for counts in histograms:
        curves = np.stack([np.interp(edges, _EDGES, _dice_by_edge(of_class)) for of_class in np.moveaxis(counts, 1, 0)])
        total, count = total + curves, count + counts.any(axis=(0, 2)).astype(np.int64)
    known = np.asarray(count)[:, None]
    return np.where(known > 0, total / np.maximum(known, 1), np.nan)


def reliability(counts: Int[np.ndarray, "2 k n"], num_bins: int = 10) -> Float[np.ndarray, "k m 3"]:
    """Return mean probability, share inside the class and number of pixels in bins of probability of equal width.

    Args:
      counts: sum of the results of `histogram` for all images.
      num_bins: number of bins m. The two shares of an empty bin are NaN.

    Example:
      >>> probs, truth = np.full((1, 4, 1), 0.75), np.array([[[True], [True], [False], [False]]])
      >>> print(np.round(reliability(histogram(probs, truth), num_bins=2)[0, 1], 2))  # sure to 75 %, right in 50 %
      [0.75 0.5  4.  ]
    """
    p = special.expit(_CENTERS)
    of_bin, pixels = np.minimum((p * num_bins).astype(int), num_bins - 1), counts.sum(axis=0)
    weights = [(p * n, inside, n) for n, inside in zip(pixels, counts[1], strict=True)]
    sums = np.array([[np.bincount(of_bin, values, num_bins) for values in of_class] for of_class in weights])
    with np.errstate(invalid="ignore"):
        return np.stack([sums[:, 0] / sums[:, 2], sums[:, 1] / sums[:, 2], sums[:, 2]], axis=-1)


def _fit_temperature(counts: Int[np.ndarray, "2 n"]) -> float:
    """Return the temperature with the smallest cross entropy; 1 if no pixel or every pixel is in the class.

    In those two cases every temperature is too large: sharper predictions of the one outcome are always better.
    """
    if not counts.sum(axis=-1).all():
        return 1.0
    largest = np.log(_LARGEST_TEMPERATURE)
    minimum = optimize.minimize_scalar(
        lambda log: _nll(counts[:, None], np.exp([log]))[0], bounds=(-largest, largest), method="bounded"
    )
    return float(np.exp(minimum.x))


def _nll(counts: Int[np.ndarray, "2 k n"], temperature: np.ndarray) -> Float[np.ndarray, " k"]:
    """Return the mean binary cross entropy of each class after division by its temperature."""
    z = _CENTERS / temperature[:, None]
    total = (counts[0] * np.logaddexp(0.0, z) + counts[1] * np.logaddexp(0.0, -z)).sum(axis=-1)
    num_pixels = counts.sum(axis=(0, 2))
    return np.where(num_pixels > 0, total / np.maximum(num_pixels, 1), np.nan)


def _ece(counts: Int[np.ndarray, "2 k n"], temperature: np.ndarray) -> Float[np.ndarray, " k"]:
    """Return the expected calibration error of each class after division by its temperature."""
    errors = []
    for k, t in enumerate(temperature):
        p, pixels = special.expit(_CENTERS / t), counts[:, k].sum(axis=0)
        of_bin = np.minimum((p * _NUM_ECE_BINS).astype(int), _NUM_ECE_BINS - 1)
        gaps = np.bincount(of_bin, counts[1, k] - p * pixels, _NUM_ECE_BINS)
        errors.append(np.abs(gaps).sum() / pixels.sum() if pixels.any() else np.nan)
    return np.array(errors)


def _dice_by_edge(counts: Int[np.ndarray, "2 n"]) -> Float[np.ndarray, " n+1"]:
    """Return the Dice of an image's masks above each edge of the histogram; 0 without a counted pixel."""
    above = np.concatenate([counts[:, ::-1].cumsum(axis=-1)[:, ::-1], np.zeros((2, 1), int)], axis=-1)
    fp, tp = above
    return np.nan_to_num(dice(Counts(tp, fp, tp[0] - tp, fp[0] - fp)), nan=0.0)


def _logits(probs: np.ndarray) -> Float[np.ndarray, "..."]:
    """Return the logits of probabilities, limited to [-16, 16]."""
    return np.clip(special.logit(np.asarray(probs, np.float64)), -_LARGEST_LOGIT, _LARGEST_LOGIT)
