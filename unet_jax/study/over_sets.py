"""Comparisons over several data sets (Demsar, JMLR 7, 2006): each data set counts once; images are never pooled."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata

from unet_jax._types import InputError
from unet_jax.metrics.rank_tests import (
    average_ranks,
    critical_difference,
    friedman_permutation_p_value,
    iman_davenport_p_value,
    num_sets_needed,
    wilcoxon_p_values,
)
from unet_jax.metrics.statistics import holm
from unet_jax.study.compare import ALPHA, PRIMARY, Row, Winner
from unet_jax.study.config import Study
from unet_jax.study.results import Results
from unet_jax.study.scores import SCORES

FEW_SETS = 10
"""Number of data sets from which on the distribution of Friedman's statistic is taken as the one for many."""
RULE_OVER_SETS = (
    "Over data sets, a variant is called better or worse only if Wilcoxon's signed-rank test over the data sets has a "
    "p-value below 0.05 after Holm's correction for the number of variants. A data set is one observation: the "
    "difference of the mean scores there (over classes, images and seeds). In all other cases the comparison is called "
    "unclear."
)
"""Complete sentences for readers of the HTML page."""


@dataclasses.dataclass(frozen=True)
class SetComparison:
    """Comparison of a variant with a reference variant over data sets, in one score."""

    median_difference: float
    """Median over data sets of the difference of mean scores."""
    num_better: int
    """Number of data sets whose mean score is better than the reference's."""
    num_worse: int
    """Number of data sets whose mean score is worse than the reference's."""
    p_value: float
    """P-value of Wilcoxon's signed-rank test over data sets."""
    p_holm: float
    """The same p-value after Holm's correction for the number of variants."""
    verdict: Literal["better", "worse", "unclear"]
    """Verdict by `RULE_OVER_SETS`."""


@dataclasses.dataclass(frozen=True)
class ScoreOverSets:
    """One score of all variants on all data sets."""

    means: Float[np.ndarray, "n v"]
    """Mean over classes, images and seeds of v variants on n data sets."""
    ranks: Float[np.ndarray, " v"]
    """Ranks averaged over data sets; 1 is the best."""
    friedman_p: float
    """P-value of Friedman's test: by permutations for fewer than `FEW_SETS` data sets, otherwise with the correction of
    Iman and Davenport; nan for fewer than three variants."""
    comparisons: list[SetComparison | None]
    """Comparisons with the baseline; None for the baseline itself."""


@dataclasses.dataclass(frozen=True)
class ResultsOverSets:
    """Results of a study on several data sets, and what holds over them."""

    datasets: tuple[str, ...]
    """Names of the n data sets."""
    names: tuple[str, ...]
    """Names of the v variants."""
    parts: tuple[Results, ...]
    """Results on each data set."""
    scores: dict[str, ScoreOverSets]
    """Comparisons over data sets, by name of the score."""
    critical_difference: float
    """Difference of average ranks below which two variants cannot be distinguished (Nemenyi's test at 5 %)."""
    winner: Winner
    """The variant that is better than all others in the primary score, by `RULE_OVER_SETS`, if there is one."""

    @property
    def sets_needed(self) -> int:
        """Smallest number of data sets with which any verdict but "unclear" is possible."""
        return num_sets_needed(len(self.names) - 1)

    def rows_of(self, variant: str) -> list[Row]:
        """Return the variant's row in the primary score on each data set."""
        return [row for part in self.parts for row in part.primary_rows() if row.variant == variant]


def compare_over_sets(
    means: Float[np.ndarray, "n v"], reference: int, *, more_is_better: bool
) -> list[SetComparison | None]:
    """Compare each variant with a reference variant over data sets.

    Args:
      means: `[n v]`, the mean score of v variants on n data sets.
      reference: index of the reference variant.
      more_is_better: True if higher scores are better.

    Returns:
      One comparison for each variant, None for the reference. Holm's correction is for the v - 1 other variants.

    Example:
      >>> means = np.array([[0.5, 0.6], [0.7, 0.72], [0.8, 0.9], [0.6, 0.61], [0.9, 0.95], [0.4, 0.43]])
      >>> comparison = compare_over_sets(means, 0, more_is_better=True)[1]
      >>> comparison.num_better, comparison.p_value, comparison.verdict  # 2 of 2^6 patterns of signs
      (6, 0.03125, 'better')
    """
    others = [v for v in range(means.shape[1]) if v != reference]
    differences = means[:, others] - means[:, [reference]]
    # Means are of thousands of numbers: differences that are rounding only are none.
    differences = np.where(np.abs(differences) <= 1e-12 * np.abs(means).max(), 0.0, differences)
    p_values = wilcoxon_p_values(differences)
    p_holm = holm(p_values)
    good = differences if more_is_better else -differences
    signed_ranks = np.sign(good) * np.asarray(rankdata(np.abs(good), axis=0))
    result: list[SetComparison | None] = [None] * means.shape[1]
    for j, v in enumerate(others):
        verdict: Literal["better", "worse", "unclear"] = "unclear"
        if p_holm[j] < ALPHA:
            verdict = "better" if signed_ranks[:, j].sum() > 0.0 else "worse"
        result[v] = SetComparison(
            median_difference=float(np.median(differences[:, j])),
            num_better=int((good[:, j] > 0.0).sum()),
            num_worse=int((good[:, j] < 0.0).sum()),
            p_value=float(p_values[j]),
            p_holm=float(p_holm[j]),
            verdict=verdict,
        )
    return result


def combine(studies: Sequence[Study], parts: Sequence[Results]) -> ResultsOverSets:
    """Compare the variants over data sets.

    Args:
      studies: studies of the same variants on several data sets, from `load_studies`.
      parts: results of each of them, from `read_results`.

    Raises:
      InputError: the studies have other variants, or are on fewer than two data sets.
    """
    names, first = parts[0].names, studies[0]
    if len(studies) < 2:
        raise InputError("over data sets, nothing can be said of one: give two studies or more.")
    for part in parts:
        if part.names != names:
            raise InputError(f"the studies have other variants: {', '.join(names)} and {', '.join(part.names)}.")
    reference = names.index(first.baseline)
    scores = {}
    for score, more_is_better in SCORES.items():
        rows = [part.mean_rows(score) for part in parts]
        if not all(rows):  # all images of a data set ignore all pixels
            continue
        means = np.array([[row.mean for row in of_set] for of_set in rows])
        scores[score] = ScoreOverSets(
            means,
            average_ranks(means, more_is_better=more_is_better),
            (friedman_permutation_p_value if len(means) < FEW_SETS else iman_davenport_p_value)(means),
            compare_over_sets(means, reference, more_is_better=more_is_better),
        )
    primary = scores[PRIMARY]
    leader = int(np.argmin(primary.ranks))
    to_leader = compare_over_sets(primary.means, leader, more_is_better=SCORES[PRIMARY])
    rivals = tuple(names[v] for v, c in enumerate(to_leader) if c is not None and c.verdict != "worse")
    return ResultsOverSets(
        tuple(study.dataset for study in studies),
        names,
        tuple(parts),
        scores,
        critical_difference(len(names), len(studies)),
        Winner(None if rivals else names[leader], names[leader], rivals),
    )
