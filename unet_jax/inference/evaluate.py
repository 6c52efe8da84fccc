"""Scores: during training at the network's size on the devices, and afterwards at each image's own size."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath
from jax.sharding import Mesh
from jaxtyping import Bool, Float

from unet_jax import metrics
from unet_jax._types import Batch, InputError
from unet_jax.config import DataConfig
from unet_jax.data.layout import SPLITS, Layout, Record, find_layout
from unet_jax.data.sources import FileSource
from unet_jax.data.splits import assign_splits
from unet_jax.devices.mesh import fetch, put_batch
from unet_jax.inference.predict import predict_images
from unet_jax.metrics import Counts
from unet_jax.program.state import TrainState
from unet_jax.program.steps import EvalStep
from unet_jax.report.metrics_file import csv_text
from unet_jax.runs import Run

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
        columns = ["id", *(f"{score}/{name}" for score in ("dice", "iou") for name in self.class_names)]
        values = np.concatenate([metrics.dice(self.counts), metrics.iou(self.counts)], axis=-1)
        return csv_text(columns, ([id_, *(f"{v:.6f}" for v in row)] for id_, row in zip(self.ids, values, strict=True)))


def evaluate_batches(
    eval_step: EvalStep,
    state: TrainState,
    batches: Iterable[Batch],
    *,
    ids: Sequence[str],
    class_names: tuple[str, ...],
    mesh: Mesh,
) -> tuple[Scores, float]:
    """Scores and mean loss over batches whose padding has weight 0; each batch counts by its number of samples.

    Each process gives its share of the batches (`process_share`) and gets the scores of all.
    """
    parts, loss_sum = [], 0.0
    for batch in batches:
        on_devices = put_batch(batch, mesh)
        terms, counts = eval_step(state.params, state.batch_stats, on_devices)
        terms, counts, weight = fetch((terms, counts, on_devices.weight), mesh)
        real = weight > 0
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


def probs_and_truths(
    run: Run, layout: Layout, records: Sequence[Record], *, soft_masks: bool
) -> Iterator[tuple[Float[np.ndarray, "h w k"], Bool[np.ndarray, "h w k"]]]:
    """Each image's probabilities and what its mask files say, at its own size."""
    source = FileSource(layout, records, soft_masks=soft_masks)
    truths: list[np.ndarray] = []  # of images that are on their way through the network

    def images() -> Iterator[np.ndarray]:
        for i in range(len(source)):
            sample = source[i]
            truths.append(sample.mask >= 128)
            yield sample.image

    for probs in predict_images(run, images()):
        yield probs, truths.pop(0)


def evaluate_run(
    run: Run,
    layout: Layout,
    records: Sequence[Record],
    *,
    soft_masks: bool = False,
    on_progress: Callable[[int], Any] = lambda done: None,
) -> Scores:
    """Scores the masks that `predict` would write, at each image's own size, against the mask files."""
    parts = []
    for done, (probs, truth) in enumerate(probs_and_truths(run, layout, records, soft_masks=soft_masks), start=1):
        parts.append(metrics.counts_from_masks(probs > run.threshold, truth))
        on_progress(done)
    counts = Counts(*(np.stack(arrays) for arrays in zip(*parts, strict=True)))
    return Scores(tuple(r.id for r in records), run.class_names, counts)


def summary(scores: Scores, *, split: str, threshold: float | dict[str, float]) -> dict[str, Any]:
    """Everything `unet-jax evaluate` prints as JSON; `threshold` is one for all classes, or that of each."""
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
