"""Confidence intervals and p-values, as pure functions of arrays.

The bootstrap and the permutation test resample images, or groups of images. In a study, a difference is one number per
image, averaged over seeds. Their results hold for other images and these trained networks. `seed_interval` answers the
other question, what to expect of other seeds; `fold_interval` does so for cross-validation.
"""

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

import numpy as np
from etils import epy
from jaxtyping import Float, Int

with epy.lazy_imports():  # imported when it is used, because importing it takes long
    from scipy import stats

NUM_RESAMPLES = 10_000
"""Default number of bootstrap resamples and of random sign flips."""
CONFIDENCE = 0.95
"""Confidence level of intervals."""
_CHUNK = 1_000
_LARGEST_CHUNK = 10_000_000
"""Number of drawn images that are in memory at once."""
_NORMAL = NormalDist()


def bootstrap_intervals(
    differences: Float[np.ndarray, "n m"],
    *,
    num_resamples: int = NUM_RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """Compute bias-corrected and accelerated (BCa) bootstrap intervals of the mean over images.

    Args:
      differences: `[n m]`, one column of n images for each of m variants. All columns use the same resampled images.
      num_resamples: number of bootstrap resamples.
      confidence: confidence level, between 0 and 1.
      seed: seed of the resampling.

    Returns:
      Lower and upper ends, `[m]` each. A column without any spread has an interval of width 0. With a single image
      nothing is known, so the interval is infinite.

    Reference:
      Efron 1987.

    Example:
      >>> differences = np.array([[0.01], [0.02], [0.03], [0.02], [0.04], [0.00]])
      >>> low, high = bootstrap_intervals(differences)
      >>> bool(0.0 < low[0] < differences.mean() < high[0] < 0.04)
      True
    """
    n, m = differences.shape
    if n < 2:
        return np.full(m, -np.inf), np.full(m, np.inf)
    means = _resampled_means(differences, num_resamples, np.random.default_rng(seed))
    observed = differences.mean(axis=0)
    low, high = observed.copy(), observed.copy()
    for j in range(m):
        column = differences[:, j]
        if np.ptp(column) <= 1e-12 * np.abs(column).max():
            continue
        # Jackknife: leaving out one image changes the mean by (observed - value) / (n - 1); BCa takes the negative.
        low[j], high[j] = _bca_ends(means[:, j], observed[j], (column - observed[j]) / (n - 1), confidence)
    return low, high


Statistic = Callable[[np.ndarray], np.ndarray]
"""Function of sums over images `[*r c]` that returns one number for each `[*r]`; NaN where it is not defined."""


def sum_intervals(
    parts: Float[np.ndarray, "n c"],
    statistics: Sequence[Statistic],
    groups: Sequence[str] | None = None,
    *,
    num_resamples: int = NUM_RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """Compute BCa bootstrap intervals of functions of sums over images, such as means and scores of all pixels.

    Args:
      parts: `[n c]`, what each of n images adds to c sums.
      statistics: m functions of the sums. All use the same resampled images.
      groups: group of each image, such as its patient. Whole groups are resampled then, because images of one group
        resemble each other. None: images are resampled.
      num_resamples: number of bootstrap resamples. Those in which a statistic is NaN do not count for it.
      confidence: confidence level, between 0 and 1.
      seed: seed of the resampling.

    Returns:
      Lower and upper ends, `[m]` each. A statistic without any spread has an interval of width 0. With a single image
      or group nothing is known, so the interval is infinite.

    Reference:
      Efron 1987.

    Example:
      >>> parts = np.array([[8.0, 10.0], [3.0, 4.0], [5.0, 10.0], [1.0, 3.0]])  # hits and trials of four images
      >>> low, high = sum_intervals(parts, [lambda sums: sums[..., 0] / sums[..., 1]])
      >>> bool(0.3 < low[0] < 17 / 27 < high[0] < 0.85)
      True
    """
    if groups is not None:
        _, owner = np.unique(np.asarray(groups), return_inverse=True)
        by_group = np.zeros((owner.max() + 1, parts.shape[1]))
        np.add.at(by_group, owner, parts)
        parts = by_group
    n, m = len(parts), len(statistics)
    if n < 2:
        return np.full(m, -np.inf), np.full(m, np.inf)
    resampled = n * _resampled_means(parts, num_resamples, np.random.default_rng(seed))
    total = parts.sum(axis=0)
    ends = np.empty((m, 2))
    for j, statistic in enumerate(statistics):
        observed, drawn, left_out = (np.asarray(statistic(sums)) for sums in (total, resampled, total - parts))
        drawn, left_out = drawn[~np.isnan(drawn)], left_out[~np.isnan(left_out)]
        if np.isnan(observed) or not len(drawn) or len(left_out) < 2:
            ends[j] = -np.inf, np.inf
        elif np.ptp(drawn) <= 1e-12 * np.abs(drawn).max():
            ends[j] = observed
        else:
            ends[j] = _bca_ends(drawn, float(observed), left_out.mean() - left_out, confidence)
    return ends[:, 0], ends[:, 1]


def _bca_ends(
    drawn: Float[np.ndarray, " r"], observed: float, left_out: Float[np.ndarray, " n"], confidence: float
) -> tuple[float, float]:
    """Return the ends of a BCa interval, from resampled values and what leaving out one image takes away."""
    num_resamples = len(drawn)
    below = ((drawn < observed).mean() + (drawn <= observed).mean()) / 2
    bias = _NORMAL.inv_cdf(float(np.clip(below, 0.5 / num_resamples, 1 - 0.5 / num_resamples)))
    spread = (left_out**2).sum()
    acceleration = (left_out**3).sum() / (6 * spread**1.5) if spread > 0.0 else 0.0
    ends = []
    for tail in ((1 - confidence) / 2, (1 + confidence) / 2):
        z = bias + _NORMAL.inv_cdf(tail)
        ends.append(_NORMAL.cdf(bias + z / (1 - acceleration * z)))
    low, high = np.quantile(drawn, ends)
    return float(low), float(high)


def _resampled_means(
    values: Float[np.ndarray, "n m"], num_resamples: int, rng: np.random.Generator
) -> Float[np.ndarray, "r m"]:
    """Draw n of the n images with replacement r times, and return the mean of each draw and column."""
    n = len(values)
    chunk = max(1, min(_CHUNK, _LARGEST_CHUNK // n))
    parts = []
    for start in range(0, num_resamples, chunk):
        drawn = rng.integers(0, n, size=(min(chunk, num_resamples - start), n))
        counts = np.zeros(drawn.shape)
        np.add.at(counts, (np.arange(len(drawn))[:, None], drawn), 1.0)
        parts.append(counts @ values / n)
    return np.concatenate(parts)


def sign_flip_p_values(
    differences: Float[np.ndarray, "n m"], *, num_flips: int = NUM_RESAMPLES, seed: int = 0
) -> Float[np.ndarray, " m"]:
    """Compute two-sided p-values of the paired permutation test.

    If two variants are equally good, each image's two values may be exchanged, which flips the sign of its difference.
    The p-value is the share of sign patterns whose mean is at least as far from 0 as the observed mean.

    Args:
      differences: `[n m]`, one column of n images for each of m variants.
      num_flips: largest number of sign patterns to try. All 2^n patterns are tried if there are no more than this.
        Otherwise this many random patterns are tried, and the observed pattern is counted as one more.
      seed: seed of the random patterns.

    Returns:
      P-values, `[m]`, from 0 (excluded) to 1.

    Example:
      >>> sign_flip_p_values(np.array([[0.1], [0.2], [0.3], [0.1], [0.4]])).tolist()  # 2 of 2^5 patterns
      [0.0625]
    """
    n, m = differences.shape
    observed = np.abs(differences.sum(axis=0))
    limit = observed - 1e-9 * np.abs(differences).sum(axis=0)  # sums that differ by rounding count as equal
    if 2**n <= num_flips:
        signs = np.array(list(np.ndindex(*(2,) * n))) * 2.0 - 1.0
        return (np.abs(signs @ differences) >= limit).mean(axis=0)
    rng, count = np.random.default_rng(seed), np.ones(m)
    for start in range(0, num_flips, _CHUNK):
        signs = rng.integers(0, 2, size=(min(_CHUNK, num_flips - start), n)) * 2.0 - 1.0
        count += (np.abs(signs @ differences) >= limit).sum(axis=0)
    return count / (num_flips + 1)


def seed_interval(by_seed: Float[np.ndarray, " s"], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Compute Student's t interval of the mean over seeds.

    Args:
      by_seed: `[s]`, one difference for each seed, averaged over images.
      confidence: confidence level, between 0 and 1.

    Returns:
      Lower and upper end. The interval is infinite for a single seed, which says nothing about other seeds.

    Example:
      >>> low, high = seed_interval(np.array([0.01, 0.02, 0.03]))
      >>> f"{low:.4f} {high:.4f}"
      '-0.0048 0.0448'
    """
    if len(by_seed) < 2:
        return -math.inf, math.inf
    reach = float(stats.t.ppf((1 + confidence) / 2, len(by_seed) - 1)) * by_seed.std(ddof=1) / math.sqrt(len(by_seed))
    return float(by_seed.mean() - reach), float(by_seed.mean() + reach)


def fold_interval(
    by_run: Float[np.ndarray, " j"],
    num_held_out: Int[np.ndarray, " j"],
    num_images: int,
    confidence: float = CONFIDENCE,
) -> tuple[float, float]:
    """Compute the corrected t interval of the mean over the runs of a cross-validation, repeated or not.

    Runs of different folds were trained on images that they share. So their scores are correlated, and Student's
    interval over them is too narrow. Nadeau and Bengio replace the variance of the mean of j runs, s^2 / j, by
    s^2 (1 / j + n2 / n1), where n1 images are train and val and n2 are held out: n2 / n1 = 1 / (k - 1) with k folds.
    This is an approximation: nobody can estimate the variance of a cross-validation without bias.

    Args:
      by_run: `[j]`, one difference for each run, averaged over the images that were held out from it.
      num_held_out: `[j]`, number of these images. If folds have different sizes, runs count in proportion to them: 1
        / j becomes the sum of the squared weights w, and there are 1 / (sum of w^2) - 1 degrees of freedom.
      num_images: number of images in all folds.
      confidence: confidence level, between 0 and 1.

    Returns:
      Lower and upper end. The interval is infinite for a single run, and if one fold has all images.

    Reference:
      Nadeau and Bengio, Machine Learning 52, 2003; for repeated cross-validation Bouckaert and Frank, PAKDD 2004. That
      there is no unbiased estimate: Bengio and Grandvalet, JMLR 5, 2004.

    Example:
      >>> low, high = fold_interval(np.array([0.01, 0.02, 0.03]), np.array([5, 5, 5]), 15)
      >>> f"{low:.4f} {high:.4f}"  # 0.02 +- 4.303 * 0.01 * sqrt(1 / 3 + 1 / 2)
      '-0.0193 0.0593'
    """
    if len(by_run) < 2 or (num_held_out >= num_images).any():
        return -math.inf, math.inf
    weight = num_held_out / num_held_out.sum()
    mean, squares = float(weight @ by_run), float(weight @ weight)
    variance = float(weight @ (by_run - mean) ** 2) / (1.0 - squares)
    ratio = float(weight @ (num_held_out / (num_images - num_held_out)))
    reach = float(stats.t.ppf((1 + confidence) / 2, 1.0 / squares - 1.0)) * math.sqrt(variance * (squares + ratio))
    return mean - reach, mean + reach


def holm(p_values: Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
    """Correct p-values for the number of tests, by Holm's method.

    If each of the m hypotheses is rejected where its corrected p-value is below 0.05, the risk of at least one false
    rejection is at most 5 %.

    Args:
      p_values: `[m]`, in any order.

    Returns:
      Corrected p-values, `[m]`, in the same order, at most 1.

    Reference:
      Holm 1979.

    Example:
      >>> holm(np.array([0.04, 0.01, 0.03])).round(3).tolist()
      [0.06, 0.03, 0.06]
    """
    m = len(p_values)
    order = np.argsort(p_values, kind="stable")
    corrected = np.maximum.accumulate(p_values[order] * np.arange(m, 0, -1))
    result = np.empty(m)
    result[order] = np.minimum(corrected, 1.0)
    return result
