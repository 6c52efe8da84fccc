"""The image files that annotation files mean, found by the names that these have for them."""

import re
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from etils import epath

from unet_jax._types import InputError
from unet_jax.data.listing import is_read, normal_id, printable, stem_and_ending, walk
from unet_jax.data.pixels import BadSampleError

_UPLOAD_PREFIX = re.compile(r"^[0-9a-f]{8}-")  # Label Studio puts it before the names of files that are uploaded
_SIDECARS = (".json", ".geojson", ".txt", ".xml", ".csv")  # annotation files, which have the names of images


class ImageFolder(NamedTuple):
    """Files below a folder that are image files by their ending."""

    folder: Path
    files: tuple[Path, ...]
    by_name: dict[str, list[Path]]  # by file name, in lower case
    by_stem: dict[str, list[Path]]  # by file name without ending, in lower case
    unread: tuple[Path, ...]  # files with other endings

    def id_of(self, path: Path) -> str:
        """Return the id that a data set's layout gives to this file: its path in the folder without the ending."""
        inside = path.relative_to(self.folder) if self.folder in path.parents else Path(path.name)
        return normal_id((inside.parent / stem_and_ending(path.name)[0]).as_posix())


class FoundImage(NamedTuple):
    """Image file that an annotation file means."""

    path: Path
    is_renamed: bool = False  # its ending is not the one that the annotation file says


def index_images(folder: Path) -> ImageFolder:
    """List the images below a folder; raise `InputError` if there is no such folder."""
    if not folder.is_dir():
        raise InputError(f"{printable(str(folder))}: is not a folder. Name the one with the images: --images DIR.")
    paths = [Path(path) for path, _ in walk(epath.Path(folder))]
    files = sorted(path for path in paths if is_read(path.name))
    by_name: dict[str, list[Path]] = {}
    by_stem: dict[str, list[Path]] = {}
    for path in files:
        name = normal_id(path.name).lower()
        by_name.setdefault(name, []).append(path)
        by_stem.setdefault(stem_and_ending(name)[0], []).append(path)
    unread = tuple(path for path in paths if not is_read(path.name))
    return ImageFolder(folder, tuple(files), by_name, by_stem, unread)


def images_beside(places: Sequence[Path]) -> ImageFolder:
    """List the images that lie where annotation files do: in a folder images/, or beside the files.

    Args:
      places: folders of the annotation files.

    Raises:
      InputError: there are several, so that the images may lie anywhere.
    """
    if len(places) > 1:
        raise InputError(
            f"the annotations are in {len(places)} folders ({printable(str(places[0]))}, {printable(str(places[1]))}). "
            f"Say where their images are: --images DIR."
        )
    place = places[0]
    yolo = Path(*("images" if part == "labels" else part for part in place.parts))
    for folder in (place / "images", yolo, place, place.parent / "images"):
        if folder.is_dir() and (images := index_images(folder)).files:
            return images
    return index_images(place)


def find_image(images: ImageFolder, name: str, where: str, beside: Path | None = None) -> FoundImage:
    """Find the image that an annotation file means.

    Folders in the name must not contradict the folder that a file lies in, unless the name is a path or URL on another
    machine. A file with another ending is taken if there is none with the right one, because TIFF files of 16 bits are
    often annotated on copies that a browser can show.

    Args:
      images: images of the data set.
      name: name, relative or absolute path, or URL; a name without ending fits every ending.
      where: file and place in it, for messages.
      beside: folder whose images are preferred if several have this name.

    Raises:
      BadSampleError: no image or several have this name.
    """
    parts, is_foreign = _parts(name)
    if not parts:
        raise BadSampleError(f"{where}: names the image {name!r}, which is no file name.")
    last = parts[-1].lower()
    for candidate in dict.fromkeys((last, _UPLOAD_PREFIX.sub("", last))):
        stem = stem_and_ending(candidate)[0] if is_read(candidate) else candidate
        for paths, is_renamed in (
            (images.by_name.get(candidate, []), False),
            (images.by_stem.get(stem, []), is_read(candidate)),
        ):
            fits = {path: _fit(images, path, parts) for path in paths}
            best = max(fits.values(), default=0)
            chosen = [path for path, fit in fits.items() if fit == best and (fit or is_foreign)]
            chosen = [path for path in chosen if path == images.folder.joinpath(*parts)] or chosen
            chosen = [path for path in chosen if path.parent == beside] or chosen
            if len(chosen) > 1:
                files = ", ".join(printable(str(path)) for path in chosen[:3])
                raise BadSampleError(
                    f"{where}: the image {name!r} may be {files}. Name the folder with the right one: --images DIR."
                )
            if chosen:
                return FoundImage(chosen[0], is_renamed)
    raise BadSampleError(f"{where}: the image {name!r} is not in {printable(str(images.folder))}{_near(images, parts)}")


def _parts(name: str) -> tuple[list[str], bool]:
    """Divide a name at its slashes; also return whether it is a path or URL on another machine."""
    text = name.strip()
    is_url = "://" in text[:10]
    if "?d=" in text:  # Label Studio: local files
        text, is_url = text.split("?d=", 1)[1].split("&", 1)[0], True
    elif is_url:
        text = text.split("://", 1)[1].split("?", 1)[0].split("#", 1)[0]
    if is_url:
        text = urllib.parse.unquote(text)
    text = normal_id(text.replace("\\", "/"))
    is_foreign = is_url or text.startswith("/") or bool(re.match(r"^[A-Za-z]:/", text)) or ".." in text.split("/")
    parts = [part for part in text.split("/") if part not in ("", ".", "..")]
    return parts, is_foreign


def _fit(images: ImageFolder, file: Path, parts: list[str]) -> int:
    """Return how many folders of the name are those of the file, plus one; 0 if they contradict each other."""
    folders = [normal_id(part).lower() for part in file.relative_to(images.folder).parts[:-1]]
    wanted = [part.lower() for part in parts[:-1]]
    num_both = min(len(folders), len(wanted))
    equal = 0
    while equal < num_both and folders[-1 - equal] == wanted[-1 - equal]:
        equal += 1
    return equal + 1 if equal == num_both else 0


def _near(images: ImageFolder, parts: list[str]) -> str:
    """Say what is there instead, and what to do."""
    stem = stem_and_ending(parts[-1])[0].lower()
    for path in images.by_stem.get(stem, ()):
        return f", but {printable(str(path))} is there. Name its folder with --images DIR."
    for path in images.unread:
        name, ending = stem_and_ending(path.name)
        if name.lower() == stem and ending not in _SIDECARS:
            what = ending or "a file without ending"
            return f", but {printable(path.name)} is there, and {what} is not read. Convert it."
    return f", which holds {len(images.files)} images. Put it there, or name its folder with --images DIR."
