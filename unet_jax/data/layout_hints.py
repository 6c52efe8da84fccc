"""Flags for a data set of another layout than expected: patterns that join its images with its masks."""

import collections
import dataclasses
import itertools
import re
import shlex
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from unet_jax._types import InputError
from unet_jax.config import DataConfig
from unet_jax.data.listing import is_read, normal_id, stem_and_ending, walk
from unet_jax.data.masks.files import read_mask_file
from unet_jax.data.masks.index_values import color_text
from unet_jax.data.masks.read import read_class_numbers, read_colors, read_mask
from unet_jax.data.pattern_layout import index_map_layout, pattern_layout
from unet_jax.data.pixels import BadSampleError

_MOST_FILES = 20_000  # in a larger data set, nothing is looked for
_MOST_GROUPS = 60  # patterns that are tried
_MOST_VALUES = 12  # different values of a file that still looks like a mask, and classes that are listed
_OF_MASKS = re.compile(r"mask|label|annot|segment|truth|manual|target|\b(gt|segs?)\b")
_OF_IMAGES = re.compile(r"image|img|photo|picture|input|\b(raw|originals?)\b")
_SAYS_NO_CLASS = re.compile(r"ground|train(ing)?|valid?|test|data|fine|all|part|stage|[a-z]")


class _Group(NamedTuple):
    """Files that one pattern matches, by id."""

    pattern: str
    files: dict[str, epath.Path]


class _Flags(NamedTuple):
    """Flags that join images with masks. Of several, the largest is the best."""

    num_images: int
    fewer_stars: int
    num_classes: int
    shorter: int
    text: str


def joining_flags(root: epath.Path, config: DataConfig) -> str:
    """Return a sentence with flags that join the images below a folder with their masks; empty if none were found.

    The flags were tried before they are named, by the code that joins the files of a run.

    Args:
      root: folder of the data set.
      config: its settings, without patterns.
    """
    groups = _groups(_files(root))
    settings: dict[tuple[str, ...], dict[str, Any]] = {}
    found = []
    for images in groups:
        for masks in _masks_of(images, groups) if not _is_mask(images) else ():
            patterns = tuple(group.pattern for group in masks)
            if patterns not in settings:
                settings[patterns] = _mask_settings(masks)
            flags = _tried(root, config, images, settings[patterns])
            if flags:
                found.append(flags)
    return f"These flags join {max(found).num_images} images with masks: {max(found).text}" if found else ""


def _files(root: epath.Path) -> dict[str, epath.Path]:
    """Return the files below a folder whose endings are read, by their path in it; none if there are too many."""
    try:
        files = list(itertools.islice(walk(root), _MOST_FILES + 1))
    except (InputError, OSError):
        return {}
    return {normal_id(b + p.name): p for p, b in files if is_read(p.name)} if len(files) <= _MOST_FILES else {}


def _groups(files: dict[str, epath.Path]) -> list[_Group]:
    """Return the files by pattern, for the patterns that give most ids; at least two, or one of two files."""
    groups: dict[str, dict[str, epath.Path]] = collections.defaultdict(dict)
    repeated = set()
    for name, path in files.items():
        for pattern, id_ in dict(_patterns(name)).items():
            if id_ in groups[pattern] and not pattern.endswith("/*"):
                repeated.add(pattern)
            groups[pattern][id_] = path
    least = min(2, len(files) // 2)
    kept = [_Group(p, f) for p, f in groups.items() if len(f) >= least and p not in repeated]
    return sorted(kept, key=lambda group: (-len(group.files), group.pattern.count("*"), len(group.pattern)))[
        :_MOST_GROUPS
    ]


def _patterns(name: str) -> Iterator[tuple[str, str]]:
    """Yield patterns that match a path, each with the id that it gives.

    Example:
      >>> [pattern for pattern, _ in _patterns("masks/007_cell.png")]
      ['masks/{id}.png', 'masks/{id}_cell.png', 'masks/007_{id}.png', '{id}/007_cell.png', '{id}/*']
    """
    *folders, last = name.split("/")
    stem, _ = stem_and_ending(last)
    ending = last[len(stem) :]
    for before, id_, after in _divided(stem):
        file = f"{before}{{id}}{after}{ending}"
        yield "/".join((*folders, file)), id_
        for i in range(1, len(folders)):  # a folder below the first may have any name
            yield "/".join((*folders[:i], "*", *folders[i + 1 :], file)), id_
    for i, folder in enumerate(folders):  # a folder for each image
        parts = ["{id}" if part == folder else part for part in folders]
        yield "/".join((*parts, last.replace(folder, "{id}"))), folder
        if i == 0 or i == len(folders) - 2:
            yield "/".join((*parts, "*")), folder


def _divided(stem: str) -> Iterator[tuple[str, str, str]]:
    """Yield ways to divide a name into what stands before an id, the id, and what stands behind it.

    Example:
      >>> list(_divided("im7_mask"))
      [('', 'im7_mask', ''), ('', 'im7', '_mask'), ('im7_', 'mask', ''), ('im', '7_mask', '')]
    """
    yield "", stem, ""
    parts = re.split(r"([_\-. ]+)", stem)
    for k in (2, 4):
        if len(parts) > k and all(parts):
            yield "", "".join(parts[:-k]), "".join(parts[-k:])
            yield "".join(parts[:k]), "".join(parts[k:]), ""
    if len(parts) > 4 and all(parts):
        yield "".join(parts[:2]), "".join(parts[2:-2]), "".join(parts[-2:])
    if match := re.fullmatch(r"([^\W\d_]+)(\d.*)", stem):
        yield match[1], match[2], ""
    if match := re.fullmatch(r"(.*\d)([^\W\d_]+)", stem):
        yield "", match[1], match[2]


def _words(text: str) -> list[str]:
    """Return the words of a part of a pattern, in lower case: `GroundTruth/{id}_cell` is ground, truth, cell."""
    words = re.findall(r"[A-Z]+(?![a-z])|[^\W\d_][^\W\d_A-Z]*", text.replace("{id}", " "))
    return [word.lower() for word in words]


def _is_mask(group: _Group) -> bool | None:
    """Return whether a pattern says that its files are masks, or images; None if it says neither."""
    text = " ".join(_words(stem_and_ending(group.pattern)[0]))
    if _OF_MASKS.search(text):
        return True
    return False if _OF_IMAGES.search(text) else None


def _masks_of(images: _Group, groups: Sequence[_Group]) -> Iterator[tuple[_Group, ...]]:
    """Yield sets of patterns that may be the masks of these images, one pattern for each class."""
    fitting = []
    for group in groups:
        taken = set(group.files.values())
        wanted = {id_ for id_, path in images.files.items() if path not in taken}
        common = len(wanted & group.files.keys())
        if common >= max(1, len(wanted) / 2, len(group.files) / 2):
            fitting.append(group)
    marked = [group for group in fitting if _is_mask(group)]
    fitting = marked or [g for g in fitting if _is_mask(g) is None and _looks_like_mask(next(iter(g.files.values())))]
    yield from ((group,) for group in fitting)
    for depth in {group.pattern.count("/") for group in fitting}:
        used: set[epath.Path] = set()
        classes = []
        alike = [group for group in fitting if group.pattern.count("/") == depth]
        for group in sorted(alike, key=lambda group: (group.pattern.count("*"), -len(group.pattern))):
            if not used & set(group.files.values()):
                classes.append(group)
                used |= set(group.files.values())
        if len(classes) > 1:
            yield tuple(sorted(classes))


def _looks_like_mask(path: epath.Path) -> bool:
    """Return whether a file looks like a mask: few different values, or nearly only two in a JPEG file."""
    try:
        file = read_mask_file(path)
    except BadSampleError:
        return False
    _, counts = np.unique(file.values, return_counts=True)
    return len(counts) <= _MOST_VALUES or (file.is_lossy and bool(np.sort(counts)[-2:].sum() > 0.8 * counts.sum()))


def _tried(root: epath.Path, config: DataConfig, images: _Group, of_masks: dict[str, Any]) -> _Flags | None:
    """Return the flags that join these images with the masks of these settings; None if they do not."""
    if not of_masks:
        return None
    image_pattern = "" if re.fullmatch(r"images/\{id\}\.\w+", images.pattern) else images.pattern
    settings: dict[str, Any] = {"image_pattern": image_pattern, **of_masks}
    try:
        tried = dataclasses.replace(config, on_bad_sample="skip", classes=(), **settings)
        layout = index_map_layout(root, tried) if tried.index_map else pattern_layout(root, tried)
    except InputError:
        return None
    if len(layout.records) < len(layout.bad):
        return None
    words = []
    for name, value in settings.items():
        values = value if isinstance(value, tuple) else (value,)
        words += [f"--data.{name.replace('_', '-')}", *(shlex.quote(str(v)) for v in values)] if value else []
    text = " ".join(words)
    return _Flags(len(layout.records), -text.count("*"), len(layout.class_names), -len(text), text)


def _mask_settings(masks: Sequence[_Group]) -> dict[str, Any]:
    """Return the settings that read these masks, by what a few of them hold; empty if they cannot be read."""
    paths = [path for group in masks for path in list(group.files.values())[:: max(1, len(group.files) // 3)][:3]]
    names = _class_names([group.pattern for group in masks])
    patterns = tuple(f"{name}={group.pattern}" for name, group in zip(names, masks, strict=True))
    if all(_can_read(path, 0.0) for path in paths):
        return {"mask_patterns": patterns}
    if all(read_mask_file(path).is_lossy and _can_read(path, 0.5) for path in paths):
        return {"mask_patterns": patterns, "mask_threshold": 0.5}
    if len(masks) > 1:
        return {}
    for field, read, text in (("index_values", read_class_numbers, str), ("index_colors", read_colors, color_text)):
        try:
            values = sorted({int(value) for path in paths for value in np.unique(read(path))} - {0})
        except BadSampleError:
            continue
        if 0 < len(values) <= _MOST_VALUES:
            classes = tuple(f"class{k}={text(value)}" for k, value in enumerate(values, 1))
            return {"index_map": masks[0].pattern, field: classes}
    return {}


def _can_read(path: epath.Path, threshold: float) -> bool:
    try:
        read_mask(path, threshold=threshold)
    except BadSampleError:
        return False
    return True


def _class_names(patterns: Sequence[str]) -> list[str]:
    """Return a name for the class of each pattern, from its folders or else its files; `object` where nothing says it.

    Example:
      >>> _class_names(["masks/{id}_cell.png", "masks/{id}_nucleus.png"]), _class_names(["labels/{id}.png"])
      (['cell', 'nucleus'], ['object'])
    """

    def name_of(pattern: str, part: int) -> str:
        words = _words(stem_and_ending(pattern)[0].rpartition("/")[part])
        return next((w for w in reversed(words) if not _says_no_class(w)), "")

    for part in (0, 2):
        names = [name_of(pattern, part) for pattern in patterns]
        if all(names) and len(set(names)) == len(names):
            return names
    return ["object"] if len(patterns) == 1 else [f"class{k}" for k, _ in enumerate(patterns, 1)]


def _says_no_class(word: str) -> bool:
    return bool(_OF_MASKS.search(word) or _OF_IMAGES.search(word) or _SAYS_NO_CLASS.fullmatch(word))
