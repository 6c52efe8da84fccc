"""Comparisons between variants: the rule that calls one better than another, the table of results, and the winner."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from unet_jax.metrics import statistics
from unet_jax.metrics.scores import mean_of_known
from unet_jax.study.scores import SCORES, ScoreTable

PRIMARY = "dice"
"""Name of the score that decides the winner, averaged over classes."""
MEAN = "mean of classes"
"""Name of the additional column that `with_mean` adds."""
ALPHA = 0.05
"""Significance level of corrected p-values."""
MIN_SEEDS = 3
"""Number of seeds from which on Student's interval over seeds is narrow enough to exclude anything."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Comparison of a variant with a reference variant, in one score and class."""

    difference: float
    """Score of this variant minus that of the reference, averaged over seeds and images."""
    low: float
    """Lower end of the 95 % bootstrap interval of the difference over images."""
    high: float
    """Upper end of the 95 % bootstrap interval of the difference over images."""
    seed_low: float
    """Lower end of Student's 95 % interval of the difference over seeds; with folds, of the corrected interval over all
    folds and seeds (`fold_interval`)."""
    seed_high: float
    """Upper end of the same interval."""
    p_value: float
    """P-value of the sign-flip permutation test over images."""
    p_holm: float
    """The same p-value after Holm's correction for the number of variants."""
    seeds_better: int
    """Number of seeds, or of folds and seeds, whose mean over images is better than the reference's."""
    verdict: Literal["better", "worse", "unclear"]
    """Verdict by `rule`."""


@dataclasses.dataclass(frozen=True)
class Row:
    """Results of one variant in one score and class."""

    variant: str
    """Name of the variant."""
    score: str
    """Name of the score, one of `SCORES`."""
    class_name: str
    """Name of the class, or `MEAN`."""
    mean: float
    """Mean over images and seeds."""
    std: float
    """Standard deviation over seeds, or over folds and seeds, of the mean over images, with n - 1 in the denominator;
    nan for one."""
    comparison: Comparison | None
    """Comparison with the baseline; None for the baseline itself."""


@dataclasses.dataclass(frozen=True)
class Winner:
    """The variant that is better than all others, if there is one."""

    name: str | None
    """Name of the winner; None if there is none."""
    leader: str
    """Name of the variant with the best mean, however small its lead."""
    rivals: tuple[str, ...]
    """Variants that cannot be distinguished from the leader."""


def rule(units: str) -> str:
    """Return the rule of verdicts as complete sentences for readers of the HTML page.

    Args:
      units: "seeds" or "folds and seeds".
    """
    interval, each = "Student's 95 % interval of the difference over seeds", "each seed averaged over images"
    if units != "seeds":
        interval = f"the 95 % interval of the difference over {units}, corrected for training sets that share images,"
        each = "each fold and seed averaged over its images"
    return (
        f"A variant is called better or worse only if three conditions hold. First, the 95 % bootstrap interval of the "
        f"paired difference over images (each image averaged over seeds) excludes 0. Second, the sign-flip p-value is "
        f"below 0.05 after Holm's correction for the number of variants. Third, {interval} ({each}) excludes 0. In all "
        f"other cases the comparison is called unclear."
    )


def few_seeds(num_seeds: int, num_folds: int = 0) -> str:
    """Say why hardly anything can be concluded from fewer than three seeds, or folds; empty for three or more."""
    if num_seeds * max(1, num_folds) >= MIN_SEEDS:
        return ""
    number = "1 seed" if num_seeds == 1 else f"{num_seeds} seeds"
    number = f"{number} and {num_folds} folds" if num_folds else number
    what = f" {'folds' if num_folds else ''}".rstrip()
    return f"With {number}, hardly any difference can be told from chance: give at least {MIN_SEEDS}{what}."


def with_mean(values: Float[np.ndarray, "*r n k"]) -> Float[np.ndarray, "*r n k1"]:
    """Append the mean of the k classes as a last column; a single class stays alone, being its own mean.

    Classes that an image ignores (NaN) have no part in its mean.

    Example:
      >>> with_mean(np.array([[1.0, 3.0]])).tolist(), with_mean(np.array([[1.0]])).tolist()
      ([[1.0, 3.0, 2.0]], [[1.0]])
      >>> with_mean(np.array([[1.0, np.nan]])).tolist()
      [[1.0, nan, 1.0]]
    """
    if values.shape[-1] == 1:
        return values
    return np.concatenate([values, mean_of_known(values, axis=-1)[..., None]], axis=-1)


def scored_images(values: Float[np.ndarray, "*r n"]) -> Float[np.ndarray, "*r m"]:
    """Return the scores of the images that have one: an image that ignores all pixels of a class has none (NaN).

    Example:
      >>> scored_images(np.array([[0.5, np.nan, 0.7]])).tolist()
      [[0.5, 0.7]]
    """
    return values[..., has_score(values)]


def has_score(values: Float[np.ndarray, "*r n"]) -> Bool[np.ndarray, " n"]:
    """Return which of n images have a score in all runs."""
    return np.asarray(~np.isnan(values).reshape(-1, values.shape[-1]).any(axis=0))


def run_means(
    values: Float[np.ndarray, "s n"], folds: Int[np.ndarray, "s n"] | None
) -> tuple[Float[np.ndarray, " j"], Int[np.ndarray, " j"]]:
    """Return the mean over images of each run of a variant, and the number of images that it scored.

    Args:
      values: one score of s seeds and n images.
      folds: fold that held out each image, by seed; None: each of the s runs scored all images.

    Returns:
      Means of the runs: of each seed, or of each fold of each seed.

    Example:
      >>> means, counts = run_means(np.array([[1.0, 3.0, 5.0]]), np.array([[0, 0, 1]]))
      >>> means.tolist(), counts.tolist()
      ([2.0, 5.0], [2, 1])
    """
    if folds is None:
        return values.mean(axis=1), np.full(len(values), values.shape[1])
    parts = [of_seed[own == f] for of_seed, own in zip(values, folds, strict=True) for f in np.unique(own)]
    return np.array([part.mean() for part in parts]), np.array([len(part) for part in parts])


def columns_of(class_names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the columns that `with_mean` returns."""
    return tuple(class_names) if len(class_names) == 1 else (*class_names, MEAN)


def compare(
    values: Float[np.ndarray, "v s n"],
    reference: int,
    *,
    more_is_better: bool,
    seed: int = 0,
    folds: Int[np.ndarray, "s n"] | None = None,
) -> list[Comparison | None]:
    """Compare each variant with a reference variant.

    Args:
      values: `[v s n]`, one score of v variants, s seeds and n images.
      reference: index of the reference variant.
      more_is_better: True if higher scores are better.
      seed: seed of the bootstrap and of the random sign flips.
      folds: fold that held out each image, by seed; None: there are no folds.

    Returns:
      One comparison for each variant, None for the reference. Holm's correction is for the v - 1 other variants.

    Example:
      >>> by_image = np.linspace(0.5, 0.8, 12)  # the second variant is better by 0.05 to 0.06 on each image and seed
      >>> second = [by_image + 0.05, by_image + np.linspace(0.05, 0.06, 12), by_image + 0.06]
      >>> comparison = compare(np.stack([[by_image] * 3, second]), 0, more_is_better=True)[1]
      >>> round(comparison.difference, 3), comparison.seeds_better, comparison.verdict
      (0.055, 3, 'better')
    """
    others = [v for v in range(len(values)) if v != reference]
    by_seed = values[others] - values[reference]
    differences = by_seed.mean(axis=1).T  # [n v]
    low, high = statistics.bootstrap_intervals(differences, seed=seed)
    p_values = statistics.sign_flip_p_values(differences, seed=seed)
    p_holm = statistics.holm(p_values)
    result: list[Comparison | None] = [None] * len(values)
    sign = 1.0 if more_is_better else -1.0
    for j, v in enumerate(others):
        by_run, counts = run_means(by_seed[j], folds)
        good = sign * by_run
        verdict: Literal["better", "worse", "unclear"] = "unclear"
        seed_low, seed_high = (
            statistics.seed_interval(by_run)
            if folds is None
            else statistics.fold_interval(by_run, counts, values.shape[2])
        )
        excluded = all(a > 0.0 or b < 0.0 for a, b in ((low[j], high[j]), (seed_low, seed_high)))
        if excluded and p_holm[j] < ALPHA:
            verdict = "better" if sign * differences[:, j].mean() > 0.0 else "worse"
        result[v] = Comparison(
            difference=float(differences[:, j].mean()),
            low=float(low[j]),
            high=float(high[j]),
            seed_low=seed_low,
            seed_high=seed_high,
            p_value=float(p_values[j]),
            p_holm=float(p_holm[j]),
            seeds_better=int((good > 0.0).sum()),
            verdict=verdict,
        )
    return result


def summarize(names: Sequence[str], table: ScoreTable, baseline: str) -> list[Row]:
    """Return one row for each score, class (and the mean of the classes) and variant.

    A class of which all images ignore all pixels has no rows.

    Args:
      names: names of the v variants.
      table: scores of the whole study, `[v s n k]`.
      baseline: name of the variant that the others are compared with.
    """
    rows = []
    for score, more_is_better in SCORES.items():
        values = with_mean(table.values[score])
        for k, class_name in enumerate(columns_of(table.class_names)):
            is_scored = has_score(values[..., k])
            if not is_scored.any():
                continue
            of_class = values[..., is_scored, k]
            folds = None if table.folds is None else table.folds[:, is_scored]
            reference = list(names).index(baseline)
            comparisons = compare(of_class, reference, more_is_better=more_is_better, folds=folds)
            for v, name in enumerate(names):
                by_run, _ = run_means(of_class[v], folds)
                std = float(by_run.std(ddof=1)) if len(by_run) > 1 else float("nan")
                rows.append(Row(name, score, class_name, float(of_class[v].mean(axis=1).mean()), std, comparisons[v]))
    return rows


def find_winner(names: Sequence[str], table: ScoreTable) -> Winner:
    """Find the variant with the best mean of `PRIMARY`; it wins if it is better than every other one by `rule`.

    Args:
      names: names of the v variants.
      table: scores of the whole study, `[v s n k]`.
    """
    more_is_better = SCORES[PRIMARY]
    values = with_mean(table.values[PRIMARY])[..., -1]
    is_scored = has_score(values)
    values, folds = values[..., is_scored], None if table.folds is None else table.folds[:, is_scored]
    means = values.mean(axis=(1, 2))
    leader = int(np.argmax(means if more_is_better else -means))
    comparisons = compare(values, leader, more_is_better=more_is_better, folds=folds)
    rivals = tuple(names[v] for v, c in enumerate(comparisons) if c is not None and c.verdict != "worse")
    return Winner(None if rivals else names[leader], names[leader], rivals)
