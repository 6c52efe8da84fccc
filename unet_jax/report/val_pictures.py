"""Pictures and curves of validation images for the page of a run, kept in pictures/evaluation.json."""

import json
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from etils import epath
from jaxtyping import Float, UInt8

from unet_jax._files import replace_text
from unet_jax._types import Sample
from unet_jax.metrics.calibration import dice_curves, empty_histogram, histogram, reliability
from unet_jax.report.inline import data_url
from unet_jax.report.pictures import class_color, render_class, to_rgb

_FORMAT = 1
_SIDE = 320  # longest side of a picture in pixels
_MOST_CLASSES = 8  # pictures of classes for each image
_MOST_BYTES = 3_000_000  # of all pictures, as text
_MOST_PIXELS = 2**16  # of an image, that curves are computed from
_THRESHOLDS = np.linspace(0.02, 0.98, 49)
_URL = re.compile(r"data:image/jpeg;base64,[A-Za-z0-9+/]+={0,2}")


class Shown(NamedTuple):
    """A validation image to show."""

    id: str
    rank: str  # worst or best
    sample: Sample  # as the network sees it
    probs: Float[np.ndarray, "h w k"]
    dice: Sequence[float]  # of each class, of the whole image; NaN if it is ignored


def write_shown(
    path: epath.Path,
    *,
    step: int,
    class_names: Sequence[str],
    threshold: float,
    extremes: Sequence[Shown],
    spread: Sequence[tuple[Sample, Float[np.ndarray, "h w k"]]],
    is_part: bool,
) -> None:
    """Write pictures of some validation images, and curves of thresholds and calibration.

    Args:
      path: JSON file to write.
      step: step of the evaluation.
      class_names: names of the classes.
      threshold: probability above which a pixel belongs to a class.
      extremes: images to show.
      spread: samples with their probabilities, for the curves. Of large images, every n-th row and column is used.
      is_part: True if samples are parts of images.
    """
    total, histograms, every = empty_histogram(len(class_names)), [], 1
    for sample, probs in spread:
        every = max(1, math.ceil(math.sqrt(probs.shape[0] * probs.shape[1] / _MOST_PIXELS)))
        grid = np.s_[::every, ::every]
        valid = None if sample.valid is None else sample.valid[grid] >= 128
        histograms.append(histogram(probs[grid], sample.mask[grid] >= 128, valid))
        total += histograms[-1]
    content = {
        "format": _FORMAT,
        "step": step,
        "threshold": threshold,
        "is_part": is_part,
        "images": _pictures(extremes, class_names, threshold),
        "num_spread": len(spread),
        "every": every,
        "thresholds": _THRESHOLDS.tolist(),
        "dice": dict(zip(class_names, _or_none(dice_curves(histograms, _THRESHOLDS)), strict=True)),
        "reliability": dict(zip(class_names, _or_none(reliability(total)), strict=True)),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, json.dumps(content))


def read_shown(path: epath.Path, class_names: Sequence[str]) -> dict[str, Any]:
    """Read what `write_shown` wrote; nothing if it is not there, or is not what this version writes.

    A page is not worth an error, and the file may come from somebody else: what has another form is left out.
    """
    try:
        content = json.loads(path.read_text())
        fine = content["format"] == _FORMAT and type(content["step"]) is int and 0.0 < content["threshold"] < 1.0
        fine &= all(type(content[name]) is int for name in ("num_spread", "every")) and len(content["images"]) < 100
        fine &= set(content["dice"]) == set(content["reliability"]) == set(class_names)
        for image in content["images"]:
            fine &= all(isinstance(image[name], str) for name in ("id", "rank"))
            urls = [image["picture"], *(one["picture"] for one in image["classes"])]
            fine &= all(_URL.fullmatch(url) is not None for url in urls)
            fine &= all(one["name"] in class_names and _is_number(one["dice"]) for one in image["classes"])
        fine &= all(_is_number(value) for curve in content["dice"].values() for value in curve)
        fine &= all(_is_number(v) for rows in content["reliability"].values() for row in rows for v in row)
        fine &= all(len(row) == 3 for rows in content["reliability"].values() for row in rows)
        fine &= all(_is_number(value) and value is not None for value in content["thresholds"])
        return content if fine else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _pictures(extremes: Sequence[Shown], class_names: Sequence[str], threshold: float) -> list[dict[str, Any]]:
    """Return each image and its classes as data URLs, those with the worst Dice first, as far as there is room."""
    images, num_bytes = [], 0
    for shown in extremes:
        sample, image = shown.sample, to_rgb(shown.sample.image)
        plain = _url(image)
        num_bytes += len(plain)
        if num_bytes > _MOST_BYTES:
            break
        classes = []
        for k in np.argsort(np.nan_to_num(shown.dice, nan=2.0), kind="stable")[:_MOST_CLASSES]:
            ignored = None if sample.valid is None else sample.valid[..., k] < 128
            truth, predicted = sample.mask[..., k] >= 128, shown.probs[..., k] > threshold
            url = _url(render_class(image, truth, predicted, class_color(int(k)), ignored))
            num_bytes += len(url)
            if num_bytes > _MOST_BYTES:
                break
            classes.append({"name": class_names[k], "dice": _or_none(np.array(shown.dice[k])), "picture": url})
        images.append({"id": shown.id, "rank": shown.rank, "picture": plain, "classes": classes})
    return images


def _url(image: UInt8[np.ndarray, "h w 3"]) -> str:
    """Return a picture as a data URL, shrunk if it is large."""
    scale = _SIDE / max(image.shape[:2])
    if scale < 1.0:
        width, height = (max(1, round(side * scale)) for side in (image.shape[1], image.shape[0]))
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    fine, encoded = cv2.imencode(".jpg", np.ascontiguousarray(image[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 88])
    if not fine:
        raise ValueError("OpenCV cannot write JPEG")
    return data_url("image/jpeg", encoded.tobytes())


def _or_none(values: np.ndarray) -> Any:
    """Return an array as lists of JSON, in which NaN is None."""
    if values.ndim:
        return [_or_none(value) for value in values]
    return round(float(values), 5) if np.isfinite(values) else None


def _is_number(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and math.isfinite(value))
