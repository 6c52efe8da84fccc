"""Scores: during training at the network's size on the devices, and afterwards at each image's own size."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Bool, Float

from unet_jax import metrics
from unet_jax._types import InputError
from unet_jax.config import DataConfig
from unet_jax.data.layout import SPLITS, Layout, Record, find_layout
from unet_jax.data.sources import FileSource
from unet_jax.data.splits import assign_splits
from unet_jax.inference.predict import predict_images
from unet_jax.metrics import Counts
from unet_jax.metrics.scores import Scores
from unet_jax.runs.load import Run

RULE = (
    "mean over images of the per-image score (dice_pooled: of all pixels together); a score whose denominator is 0 "
    "is 1: dice and iou where a class is absent and not predicted, precision where nothing is predicted, recall where "
    "nothing is there"
)


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
