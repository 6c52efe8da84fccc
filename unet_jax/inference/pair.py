"""Paired comparison of two trained runs on the same images: differences with intervals and p-values."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from unet_jax._files import csv_text
from unet_jax._types import InputError
from unet_jax.config import Config
from unet_jax.config.dicts import config_differences
from unet_jax.metrics.estimates import MEAN, Estimate
from unet_jax.metrics.score_sums import SCORES
from unet_jax.metrics.scores import Scores
from unet_jax.metrics.statistics import CONFIDENCE, sign_flip_p_values, sum_intervals

ONE_SEED = "one seed each: this says nothing of the method"


@dataclasses.dataclass(frozen=True)
class Pair:
    """Difference of two runs in one score and class."""

    score: str
    """Name of the score, one of `unet_jax.metrics.score_sums.SCORES`."""
    class_name: str
    """Name of the class, or `MEAN`."""
    first: float
    """Mean over images of the first run."""
    second: float
    """Mean over images of the second run."""
    difference: Estimate
    """Second minus first, with its 95 % BCa bootstrap interval over images or groups."""
    p_value: float
    """P-value of the sign-flip permutation test over images or groups; NaN if there is no image."""


def check_paired(names: tuple[str, str], first: Scores, second: Scores, *, same_format: bool = True) -> None:
    """Raise `InputError` unless two runs were scored on the same images, masks and classes.

    Args:
      names: paths of the runs, for messages.
      first, second: results of `evaluate_run`.
      same_format: True if both runs see the same channels and intensities, so that their pixels can be compared.
    """
    a, b = names
    if first.class_names != second.class_names:
        raise InputError(
            f"{a} and {b} cannot be compared: their classes are {', '.join(first.class_names)} and "
            f"{', '.join(second.class_names)}. Compare runs that were trained with the same data.classes."
        )
    check_same_images(names, first.ids, second.ids)
    other = [id_ for id_, x, y in zip(first.ids, first.digests, second.digests, strict=True) if x != y]
    if other and same_format:
        raise InputError(
            f"{a} and {b} cannot be compared: the pixels of {len(other)} images differ, the first is {other[0]!r}. "
            f"Score both on one data set: --data.root DIR."
        )
    true, also_true = (np.asarray(s.counts.tp) + np.asarray(s.counts.fn) for s in (first, second))
    other = [id_ for id_, differ in zip(first.ids, (true != also_true).any(axis=1), strict=True) if differ]
    if other:
        raise InputError(
            f"{a} and {b} cannot be compared: the masks of {len(other)} images differ, the first is {other[0]!r}. "
            f"Score both on one data set (--data.root DIR); the runs must also read masks alike (data.soft_masks)."
        )


def check_same_images(names: tuple[str, str], first: Sequence[str], second: Sequence[str]) -> None:
    """Raise `InputError` unless the ids of the images are the same, in one order."""
    alone = [(id_, path) for path, mine, other in zip(names, (first, second), (second, first), strict=True)
             for id_ in mine if id_ not in set(other)]  # fmt: skip
    if alone:
        raise InputError(
            f"{names[0]} and {names[1]} cannot be compared: {len(alone)} images are in the split of one of them only, "
            f"the first is {alone[0][0]!r} of {alone[0][1]}. Name the images to score with --data.splits FILE, or "
            f"choose another --split."
        )


def check_training_images(
    names: tuple[str, str], ids: Sequence[str], trained: tuple[Sequence[str], Sequence[str]]
) -> int:
    """Return how many scored images both runs were trained on; raise `InputError` if only one of them was.

    Args:
      names: paths of the runs, for messages.
      ids: scored images.
      trained: training images of the runs.
    """
    seen = [set(ids) & set(of_run) for of_run in trained]
    for path, mine, other in ((names[0], *seen), (names[1], *seen[::-1])):
        alone = sorted(mine - other)
        if alone:
            raise InputError(
                f"{names[0]} and {names[1]} cannot be compared on these images: {len(alone)} of them were used to "
                f"train {path} only, the first is {alone[0]!r}. Choose images that neither was trained on, with "
                f"--split or --data.splits FILE."
            )
    return len(seen[0])


def compare_scores(
    first: Scores, second: Scores, names: Sequence[str], groups: Sequence[str] | None = None
) -> list[Pair]:
    """Compare two runs that were scored on the same images.

    Args:
      first, second: results of `evaluate_run`, measured for these scores.
      names: names of scores, some of `unet_jax.metrics.score_sums.SCORES`.
      groups: group of each image, such as its patient, to resample and flip whole groups. None: images.

    Returns:
      One entry for each score and class, and for the mean of the classes if there are several.
    """
    pairs = []
    for name in names:
        a, b = first.values(name), second.values(name)
        for k, class_name in enumerate(first.class_names):
            pairs.append(_pair(name, class_name, a[:, k], b[:, k], groups))
        if len(first.class_names) > 1:
            pairs.append(_pair(name, MEAN, image_means(a), image_means(b), groups))
    return pairs


def image_means(values: Float[np.ndarray, "n k"]) -> Float[np.ndarray, " n"]:
    """Return what each image adds to the mean of the classes' means, times n; NaN where all classes are unknown.

    Without unknown classes it is the mean over classes. An image that knows a class which few images know counts more.

    Example:
      >>> image_means(np.array([[1.0, 0.5], [0.0, np.nan]])).tolist()  # the means are 0.5 and 0.5
      [1.0, 0.0]
    """
    known = ~np.isnan(values)
    num_known = known.sum(axis=0)
    num_images, num_classes = known.any(axis=1).sum(), (num_known > 0).sum()
    weights = np.where(known, num_images / np.maximum(num_known, 1) / max(num_classes, 1), 0.0)
    means = (np.where(known, values, 0.0) * weights).sum(axis=1)
    return np.where(known.any(axis=1), means, np.nan)


def _pair(
    name: str,
    class_name: str,
    a: Float[np.ndarray, " n"],
    b: Float[np.ndarray, " n"],
    groups: Sequence[str] | None,
) -> Pair:
    known = ~np.isnan(a)
    if not known.any():
        return Pair(name, class_name, math.nan, math.nan, Estimate(math.nan, -math.inf, math.inf), math.nan)
    difference = (b - a)[known]
    units = np.unique(np.array(groups)[known] if groups is not None else np.arange(known.sum()), return_inverse=True)[1]
    parts = np.stack([difference, np.ones_like(difference)], axis=1)
    low, high = sum_intervals(parts, [lambda sums: sums[..., 0] / sums[..., 1]], [str(unit) for unit in units])
    p_value = sign_flip_p_values(np.bincount(units, difference)[:, None])[0]
    estimate = Estimate(float(difference.mean()), float(low[0]), float(high[0]))
    return Pair(name, class_name, float(a[known].mean()), float(b[known].mean()), estimate, float(p_value))


def most_different(first: Scores, second: Scores, name: str, count: int = 5) -> list[tuple[str, float, float]]:
    """Return id and both scores of the images that differ most in a score's mean of classes, the largest first."""
    a, b = (
        np.where(s.known, s.values(name), 0.0).sum(axis=1) / np.maximum(s.known.sum(axis=1), 1) for s in (first, second)
    )
    far = np.abs(b - a)
    order = [i for i in np.argsort(-far, kind="stable")[:count] if far[i] > 0.0]
    return [(first.ids[i], float(a[i]), float(b[i])) for i in order]


def pairs_csv(first: Scores, second: Scores, names: Sequence[str]) -> str:
    """Return a CSV table with one line per image, class and score: both runs' scores and their difference."""
    rows = []
    for name in names:
        a, b = first.values(name), second.values(name)
        for i, id_ in enumerate(first.ids):
            for k, class_name in enumerate(first.class_names):
                numbers = (a[i, k], b[i, k], b[i, k] - a[i, k])
                rows.append((id_, class_name, name, *("" if math.isnan(x) else f"{x:.6f}" for x in numbers)))
    return csv_text(("id", "class", "score", "first", "second", "difference"), rows)


def conclusion(
    names: tuple[str, str], configs: tuple[Config, Config], pair: Pair, units: str, same_images: bool
) -> str:
    """Say in words what one comparison means, and what it does not mean.

    Args:
      names: paths of the runs.
      configs: their configs.
      pair: comparison in one score and class.
      units: what the interval is of, as in "30 images".
      same_images: True if both runs were trained on the same images.
    """
    title, d = pair.score, pair.difference
    is_clear = (d.low > 0.0 or d.high < 0.0) and pair.p_value < 1.0 - CONFIDENCE
    if math.isnan(d.value):
        first = f"No image has a pixel that is not ignored: {title} cannot be compared."
    elif is_clear:
        better = (d.value > 0.0) == SCORES[pair.score].more_is_better
        best, other = names[::-1] if better else names
        first = f"{best} has a better {title} ({pair.class_name}) than {other} on images like these {units}."
    else:
        first = f"{names[1]} cannot be distinguished from {names[0]} in {title} ({pair.class_name}) on {units}."
    differences = [*config_differences(*configs), *(() if same_images else ("the images they were trained on",))]
    if not differences:
        return f"{first} Both runs have the same settings and seed."
    if differences == ["seed"]:
        return f"{first} The runs differ only in the seed: this is how far chance alone moves a score."
    return (
        f"{first} The runs differ in {', '.join(sorted(differences))}; {ONE_SEED}. For that, train several seeds of "
        f"each (unet-jax study)."
    )
