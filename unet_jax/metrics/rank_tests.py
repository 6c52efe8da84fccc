"""Ranks, and tests of ranks over images or over data sets (Demsar, JMLR 7, 2006), as pure functions of arrays."""

import math

import numpy as np
from etils import epy
from jaxtyping import Float

from unet_jax.metrics.statistics import CONFIDENCE, NUM_RESAMPLES, sign_flip_p_values

with epy.lazy_imports():  # imported when it is used, because importing it takes long
    from scipy import stats


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


def iman_davenport_p_value(values: Float[np.ndarray, "n v"]) -> float:
    """Return the p-value of Friedman's test with the correction of Iman and Davenport.

    With Friedman's chi square C, F = (n - 1) C / (n (v - 1) - C) has an F distribution with v - 1 and (v - 1) (n - 1)
    degrees of freedom. Friedman's own p-value is too large where n is small, as the number of data sets is.

    Args:
      values: `[n v]`, the scores of n data sets and v variants.

    Returns:
      The p-value; nan for fewer than three variants, fewer than two data sets, or if all variants have equal scores. It
      is 0 if all data sets rank the variants alike.

    Reference:
      Iman and Davenport 1980; Demsar 2006.

    Example:
      >>> round(iman_davenport_p_value(np.array([[3.0, 2, 1], [3, 1, 2], [3, 2, 1], [1, 3, 2]])), 4)
      0.4219
    """
    n, v = values.shape
    if v < 3 or n < 2 or np.all(values == values[:, :1]):
        return math.nan
    chi_square = float(stats.friedmanchisquare(*values.T).statistic)
    left = n * (v - 1) - chi_square
    if left <= 1e-9:  # the ranks of all data sets are equal
        return 0.0
    return float(stats.f.sf((n - 1) * chi_square / left, v - 1, (v - 1) * (n - 1)))


def friedman_permutation_p_value(
    values: Float[np.ndarray, "n v"], *, num_permutations: int = NUM_RESAMPLES, seed: int = 0
) -> float:
    """Return the p-value of Friedman's test by permutations of the variants within each data set.

    It holds for any number of data sets, however few, and with equal scores. The approximations of `friedman_p_value`
    and `iman_davenport_p_value` do not: with two data sets that agree, the latter is 0.

    Args:
      values: `[n v]`, the scores of n data sets and v variants.
      num_permutations: number of random permutations.
      seed: seed of the permutations.

    Returns:
      The p-value; nan for fewer than three variants or fewer than two data sets.

    Example:
      >>> values = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])  # the second agrees with the first in 1 of 6 orders
      >>> round(friedman_permutation_p_value(values), 2)
      0.17
    """
    n, v = values.shape
    if v < 3 or n < 2:
        return math.nan
    ranks = np.asarray(stats.rankdata(values, axis=1))
    drawn = np.random.default_rng(seed).permuted(np.broadcast_to(ranks, (num_permutations, n, v)), axis=2)
    observed, found = (np.square(x.sum(axis=-2)).sum(axis=-1) for x in (ranks, drawn))
    return float((1 + (found >= observed - 1e-9).sum()) / (num_permutations + 1))


def wilcoxon_p_values(
    differences: Float[np.ndarray, "n m"], *, num_flips: int = NUM_RESAMPLES, seed: int = 0
) -> Float[np.ndarray, " m"]:
    """Compute two-sided p-values of Wilcoxon's signed-rank test.

    The p-values are exact for small n, also with equal sizes of differences. Differences of 0 take part in the ranks
    and then count for neither side (Pratt).

    Args:
      differences: `[n m]`, one column of n data sets for each of m variants.
      num_flips: largest number of sign patterns to try, as in `sign_flip_p_values`.
      seed: seed of random patterns.

    Returns:
      P-values, `[m]`, from 0 (excluded) to 1.

    Reference:
      Wilcoxon 1945; Pratt 1959.

    Example:
      >>> wilcoxon_p_values(np.array([[0.1], [0.2], [0.3], [0.1], [0.4], [0.2]])).tolist()  # 2 of 2^6 patterns
      [0.03125]
    """
    if not differences.size:
        return np.ones(differences.shape[1])
    ranks = np.asarray(stats.rankdata(np.abs(differences), axis=0))
    return sign_flip_p_values(np.sign(differences) * ranks, num_flips=num_flips, seed=seed)


def num_sets_needed(num_compared: int, alpha: float = 1.0 - CONFIDENCE) -> int:
    """Return the smallest number of data sets with which `wilcoxon_p_values` can be significant after correction.

    If all n data sets agree, the p-value is 2 / 2^n. The smallest of m p-values is compared with alpha / m (Holm).

    Args:
      num_compared: number m of variants besides the one that they are compared with.
      alpha: level of significance.

    Example:
      >>> num_sets_needed(1), num_sets_needed(2), num_sets_needed(13)
      (6, 7, 10)
    """
    return math.floor(math.log2(2.0 * num_compared / alpha) - 1e-9) + 1
