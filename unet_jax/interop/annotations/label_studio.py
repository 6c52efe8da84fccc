"""Reader of Label Studio's JSON export: polygons, rectangles, ellipses, brushes and bit masks, in percent."""

import base64
import functools
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unet_jax._types import InputError
from unet_jax.data.listing import is_read
from unet_jax.data.pixels import pillow_formats
from unet_jax.interop.annotations.json_values import check, member, points_of, shown
from unet_jax.interop.annotations.regions import (
    AnnotatedImage,
    Annotations,
    Drawing,
    Drawn,
    ReadOptions,
    Region,
    bitmap,
    ellipse,
    polygon,
)
from unet_jax.interop.annotations.rle import decode_brush


def read_label_studio(file: Path, content: Any, options: ReadOptions) -> Annotations:
    """Read tasks of Label Studio.

    Of several annotations of a task, the one that is marked as ground truth is used, else the newest. Predictions and
    annotations that were skipped or cancelled are not used.

    Raises:
      InputError: the file is not as Label Studio exports it; the message names the place.
    """
    tasks = content if isinstance(content, list) else [content]
    images, num_several = [], 0
    for i, task in enumerate(tasks):
        where = f"{file}: task {shown(task.get('id', i))}" if isinstance(task, dict) else f"{file}: [{i}]"
        old = member(task, "completions", list, where, [])
        annotations = [
            check(annotation, dict, f"{where}: an annotation")
            for annotation in member(task, "annotations", list, where, old)
        ]
        finished = [a for a in annotations if not a.get("was_cancelled") and not a.get("skipped")]
        num_several += len(finished) > 1
        results = member(max(finished, key=_rank), "result", list, where, []) if finished else []
        for result in results:
            check(result, dict, f"{where}: a result")
        images.append(
            AnnotatedImage(
                name=_image_name(task, where),
                where=where,
                regions=tuple(region for group in _groups(results) for region in _regions(group, where)),
                size=_size(results, where),
                is_annotated=bool(finished),
            )
        )
    notes = (f"{num_several} tasks have several annotations, of which the ground truth or else the newest is used",)
    return Annotations(tuple(images), notes=notes if num_several else ())


def _rank(annotation: dict[str, Any]) -> tuple[bool, str, str]:
    newest = annotation.get("updated_at") or annotation.get("created_at") or ""
    return bool(annotation.get("ground_truth")), str(newest), str(annotation.get("id")).rjust(20)


def _image_name(task: dict[str, Any], where: str) -> str:
    """Return the image's name: the only value of the task's data that is one, or the one that is called image."""
    data = member(task, "data", dict, where)
    texts = {key: value for key, value in data.items() if isinstance(value, str) and value}
    names = {key: value for key, value in texts.items() if is_read(value.split("?d=")[-1].split("?")[0])}
    for candidates in (names, texts):
        if len(candidates) == 1:
            return next(iter(candidates.values()))
        if "image" in candidates:
            return candidates["image"]
    raise InputError(
        f"{where}: its data {shown(data)} does not say which image it is about. Keep one image per task, and call it "
        f"'image'."
    )


def _size(results: list[dict[str, Any]], where: str) -> tuple[int, int] | None:
    """Return the height and width that the results state."""
    sizes = set()
    for result in results:
        if member(result, "image_rotation", float, where, 0) % 360:
            raise InputError(
                f"{where}: was annotated while the image was rotated by {result['image_rotation']} degrees in the "
                f"editor. Rotate it back there, check its regions, and export again."
            )
        if result.get("original_width") and result.get("original_height"):
            sizes.add(tuple(member(result, f"original_{key}", int, where) for key in ("height", "width")))
    if len(sizes) > 1:
        raise InputError(f"{where}: its results are for images of different sizes {sorted(sizes)}. Keep one per task.")
    return next(iter(sizes), None)


def _groups(results: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Join results of one region: where labels are chosen apart from shapes, each is a result with the region's id."""
    groups: dict[Any, list[dict[str, Any]]] = {}
    for i, result in enumerate(results):
        groups.setdefault(str(result["id"]) if result.get("id") is not None else i, []).append(result)
    return list(groups.values())


def _regions(group: list[dict[str, Any]], where: str) -> list[Region]:
    """Return one object for each label of a region; none for answers without a shape."""
    where = f"{where}, region {shown(group[0].get('id'))}"
    values = [member(result, "value", dict, where, {}) for result in group]
    kinds = [_kind(value) for value in values]
    kind = next((kind for kind in kinds if kind), None)
    if kind is None:
        return []
    value = values[kinds.index(kind)]
    labels: dict[str, None] = {}
    for each in values:
        for key in each:
            if key.endswith("labels"):
                labels |= dict.fromkeys(
                    check(label, str, f"{where}: {key!r}") for label in member(each, key, list, where)
                )
    if kind == "polygon" and value.get("closed") is False:
        kind = "open-polygon"
    draw = _DRAWINGS[kind](value, where) if kind in _DRAWINGS else None
    if kind == "polygon" and draw is None:
        kind = "short-polygon"
    return [Region(label, kind, where, draw) for label in labels or [""]]


def _kind(value: dict[str, Any]) -> str | None:
    """Return the shape that a value describes, or None if it describes none."""
    for key, kind in (
        ("rle", "brush"),
        ("imageDataURL", "bitmask"),
        ("sequence", "video"),
        ("radiusX", "ellipse"),
        ("points", "polygon"),
        ("vertices", "vector"),
        ("height", "rectangle"),
        ("x", "keypoint"),
    ):
        if key in value:
            return kind
    return None


def _numbers(value: dict[str, Any], where: str, *keys: str) -> list[float]:
    return [member(value, key, float, where) for key in keys]


def _polygon(value: dict[str, Any], where: str) -> Drawing | None:
    percent = points_of(value["points"], f"{where}: 'points'")
    if len(percent) < 3:
        return None
    return lambda height, width: polygon(percent / 100 * np.array([width, height]))(height, width)


def _rectangle(value: dict[str, Any], where: str) -> Drawing:
    """Return the drawing of a rectangle, which is rotated about its upper left corner."""
    x, y, width_percent, height_percent = _numbers(value, where, "x", "y", "width", "height")
    angle = math.radians(member(value, "rotation", float, where, 0))
    right, down = np.array([math.cos(angle), math.sin(angle)]), np.array([-math.sin(angle), math.cos(angle)])

    def draw(height: int, width: int) -> Drawn:
        corner = np.array([x / 100 * width, y / 100 * height])
        across, along = width_percent / 100 * width * right, height_percent / 100 * height * down
        return polygon(np.stack([corner, corner + across, corner + across + along, corner + along]))(height, width)

    return draw


def _ellipse(value: dict[str, Any], where: str) -> Drawing:
    x, y, radius_x, radius_y = _numbers(value, where, "x", "y", "radiusX", "radiusY")
    angle = math.radians(member(value, "rotation", float, where, 0))

    def draw(height: int, width: int) -> Drawn:
        center = (x / 100 * width, y / 100 * height)
        return ellipse(center, (radius_x / 100 * width, radius_y / 100 * height), angle)(height, width)

    return draw


def _brush(value: dict[str, Any], where: str) -> Drawing:
    if value.get("format", "rle") != "rle":
        raise InputError(f"{where}: is a brush in the format {value['format']!r}, but only 'rle' is known.")
    return bitmap(functools.partial(_opaque_brush, member(value, "rle", list, where)))


def _opaque_brush(data: list[int], height: int, width: int) -> np.ndarray:
    """Return the pixels that a brush covers by half or more; some versions store a brush that is half transparent."""
    opacity = decode_brush(data, height, width)
    return opacity >= max(1.0, opacity.max() / 2)


def _bit_mask(value: dict[str, Any], where: str) -> Drawing:
    text = member(value, "imageDataURL", str, where)

    def load(height: int, width: int) -> np.ndarray:
        try:
            with Image.open(
                io.BytesIO(base64.b64decode(text.partition("base64,")[2])), formats=pillow_formats()
            ) as picture:
                pixels = np.asarray(picture.convert("RGBA"))
        except Exception as error:  # Pillow's decoders raise errors of many types for broken files
            raise ValueError(f"its bit mask is not an image ({error})") from error
        if pixels.shape[:2] != (height, width):
            raise ValueError(f"its bit mask has {pixels.shape[1]}x{pixels.shape[0]} pixels, not {width}x{height}")
        return pixels[..., 3] > 0

    return bitmap(load)


_DRAWINGS = {
    "polygon": _polygon,
    "rectangle": _rectangle,
    "ellipse": _ellipse,
    "brush": _brush,
    "bitmask": _bit_mask,
}
