"""What differences between paired runs are worth: intervals, p-values, ranks. Pure functions of arrays.

For bootstrap and permutation the unit is the image: a difference is one number per image, the mean over seeds. They
speak of other images for these trained networks. What other seeds would give is a question of its own: `seed_interval`.
"""

import math
from statistics import NormalDist

import numpy as np
from jaxtyping import Float
from scipy import stats

NUM_RESAMPLES = 10_000
CONFIDENCE = 0.95
_CHUNK = 1_000
_NORMAL = NormalDist()


def bootstrap_intervals(
    differences: Float[np.ndarray, "n m"],
    *,
    num_resamples: int = NUM_RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """Lower and upper ends of bootstrap intervals of the mean over n, bias-corrected and accelerated (Efron 1987).

    The m columns see the same resampled images. A column without any spread has an interval of no width; with one image
    nothing is known, and the interval is infinite.
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
        # The jackknife's means differ from their mean by (observed - value) / (n - 1).
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
    """Two-sided p-values of the paired permutation test: how often a mean is as far from 0 when each image's two values
    change places at random.

    All 2^n ways where there are at most `num_flips` of them, otherwise that many random ones, among which the observed
    one counts.
    """
    n, m = differences.shape
    observed = np.abs(differences.sum(axis=0))
    limit = observed - 1e-9 * np.abs(differences).sum(axis=0)  # equal but for rounding is equal
    if 2**n <= num_flips:
        signs = np.array(list(np.ndindex(*(2,) * n))) * 2.0 - 1.0
        return (np.abs(signs @ differences) >= limit).mean(axis=0)
    rng, count = np.random.default_rng(seed), np.ones(m)
    for start in range(0, num_flips, _CHUNK):
        signs = rng.integers(0, 2, size=(min(_CHUNK, num_flips - start), n)) * 2.0 - 1.0
        count += (np.abs(signs @ differences) >= limit).sum(axis=0)
    return count / (num_flips + 1)


def seed_interval(by_seed: Float[np.ndarray, " s"], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Student's interval of the mean over seeds; infinite for one seed, of which nothing follows for another."""
    if len(by_seed) < 2:
        return -math.inf, math.inf
    reach = float(stats.t.ppf((1 + confidence) / 2, len(by_seed) - 1)) * by_seed.std(ddof=1) / math.sqrt(len(by_seed))
    return float(by_seed.mean() - reach), float(by_seed.mean() + reach)


def holm(p_values: Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
    """P-values corrected for their number (Holm 1979): below 0.05, at most 5 % risk of any false claim among the m."""
    m = len(p_values)
    order = np.argsort(p_values, kind="stable")
    corrected = np.maximum.accumulate(p_values[order] * np.arange(m, 0, -1))
    result = np.empty(m)
    result[order] = np.minimum(corrected, 1.0)
    return result


def average_ranks(values: Float[np.ndarray, "n v"], *, more_is_better: bool) -> Float[np.ndarray, " v"]:
    """Mean over n images of each variant's rank: 1 is the best, equal ones share theirs."""
    return np.asarray(stats.rankdata(-values if more_is_better else values, axis=1)).mean(axis=0)


def critical_difference(num_variants: int, num_images: int) -> float:
    """Average ranks closer than this are not told apart at 5 % (Nemenyi's test, as in Demsar 2006)."""
    q = float(stats.studentized_range.ppf(CONFIDENCE, num_variants, np.inf)) / math.sqrt(2)
    return q * math.sqrt(num_variants * (num_variants + 1) / (6 * num_images))


def friedman_p_value(values: Float[np.ndarray, "n v"]) -> float:
    """Of the hypothesis that all variants rank alike; nan for fewer than three variants or where all is equal."""
    if values.shape[1] < 3 or values.shape[0] < 2 or np.all(values == values[:, :1]):
        return math.nan
    return float(stats.friedmanchisquare(*values.T).pvalue)
