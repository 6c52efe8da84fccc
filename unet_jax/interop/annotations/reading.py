"""Annotation files of any format that is known: found in folders, recognised by content, and read."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from etils import epath

from unet_jax._types import InputError
from unet_jax.data.annotation_files import (
    CLASS_LISTS,
    FORMATS,
    ONE_FILE_PER_IMAGE,
    format_of,
    load_annotations,
)
from unet_jax.data.listing import ANNOTATION_SUFFIXES, check_name, printable, walk
from unet_jax.interop.annotations.coco import read_coco
from unet_jax.interop.annotations.json_values import shown
from unet_jax.interop.annotations.kaggle import read_kaggle
from unet_jax.interop.annotations.label_studio import read_label_studio
from unet_jax.interop.annotations.labelme import read_labelme
from unet_jax.interop.annotations.qupath import read_qupath
from unet_jax.interop.annotations.regions import AnnotatedImage, Annotations, ReadOptions
from unet_jax.interop.annotations.via import read_via
from unet_jax.interop.annotations.yolo import class_names, read_yolo

_READERS: dict[str, Callable[[Path, Any, ReadOptions], Annotations]] = {
    "coco": read_coco,
    "labelme": read_labelme,
    "label-studio": read_label_studio,
    "via": read_via,
    "qupath": read_qupath,
    "yolo": read_yolo,
    "kaggle": read_kaggle,
}
_ENDINGS = {"kaggle": (".csv",), "yolo": (".txt",)}  # of the other formats: JSON
_JSON_ENDINGS = (".json", ".geojson")
_YAML = (".yaml", ".yml")


@dataclasses.dataclass(frozen=True)
class Reading:
    """Contents of all annotation files that were given."""

    format: str
    images: tuple[AnnotatedImage, ...]
    classes: tuple[str, ...]  # declared by the files, in their order
    notes: tuple[str, ...]
    bad: tuple[tuple[Path, str], ...]  # files with one reason each; only formats with one file per image have them
    others: tuple[Path, ...]  # files that are not recognised
    places: tuple[Path, ...]  # folders that were given, or those of the files that were


def read_annotations(paths: Sequence[Path], format_name: str | None, options: ReadOptions) -> Reading:
    """Read annotation files.

    Args:
      paths: files, and folders that are searched at any depth. data.yaml of a YOLO data set stands for its folder.
      format_name: key of `FORMATS`; None finds it from the files' content.
      options: facts that some files do not say.

    Raises:
      InputError: a file is missing, broken or of no known format, or the files are of several formats.
    """
    if not paths:
        raise InputError("no annotation file was named: give files or folders.")
    by_format: dict[str, list[tuple[Path, Any]]] = {}
    broken: list[tuple[Path, str]] = []
    others: list[Path] = []
    for path in paths:
        check_name(epath.Path(path))
        files = list(_files(path))
        for file in files:
            try:
                content = load_annotations(file)
            except InputError as error:
                broken.append((file, str(error)))
                continue
            name = _forced(file, format_name) if format_name and file == path else format_of(file, content)
            if name is None:
                others.append(file)
                if file == path:
                    raise InputError(_unknown(file, content))
            else:
                # One large file is parsed once, many small ones are parsed again instead of being held in memory.
                by_format.setdefault(name, []).append((file, content if len(files) == 1 else None))
    if format_name:
        by_format = {format_name: by_format.get(format_name, [])}
    chosen = _chosen_format(paths, by_format, broken)
    if broken and chosen not in ONE_FILE_PER_IMAGE:
        raise InputError(broken[0][1])
    files = by_format[chosen] if chosen != "yolo" else _label_files(by_format[chosen], others)
    return _read(chosen, files, options, broken, [file for file in others if (file, None) not in files], paths)


def _files(path: Path) -> Iterator[Path]:
    """Yield the files that may hold annotations."""
    if path.is_dir() or (path.suffix.lower() in _YAML and path.is_file()):
        endings = (".txt",) if path.is_file() else ANNOTATION_SUFFIXES
        folder = path.parent if path.is_file() else path
        yield from (Path(file) for file, _ in walk(epath.Path(folder)) if file.suffix.lower() in endings)
    elif not path.exists():
        raise InputError(f"{printable(str(path))}: there is no such file or folder.")
    elif path.suffix.lower() not in ANNOTATION_SUFFIXES:
        raise InputError(
            f"{printable(str(path))}: ends in {path.suffix or 'nothing'}, but annotations are read from "
            f"{', '.join(ANNOTATION_SUFFIXES)}. Export them as one of {', '.join(FORMATS.values())}."
        )
    else:
        yield path


def _forced(file: Path, format_name: str) -> str:
    """Return the format that the user names; raise `InputError` if a file cannot be of it by its ending."""
    endings = _ENDINGS.get(format_name, _JSON_ENDINGS)
    if file.suffix.lower() not in endings:
        raise InputError(
            f"{file}: ends in {file.suffix}, but {FORMATS[format_name]} files end in {' or '.join(endings)}."
        )
    return format_name


def _unknown(file: Path, content: Any) -> str:
    """Return the message for a file that is not recognised."""
    if isinstance(content, list) and content and isinstance(content[0], dict) and "annotation_id" in content[0]:
        return f"{file}: looks like JSON-MIN of Label Studio, which lacks what masks need. Export it as JSON."
    if isinstance(content, dict) and "config" in content and "metadata" in content and "view" in content:
        return f"{file}: looks like a project of VIA 3, which is not read. Annotate with VIA 2, or convert it to COCO."
    if isinstance(content, list) and content and isinstance(content[0], dict) and "image_id" in content[0]:
        return (
            f"{file}: looks like results for COCO, without images and categories. Put it into 'annotations' of a file "
            "that has these."
        )
    if isinstance(content, dict):
        what = f"is an object with the keys {shown(', '.join(map(str, content)))}"
    else:
        what = f"begins with {shown(content[:50])}" if isinstance(content, str) else f"is {shown(content)}"
    return (
        f"{file}: is in no format that is known; it {what}. Known are {', '.join(FORMATS.values())}; if it is one of "
        f"them, say which: --format {'|'.join(FORMATS)}."
    )


def _chosen_format(
    paths: Sequence[Path], by_format: dict[str, list[tuple[Path, Any]]], broken: list[tuple[Path, str]]
) -> str:
    """Return the only format; raise `InputError` if there is none or there are several."""
    names = [name for name, files in by_format.items() if any(not _is_empty(file) for file, _ in files)] or [
        name for name, files in by_format.items() if files
    ]
    if len(names) == 1:
        return names[0]
    if names:
        examples = ", ".join(f"{by_format[name][0][0]} ({FORMATS[name]})" for name in names)
        raise InputError(
            f"the annotations are of several formats: {examples}. Name the files, or choose: --format FORMAT."
        )
    if broken:
        raise InputError(broken[0][1])
    raise InputError(
        f"{printable(str(paths[0]))}: holds no annotations that are known ({', '.join(FORMATS.values())}). Name the "
        f"files."
    )


def _is_empty(file: Path) -> bool:
    """Return whether a file has no content: an empty .txt is YOLO's for an image without objects, or anything else."""
    return file.stat().st_size == 0


def _label_files(files: list[tuple[Path, Any]], others: list[Path]) -> list[tuple[Path, Any]]:
    """Return YOLO's label files: if there are folders labels/, only what is in these.

    Text files beside them that do not look like labels are among them, so that a damaged one is an error, and not an
    image without objects.
    """
    if any("labels" in file.parts for file, _ in files):
        files = [(file, content) for file, content in files if "labels" in file.parts]
    folders = {file.parent for file, _ in files}
    damaged = [file for file in others if file.parent in folders and _may_be_labels(file)]
    return files + [(file, None) for file in damaged]


def _may_be_labels(file: Path) -> bool:
    return file.suffix.lower() == ".txt" and file.name.lower() not in CLASS_LISTS and "readme" not in file.name.lower()


def _read(
    chosen: str,
    files: list[tuple[Path, Any]],
    options: ReadOptions,
    broken: list[tuple[Path, str]],
    others: list[Path],
    paths: Sequence[Path],
) -> Reading:
    """Read files of one format."""
    images: list[AnnotatedImage] = []
    classes: dict[str, None] = {}
    notes: dict[str, None] = {}
    bad = list(broken)
    if chosen == "yolo":
        options = options._replace(class_list=next((path for path in paths if path.suffix.lower() in _YAML), None))
        class_names(
            files[0][0].parent, options.class_list
        )  # without it, every file would be refused for the same reason
    for file, content in files:
        try:
            annotations = _READERS[chosen](file, load_annotations(file) if content is None else content, options)
        except InputError as error:
            if chosen not in ONE_FILE_PER_IMAGE or len(files) == 1:
                raise
            bad.append((file, str(error)))
            continue
        images += annotations.images
        classes |= dict.fromkeys(annotations.classes)
        notes |= dict.fromkeys(annotations.notes)
    if others:
        names = ", ".join(printable(file.name) for file in others[:3]) + (", ..." if len(others) > 3 else "")
        notes[f"{len(others)} files hold no annotations that are known: {names}"] = None
    places = dict.fromkeys(path if path.is_dir() else path.parent for path in paths)
    return Reading(chosen, tuple(images), tuple(classes), tuple(notes), tuple(bad), tuple(others), tuple(places))
