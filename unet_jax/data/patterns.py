"""Patterns of paths with {id} and *: the files that match, and the ids that they may have."""

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping

from etils import epath

from unet_jax._types import InputError
from unet_jax.data.listing import check_name, normal_id, printable

Matches = dict[epath.Path, tuple[str, ...]]
"""Files with the ids that they may have, longest first. There are several only where {id} and * share a name."""


def match_files(root: epath.Path, pattern: str, field: str) -> Matches:
    """List the files below root that match a pattern, sorted by path.

    Args:
      root: folder that the pattern is relative to.
      pattern: path with `{id}`, at least once, and any number of `*`. Both stand for a part of one name, not for a
        slash; where `{id}` occurs again it is the same text.
      field: name of the setting, for messages.

    Raises:
      InputError: the pattern has no `{id}`, its folder is not there, or no file matches.
    """
    parts = normal_id(pattern).split("/")
    if "{id}" not in pattern or "**" in pattern:
        raise InputError(f"{field} is {pattern!r}, but must contain {{id}}, and * only for a part of one name.")
    num_fixed = next(i for i, part in enumerate(parts) if "{id}" in part or "*" in part or i == len(parts) - 1)
    folder = root.joinpath(*parts[:num_fixed])
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder, but {field} is {pattern!r}.")
    files: dict[epath.Path, list[str]] = {}
    for path, id_ in _walk(folder, parts[num_fixed:], None):
        check_name(path)
        files.setdefault(path, []).append(id_)
    if not files:
        names = sorted(printable(path.name) for path in folder.iterdir() if not path.name.startswith("."))
        there = f"there are {len(names)} names, such as {names[0]!r}" if names else "the folder is empty"
        raise InputError(f"{folder}: no file matches {'/'.join(parts[num_fixed:])!r} ({field}); {there}.")
    return {path: tuple(sorted(files[path], key=len, reverse=True)) for path in sorted(files)}


def _walk(folder: epath.Path, parts: list[str], id_: str | None) -> Iterator[tuple[epath.Path, str]]:
    """Yield the files below a folder that match the parts of a pattern, each with its id."""
    part, is_last = parts[0], len(parts) == 1
    for path in folder.iterdir():
        name = normal_id(path.name)
        ids = [] if name.startswith(".") and not part.startswith(".") else list(_ids(part, name, id_))
        if not ids or path.is_dir() == is_last:
            continue
        for new_id in ids:
            if not is_last:
                yield from _walk(path, parts[1:], new_id)
            elif new_id is not None:
                yield path, new_id


def _ids(part: str, name: str, id_: str | None) -> Iterator[str | None]:
    """Yield the ids with which a name matches a part of a pattern, given the id of the folders above, if known."""
    if "{id}" not in part or id_ is not None:
        if _expression(part, re.escape(id_ or "")).fullmatch(name):
            yield id_
        return
    if "*" not in part and part.count("{id}") == 1:
        before, after = part.split("{id}")
        if len(name) > len(before) + len(after) and name.startswith(before) and name.endswith(after):
            yield name[len(before) : len(name) - len(after)]
        return
    for length in range(len(name), 0, -1):
        if match := _expression(part, f".{{{length}}}").fullmatch(name):
            yield match[1]


@functools.lru_cache(maxsize=4096)
def _expression(part: str, id_: str) -> re.Pattern[str]:
    """Return the regular expression of a part of a pattern, with a group for the first {id}."""
    first, *others = [re.escape(text).replace(r"\*", ".*") for text in part.split("{id}")]
    text = first + (f"({id_})" + r"(?:\1)".join(others) if others else "")
    return re.compile(text, re.DOTALL)


def join_by_id(matches: Matches, has_image: Callable[[str], bool]) -> dict[str, tuple[epath.Path, ...]]:
    """Return the files of each id, sorted by id.

    Of the ids that a file may have, the longest that has an image counts, or the longest if none has.

    Args:
      matches: files from `match_files`.
      has_image: function that says whether there is an image for an id.
    """
    files: dict[str, list[epath.Path]] = {}
    for path, ids in matches.items():
        id_ = ids[0] if len(ids) == 1 else next((i for i in ids if has_image(i)), ids[0])
        files.setdefault(id_, []).append(path)
    return {id_: tuple(files[id_]) for id_ in sorted(files)}


def one_each(matches: Matches, field: str) -> dict[str, epath.Path]:
    """Return the file of each id, where there must be one.

    Raises:
      InputError: two files have the same id.
    """
    files: dict[str, epath.Path] = {}
    for path, (id_, *other_ids) in matches.items():
        if other_ids or id_ in files:
            other = f"or {other_ids[0]!r}" if other_ids else f"as {files[id_]}"
            raise InputError(
                f"{path}: has the id {id_!r} {other} by {field}, which must match one file for each id. Make the "
                f"pattern say more of the name, or leave * out."
            )
        files[id_] = path
    return dict(sorted(files.items()))


def split_assignments(entries: Iterable[str], field: str) -> dict[str, str]:
    """Parse entries NAME=value of a setting.

    Args:
      entries: the entries.
      field: name of the setting, for messages.

    Raises:
      InputError: an entry looks otherwise, or its name is not plain or occurs twice.

    Example:
      >>> split_assignments(["dapi={id}_w1.tif", "gfp={id}_w2.tif"], "data.image_patterns")
      {'dapi': '{id}_w1.tif', 'gfp': '{id}_w2.tif'}
    """
    pairs: dict[str, str] = {}
    for entry in entries:
        name, equals, value = (part.strip() for part in entry.partition("="))
        if not equals or not name or not value:
            raise InputError(f"{field} has {entry!r}, but each entry must look like NAME=value.")
        if "/" in name or name in (".", ".."):
            raise InputError(f"{field} has {entry!r}, but {name!r} must be a plain name, without a slash.")
        if name in pairs:
            raise InputError(f"{field} names {name!r} twice: {pairs[name]!r} and {value!r}. Keep one.")
        pairs[name] = value
    return pairs


def join_channels(
    channels: Mapping[str, Mapping[str, epath.Path]], patterns: Mapping[str, str]
) -> tuple[dict[str, tuple[epath.Path, ...]], dict[str, str]]:
    """Join the files of each image's channels.

    A file that the patterns of several channels match belongs to the one that gives it the shortest id: with
    `{id}.tif` and `{id}_gfp.tif`, `a_gfp.tif` is the second channel of `a`.

    Args:
      channels: file by id, of each channel by name.
      patterns: pattern of each channel by name, for messages.

    Returns:
      Files in the order of the channels, of each id that has all of them; and for each other id a text that names a
      file that is there and one that is not.

    Raises:
      InputError: a file is two channels of one image.
    """
    owners: dict[epath.Path, tuple[str, str]] = {}  # channel and id of each file
    for name, of_channel in channels.items():
        for id_, path in of_channel.items():
            other, other_id = owners.get(path, (name, id_ + " "))
            if other != name and other_id == id_:
                raise InputError(f"{path}: is {other} and {name} of the image {id_!r} (data.image_patterns).")
            if len(id_) < len(other_id):
                owners[path] = (name, id_)
    channels = {
        name: {id_: path for id_, path in of_channel.items() if owners[path] == (name, id_)}
        for name, of_channel in channels.items()
    }
    files: dict[str, tuple[epath.Path, ...]] = {}
    incomplete: dict[str, str] = {}
    for id_ in sorted({id_ for of_channel in channels.values() for id_ in of_channel}):
        absent = [name for name, of_channel in channels.items() if id_ not in of_channel]
        there = tuple(of_channel[id_] for of_channel in channels.values() if id_ in of_channel)
        if absent:
            wanted = patterns[absent[0]].replace("{id}", id_)
            incomplete[id_] = f"{there[0]}: has no {absent[0]} channel beside it ({wanted})"
        else:
            files[id_] = there
    return files, incomplete


def path_ids(pattern: str, path: str) -> list[str]:
    """Return the ids with which the last parts of a path match a pattern, longest first.

    Example:
      >>> path_ids("{id}/w1.tif", "/day 1/a/w1.tif"), path_ids("{id}_*.tif", "a_1_2.tif"), path_ids("w1/{id}", "a")
      (['a'], ['a_1', 'a'], [])
    """
    parts = pattern.split("/")
    names = normal_id(path).split("/")[-len(parts) :]
    ids: set[str | None] = {None}
    for part, name in zip(parts, names, strict=False):
        ids = {new_id for id_ in ids for new_id in _ids(part, name, id_)}
    return sorted({id_ for id_ in ids if id_ and len(names) == len(parts)}, key=len, reverse=True)
