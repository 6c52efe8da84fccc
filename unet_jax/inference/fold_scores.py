"""Out-of-fold scores of a cross-validation: each run scores the images that were held out from it."""

from collections.abc import Sequence

import numpy as np

from unet_jax import metrics
from unet_jax._files import csv_text
from unet_jax._types import InputError
from unet_jax.config.dicts import config_differences
from unet_jax.metrics.counts import Counts
from unet_jax.metrics.scores import Scores
from unet_jax.runs.load import Run


def check_folds(runs: Sequence[Run], split: str) -> None:
    """Raise `InputError` unless runs are folds: other images in `split`, of no other run, and the same settings."""
    if len(runs) < 2:
        raise InputError("folds are two runs or more: name the run of each fold.")
    owner: dict[str, Run] = {}
    for run in runs:
        if run.class_names != runs[0].class_names:
            raise InputError(f"{run.path}: has other classes than {runs[0].path}, so that they are no folds.")
        for name, (expected, found) in config_differences(runs[0].config, run.config).items():
            raise InputError(
                f"{run.path}: {name} is {found!r}, but in {runs[0].path} it is {expected!r}: folds have the "
                f"same settings."
            )
        for id_ in run.info.splits[split]:
            other = owner.setdefault(id_, run)
            if other is not run:
                raise InputError(
                    f"{run.path}: has {id_!r} in {split}, as {other.path} has. Each image is held out from one fold: "
                    f"train with the files of unet-jax folds."
                )


def pooled(parts: Sequence[Scores]) -> Scores:
    """Return the scores of the images of all folds together."""
    counts = Counts(*(np.concatenate(arrays) for arrays in zip(*(part.counts for part in parts), strict=True)))
    return Scores(tuple(id_ for part in parts for id_ in part.ids), parts[0].class_names, counts)


def fold_rows(names: Sequence[str], parts: Sequence[Scores]) -> list[list[str]]:
    """Return rows (fold, class, number of images, Dice, IoU): of each fold, their mean and standard deviation over
    folds (n - 1), and of all images together.

    Args:
      names: names of the folds.
      parts: scores of each fold.
    """
    rows = []
    for name, part in [*zip(names, parts, strict=True), ("all images", pooled(parts))]:
        dice, iou = part.per_image(metrics.dice), part.per_image(metrics.iou)
        rows += [[name, c, str(len(part.ids)), f"{dice[c]:.4f}", f"{iou[c]:.4f}"] for c in part.class_names]
    for title, reduce in (("mean of folds", np.mean), ("standard deviation", lambda x: np.std(x, ddof=1))):
        for c in parts[0].class_names:
            values = ([part.per_image(score)[c] for part in parts] for score in (metrics.dice, metrics.iou))
            rows.append([title, c, "", *(f"{reduce(of_score):.4f}" for of_score in values)])
    return rows


def folds_csv(rows: Sequence[Sequence[str]]) -> str:
    """Return the rows of `fold_rows` as CSV."""
    return csv_text(["fold", "class", "images", "dice", "iou"], rows)
