"""Patterns of paths with {id} and *: the files that match, and the ids that they may have."""

import functools
import re
from collections.abc import Callable, Iterator

from etils import epath

from unet_jax._types import InputError
from unet_jax.data.listing import check_name, normal_id

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
        raise InputError(f"{folder}: no file matches {'/'.join(parts[num_fixed:])!r} ({field}).")
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
