"""Scores of a set of images."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from unet_jax import metrics
from unet_jax._files import csv_text
from unet_jax.metrics import Counts
from unet_jax.metrics.counts import num_counted
from unet_jax.metrics.score_sums import SCORES


@dataclasses.dataclass(frozen=True)
class Scores:
    """Pixel counts of n images with k classes, and the scores that follow from them.

    An image has no part in the mean score of a class of which all of its pixels are ignored.
    """

    ids: tuple[str, ...]
    """Names of the n images."""
    class_names: tuple[str, ...]
    """Names of the k classes."""
    counts: Counts
    """Pixel counts without the ignored ones, int64 `[n k]` each."""
    lost: np.ndarray | None = None
    """Images and classes whose truth lost all of its pixels by resizing (`count_lost`), bool `[n k]`; None: none."""
    digests: tuple[tuple[str, ...], ...] = ()
    """Digests of the n images' pixels (`unet_jax.data.sample_facts.pixel_digest`), one for each format in which
    networks saw them (`unet_jax.runs.ensemble.image_formats`); or none."""
    num_ignored: np.ndarray | None = None
    """Numbers of ignored pixels, int64 `[n k]`; None: none."""
    sums: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    """Sums that scores other than those of pixel counts follow from (`metrics.score_sums`), float64 `[n k c]` each."""

    def per_image(self, score: Callable[[Counts], np.ndarray]) -> dict[str, float]:
        """Return the mean over images of each image's score, by class; NaN for a class ignored in all images."""
        return dict(zip(self.class_names, _class_means(score(self.counts)).tolist(), strict=True))

    def pooled(self, score: Callable[[Counts], np.ndarray]) -> dict[str, float]:
        """Return the score of all images' pixels together, by class."""
        return dict(zip(self.class_names, score(metrics.sum_counts(self.counts)).tolist(), strict=True))

    @property
    def dice_mean(self) -> float:
        """Mean Dice over images and classes. Classes count equally, also those that many images ignore."""
        return mean_score(metrics.dice(self.counts))

    @property
    def annotated(self) -> dict[str, float]:
        """Share of the pixels that are not ignored, by class."""
        counted = num_counted(self.counts).sum(axis=0)
        ignored = 0 if self.num_ignored is None else self.num_ignored.sum(axis=0)
        return dict(zip(self.class_names, (counted / (counted + ignored)).tolist(), strict=True))

    @property
    def num_unknown(self) -> dict[str, int]:
        """Number of images without a pixel that is not ignored, by class."""
        return dict(zip(self.class_names, (~self.known).sum(axis=0).tolist(), strict=True))

    @property
    def absent(self) -> tuple[str, ...]:
        """Names of the classes without a true pixel in any image; their Dice only tells whether they are predicted."""
        truth = np.asarray(self.counts.tp, np.int64) + np.asarray(self.counts.fn, np.int64)
        if self.lost is not None:
            truth = np.where(self.lost, 0, truth)
        return tuple(name for name, total in zip(self.class_names, truth.sum(axis=0), strict=True) if total == 0)

    @property
    def choosing_dice(self) -> float:
        """Mean Dice over images and the classes that are not `absent`: the number that chooses a checkpoint.

        An absent class would count with a Dice of 1 as soon as nothing of it is predicted. If all are absent, all
        count.
        """
        present = [name not in self.absent for name in self.class_names]
        return mean_score(metrics.dice(self.counts)[:, present]) if any(present) else self.dice_mean

    @property
    def known(self) -> np.ndarray:
        """True for an image and a class with a pixel that is not ignored, bool `[n k]`."""
        return num_counted(self.counts) > 0

    def sums_of(self, score: str) -> np.ndarray:
        """Return what each image and class adds to the sums of a score, `[n k c]`; zeros if all pixels are ignored.

        Args:
          score: name of a score of `unet_jax.metrics.score_sums.SCORES`, for which the images were measured.
        """
        kind = SCORES[score].sums
        sums = np.stack(self.counts, axis=-1).astype(np.float64) if kind == "pixels" else self.sums[kind]
        return np.where(self.known[..., None], sums, 0.0)

    def values(self, score: str) -> np.ndarray:
        """Return a score of each image and class, `[n k]`; NaN if all pixels are ignored."""
        return np.where(self.known, SCORES[score].value(self.sums_of(score)), np.nan)

    def to_csv(self, scores: Sequence[str] = ("dice", "iou")) -> str:
        """Return a CSV table with one line per image: its name, then each of the scores for each class.

        The last columns, present/CLASS, are 1 if the image has a true pixel of the class, else 0. Scores of a class of
        which all of an image's pixels are ignored are left empty.
        """
        columns = ["id", *(f"{score}/{name}" for score in (*scores, "present") for name in self.class_names)]
        values = np.concatenate([self.values(score) for score in scores], axis=-1)
        rows = (["" if np.isnan(value) else f"{value:.6f}" for value in row] for row in values)
        there = np.where(self.known, np.where(self._has_truth, "1", "0"), "").tolist()
        return csv_text(
            columns, ([id_, *row, *is_there] for id_, row, is_there in zip(self.ids, rows, there, strict=True))
        )

    @property
    def _has_truth(self) -> np.ndarray:
        """True for an image and a class with a true pixel, also one that resizing lost, bool `[n k]`."""
        truth = np.asarray(self.counts.tp) + np.asarray(self.counts.fn) > 0
        return truth if self.lost is None else truth | self.lost


def _class_means(values: np.ndarray) -> np.ndarray:
    """Return the means over images `[k]` of `[n k]`, without those that are NaN; NaN where all are."""
    return mean_of_known(values, axis=0) if np.isnan(values).any() else values.mean(axis=0)


def mean_of_known(values: np.ndarray, axis: int) -> np.ndarray:
    """Return the means along an axis without the values that are NaN; NaN where all are.

    Example:
      >>> mean_of_known(np.array([[1.0, np.nan], [np.nan, np.nan]]), axis=1).tolist()
      [1.0, nan]
    """
    known = ~np.isnan(values)
    num_known = known.sum(axis=axis)
    return np.where(num_known > 0, np.where(known, values, 0.0).sum(axis=axis) / np.maximum(num_known, 1), np.nan)


def mean_score(values: np.ndarray) -> float:
    """Return the mean over images and classes of scores `[n k]`, which are NaN where an image ignores a class.

    With such scores it is the mean of the classes' means, so that classes count equally. It is NaN if all scores are.

    Example:
      >>> mean_score(np.array([[1.0, np.nan], [0.8, 0.5]]))
      0.7
    """
    if not np.isnan(values).any():
        return float(values.mean())
    means = _class_means(values)
    known = means[~np.isnan(means)]
    return float(known.mean()) if len(known) else math.nan


def count_lost(counts: Counts, lost: np.ndarray) -> Counts:
    """Count truth that lost all of its pixels by resizing as one pixel that was missed, never as an empty mask.

    Args:
      counts: counts at the network's size, `[n k]` each.
      lost: True for an image and a class that has pixels in the mask file, but none at the network's size: `[n k]`.

    Returns:
      Counts, int64 `[n k]` each. Where `lost` is True, Dice, IoU and recall are 0.

    Example:
      >>> counts = Counts(*(np.array([[n]]) for n in (0, 0, 0, 64)))  # nothing true, nothing predicted
      >>> print(metrics.dice(counts), metrics.dice(count_lost(counts, np.array([[True]]))))
      [[1.]] [[0.]]
    """
    tp, fp, fn, tn = (np.asarray(count, np.int64) for count in counts)
    missed = lost.astype(np.int64)
    return Counts(tp, fp, fn + missed, np.maximum(tn - missed, 0))
