"""Rules for the connected objects of masks: small holes are filled, small objects removed, or only the largest is kept.

Areas are counted in pixels at the size at which the network sees the image, because that is what carries over to images
of other sizes: whatever a network sees at one size is compared at that size. Objects touch by edges or corners
(8-connectivity), holes by edges (4-connectivity); a hole does not reach the border of the image.
"""

import dataclasses
import zlib
from collections.abc import Sequence
from typing import Literal, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int

from unet_jax.metrics.counts import Counts, dice
from unet_jax.metrics.statistics import bootstrap_intervals

FEWEST_IMAGES = 6
"""Fewest images that a rule can be fitted to: of 5 gains, all have one sign by chance in 2 of 2^5 cases, above 5 %."""
LARGEST_AREA = 2**31
"""Largest area of a rule, so that products of two areas fit into 64 bits."""


@dataclasses.dataclass(frozen=True)
class ObjectRules:
    """Rules for the masks of one class, in the order in which they are applied."""

    smallest_hole: int = 0
    """Holes of a smaller area are filled. Area in pixels as the network sees them; 0 fills none."""
    smallest_object: int = 0
    """Objects of a smaller area are removed. Area in pixels as the network sees them; 0 removes none."""
    largest_only: bool = False
    """Only the largest object is kept; of equal ones, the one whose first pixel comes first, row by row."""


RULES = tuple(field.name for field in dataclasses.fields(ObjectRules))
"""Names of the rules, in the order in which they are applied."""


def apply_rules(
    mask: Bool[np.ndarray, "h w"], rules: ObjectRules, seen_area: int | None = None
) -> Bool[np.ndarray, "h w"]:
    """Apply the rules of a class to a mask.

    Args:
      mask: `[h w]`, bool.
      rules: rules of the class.
      seen_area: number of pixels of the whole image at the size at which the network sees it; by default that of the
        mask.

    Returns:
      `[h w]`, bool.

    Example:
      >>> mask = np.array([[1, 1, 1, 0, 0], [1, 0, 1, 0, 1], [1, 1, 1, 0, 0]], bool)
      >>> apply_rules(mask, ObjectRules(smallest_hole=2, smallest_object=2)).astype(int)
      array([[1, 1, 1, 0, 0],
             [1, 1, 1, 0, 0],
             [1, 1, 1, 0, 0]])
    """
    seen_area = mask.size if seen_area is None else seen_area
    if rules.smallest_hole:
        labels, area, is_hole = _holes(mask)
        mask = mask | (is_hole & (area * seen_area < rules.smallest_hole * mask.size))[labels]
    if rules.smallest_object:
        labels, area = _objects(mask)
        mask = mask & (area * seen_area >= rules.smallest_object * mask.size)[labels]
    if rules.largest_only:
        labels, area = _objects(mask)
        mask = labels == _largest(labels, area) if len(area) > 1 else mask
    return mask


def apply_to_classes(
    masks: Bool[np.ndarray, "h w k"], rules: Sequence[ObjectRules], seen_area: int
) -> Bool[np.ndarray, "h w k"]:
    """Apply the rules of each class; without any, the masks are returned as they are."""
    if not any(of_class != ObjectRules() for of_class in rules):
        return masks
    classes = (apply_rules(masks[..., k], of_class, seen_area) for k, of_class in enumerate(rules))
    return np.stack(list(classes), axis=-1)


def _objects(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the label of each pixel, 0 outside, and the area of each label, int64; the area of label 0 is 0."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8, ltype=cv2.CV_32S)
    area = stats[:, cv2.CC_STAT_AREA].astype(np.int64)
    area[0] = 0
    return labels, area


def _holes(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return labels and areas of what is outside the mask, and which of the labels are holes."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8), connectivity=4, ltype=cv2.CV_32S)
    left, top, width, height, area = stats.astype(np.int64).T
    is_hole = (left > 0) & (top > 0) & (left + width < mask.shape[1]) & (top + height < mask.shape[0])
    is_hole[0] = False  # the mask itself
    return labels, area, is_hole


def _largest(labels: np.ndarray, area: np.ndarray) -> int:
    """Return the label of the largest area; of equal ones, the one that comes first in the image."""
    candidates = np.flatnonzero(area == area.max())
    if len(candidates) == 1:
        return int(candidates[0])
    return min(candidates.tolist(), key=lambda label: int(np.argmax(labels.ravel() == label)))


class PackedImage(NamedTuple):
    """Predicted and true masks of an image, a bit per pixel and compressed, so that many fit into memory."""

    parts: tuple[bytes, ...]
    """Bits of prediction and truth, and of the pixels that are not ignored if some are."""
    shape: tuple[int, int, int]
    """Height, width and number of classes."""
    seen_area: int
    """Number of pixels at the size at which the network sees the image."""

    def of_class(self, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return prediction, truth, and which pixels are not ignored, of a class: `[h w]` bool each."""
        size = self.shape[0] * self.shape[1]
        bits = [np.frombuffer(zlib.decompress(part), np.uint8).reshape(self.shape[2], -1)[k] for part in self.parts]
        masks = [np.unpackbits(row, count=size).view(bool).reshape(self.shape[:2]) for row in bits]
        return masks[0], masks[1], masks[2] if len(masks) == 3 else np.ones(self.shape[:2], bool)


def packed(
    predicted: Bool[np.ndarray, "h w k"],
    truth: Bool[np.ndarray, "h w k"],
    valid: Bool[np.ndarray, "h w k"] | None,
    seen_area: int,
) -> PackedImage:
    """Pack the masks of an image. `valid` is True for the pixels that are not ignored; None: all."""

    def bits(masks: np.ndarray) -> bytes:
        return zlib.compress(np.packbits(masks.reshape(-1, masks.shape[-1]).T, axis=-1).tobytes(), 1)

    height, width, num_classes = truth.shape
    arrays = [predicted, truth] if valid is None else [predicted, truth, valid]
    return PackedImage(tuple(map(bits, arrays)), (height, width, num_classes), seen_area)


@dataclasses.dataclass(frozen=True)
class Tried:
    """A rule that was tried for a class: the best value, and what it changed in the mean Dice over images."""

    rule: Literal["smallest_hole", "smallest_object", "largest_only"]
    """Name of the rule."""
    value: int
    """Best area in pixels as the network sees them, 1 for `largest_only`; 0 if no value was better than no rule."""
    dice: tuple[float, float]
    """Mean Dice without and with it; the rules before it that were kept are applied in both."""
    interval: tuple[float, float]
    """95 % bootstrap interval of the mean difference, paired by image."""
    is_kept: bool
    """True if the interval lies above 0, and there are enough images (`FEWEST_IMAGES`)."""


def fit_rules(images: Sequence[PackedImage], k: int) -> tuple[ObjectRules, list[Tried]]:
    """Choose the rules of a class that improve the mean Dice over images.

    The rules are tried in the order in which they are applied, each after those that were kept. Areas are powers of 2.
    A rule is kept if the paired 95 % bootstrap interval of its gain lies above 0. A class without a true pixel gets no
    rule: its best mask would be the empty one.

    Args:
      images: packed masks of all images, predicted with the threshold that the rules are for.
      k: number of the class.

    Returns:
      The rules, and what was tried.

    Example:
      >>> truth = np.zeros((8, 8, 1), bool)
      >>> truth[:4, :4] = True
      >>> speck = truth.copy()
      >>> speck[6, 6] = True  # one wrong pixel beside 16 right ones in each of six images
      >>> rules, tried = fit_rules([packed(speck, truth, None, 64)] * 6, 0)
      >>> rules, [round(t.dice[1] - t.dice[0], 3) for t in tried]
      (ObjectRules(smallest_hole=0, smallest_object=4, largest_only=False), [0.0, 0.03, 0.0])
    """
    rules, tried = ObjectRules(), []
    known = [image for image in images if image.of_class(k)[2].any()]
    exists = any((truth & valid).any() for _, truth, valid in (image.of_class(k) for image in known))
    for rule in RULES:
        outcome = _try(known if exists else [], k, rules, rule)
        tried.append(outcome)
        if outcome.is_kept:
            rules = dataclasses.replace(rules, **{rule: type(getattr(rules, rule))(outcome.value)})
    return rules, tried


def _try(images: Sequence[PackedImage], k: int, rules: ObjectRules, rule: str) -> Tried:
    """Find the best value of a rule, and what it changes."""
    tables = [_effects(image, k, rules, rule) for image in images]
    largest = max((table.area.max(initial=0.0) for table in tables), default=0.0)
    values = [1] if rule == "largest_only" else [2**i for i in range(2, 63) if 2 ** (i - 1) <= largest]
    if not images or not values:
        same = float(np.mean([table.dice_at(0) for table in tables])) if images else float("nan")
        return Tried(rule, 0, (same, same), (0.0, 0.0), False)  # type: ignore[arg-type]
    scores = np.array([[table.dice_at(value) for value in (0, *values)] for table in tables])
    means = scores.mean(axis=0)
    best = int(np.argmax(means))  # the first of equally good ones: no rule, or the smallest area
    before, after = float(means[0]), float(means[best])
    gains = scores[:, best] - scores[:, 0]
    (low,), (high,) = bootstrap_intervals(gains[:, None]) if gains.any() else ((0.0,), (0.0,))
    is_kept = best > 0 and bool(low > 0.0) and len(images) >= FEWEST_IMAGES
    value = (0, *values)[best]
    return Tried(rule, value, (before, after), (float(low), float(high)), is_kept)  # type: ignore[arg-type]


class _Effects(NamedTuple):
    """Effects of a rule on the pixel counts of one image, for every limit of area."""

    counts: Int[np.ndarray, " 4"]  # tp, fp, fn, tn without the rule
    area: Float[np.ndarray, " n"]  # areas of the objects or holes that a limit may change, as the network sees them
    change: Int[np.ndarray, "n 2"]  # what each of them adds to tp and fp if it is changed

    def dice_at(self, limit: float) -> float:
        """Return Dice where everything of a smaller area is changed."""
        tp, fp, fn, tn = self.counts
        more_tp, more_fp = self.change[self.area < limit].sum(axis=0)
        return float(dice(Counts(tp + more_tp, fp + more_fp, fn - more_tp, tn - more_fp)))  # type: ignore[arg-type]


def _effects(image: PackedImage, k: int, rules: ObjectRules, rule: str) -> _Effects:
    """Return what a rule changes in an image, after the rules before it."""
    predicted, truth, valid = image.of_class(k)
    mask = apply_rules(predicted, rules, image.seen_area)
    right, wrong = truth & valid, ~truth & valid
    tp, fp = int((mask & right).sum()), int((mask & wrong).sum())
    counts = np.array([tp, fp, int(right.sum()) - tp, int(wrong.sum()) - fp])
    labels, area, is_hole = _holes(mask) if rule == "smallest_hole" else (*_objects(mask), None)
    inside = [np.bincount(labels[chosen], minlength=len(area)) for chosen in (right, wrong)]
    change = np.stack(inside, axis=1).astype(np.int64)
    seen = area * image.seen_area / mask.size
    if is_hole is not None:
        return _Effects(counts, seen[is_hole], change[is_hole])
    if rule == "smallest_object":
        return _Effects(counts, seen[1:], -change[1:])  # without what is outside
    others = np.arange(1, len(area)) != (_largest(labels, area) if len(area) > 1 else 0)
    return _Effects(counts, np.zeros(int(others.sum())), -change[1:][others])  # all of them, from a limit of 1 on
