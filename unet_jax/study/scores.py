"""Scores per image and class: computed from a run's best checkpoint, kept as CSV files, stacked for a whole study."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Bool, Float, Int

from unet_jax import metrics
from unet_jax._files import replace_text
from unet_jax._types import InputError
from unet_jax.data.records import Layout, Record
from unet_jax.inference.evaluate import probs_and_truths
from unet_jax.metrics.image_scores import brier, calibration_error, hausdorff95, surface_dice
from unet_jax.runs.load import Run
from unet_jax.study.checked_table import checked_csv, read_checked
from unet_jax.study.config import Study, Variant

SCORES: dict[str, bool] = {
    "dice": True,
    "iou": True,
    "surface_dice": True,
    "hd95": False,
    "brier": False,
    "ece": False,
}
"""Name of each score, and True if higher values are better."""


@dataclasses.dataclass(frozen=True)
class ScoreTable:
    """Scores of the same n images and k classes, from one run or (with leading axes) from many runs."""

    ids: tuple[str, ...]
    """Names of the n images."""
    class_names: tuple[str, ...]
    """Names of the k classes."""
    values: dict[str, Float[np.ndarray, "*runs n k"]]
    """One array `[n k]` (one run) or `[v s n k]` (variants and seeds) for each name in `SCORES`."""
    folds: Int[np.ndarray, "s n"] | None = None
    """Fold that held out each image, by seed; None: there are no folds, each run has scored all images."""

    @property
    def units(self) -> str:
        """Name of what the runs of a variant differ in: seeds, or folds and seeds."""
        return "seeds" if self.folds is None else "folds and seeds"

    def to_csv(self) -> str:
        """Return the scores of one run as CSV text with one line per image and class."""
        # `repr` writes all digits, so that `read_scores` returns exactly the computed values.
        rows = (
            [id_, name, *(repr(float(self.values[score][i, k])) for score in SCORES)]
            for i, id_ in enumerate(self.ids)
            for k, name in enumerate(self.class_names)
        )
        return checked_csv(["id", "class", *SCORES], rows)


def image_scores(
    probs: Float[np.ndarray, "h w k"],
    truth: Bool[np.ndarray, "h w k"],
    threshold: float | Float[np.ndarray, " k"],
    valid: Bool[np.ndarray, "h w k"] | None = None,
) -> dict[str, Float[np.ndarray, " k"]]:
    """Compute all scores of one image, per class.

    Ignored pixels are not counted, and belong to neither mask where distances between borders are measured.

    Args:
      probs: probabilities, `[h w k]`, from 0 to 1.
      truth: true masks, `[h w k]`.
      threshold: a pixel belongs to a class if its probability is above this: one number, or one for each class.
      valid: pixels that are not ignored, `[h w k]`; None: all.

    Returns:
      An array `[k]` for each name in `SCORES`. `hd95` is in pixels; all others have no unit. The scores of a class of
      which all pixels are ignored are NaN.

    Example:
      >>> truth = np.array([[True, True, False, False]] * 4)[..., None]
      >>> scores = image_scores(np.where(truth, 0.9, 0.1), truth, threshold=0.5)
      >>> {name: float(values[0].round(3)) for name, values in scores.items()}
      {'dice': 1.0, 'iou': 1.0, 'surface_dice': 1.0, 'hd95': 0.0, 'brier': 0.01, 'ece': 0.1}
    """
    valid = np.ones(truth.shape, bool) if valid is None else valid
    predicted = (probs > threshold) & valid
    counts = metrics.counts_from_masks(predicted, truth, valid)
    truth = truth & valid
    classes = range(truth.shape[-1])

    def each(score: Callable[[np.ndarray, np.ndarray], float], *, of_pixels: bool) -> np.ndarray:
        values = []
        for k in classes:
            pair = (probs if of_pixels else predicted)[..., k], truth[..., k]
            known = valid[..., k]
            if of_pixels and not known.all():
                pair = pair[0][known][None], pair[1][known][None]
            values.append(score(*pair) if known.any() else math.nan)
        return np.array(values)

    return {
        "dice": metrics.dice(counts),
        "iou": metrics.iou(counts),
        "surface_dice": each(surface_dice, of_pixels=False),
        "hd95": each(hausdorff95, of_pixels=False),
        "brier": each(brier, of_pixels=True),
        "ece": each(calibration_error, of_pixels=True),
    }


def score_run(
    run: Run,
    layout: Layout,
    records: Sequence[Record],
    *,
    on_image: Callable[[int, np.ndarray, np.ndarray, np.ndarray | None], Any] = lambda i, probs, truth, valid: None,
    on_progress: Callable[[int], Any] = lambda done: None,
) -> ScoreTable:
    """Score a run's predictions against the mask files, at each image's own size.

    Args:
      run: the trained run; its best checkpoint and its threshold are used.
      layout: layout of the data set.
      records: images to score.
      on_image: function that is called with the position of each image, its probabilities, its true masks, and where
        they are not ignored (None: everywhere).
      on_progress: function that is called with the number of images scored so far.

    Returns:
      The scores, `[n k]`.
    """
    parts = []
    pairs = probs_and_truths(run, layout, records, soft_masks=run.config.data.soft_masks)
    for done, (probs, truth, valid) in enumerate(pairs, start=1):
        parts.append(image_scores(probs, truth, run.threshold, valid))
        on_image(done - 1, probs, truth, valid)
        on_progress(done)
    values = {name: np.stack([part[name] for part in parts]) for name in SCORES}
    return ScoreTable(tuple(r.id for r in records), run.class_names, values)


def scores_path(study: Study, variant: Variant, seed: int, fold: int | None = None) -> epath.Path:
    """Return the path of a run's scores; a run is done if this file exists."""
    return study.run_path(variant, seed, fold) / f"{study.split}.csv"


def read_table(study: Study) -> ScoreTable:
    """Read the scores of all runs of a finished study, `[v s n k]`."""
    return stack_scores([[_of_seed(study, variant, seed) for seed in study.seeds] for variant in study.variants])


def _of_seed(study: Study, variant: Variant, seed: int) -> ScoreTable:
    """Read the scores of all images by the runs of one variant and seed."""
    parts = [read_scores(scores_path(study, variant, *unit)) for unit in study.units if unit.seed == seed]
    return join_folds(parts) if study.folds else parts[0]


def write_scores(path: epath.Path, table: ScoreTable) -> None:
    """Write the scores of one run as CSV. The file appears complete or not at all."""
    replace_text(path, table.to_csv())


def read_scores(path: epath.Path) -> ScoreTable:
    """Read the scores that `write_scores` wrote.

    Raises:
      InputError: the file is not a table of scores.
    """
    try:
        rows = read_checked(path.read_bytes().decode(), ["id", "class", *SCORES])
        names = {column: tuple(dict.fromkeys(row[column] for row in rows)) for column in ("id", "class")}
        ids, class_names = names["id"], names["class"]
        order = [(id_, name) for id_ in ids for name in class_names]
        numbers = {name: [_score(row[name]) for row in rows] for name in SCORES}
        is_whole = rows and [(row["id"], row["class"]) for row in rows] == order
        reason = "" if is_whole else "it does not hold each class of each image once"
    except ValueError as error:
        reason = str(error)
    if reason:
        raise InputError(
            f"{path}: is not the table of scores that was written ({reason}). Remove it; the same command then writes "
            f"it again."
        )
    shape = (len(ids), len(class_names))
    values = {name: np.array(column).reshape(shape) for name, column in numbers.items()}
    return ScoreTable(ids, class_names, values)


def _score(text: str) -> float:
    """Return a number of the table, NaN for an ignored class; raise ValueError for one that no score can be."""
    value = float(text)
    if text == "nan":
        return value
    if not 0.0 <= value < math.inf:
        raise ValueError(f"{text!r} is no score")
    return value


def stack_scores(tables: Sequence[Sequence[ScoreTable]]) -> ScoreTable:
    """Stack the scores of v variants and s seeds, given as `tables[variant][seed]`, into arrays `[v s n k]`.

    Raises:
      InputError: the tables are of different images or classes, so that the runs are not paired.
    """
    first = tables[0][0]
    for table in (table for row in tables for table in row):
        if (table.ids, table.class_names) != (first.ids, first.class_names):
            raise InputError(
                f"runs were scored on different images or classes: {len(first.ids)} images with the classes "
                f"{', '.join(first.class_names)}, and {len(table.ids)} images with the classes "
                f"{', '.join(table.class_names)}. Start a new study in another folder."
            )
    values = {name: np.stack([np.stack([t.values[name] for t in row]) for row in tables]) for name in SCORES}
    by_variant = [[table.folds for table in row if table.folds is not None] for row in tables]
    if not by_variant[0]:
        return ScoreTable(first.ids, first.class_names, values)
    folds = [np.concatenate(of_seeds) for of_seeds in by_variant]
    if not all(np.array_equal(own, folds[0]) for own in folds):
        raise InputError("variants were scored on other folds, so that they cannot be compared. Start a new study.")
    return ScoreTable(first.ids, first.class_names, values, folds[0])


def join_folds(parts: Sequence[ScoreTable]) -> ScoreTable:
    """Return the scores of all images from the runs of one seed, each of which scored its own fold.

    Args:
      parts: scores of each fold, `[n_f k]`.

    Returns:
      Scores of all n images, `[n k]`, sorted by their names, with the fold of each, `[1 n]`.

    Raises:
      InputError: the folds have other classes, or an image is in two of them.
    """
    ids = [id_ for part in parts for id_ in part.ids]
    twice = sorted(id_ for id_, same in itertools.groupby(sorted(ids)) if len(list(same)) > 1)
    if twice or len({part.class_names for part in parts}) > 1:
        said = f"{twice[0]!r} is in two folds" if twice else "the folds have other classes"
        raise InputError(f"the scores of the folds of a seed do not belong together: {said}. Start a new study.")
    order = sorted(range(len(ids)), key=ids.__getitem__)
    fold = np.repeat(np.arange(len(parts)), [len(part.ids) for part in parts])[order]
    values = {name: np.concatenate([part.values[name] for part in parts])[order] for name in parts[0].values}
    return ScoreTable(tuple(ids[i] for i in order), parts[0].class_names, values, fold[None])
