"""Listing of folders: the image files below a folder by id, and the files beside them that are not read."""

import collections
import os
import re
import unicodedata
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import NamedTuple

from etils import epath

from unet_jax._types import InputError
from unet_jax.config.checks import control_character

IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp", ".avif", ".jp2", ".ppm", ".pgm", ".pnm"),
    ".npy",
)
"""Endings of the files that are read as images or masks."""

ANNOTATION_SUFFIXES = (".json", ".geojson", ".csv", ".txt")
"""Endings of annotation files."""


class Listing(NamedTuple):
    """Files below a folder by id: their path relative to the folder, without the ending."""

    files: dict[str, epath.Path]  # image files, sorted by id
    unread: dict[str, list[epath.Path]]  # files whose ending is not read


def list_by_id(folder: epath.Path) -> Listing:
    """List the files of a folder and its subfolders by id. Names that begin with a dot are left out.

    Raises:
      InputError: two image files have the same id, a name cannot be used (`check_name`), or a link leads in a circle.
    """
    files: dict[str, epath.Path] = {}
    unread: dict[str, list[epath.Path]] = {}
    for path, prefix in walk(folder):
        id_ = normal_id(prefix + stem_and_ending(path.name)[0])
        if not is_read(path.name):
            unread.setdefault(id_, []).append(path)
            continue
        check_name(path)
        if id_ in files:
            raise InputError(f"{path}: has the same id {id_!r} as {files[id_]}. Rename one of them.")
        files[id_] = path
    return Listing(dict(sorted(files.items())), unread)


class MaskListing(NamedTuple):
    """Files of one class by the id of their image; the ids of files without an image are their own."""

    files: dict[str, tuple[epath.Path, ...]]
    unread: dict[str, list[epath.Path]]  # files whose ending is not read


def files_by_image(masks: Listing, image_ids: Container[str]) -> MaskListing:
    """Join the masks of a class with images: ID.ext, or all files of a folder ID, one for each object.

    Raises:
      InputError: an image has a file and a folder.
    """
    files: dict[str, tuple[epath.Path, ...]] = {}
    unread: dict[str, list[epath.Path]] = {}

    def image_of(id_: str) -> str:
        folder = id_.rpartition("/")[0]
        return folder if id_ not in image_ids and folder in image_ids else id_

    for id_, path in masks.files.items():
        image_id = image_of(id_)
        if image_id != id_ and image_id in masks.files:
            raise InputError(
                f"{masks.files[image_id]}: is the mask of {image_id!r}, and {path} is another. Keep the file, or the "
                f"folder with a file for each object."
            )
        files[image_id] = (*files.get(image_id, ()), path)
    for id_, paths in masks.unread.items():
        unread.setdefault(image_of(id_), []).extend(paths)
    return MaskListing(files, unread)


def subfolder(folder: epath.Path, name: str) -> epath.Path:
    """Return a folder's subfolder of this name, in capital letters or not; the exact name if there is none."""
    exact = folder / name
    if exact.is_dir() or not folder.is_dir():
        return exact
    return next((path for path in folder.iterdir() if path.name.lower() == name and path.is_dir()), exact)


def walk(folder: epath.Path) -> Iterator[tuple[epath.Path, str]]:
    """Yield every file in a folder and below it, and the path of the file's folder relative to `folder`.

    Names that begin with a dot are left out. The relative path is empty or ends in "/".

    Raises:
      InputError: a folder's name cannot be used, or a symbolic link leads to a folder that contains it.
    """
    pending: list[tuple[epath.Path, str, tuple[str, ...]]] = [(folder, "", (_real(folder),))]
    while pending:
        directory, prefix, above = pending.pop()
        for path in sorted(directory.iterdir(), key=lambda p: p.name):
            if path.name.startswith("."):
                continue
            if is_read(path.name) or not path.is_dir():
                yield path, prefix
                continue
            check_name(path)
            real = _real(path)
            if any(f"{folder_above}/".startswith(f"{real.rstrip('/')}/") for folder_above in above):
                raise InputError(
                    f"{path}: is a symbolic link to {printable(real)}, a folder that contains it, so that the files in "
                    f"it have no end. Remove the link."
                )
            pending.append((path, f"{prefix}{path.name}/", (*above, real)))


def _real(folder: epath.Path) -> str:
    """Return the path of a folder without symbolic links; buckets have none."""
    return str(folder) if "://" in str(folder) else os.path.realpath(folder)


def is_read(name: str) -> bool:
    """Return whether a file name ends as an image's.

    Example:
      >>> is_read("a.PNG"), is_read("a.ome.tif"), is_read("notes.txt")
      (True, True, False)
    """
    return name.lower().endswith(IMAGE_SUFFIXES)


def stem_and_ending(name: str) -> tuple[str, str]:
    """Divide a file name before its ending. `.ome.tif`, `.nii.gz` and the like are one ending.

    Args:
      name: name of a file, without folders.

    Returns:
      The stem as it is, and the ending in lower case; it begins with a dot or is empty.

    Example:
      >>> stem_and_ending("plate 1.A3.TIF"), stem_and_ending("plate 1.ome.tif"), stem_and_ending("README")
      (('plate 1.A3', '.tif'), ('plate 1', '.ome.tif'), ('README', ''))
    """
    stem, dot, last = name.rpartition(".")
    if not dot or not stem:
        return name, ""
    ending = f".{last.lower()}"
    inner, dot, middle = stem.rpartition(".")
    if inner and dot and ((middle.lower() == "ome" and is_read(name)) or (ending == ".gz" and len(middle) <= 4)):
        return inner, f".{middle.lower()}{ending}"
    return stem, ending


def normal_id(text: str) -> str:
    """Normalise an id to Unicode form NFC.

    File systems and programs disagree on whether an accented letter is one character or two; in ids it is one.
    """
    return unicodedata.normalize("NFC", text)


def first_group(expression: str, id_: str, field: str, wanted: str) -> str:
    """Return the first group of a regular expression's match in an id.

    Args:
      expression: value of the setting.
      id_: id that is searched.
      field: name of the setting, for messages.
      wanted: what the group names, for messages: "the image".

    Raises:
      InputError: the expression is not valid, does not match the id, or has no group there.

    Example:
      >>> first_group("^([^_]*)_", "p07_left", "data.group_key", "the patient")
      'p07'
    """
    try:
        match = re.search(expression, id_)
    except re.error as error:
        raise InputError(f"{field} is {expression!r}, which is not a valid regular expression: {error}.") from error
    if match is None or not match.groups() or match.group(1) is None:
        raise InputError(
            f"{field} is {expression!r}, which finds no group in the id {id_!r}. Put parentheses around the part that "
            f"names {wanted}."
        )
    return match.group(1)


def check_name(path: epath.Path) -> None:
    """Raise `InputError` for a name that is not UTF-8 or holds control characters, such as a line break.

    Ids are written to CSV, JSON and HTML files and to the terminal, one a line, and masks are named after them.
    """
    name = path.name
    bad = control_character(name)
    if bad:
        what = "is not UTF-8 text" if "\ud800" <= bad <= "\udfff" else f"holds a control character ({bad!a})"
        raise InputError(f"{printable(str(path))}: the name {what}. Rename it.")


def printable(text: str) -> str:
    r"""Return a text on one line of UTF-8, with escapes such as \n and \udcff for what cannot be printed.

    Example:
      >>> printable("a\nb\udcff µ")
      'a\\nb\\udcff µ'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def printable_lines(text: str) -> str:
    """Return a text of several lines with escapes for what cannot be printed, so that no name controls a terminal."""
    return "\n".join(printable(line) for line in text.split("\n"))


def count_endings(paths: Iterable[epath.Path]) -> tuple[tuple[str, int], ...]:
    """Count files by their ending, most frequent first.

    Example:
      >>> count_endings([epath.Path("a.xyz"), epath.Path("README"), epath.Path("b.XYZ")])
      (('.xyz', 2), ('', 1))
    """
    return tuple(collections.Counter(stem_and_ending(path.name)[1] for path in paths).most_common())


def describe_endings(counts: Iterable[tuple[str, int]]) -> str:
    """Say how many files have which ending, in words.

    Example:
      >>> describe_endings([(".xyz", 2), ("", 1)])
      '2 .xyz, 1 without an ending'
    """
    return ", ".join(f"{count} {printable(ending) or 'without an ending'}" for ending, count in counts)


def unread_hint(unread: Iterable[epath.Path]) -> str:
    """Say that a file of the wanted name is there, but with an ending that is not read; empty if there is none.

    Example:
      >>> unread_hint([epath.Path("images/im003.xyz")])
      'im003.xyz is there, but .xyz is not read: convert it to TIFF or PNG'
    """
    for path in unread:
        ending = stem_and_ending(path.name)[1]
        remedy = "try unet-jax import-masks" if ending in ANNOTATION_SUFFIXES else "convert it to TIFF or PNG"
        is_not_read = f"{printable(ending) or 'a file without ending'} is not read: {remedy}"
        return f"{printable(path.name)} is there, but {is_not_read}"
    return ""


def plain_ids(ids: Iterable[str]) -> dict[str, str]:
    """Return ids by what is left of them without capital letters and leading zeros.

    Example:
      >>> plain_ids(["A007", "b_10"])
      {'a7': 'A007', 'b_10': 'b_10'}
    """
    return {_plain(id_): id_ for id_ in ids}


def _plain(id_: str) -> str:
    return re.sub(r"0+(?=\d)", "", id_.casefold())


def alike_hint(plain: Mapping[str, str], id_: str) -> str:
    """Say, after a semicolon, that there is a file whose name differs in capital letters or zeros only; else empty.

    Example:
      >>> alike_hint(plain_ids(["a7"]), "A007"), alike_hint(plain_ids(["a7"]), "a8")
      ("; 'a7' is there, but names must be equal: rename it", '')
    """
    alike = plain.get(_plain(id_), id_)
    return f"; {printable(alike)!r} is there, but names must be equal: rename it" if alike != id_ else ""


def hint_after(unread: Mapping[str, Iterable[epath.Path]], id_: str) -> str:
    """Say, after a semicolon, that a file of this id is there but not read; empty if there is none."""
    hint = unread_hint(unread.get(id_, ()))
    return f"; {hint}" if hint else ""
