"""Scores of a run's best checkpoint, per image and class, as CSV files; and all those of a study as one array."""

import csv
import dataclasses
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Bool, Float

from unet_jax import metrics
from unet_jax._files import csv_text, replace_text
from unet_jax._types import InputError
from unet_jax.data.layout import Layout, Record
from unet_jax.inference.evaluate import probs_and_truths
from unet_jax.metrics.image_scores import brier, calibration_error, hausdorff95, surface_dice
from unet_jax.runs.load import Run

SCORES: dict[str, bool] = {
    "dice": True,
    "iou": True,
    "surface_dice": True,
    "hd95": False,
    "brier": False,
    "ece": False,
}
"""Name -> whether more is better."""


@dataclasses.dataclass(frozen=True)
class ScoreTable:
    """Scores of some images, or (with further leading axes) of many runs on the same images."""

    ids: tuple[str, ...]
    class_names: tuple[str, ...]
    values: dict[str, Float[np.ndarray, "*runs n k"]]

    def to_csv(self) -> str:
        """One line per image and class; one run only."""
        # All digits, so that what is read is what was computed.
        rows = (
            [id_, name, *(repr(float(self.values[score][i, k])) for score in SCORES)]
            for i, id_ in enumerate(self.ids)
            for k, name in enumerate(self.class_names)
        )
        return csv_text(["id", "class", *SCORES], rows)


def image_scores(
    probs: Float[np.ndarray, "h w k"], truth: Bool[np.ndarray, "h w k"], threshold: float | Float[np.ndarray, " k"]
) -> dict[str, Float[np.ndarray, " k"]]:
    """All scores of an image, per class."""
    predicted = probs > threshold
    counts = metrics.counts_from_masks(predicted, truth)
    classes = range(truth.shape[-1])

    def each(score: Callable[[np.ndarray, np.ndarray], float], given: np.ndarray) -> np.ndarray:
        return np.array([score(given[..., k], truth[..., k]) for k in classes])

    return {
        "dice": metrics.dice(counts),
        "iou": metrics.iou(counts),
        "surface_dice": each(surface_dice, predicted),
        "hd95": each(hausdorff95, predicted),
        "brier": each(brier, probs),
        "ece": each(calibration_error, probs),
    }


def score_run(
    run: Run, layout: Layout, records: Sequence[Record], *, on_progress: Callable[[int], Any] = lambda done: None
) -> ScoreTable:
    """Scores what `predict` would give, at each image's own size, against the mask files."""
    parts = []
    pairs = probs_and_truths(run, layout, records, soft_masks=run.config.data.soft_masks)
    for done, (probs, truth) in enumerate(pairs, start=1):
        parts.append(image_scores(probs, truth, run.threshold))
        on_progress(done)
    values = {name: np.stack([part[name] for part in parts]) for name in SCORES}
    return ScoreTable(tuple(r.id for r in records), run.class_names, values)


def write_scores(path: epath.Path, table: ScoreTable) -> None:
    """Whole or not at all."""
    replace_text(path, table.to_csv())


def read_scores(path: epath.Path) -> ScoreTable:
    """The inverse of `write_scores`."""
    rows = list(csv.DictReader(io.StringIO(path.read_text(), newline="")))
    ids, class_names = (tuple(dict.fromkeys(row[column] for row in rows)) for column in ("id", "class"))
    if len(rows) != len(ids) * len(class_names) or not rows or not set(SCORES) <= set(rows[0]):
        raise InputError(f"{path}: is not a table of scores. Remove it: the same command writes it again.")
    shape = (len(ids), len(class_names))
    values = {name: np.array([float(row[name]) for row in rows]).reshape(shape) for name in SCORES}
    return ScoreTable(ids, class_names, values)


def stack_scores(tables: Sequence[Sequence[ScoreTable]]) -> ScoreTable:
    """`tables[variant][seed]` as one of `[v s n k]`; refuses tables of different images, which are not paired."""
    first = tables[0][0]
    for table in (table for row in tables for table in row):
        if (table.ids, table.class_names) != (first.ids, first.class_names):
            raise InputError(
                f"runs were scored on different images or classes: {len(first.ids)} images of {first.class_names} and "
                f"{len(table.ids)} of {table.class_names}. Start the study anew in another folder."
            )
    values = {name: np.stack([np.stack([t.values[name] for t in row]) for row in tables]) for name in SCORES}
    return ScoreTable(first.ids, first.class_names, values)
