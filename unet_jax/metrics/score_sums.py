"""Scores as functions of sums, so that the score of an image and that of all images together have one formula.

`measure` returns what an image adds to the sums of each score. The value of a score follows from the sums of one image
or, as the pooled (micro) score, from those of all images. Each score says what its value is where there is nothing to
divide by.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float

from unet_jax._types import InputError
from unet_jax.metrics.image_scores import NUM_BINS, SURFACE_TOLERANCE, border_sums, calibration_sums
from unet_jax.metrics.objects import match_objects
from unet_jax.metrics.skeletons import find_skeletonize, skeleton_sums


@dataclasses.dataclass(frozen=True)
class Score:
    """A score of one image and class, or of all images together."""

    title: str
    """Name, as in Metrics Reloaded (Maier-Hein, Reinke et al. 2024) where it is there."""
    sums: str
    """Name of the sums that it is computed from."""
    value: Callable[[np.ndarray], np.ndarray]
    """Function of sums `[... c]` that returns values `[...]`."""
    rule: str
    """Statement of the value where there is nothing to divide by."""
    more_is_better: bool = True
    """True if higher values are better."""
    is_pooled: bool = True
    """True if the sums of all images together have a meaning."""


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Return numerator / denominator, and 1 where the denominator is 0."""
    return np.where(denominator == 0, 1.0, numerator / np.where(denominator == 0, 1.0, denominator))


def _cldice(sums: np.ndarray) -> np.ndarray:
    """Return the harmonic mean of the shares of both skeletons that lie in the other mask."""
    in_truth, predicted, in_predicted, truth = np.moveaxis(sums, -1, 0)
    precision, sensitivity = (in_truth / np.maximum(predicted, 1.0), in_predicted / np.maximum(truth, 1.0))
    both = precision + sensitivity
    value = 2.0 * precision * sensitivity / np.where(both == 0, 1.0, both)
    return np.where((predicted == 0) & (truth == 0), 1.0, value)


def _calibration(sums: np.ndarray) -> np.ndarray:
    """Return the calibration error from the sums of the bins and the number of pixels."""
    return np.abs(sums[..., :-1]).sum(axis=-1) / np.maximum(sums[..., -1], 1.0)


_ABSENT = "1 if the class is neither there nor predicted"
_NO_PREDICTION = "1 if nothing is predicted"
_NO_TRUTH = "1 if the class is not there"
# Sums of pixels and objects are (true positives, false positives, false negatives, ...).
SCORES: dict[str, Score] = {
    "dice": Score(
        "Dice similarity coefficient (DSC)",
        "pixels",
        lambda s: _ratio(2 * s[..., 0], 2 * s[..., 0] + s[..., 1] + s[..., 2]),
        _ABSENT,
    ),
    "iou": Score(
        "Intersection over union (IoU)",
        "pixels",
        lambda s: _ratio(s[..., 0], s[..., 0] + s[..., 1] + s[..., 2]),
        _ABSENT,
    ),
    "precision": Score(
        "Positive predictive value (PPV, precision)",
        "pixels",
        lambda s: _ratio(s[..., 0], s[..., 0] + s[..., 1]),
        _NO_PREDICTION,
    ),
    "recall": Score("Sensitivity (recall)", "pixels", lambda s: _ratio(s[..., 0], s[..., 0] + s[..., 2]), _NO_TRUTH),
    "accuracy": Score("Accuracy", "pixels", lambda s: _ratio(s[..., 0] + s[..., 3], s.sum(axis=-1)), "always defined"),
    "nsd": Score(
        "Normalized surface distance (NSD)",
        "borders",
        lambda s: _ratio(s[..., 0], s[..., 1]),
        "1 if the class is neither there nor predicted, 0 if only one of both",
    ),
    "hd95": Score(
        "95 % Hausdorff distance (HD95) in pixels",
        "borders",
        lambda s: s[..., 2],
        "0 if the class is neither there nor predicted, the image's diagonal if only one of both",
        more_is_better=False,
        is_pooled=False,
    ),
    "cldice": Score(
        "Centerline Dice (clDice)",
        "skeletons",
        _cldice,
        "1 if the class is neither there nor predicted, 0 if only one of both",
    ),
    "object_precision": Score(
        "Object precision at IoU > 0.5",
        "objects",
        lambda s: _ratio(s[..., 0], s[..., 0] + s[..., 1]),
        "1 if no object is predicted",
    ),
    "object_recall": Score(
        "Object recall (sensitivity) at IoU > 0.5",
        "objects",
        lambda s: _ratio(s[..., 0], s[..., 0] + s[..., 2]),
        "1 if no object is there",
    ),
    "object_f1": Score(
        "Object F1 (F-beta with beta 1) at IoU > 0.5",
        "objects",
        lambda s: _ratio(2 * s[..., 0], 2 * s[..., 0] + s[..., 1] + s[..., 2]),
        "1 if no object is there and none is predicted",
    ),
    "panoptic_quality": Score(
        "Panoptic quality (PQ)",
        "objects",
        lambda s: _ratio(2 * s[..., 3], 2 * s[..., 0] + s[..., 1] + s[..., 2]),
        "1 if no object is there and none is predicted",
    ),
    "brier": Score(
        "Brier score (BS)",
        "squares",
        lambda s: s[..., 0] / np.maximum(s[..., 1], 1.0),
        "always defined",
        more_is_better=False,
    ),
    "ece": Score(
        f"Expected calibration error (ECE), {NUM_BINS} bins",
        "bins",
        _calibration,
        "always defined",
        more_is_better=False,
    ),
}
OBJECT_SCORES = ("object_precision", "object_recall", "object_f1", "panoptic_quality")
NAMES = (*(name for name in SCORES if name not in OBJECT_SCORES), "objects")
"""Names that a user can ask for; "objects" means all of `OBJECT_SCORES`."""
DEFAULT = ("dice", "iou", "precision", "recall", "accuracy")


def check_scores(names: Sequence[str]) -> tuple[str, ...]:
    """Return the scores that the names mean, without repetition, in the order in which they were named.

    Raises:
      InputError: there is none with such a name, or it needs a library that is not installed.

    Example:
      >>> check_scores(["dice", "objects"])
      ('dice', 'object_precision', 'object_recall', 'object_f1', 'panoptic_quality')
    """
    found: list[str] = []
    for name in names:
        if name not in NAMES and name not in OBJECT_SCORES:
            raise InputError(f"--scores has {name!r}, but each must be one of {', '.join(NAMES)}.")
        found += OBJECT_SCORES if name == "objects" else (name,)
    if not found:
        raise InputError(f"--scores is empty: name some of {', '.join(NAMES)}, or leave the option out.")
    if "cldice" in found:
        find_skeletonize()  # so that a library that is missing is said before the work
    return tuple(dict.fromkeys(found))


def need_probs(names: Sequence[str]) -> bool:
    """Return whether scores need probabilities, so that masks are not enough for them.

    Example:
      >>> need_probs(["dice", "nsd"]), need_probs(["dice", "brier"])
      (False, True)
    """
    return any(SCORES[name].sums in ("squares", "bins") for name in names)


def measure(
    names: Sequence[str],
    probs: Float[np.ndarray, "h w k"],
    predicted: Bool[np.ndarray, "h w k"],
    truth: Bool[np.ndarray, "h w k"],
    valid: Bool[np.ndarray, "h w k"] | None = None,
    *,
    tolerance: float = SURFACE_TOLERANCE,
) -> dict[str, Float[np.ndarray, "k c"]]:
    """Compute what an image adds to the sums of scores, except for those of pixel counts.

    Ignored pixels are in no sum, and belong to neither mask where borders, skeletons and objects are found.

    Args:
      names: names of scores, some of `SCORES`.
      probs: probabilities, `[h w k]`, from 0 to 1; not used if the scores do not need them (`need_probs`).
      predicted: predicted masks, `[h w k]`.
      truth: true masks, `[h w k]`.
      valid: pixels that are not ignored, `[h w k]`; None: all.
      tolerance: distance of borders that "nsd" accepts, in pixels.

    Returns:
      An array `[k c]` for each kind of sums that the scores need, by its name, `Score.sums`.

    Example:
      >>> truth = np.array([[True, True, False, False]] * 4)[..., None]
      >>> measure(["brier"], np.full((4, 4, 1), 0.5), truth, truth)["squares"].tolist()
      [[4.0, 16.0]]
    """
    kinds = {SCORES[name].sums for name in names} - {"pixels"}
    if valid is not None:
        predicted, truth = predicted & valid, truth & valid

    def of_class(kind: str, k: int) -> Sequence[float] | np.ndarray:
        pair = predicted[..., k], truth[..., k]
        if kind == "borders":
            return border_sums(*pair, tolerance)
        if kind == "skeletons":
            return skeleton_sums(*pair)
        if kind == "objects":
            return match_objects(*pair)
        known = slice(None) if valid is None else valid[..., k]
        p, t = (array[..., k][known].ravel() for array in (probs, truth))
        if kind == "squares":
            return float(((p.astype(np.float64) - t) ** 2).sum()), p.size
        return np.append(calibration_sums(p, t), p.size)

    classes = range(truth.shape[-1])
    return {kind: np.array([of_class(kind, k) for k in classes], np.float64) for kind in kinds}
