"""Scores of a set of images with confidence intervals: the mean over images, and the score of all pixels together."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from unet_jax.metrics.score_sums import SCORES
from unet_jax.metrics.scores import Scores
from unet_jax.metrics.statistics import NUM_RESAMPLES, sum_intervals

MEAN = "mean of classes"
"""Name of the row that averages the classes, which all count equally."""
FEW_UNITS = 20
"""Number of images or groups below which bootstrap intervals are too narrow."""


class Estimate(NamedTuple):
    """A number with its 95 % interval."""

    value: float
    """The number; NaN if it is not known."""
    low: float
    """Lower end of the interval; -inf if it is not known."""
    high: float
    """Upper end of the interval; inf if it is not known."""


@dataclasses.dataclass(frozen=True)
class Estimates:
    """One score of one class, averaged over images and of all images together."""

    score: str
    """Name of the score, one of `unet_jax.metrics.score_sums.SCORES`."""
    class_name: str
    """Name of the class, or `MEAN`."""
    mean: Estimate
    """Mean over images of the per-image score."""
    pooled: Estimate | None
    """Score of the sums over all images (micro); None for scores that have none."""


def estimate_scores(
    scores: Scores, names: Sequence[str], groups: Sequence[str] | None = None, *, num_resamples: int = NUM_RESAMPLES
) -> list[Estimates]:
    """Compute scores with 95 % BCa bootstrap intervals over images or groups of images.

    Args:
      scores: results of `evaluate_run`, measured for these scores.
      names: names of scores, some of `unet_jax.metrics.score_sums.SCORES`.
      groups: group of each image, such as its patient, to resample whole groups. None: images are resampled.
      num_resamples: number of bootstrap resamples.

    Returns:
      One entry for each score and class, and for the mean of the classes if there are several. The mean of the classes
      is the mean of their means, over the classes that have one.
    """
    known = scores.known
    classes = range(len(scores.class_names))
    blocks: list[np.ndarray] = []
    where: dict[tuple[str, int], slice] = {}

    def add(key: str, k: int, columns: np.ndarray) -> None:
        start = sum(block.shape[1] for block in blocks)
        where[key, k] = slice(start, start + columns.shape[1])
        blocks.append(columns)

    for k in classes:
        add("known", k, known[:, k, None].astype(np.float64))
        for name in names:
            add(f"value of {name}", k, np.where(known, scores.values(name), 0.0)[:, k, None])
            if (SCORES[name].sums, k) not in where:
                add(SCORES[name].sums, k, scores.sums_of(name)[:, k])

    def mean(name: str, k: int) -> Callable[[np.ndarray], np.ndarray]:
        def of(sums: np.ndarray) -> np.ndarray:
            count = sums[..., where["known", k]][..., 0]
            return np.where(count > 0, sums[..., where[f"value of {name}", k]][..., 0] / np.maximum(count, 1), np.nan)

        return of

    def pooled(name: str, k: int) -> Callable[[np.ndarray], np.ndarray]:
        def of(sums: np.ndarray) -> np.ndarray:
            value = SCORES[name].value(sums[..., where[SCORES[name].sums, k]])
            return np.where(sums[..., where["known", k]][..., 0] > 0, value, np.nan)

        return of

    def of_classes(one: Callable[[str, int], Callable], name: str) -> Callable[[np.ndarray], np.ndarray]:
        def of(sums: np.ndarray) -> np.ndarray:
            values = np.stack([one(name, k)(sums) for k in classes])
            count = (~np.isnan(values)).sum(axis=0)
            return np.where(count > 0, np.nansum(values, axis=0) / np.maximum(count, 1), np.nan)

        return of

    columns = [*scores.class_names, *([MEAN] if len(scores.class_names) > 1 else [])]
    wanted: list[tuple[str, str, bool]] = []
    statistics: list[Callable[[np.ndarray], np.ndarray]] = []
    for name in names:
        for one in (mean, pooled) if SCORES[name].is_pooled else (mean,):
            wanted += [(name, column, one is pooled) for column in columns]
            statistics += [one(name, k) for k in classes]
            statistics += [of_classes(one, name)] * (len(columns) - len(classes))
    parts = np.concatenate(blocks, axis=1)
    low, high = sum_intervals(parts, statistics, groups, num_resamples=num_resamples)
    found: dict[tuple[str, str, bool], Estimate] = {}
    for key, statistic, a, b in zip(wanted, statistics, low.tolist(), high.tolist(), strict=True):
        value = float(statistic(parts.sum(axis=0)))
        found[key] = Estimate(value, *((-math.inf, math.inf) if math.isnan(value) else (a, b)))
    return [
        Estimates(name, column, found[name, column, False], found.get((name, column, True)))
        for column in columns
        for name in names
    ]
