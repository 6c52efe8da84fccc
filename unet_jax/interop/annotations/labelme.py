"""Reader of LabelMe JSON, of which there is one file per image, and of programs that write the same format."""

import base64
import binascii
import functools
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unet_jax._types import InputError
from unet_jax.data.annotation_files import load_annotations
from unet_jax.data.pixels import pillow_formats
from unet_jax.interop.annotations.json_values import member, points_of
from unet_jax.interop.annotations.regions import (
    AnnotatedImage,
    Annotations,
    ReadOptions,
    Region,
    bitmap,
    ellipse,
    polygon,
    rectangle,
)

_POLYGONS = ("polygon", "oriented_rectangle", "rotation", "quadrilateral")


def read_labelme(file: Path, content: Any, options: ReadOptions) -> Annotations:
    """Read one LabelMe file. Its image is the file that it names, or the one that it contains.

    Raises:
      InputError: the file is not as LabelMe writes it; the message names the place.
    """
    shapes = member(content, "shapes", list, str(file))
    height, width = (member(content, key, int, str(file), 0) for key in ("imageHeight", "imageWidth"))
    has_image = bool(member(content, "imageData", str, str(file), ""))
    image = AnnotatedImage(
        name=member(content, "imagePath", str, str(file), "") or file.stem,
        where=str(file),
        regions=tuple(_region(shape, f"{file}: shapes[{i}]") for i, shape in enumerate(shapes)),
        size=(height, width) if height > 0 and width > 0 else None,
        folder=file.parent,
        embedded=functools.partial(_embedded_image, file) if has_image else None,
    )
    return Annotations((image,))


def _embedded_image(file: Path) -> bytes:
    """Return the image file that the annotation file contains; it is loaded again, so that few are in memory."""
    return _base64(load_annotations(file)["imageData"], f"{file}: 'imageData'")


def _base64(text: str, where: str) -> bytes:
    try:
        return base64.b64decode(text.partition("base64,")[2] or text)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"{where}: is not base64 ({error}).") from error


def _region(shape: Any, where: str) -> Region:
    class_name = member(shape, "label", str, where, "")
    kind = member(shape, "shape_type", str, where, "polygon")  # old versions only had polygons
    points = points_of(member(shape, "points", list, where), f"{where}: 'points'")
    if kind in _POLYGONS or (kind == "rectangle" and len(points) == 4):
        if len(points) < 3:
            return Region(class_name, "short-polygon", where, None)
        return Region(class_name, kind, where, polygon(points))
    if kind in ("rectangle", "circle", "mask") and len(points) != 2:
        raise InputError(f"{where}: is a {kind} with {len(points)} points, but it must have 2.")
    if kind == "rectangle":
        return Region(class_name, kind, where, rectangle(*points[0], *points[1]))
    if kind == "circle":  # centre, and a point on the border
        radius = float(np.hypot(*(points[1] - points[0])))
        return Region(class_name, kind, where, ellipse(tuple(points[0].tolist()), (radius, radius)))
    if kind == "mask":
        pixels = _mask(member(shape, "mask", str, where), f"{where}: 'mask'")
        (x0, y0), (x1, y1) = points.astype(int).tolist()
        if pixels.shape != (y1 - y0 + 1, x1 - x0 + 1):
            raise InputError(
                f"{where}: its mask has {pixels.shape[1]}x{pixels.shape[0]} pixels, but its points enclose "
                f"{x1 - x0 + 1}x{y1 - y0 + 1}."
            )
        return Region(class_name, kind, where, bitmap(lambda height, width: pixels, x0, y0))
    return Region(class_name, kind, where, None)


def _mask(text: str, where: str) -> np.ndarray:
    """Return the pixels of a PNG file in base64: `[h w]` bool."""
    try:
        with Image.open(io.BytesIO(_base64(text, where)), formats=pillow_formats()) as picture:
            pixels = np.asarray(picture)
    except InputError:
        raise
    except Exception as error:  # Pillow's decoders raise errors of many types for broken files
        raise InputError(f"{where}: is not an image ({error}).") from error
    return pixels.reshape(*pixels.shape[:2], -1)[..., 0].astype(bool)
