"""A study's table of results, and the rule by which it calls one variant better than another."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float

from unet_jax.study import statistics
from unet_jax.study.scores import SCORES, ScoreTable

PRIMARY = "dice"
"""The score that winners are called by, averaged over classes."""
MEAN = "mean of classes"
ALPHA = 0.05
RULE = (
    "better or worse only if the 95 % bootstrap interval of the paired difference (over images, each averaged over "
    "seeds) excludes 0, the sign-flip p-value is below 0.05 after Holm's correction for the number of variants, and "
    "Student's 95 % interval of the difference over seeds (each averaged over images) excludes 0 as well"
)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A variant next to another one."""

    difference: float
    """Mean over images of the paired difference, averaged over seeds: this variant's score minus the other's."""
    low: float
    high: float
    """Bootstrap interval over images."""
    seed_low: float
    seed_high: float
    """Student's interval over seeds."""
    p_value: float
    p_holm: float
    seeds_better: int
    verdict: Literal["better", "worse", "unclear"]


@dataclasses.dataclass(frozen=True)
class Row:
    """A variant's results in one score and class."""

    variant: str
    score: str
    class_name: str
    mean: float
    std: float
    """Over seeds, of the mean over images (n - 1 in the denominator); nan for one seed."""
    comparison: Comparison | None
    """With the baseline; None for the baseline itself."""


@dataclasses.dataclass(frozen=True)
class Winner:
    """The best variant, if there is one."""

    name: str | None
    leader: str
    """Whose mean is the best, by whatever distance."""
    rivals: tuple[str, ...]
    """Variants that the leader cannot be told from."""


def with_mean(values: Float[np.ndarray, "*r n k"]) -> Float[np.ndarray, "*r n k1"]:
    """The classes and, behind them, their mean; of one class it would say the same again."""
    return values if values.shape[-1] == 1 else np.concatenate([values, values.mean(-1, keepdims=True)], axis=-1)


def columns_of(class_names: Sequence[str]) -> tuple[str, ...]:
    """Names of what `with_mean` returns."""
    return tuple(class_names) if len(class_names) == 1 else (*class_names, MEAN)


def compare(
    values: Float[np.ndarray, "v s n"], reference: int, *, more_is_better: bool, seed: int = 0
) -> list[Comparison | None]:
    """Each variant next to variant `reference`; Holm's correction is over the others."""
    others = [v for v in range(len(values)) if v != reference]
    by_seed = values[others] - values[reference]
    differences = by_seed.mean(axis=1).T  # [n v]
    low, high = statistics.bootstrap_intervals(differences, seed=seed)
    p_values = statistics.sign_flip_p_values(differences, seed=seed)
    p_holm = statistics.holm(p_values)
    result: list[Comparison | None] = [None] * len(values)
    sign = 1.0 if more_is_better else -1.0
    for j, v in enumerate(others):
        good = sign * by_seed[j].mean(axis=1)  # [s]
        verdict: Literal["better", "worse", "unclear"] = "unclear"
        seed_low, seed_high = statistics.seed_interval(by_seed[j].mean(axis=1))
        excluded = all(a > 0.0 or b < 0.0 for a, b in ((low[j], high[j]), (seed_low, seed_high)))
        if excluded and p_holm[j] < ALPHA:
            verdict = "better" if good.mean() > 0.0 else "worse"
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
    """All scores, classes and variants; `table` has the axes `[v s n k]`."""
    rows = []
    for score, more_is_better in SCORES.items():
        values = with_mean(table.values[score])
        for k, class_name in enumerate(columns_of(table.class_names)):
            comparisons = compare(values[..., k], list(names).index(baseline), more_is_better=more_is_better)
            for v, name in enumerate(names):
                by_seed = values[v, :, :, k].mean(axis=1)
                std = float(by_seed.std(ddof=1)) if len(by_seed) > 1 else float("nan")
                rows.append(Row(name, score, class_name, float(by_seed.mean()), std, comparisons[v]))
    return rows


def find_winner(names: Sequence[str], table: ScoreTable) -> Winner:
    """The variant with the best mean of the primary score, if it is better, by the rule, than every other."""
    more_is_better = SCORES[PRIMARY]
    values = with_mean(table.values[PRIMARY])[..., -1]
    means = values.mean(axis=(1, 2))
    leader = int(np.argmax(means if more_is_better else -means))
    comparisons = compare(values, leader, more_is_better=more_is_better)
    rivals = tuple(names[v] for v, c in enumerate(comparisons) if c is not None and c.verdict != "worse")
    return Winner(None if rivals else names[leader], names[leader], rivals)
