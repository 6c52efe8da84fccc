"""Reader of YOLO's segmentation labels: a text file per image, and the names of the classes in data.yaml."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from unet_jax._types import InputError
from unet_jax.data.annotation_files import CLASS_LISTS, load_annotations
from unet_jax.interop.annotations.json_values import shown
from unet_jax.interop.annotations.regions import AnnotatedImage, Annotations, ReadOptions, Region, polygon

_LEVELS_UP = 4  # ROOT/labels/train/x.txt


def read_yolo(file: Path, content: str, options: ReadOptions) -> Annotations:
    """Read the labels of one image: lines of a class number and x y x y ..., as fractions of width and height.

    The image is the one of the same name, in a folder images/ where the file is in labels/. An empty file is an image
    without objects.

    Raises:
      InputError: a line is not such numbers, or there is no list of classes or no class of this number in it.
    """
    listed_in, classes = class_names(file.parent, options.class_list)
    regions = []
    for number, line in enumerate(content.splitlines(), start=1):
        if line.strip():
            regions.append(_region(line.split(), classes, listed_in, f"{file}: line {number}"))
    parts = file.absolute().parent.parts[-_LEVELS_UP:]
    folders = ["images" if part == "labels" else part for part in parts] if "labels" in parts else []
    image = AnnotatedImage("/".join([*folders, file.stem]), str(file), tuple(regions), folder=file.parent)
    return Annotations((image,), classes=tuple(classes.values()))


@functools.lru_cache(maxsize=1024)  # asked for every file
def class_names(folder: Path, given: Path | None) -> tuple[Path, dict[int, str]]:
    """Find the names of the classes in a given YAML file, or in one or classes.txt in a folder or those above it.

    Returns:
      The file, and the names by number.

    Raises:
      InputError: there is no such file, or it does not list names.
    """
    if given:
        return given, _names_in_yaml(given, _yaml_names(given))
    for place in [folder.absolute(), *folder.absolute().parents][:_LEVELS_UP]:
        for path in sorted(place.glob("*.y*ml"), key=lambda path: (path.stem not in ("data", "dataset"), path.name)):
            names = _yaml_names(path)
            if names is not None or path.stem in ("data", "dataset"):
                return path, _names_in_yaml(path, names)
        for name in CLASS_LISTS:
            if (place / name).is_file():
                lines = load_annotations(place / name).splitlines()
                return place / name, dict(enumerate(line.strip() for line in lines if line.strip()))
    raise InputError(
        f"{folder}: there is no data.yaml or classes.txt in it or above it, which names the classes. Make classes.txt "
        f"there, with one name a line."
    )


def _yaml_names(path: Path) -> Any:
    """Return the member "names" of a YAML file, or None."""
    try:
        content = yaml.safe_load(load_annotations(path))
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{path}: is not valid YAML ({' '.join(str(error).split())}).") from error
    return content.get("names") if isinstance(content, dict) else None


def _names_in_yaml(path: Path, names: Any) -> dict[int, str]:
    pairs = names.items() if isinstance(names, dict) else enumerate(names) if isinstance(names, list) else ()
    try:
        classes = {int(number): str(name) for number, name in pairs}
    except (TypeError, ValueError):
        classes = {}
    if not classes:
        raise InputError(f"{path}: its 'names' are {shown(names)}, but must list the classes: names: [cell, nucleus].")
    return classes


def _region(words: list[str], classes: dict[int, str], listed_in: Path, where: str) -> Region:
    try:
        numbers = np.array(words, np.float64)
    except ValueError as error:
        raise InputError(
            f"{where}: has {shown(' '.join(words))}, but must be numbers: class x y x y x y ..."
        ) from error
    if not np.isfinite(numbers).all() or numbers[0] != int(numbers[0]):
        raise InputError(f"{where}: begins with {words[0]!r}, but must be a whole number and finite coordinates.")
    class_number = int(numbers[0])
    if class_number not in classes:
        raise InputError(
            f"{where}: is of class {class_number}, but {listed_in} has the classes "
            f"{', '.join(f'{key} ({name})' for key, name in list(classes.items())[:10])}."
        )
    if len(numbers) == 5:  # centre, width and height
        return Region(classes[class_number], "box", where, None)
    if len(numbers) % 2 == 0:
        raise InputError(f"{where}: has {len(numbers) - 1} coordinates, which are no pairs of x and y.")
    points = numbers[1:].reshape(-1, 2)
    if len(points) < 3:
        return Region(classes[class_number], "short-polygon", where, None)
    if np.abs(points).max() > 2:
        raise InputError(
            f"{where}: has the coordinate {np.abs(points).max():g}, but they must be fractions of the image's width "
            f"and height, from 0 to 1."
        )
    return Region(classes[class_number], "polygon", where, polygon(points, is_relative=True))
