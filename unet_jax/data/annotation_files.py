"""Recognition of annotation files of other programs, which `unet-jax import-masks` makes masks from."""

import csv
import json
import math
import shlex
from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

from etils import epath

from unet_jax._types import InputError
from unet_jax.data.listing import ANNOTATION_SUFFIXES, is_read, printable

FORMATS = {
    "coco": "COCO",
    "labelme": "LabelMe",
    "label-studio": "Label Studio",
    "via": "VIA (VGG Image Annotator)",
    "qupath": "QuPath GeoJSON",
    "yolo": "YOLO",
    "kaggle": "Kaggle RLE",
}
"""Name of each format on the command line, and what people call it."""

ONE_FILE_PER_IMAGE = ("labelme", "qupath", "yolo")
CLASS_LISTS = ("classes.txt", "obj.names", "labels.txt", "names.txt")
"""Files in which YOLO's classes are listed, one a line."""

_MOST_FILES = 40  # files per folder and folders that `find_annotations` looks at: one of many is enough for a hint

# Columns of Kaggle's tables, in lower case without "_".
_IMAGE_COLUMNS = ("imageid", "image", "img", "id", "filename", "file", "imageidclassid", "imagelabel")
_RLE_COLUMNS = ("encodedpixels", "rlemask", "rle", "encoding", "encodedpixel", "annotation", "segmentation", "pixels")
_CLASS_COLUMNS = ("classid", "class", "label", "celltype", "category", "classname")


class RleColumns(NamedTuple):
    """Columns of a table of run-length encoded masks."""

    image: str
    rle: str
    class_name: str | None
    is_joined: bool  # the column of images holds "IMAGE_CLASS"


def load_annotations(path: PurePath) -> Any:
    """Read a file's content: parsed JSON for .json and .geojson, text for the others.

    Raises:
      InputError: the file is missing, not UTF-8, or not valid JSON.
    """
    file = epath.Path(path)
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InputError(f"{printable(str(path))}: cannot be read ({error}).") from error
    try:
        if path.suffix.lower() in (".json", ".geojson"):
            return json.loads(content)
        return content.decode("utf-8-sig")
    except json.JSONDecodeError as error:
        raise InputError(
            f"{printable(str(path))}: is not valid JSON ({error.msg}, line {error.lineno}, column {error.colno}; "
            f"{len(content)} bytes). Export it again."
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{printable(str(path))}: is not UTF-8 text (byte {error.start}). Save it as UTF-8."
        ) from error
    except (RecursionError, ValueError) as error:
        raise InputError(
            f"{printable(str(path))}: is JSON that Python cannot read ({error}). Export it again."
        ) from error


def format_of(path: PurePath, content: Any) -> str | None:
    """Return the name of a file's format (a key of `FORMATS`) by its content, or None if it is none of them.

    Args:
      path: path of the file, whose ending says what `content` is.
      content: content of the file, as `load_annotations` returns it.

    Example:
      >>> format_of(PurePath("a.json"), {"images": [], "annotations": [], "categories": []})
      'coco'
      >>> format_of(PurePath("a.txt"), "0 0.1 0.1 0.5 0.1 0.5 0.5")
      'yolo'
      >>> format_of(PurePath("a.txt"), "remember the milk")
    """
    suffix = path.suffix.lower()
    if suffix == ".csv":
        return "kaggle" if rle_columns(csv_header(content)) else None
    if suffix == ".txt":
        return "yolo" if path.name.lower() not in CLASS_LISTS and _is_yolo(content) else None
    if suffix not in (".json", ".geojson"):
        return None
    return _json_format(content, is_geojson=suffix == ".geojson")


def _json_format(content: Any, *, is_geojson: bool) -> str | None:
    if isinstance(content, list):
        first = content[0] if content else None
        if isinstance(first, dict) and first.get("type") == "Feature":
            return "qupath"
        if isinstance(first, dict) and isinstance(first.get("data"), dict) and _is_task(first):
            return "label-studio"
        return "qupath" if is_geojson and not content else None
    if not isinstance(content, dict):
        return None
    if content.get("type") in ("FeatureCollection", "Feature"):
        return "qupath"
    if isinstance(content.get("images"), list) and isinstance(content.get("annotations"), list):
        return "coco"
    if isinstance(content.get("shapes"), list) and any(k in content for k in ("imagePath", "imageData", "imageHeight")):
        return "labelme"
    if isinstance(content.get("_via_img_metadata"), dict):
        return "via"
    if content and all(isinstance(v, dict) and "regions" in v and "filename" in v for v in content.values()):
        return "via"
    if isinstance(content.get("data"), dict) and _is_task(content):
        return "label-studio"
    return None


def _is_task(value: dict[str, Any]) -> bool:
    return any(isinstance(value.get(key), list) for key in ("annotations", "completions", "predictions"))


def _is_yolo(text: str) -> bool:
    """Return whether the first line is a class number and coordinates from 0 to 1, or there is no line."""
    words = next((line.split() for line in text.splitlines() if line.strip()), None)
    if words is None:
        return True
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        return False
    are_small = all(math.isfinite(number) and -1.0 <= number <= 2.0 for number in numbers[1:])
    return len(numbers) >= 5 and numbers[0] >= 0 and numbers[0] == int(numbers[0]) and are_small


def csv_header(text: str) -> list[str]:
    """Return the names of the columns of a table."""
    first = text.split("\n", 1)[0].strip("\r")
    return next(csv.reader([first], delimiter=csv_delimiter(text)), [])


def csv_delimiter(text: str) -> str:
    """Return the character between the columns of a table: a comma, or what stands in its first line without one."""
    first = text.split("\n", 1)[0]
    return next((character for character in ",;\t" if character in first), ",")


def rle_columns(header: Sequence[str]) -> RleColumns | None:
    """Return which columns hold image, RLE and class, or None if the table is not one of masks.

    Example:
      >>> rle_columns(["ImageId_ClassId", "EncodedPixels"])
      RleColumns(image='ImageId_ClassId', rle='EncodedPixels', class_name=None, is_joined=True)
      >>> rle_columns(["id", "split"])
    """
    plain = {name.strip().lower().replace("_", ""): name for name in header}
    image = next((plain[name] for name in _IMAGE_COLUMNS if name in plain), None)
    rle = next((plain[name] for name in _RLE_COLUMNS if name in plain), None)
    if image is None or rle is None:
        return None
    is_joined = image.strip().lower().replace("_", "") in ("imageidclassid", "imagelabel")
    class_name = next((plain[name] for name in _CLASS_COLUMNS if name in plain), None)
    return RleColumns(image, rle, None if is_joined else class_name, is_joined)


def find_annotations(folder: PurePath) -> str | None:
    """Return a sentence on an annotation file in a folder or in the folders in it, or None if there is none.

    It is for the message that a data set has no masks, and names the command that makes them.

    Example:
      >>> import pathlib, tempfile
      >>> with tempfile.TemporaryDirectory() as root:
      ...     _ = (pathlib.Path(root) / "coco.json").write_text('{"images": [], "annotations": []}')
      ...     print((find_annotations(pathlib.Path(root)) or "").replace(root, "DIR"))
      DIR/coco.json looks like COCO annotations: unet-jax import-masks DIR/coco.json --images DIR --out DATA
    """
    root = epath.Path(folder)
    for path in _candidates(root):
        try:
            content = load_annotations(path)
        except InputError:
            continue
        name = format_of(path, content)
        if name is None or (name == "yolo" and not content.strip()):
            continue
        file = path.parent if name in ONE_FILE_PER_IMAGE else path
        images = root / "images" if (root / "images").is_dir() else root
        if path.parent not in (root, images) and any(is_read(p.name) for p in path.parent.iterdir()):
            images = path.parent
        quoted = [shlex.quote(printable(str(p))) for p in (file, images)]
        return (
            f"{printable(str(path))} looks like {FORMATS[name]} annotations: "
            f"unet-jax import-masks {quoted[0]} --images {quoted[1]} --out DATA"
        )
    return None


def _candidates(root: epath.Path) -> Iterator[epath.Path]:
    """Yield some files that may be annotations: of the folder, of the folders in it, and of those in these."""
    folders = [root]
    for depth in range(3):
        below = []
        for folder in folders[:_MOST_FILES]:
            try:
                entries = sorted((p for p in folder.iterdir() if not p.name.startswith(".")), key=lambda p: p.name)
            except OSError:
                continue
            by_ending = {ending: [p for p in entries if p.suffix.lower() == ending] for ending in ANNOTATION_SUFFIXES}
            for files in by_ending.values():
                yield from (file for file in files[:_MOST_FILES] if not file.is_dir())
            if depth < 2:
                others = (p for p in entries if not is_read(p.name) and p.suffix.lower() not in ANNOTATION_SUFFIXES)
                below += [p for p in others if p.is_dir()]
        folders = below
