"""Scores of a set of images."""

import dataclasses
from collections.abc import Callable

import numpy as np

from unet_jax import metrics
from unet_jax._files import csv_text
from unet_jax.metrics import Counts


@dataclasses.dataclass(frozen=True)
class Scores:
    """Pixel counts of n images with k classes, and the scores that follow from them."""

    ids: tuple[str, ...]
    """Names of the n images."""
    class_names: tuple[str, ...]
    """Names of the k classes."""
    counts: Counts
    """Pixel counts, int64 `[n k]` each."""

    def per_image(self, score: Callable[[Counts], np.ndarray]) -> dict[str, float]:
        """Return the mean over images of each image's score, by class."""
        return dict(zip(self.class_names, score(self.counts).mean(axis=0).tolist(), strict=True))

    def pooled(self, score: Callable[[Counts], np.ndarray]) -> dict[str, float]:
        """Return the score of all images' pixels together, by class."""
        return dict(zip(self.class_names, score(metrics.sum_counts(self.counts)).tolist(), strict=True))

    @property
    def dice_mean(self) -> float:
        """Mean Dice over images and classes."""
        return float(metrics.dice(self.counts).mean())

    def to_csv(self) -> str:
        """Return a CSV table with one line per image: its name, then Dice and IoU of each class."""
        columns = ["id", *(f"{score}/{name}" for score in ("dice", "iou") for name in self.class_names)]
        values = np.concatenate([metrics.dice(self.counts), metrics.iou(self.counts)], axis=-1)
        return csv_text(columns, ([id_, *(f"{v:.6f}" for v in row)] for id_, row in zip(self.ids, values, strict=True)))
