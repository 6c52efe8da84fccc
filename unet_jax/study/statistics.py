"""Confidence intervals, p-values and ranks for paired runs, as pure functions of arrays.

The bootstrap and the permutation test resample images: a difference is one number per image, averaged over seeds. Their
results hold for other images and these trained networks. `seed_interval` answers the other question, what to expect of
other seeds.
"""

import math
from statistics import NormalDist

import numpy as np
from jaxtyping import Float
from scipy import stats

NUM_RESAMPLES = 10_000
"""Default number of bootstrap resamples and of random sign flips."""
CONFIDENCE = 0.95
"""Confidence level of intervals."""
_CHUNK = 1_000
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
        below = ((means[:, j] < observed[j]).mean() + (means[:, j] <= observed[j]).mean()) / 2
        bias = _NORMAL.inv_cdf(float(np.clip(below, 0.5 / num_resamples, 1 - 0.5 / num_resamples)))
        # Jackknife: leaving out one image changes the mean by (observed - value) / (n - 1); BCa takes the negative.
        left_out = (column - observed[j]) / (n - 1)
        acceleration = (left_out**3).sum() / (6 * (left_out**2).sum() ** 1.5)
        ends = []
        for tail in ((1 - confidence) / 2, (1 + confidence) / 2):
            z = bias + _NORMAL.inv_cdf(tail)
            ends.append(_NORMAL.cdf(bias + z / (1 - acceleration * z)))
        low[j], high[j] = np.quantile(means[:, j], ends)
    return low, high


def _resampled_means(
    differences: Float[np.ndarray, "n m"], num_resamples: int, rng: np.random.Generator
) -> Float[np.ndarray, "r m"]:
    """Draw n of the n images with replacement r times, and return the mean of each draw and column."""
    n = len(differences)
    parts = []
    for start in range(0, num_resamples, _CHUNK):
        drawn = rng.integers(0, n, size=(min(_CHUNK, num_resamples - start), n))
        counts = np.zeros(drawn.shape)
        np.add.at(counts, (np.arange(len(drawn))[:, None], drawn), 1.0)
        parts.append(counts @ differences / n)
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


def average_ranks(values: Float[np.ndarray, "n v"], *, more_is_better: bool) -> Float[np.ndarray, " v"]:
    """Rank the variants on each image and average the ranks over images.

    Args:
      values: `[n v]`, the scores of n images and v variants.
      more_is_better: True if the highest score is the best.

    Returns:
      Average ranks, `[v]`: 1 is the best and v the worst. Equal scores share the mean of their ranks.

    Example:
      >>> average_ranks(np.array([[0.9, 0.8, 0.7], [0.5, 0.5, 0.1]]), more_is_better=True).tolist()
      [1.25, 1.75, 3.0]
    """
    return np.asarray(stats.rankdata(-values if more_is_better else values, axis=1)).mean(axis=0)


def critical_difference(num_variants: int, num_images: int) -> float:
    """Return the difference of average ranks below which Nemenyi's test cannot tell two variants apart at 5 %.

    Reference:
      Demsar 2006.

    Example:
      >>> round(critical_difference(num_variants=3, num_images=14), 3)
      0.886
    """
    q = float(stats.studentized_range.ppf(CONFIDENCE, num_variants, np.inf)) / math.sqrt(2)
    return q * math.sqrt(num_variants * (num_variants + 1) / (6 * num_images))


def friedman_p_value(values: Float[np.ndarray, "n v"]) -> float:
    """Return the p-value of Friedman's test of the hypothesis that all variants have the same average rank.

    Args:
      values: `[n v]`, the scores of n images and v variants.

    Returns:
      The p-value; nan for fewer than three variants, fewer than two images, or if all variants have equal scores.

    Example:
      >>> round(friedman_p_value(np.arange(12.0).reshape(4, 3)), 4)
      0.0183
    """
    if values.shape[1] < 3 or values.shape[0] < 2 or np.all(values == values[:, :1]):
        return math.nan
    return float(stats.friedmanchisquare(*values.T).pvalue)
