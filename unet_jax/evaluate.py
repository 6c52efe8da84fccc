"""Scores: during training at the network's size on the devices, and afterwards at each image's own size."""

import csv
import dataclasses
import io
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from unet_jax import metrics
from unet_jax._types import Batch, InputError
from unet_jax.config import DataConfig
from unet_jax.data.layout import SPLITS, Layout, Record, find_layout
from unet_jax.data.sources import FileSource
from unet_jax.data.splits import assign_splits
from unet_jax.metrics import Counts
from unet_jax.predict import predict_images
from unet_jax.runs import Run
from unet_jax.sharding import put_batch
from unet_jax.state import TrainState
from unet_jax.steps import EvalStep

RULE = (
    "mean over images of the per-image score (dice_pooled: of all pixels together); a score whose denominator is 0 "
    "is 1: dice and iou where a class is absent and not predicted, precision where nothing is predicted, recall where "
    "nothing is there"
)


@dataclasses.dataclass(frozen=True)
class Scores:
    """Pixel counts of every image, and the scores that follow from them."""

    ids: tuple[str, ...]
    class_names: tuple[str, ...]
    counts: Counts  # [n k] int64

    def per_image(self, score: Callable[[Counts], np.ndarray]) -> dict[str, float]:
        """Mean over images, by class."""
        return dict(zip(self.class_names, score(self.counts).mean(axis=0).tolist(), strict=True))

    def pooled(self, score: Callable[[Counts], np.ndarray]) -> dict[str, float]:
        """Of all images' pixels together, by class."""
        return dict(zip(self.class_names, score(metrics.sum_counts(self.counts)).tolist(), strict=True))

    @property
    def dice_mean(self) -> float:
        """Mean over images and classes."""
        return float(metrics.dice(self.counts).mean())

    def to_csv(self) -> str:
        """One line per image: id, then Dice and IoU of each class."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        names = self.class_names
        writer.writerow(["id", *(f"dice/{n}" for n in names), *(f"iou/{n}" for n in names)])
        dice, iou = metrics.dice(self.counts), metrics.iou(self.counts)
        for id_, d, i in zip(self.ids, dice, iou, strict=True):
            writer.writerow([id_, *(f"{v:.6f}" for v in d), *(f"{v:.6f}" for v in i)])
        return file.getvalue()


def evaluate_batches(
    eval_step: EvalStep,
    state: TrainState,
    batches: Iterable[Batch],
    *,
    ids: Sequence[str],
    class_names: tuple[str, ...],
    mesh: Mesh,
) -> tuple[Scores, float]:
    """Scores and mean loss over batches whose padding has weight 0; each batch counts by its number of samples."""
    parts, loss_sum = [], 0.0
    for batch in batches:
        terms, counts = jax.device_get(eval_step(state.params, state.batch_stats, put_batch(batch, mesh)))
        real = np.asarray(batch.weight) > 0
        parts.append(Counts(*(np.asarray(c, np.int64)[real] for c in counts)))
        loss_sum += float(terms["loss"]) * int(real.sum())
    counts = Counts(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
    return Scores(tuple(ids), class_names, counts), loss_sum / len(ids)


def select_records(run: Run, data: DataConfig, split: str | None) -> tuple[str, Layout, list[Record]]:
    """The samples of a split: by the file `data.splits` where given, else as the run recorded them when it began.

    Without a split: test, or val where there is no test. Returns the split's name as well.

    Raises:
      InputError: no such split, or none of its ids is in the data set.
    """
    if split not in (*SPLITS, "all", None):
        raise InputError(f"--split is {split!r}, but must be one of {', '.join((*SPLITS, 'all'))}.")
    layout = find_layout(data)
    if split == "all":
        return split, layout, list(layout.records)
    splits = assign_splits(layout, data) if data.splits else run.info.splits
    split = split or ("test" if splits["test"] else "val")
    wanted = set(splits[split])
    records = [r for r in layout.records if r.id in wanted]
    missing = sorted(wanted - {r.id for r in records})
    if missing and records and data.on_bad_sample == "error":
        raise InputError(
            f"{data.root}: {len(missing)} of the {len(wanted)} images of the split {split!r} are not there, the first "
            f"is {missing[0]!r}. Restore them, or say with --data.splits FILE what to score."
        )
    if not records:
        raise InputError(
            f"{data.root}: no sample of the split {split!r} was found. Name it in --data.splits FILE (columns "
            f"id,split), or use --split val (the images that chose the checkpoint) or --split all."
        )
    return split, layout, records


def evaluate_run(
    run: Run,
    layout: Layout,
    records: Sequence[Record],
    *,
    soft_masks: bool = False,
    on_progress: Callable[[int], Any] = lambda done: None,
) -> Scores:
    """Scores the masks that `predict` would write, at each image's own size, against the mask files."""
    source = FileSource(layout, records, soft_masks=soft_masks)
    truths: list[np.ndarray] = []

    def images() -> Iterable[np.ndarray]:
        for i in range(len(source)):
            sample = source[i]
            truths.append(sample.mask >= 128)
            yield sample.image

    parts = []
    for done, probs in enumerate(predict_images(run, images()), start=1):
        parts.append(metrics.counts_from_masks(probs > run.config.train.threshold, truths.pop(0)))
        on_progress(done)
    counts = Counts(*(np.stack(arrays) for arrays in zip(*parts, strict=True)))
    return Scores(tuple(r.id for r in records), run.class_names, counts)


def summary(scores: Scores, *, split: str, threshold: float) -> dict[str, Any]:
    """Everything `unet-jax evaluate` prints as JSON."""
    return {
        "split": split,
        "num_images": len(scores.ids),
        "dice": scores.per_image(metrics.dice),
        "dice_mean": scores.dice_mean,
        "iou": scores.per_image(metrics.iou),
        "precision": scores.per_image(metrics.precision),
        "recall": scores.per_image(metrics.recall),
        "accuracy": scores.per_image(metrics.accuracy),
        "dice_pooled": scores.pooled(metrics.dice),
        "threshold": threshold,
        "reduction": RULE,
    }


def write_csv(path: epath.Path, scores: Scores) -> None:
    """The per-image table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(scores.to_csv())
