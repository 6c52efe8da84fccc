"""Reader of COCO JSON: polygons, and run lengths as numbers or packed into text."""

import functools
from pathlib import Path
from typing import Any

import numpy as np

from unet_jax._types import InputError
from unet_jax.data.listing import printable
from unet_jax.interop.annotations.json_values import check, member, numbers_of, shown
from unet_jax.interop.annotations.regions import (
    AnnotatedImage,
    Annotations,
    Drawing,
    ReadOptions,
    Region,
    encoded,
    joined,
    polygon,
)
from unet_jax.interop.annotations.rle import decode_counts, runs_of_counts


def read_coco(file: Path, content: Any, options: ReadOptions) -> Annotations:
    """Read COCO annotations.

    Crowds (`iscrowd`) are ignored pixels of their class. Polygons of one object are united, as by pycocotools.

    Raises:
      InputError: the file is not as COCO describes it; the message names the place.
    """
    classes = _classes(file, content)
    regions: dict[Any, list[Region]] = {}
    images: dict[Any, dict[str, Any]] = {}
    for i, image in enumerate(member(content, "images", list, str(file))):
        id_ = _id(image, "id", f"{file}: images[{i}]")
        if id_ in images:
            raise InputError(f"{file}: images[{i}] has the id {id_!r}, which another image has too.")
        images[id_], regions[id_] = image, []
    num_crowds = 0
    for i, annotation in enumerate(member(content, "annotations", list, str(file))):
        where = f"{file}: annotations[{i}]"
        if isinstance(annotation, dict) and "segments_info" in annotation:
            raise InputError(
                f"{file}: holds panoptic annotations, whose masks are PNG files. Use these with --data.index-map, or "
                f"export instance annotations."
            )
        image_id, class_id = _id(annotation, "image_id", where), _id(annotation, "category_id", where)
        where += f" (id {shown(annotation.get('id'))}, image {image_id})"
        if image_id not in images:
            raise InputError(f"{where}: there is no image with the id {image_id!r} in the file.")
        if class_id not in classes:
            raise InputError(
                f"{where}: there is no category with the id {class_id!r} in the file; it has "
                f"{', '.join(f'{key} ({name})' for key, name in list(classes.items())[:10]) or 'none'}."
            )
        is_crowd = annotation.get("iscrowd") in (1, True)
        num_crowds += is_crowd
        stated = _size(images[image_id], f"{file}: image {image_id}")
        region = _region(annotation, classes[class_id], where, stated)
        regions[image_id].append(region._replace(is_ignored=is_crowd))
    return Annotations(
        tuple(
            AnnotatedImage(
                name=member(image, "file_name", str, f"{file}: image {id_}"),
                where=f"{file}: image {id_}",
                regions=tuple(regions[id_]),
                size=_size(image, f"{file}: image {id_}"),
            )
            for id_, image in images.items()
        ),
        classes=tuple(dict.fromkeys(classes.values())),
        notes=(f"{num_crowds} crowds (iscrowd) are ignored pixels, in ignore/CLASS/",) if num_crowds else (),
    )


def _classes(file: Path, content: Any) -> dict[Any, str]:
    """Return the names of the categories by id."""
    classes = {}
    for i, category in enumerate(member(content, "categories", list, str(file))):
        where = f"{file}: categories[{i}]"
        id_, name = _id(category, "id", where), member(category, "name", str, where)
        if classes.setdefault(id_, name) != name:
            raise InputError(f"{where} has the id {id_!r}, which {classes[id_]!r} has too.")
    return classes


def _id(mapping: Any, key: str, where: str) -> str:
    """Return an id as text, because some programs write 7 in one place and "7" in another."""
    check(mapping, dict, where)
    value = mapping.get(key)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise InputError(f"{where}: {key!r} is {value!r}, but must be a whole number or a text.")
    return printable(str(value))


def _size(image: dict[str, Any], where: str) -> tuple[int, int] | None:
    """Return the height and width that the file states for an image; some programs write 0 or nothing."""
    height, width = (member(image, key, int, where, 0) for key in ("height", "width"))
    return (height, width) if height > 0 and width > 0 else None


def _region(annotation: dict[str, Any], class_name: str, where: str, stated: tuple[int, int] | None) -> Region:
    """Return one object; it has no area if there is only a box or key points."""
    segmentation = annotation.get("segmentation")
    if not segmentation:
        kind = "box" if annotation.get("bbox") else "keypoints" if annotation.get("keypoints") else "nothing"
        return Region(class_name, kind, where, None)
    if isinstance(segmentation, dict):
        return Region(class_name, "rle", where, _run_lengths(segmentation, f"{where}: 'segmentation'", stated))
    parts = check(segmentation, list, f"{where}: 'segmentation'")
    if not isinstance(parts[0], list):  # VIA writes one polygon without a list around it
        parts = [parts]
    drawings = []
    for part in parts:
        numbers = numbers_of(part, f"{where}: 'segmentation'")
        if len(numbers) % 2:
            raise InputError(f"{where}: a polygon has {len(numbers)} numbers, which are no pairs of x and y.")
        if len(numbers) < 6:
            return Region(class_name, "short-polygon", where, None)
        drawings.append(polygon(numbers.reshape(-1, 2)))
    return Region(class_name, "polygon", where, joined(drawings))


def _run_lengths(segmentation: dict[str, Any], where: str, stated: tuple[int, int] | None) -> Drawing:
    """Return the drawing of {"size": [height, width], "counts": numbers or text}."""
    size = [check(number, int, f"{where}: 'size'") for number in member(segmentation, "size", list, where)]
    counts = segmentation.get("counts")
    if len(size) != 2 or not isinstance(counts, list | str):
        raise InputError(f"{where}: must have a 'size' [height, width] and 'counts', a list of numbers or a text.")
    if isinstance(counts, list):
        counts = np.array([check(number, int, f"{where}: 'counts'") for number in counts], np.int64)
    if stated and tuple(size) != stated:
        raise InputError(
            f"{where}: is of {size[1]}x{size[0]} pixels, but the file says that the image has {stated[1]}x{stated[0]}."
        )
    return encoded(functools.partial(_decode, counts, (size[0], size[1])))


def _decode(counts: np.ndarray | str, size: tuple[int, int], height: int, width: int) -> np.ndarray:
    if size != (height, width):
        raise ValueError(f"is of {size[1]}x{size[0]} pixels, but the image has {width}x{height}")
    return runs_of_counts(decode_counts(counts) if isinstance(counts, str) else counts, height, width)
