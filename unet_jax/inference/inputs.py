"""Images that somebody names for prediction: files and folders, joined to images by id."""

from collections.abc import Iterator, Sequence

from etils import epath

from unet_jax._types import InputError
from unet_jax.data.listing import (
    IMAGE_SUFFIXES,
    check_name,
    count_endings,
    describe_endings,
    is_read,
    list_by_id,
    printable,
    stem_and_ending,
    walk,
)
from unet_jax.data.patterns import join_channels, path_ids, split_assignments

ImageFiles = tuple[epath.Path, ...]
"""The file of an image; or its files, one for each channel in the order of the channels."""


def find_inputs(inputs: Sequence[str | epath.Path], image_patterns: Sequence[str] = ()) -> dict[str, ImageFiles]:
    """Find images, and return their files by id.

    The id is the file's name without its ending. In a folder, it is the path below the folder without the ending.

    If the run's images have a file for each channel, files are joined by the same patterns: the end of a file's path is
    compared with the pattern, of which the folders that all patterns begin with are left out. What stands for `{id}`,
    and in a folder the path to it, is the id. Files that match no pattern are left out in folders.

    Args:
      inputs: image files, and folders that are searched for image files at any depth.
      image_patterns: the run's `data.image_patterns`.

    Raises:
      InputError: there is no such file, a name cannot be used or does not end like an image's, two images have the same
        id, an image lacks a channel, or a symbolic link leads in a circle.
    """
    if not inputs:
        raise InputError("no image was named: give files or folders after the run.")
    paths = [epath.Path(entry) for entry in inputs]
    for path in paths:
        _check_input(path)
    if image_patterns:
        return _find_channels(paths, image_patterns)
    files: dict[str, ImageFiles] = {}
    for path in paths:
        if path.is_dir():
            matched = list_by_id(path).files
            if not matched:
                others = unread_inputs([path])
                note = f" Not read, {others}." if others else ""
                raise InputError(f"{path}: holds no image. Images end in {', '.join(IMAGE_SUFFIXES)}.{note}")
        else:
            matched = {stem_and_ending(path.name)[0]: path}
        for id_, file in matched.items():
            if id_ in files:
                raise InputError(
                    f"{file}: would write the same output {id_}.png as {files[id_][0]}. Predict them separately, with "
                    f"another --out."
                )
            files[id_] = (file,)
    return files


def _check_input(path: epath.Path) -> None:
    """Raise `InputError` for a path that is neither a folder of images nor a file that is read."""
    beside = [p for p in path.iterdir() if not is_read(p.name)] if path.is_dir() else []
    for folder in (path, *beside):  # such as train/ of a data set
        if (folder / "images").is_dir() and (folder / "masks").is_dir():
            raise InputError(f"{folder}: is a data set with masks. Name its images: {folder / 'images'}.")
    if path.is_dir():
        return
    if not path.exists():
        raise InputError(f"{path}: there is no such file or folder.")
    if not is_read(path.name):
        raise InputError(f"{path}: does not end in one of {', '.join(IMAGE_SUFFIXES)}.")
    check_name(path)


def _find_channels(paths: Sequence[epath.Path], image_patterns: Sequence[str]) -> dict[str, ImageFiles]:
    """Find images of which each channel is a file of its own."""
    patterns = _without_common_folders(split_assignments(image_patterns, "data.image_patterns"))
    channels: dict[str, dict[str, epath.Path]] = {name: {} for name in patterns}
    shown = ", ".join(f"{name}={pattern}" for name, pattern in patterns.items())
    for path in paths:
        found = 0
        for file, relative in _files_below(path):
            for name, pattern in patterns.items():
                ids = _ids(pattern, file, relative)
                if len(ids) > 1:
                    raise InputError(f"{file}: may have the ids {ids} by data.image_patterns of the run. Rename it.")
                for id_ in ids:
                    other = channels[name].setdefault(id_, file)
                    if other != file:
                        raise InputError(
                            f"{file}: is {name} of {id_!r}, but {other} is as well. Predict them separately, with "
                            f"another --out."
                        )
                    found += 1
        if not found:
            what = "holds no file that matches" if path.is_dir() else "does not match"
            raise InputError(f"{path}: {what} the run's images, which have a file for each channel: {shown}.")
    files, incomplete = join_channels(channels, patterns)
    if incomplete:
        more = f" (and {len(incomplete) - 1} more images lack a channel)" if len(incomplete) > 1 else ""
        raise InputError(f"{next(iter(incomplete.values()))}{more}. Name the files of all channels: {shown}.")
    return files


def _files_below(path: epath.Path) -> Iterator[tuple[epath.Path, str]]:
    """Yield the image files that an input stands for, each with its path relative to the input."""
    if not path.is_dir():
        yield path, path.name
        return
    for file, prefix in walk(path):
        if is_read(file.name):
            check_name(file)
            yield file, prefix + file.name


def _ids(pattern: str, file: epath.Path, relative: str) -> list[str]:
    """Return the ids with which a file matches a pattern, with the folders that the pattern does not reach."""
    above = relative.split("/")[: -pattern.count("/") - 1]
    return ["/".join((*above, id_)) for id_ in path_ids(pattern, str(file.absolute()))]


def _without_common_folders(patterns: dict[str, str]) -> dict[str, str]:
    """Leave out the folders that all patterns begin with, so that the files may lie elsewhere."""
    parts = {name: pattern.split("/") for name, pattern in patterns.items()}
    count = 0
    while len({tuple(p[: count + 1]) for p in parts.values()}) == 1 and all(len(p) > count + 1 for p in parts.values()):
        if "{id}" in next(iter(parts.values()))[count]:
            break
        count += 1
    return {name: "/".join(p[count:]) for name, p in parts.items()}


def unread_inputs(inputs: Sequence[str | epath.Path], image_patterns: Sequence[str] = ()) -> str:
    """Say in words which files in folders `find_inputs` leaves out; an empty text if there are none.

    Args:
      inputs: the same as those of `find_inputs`.
      image_patterns: the same as those of `find_inputs`.

    Raises:
      InputError: a symbolic link leads in a circle.
    """
    files = [file for path in map(epath.Path, inputs) if path.is_dir() for file, _ in walk(path)]
    unread = [file for file in files if not is_read(file.name)]
    reasons = [f"because of the ending: {describe_endings(count_endings(unread))}"] if unread else []
    patterns = _without_common_folders(split_assignments(image_patterns, "data.image_patterns")).values()
    others = [f for f in files if is_read(f.name) and not any(path_ids(p, str(f.absolute())) for p in patterns)]
    if patterns and others:
        reasons.append(f"because they are no channel: {len(others)}, the first is {printable(others[0].name)}")
    return "; ".join(reasons)
