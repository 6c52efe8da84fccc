"""Scores of a set of images."""

import dataclasses
from collections.abc import Callable

import numpy as np

from unet_jax import metrics
from unet_jax._files import csv_text
from unet_jax.metrics import Counts


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
