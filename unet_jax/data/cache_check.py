"""The check that a folder holds the cache of just these samples: settings, arrays, and the files it was built from."""

import json
from pathlib import Path
from typing import Any

from etils import epath

from unet_jax._types import InputError
from unet_jax.data.cache_files import CacheFiles
from unet_jax.data.cache_sources import REMEDY, map_array
from unet_jax.data.file_identity import content_digest, stat_of
from unet_jax.data.sources import FileSource

CACHE_FORMAT = 1
"""Number in `meta.json`; to be raised when equal files and settings lead to other arrays."""


def check_cache(folder: Path, settings: dict[str, Any], source: FileSource, files: CacheFiles) -> None:
    """Raise `InputError` unless the folder holds exactly these samples."""
    try:
        meta = json.loads((folder / "meta.json").read_text())
        cache_format, kept, identities_of = meta["format"], meta["settings"], meta["files"]
        fine = len(identities_of) == len(source) and all(
            _is_identity(x) for of_sample in identities_of for x in of_sample
        )
        if not fine or not isinstance(kept, dict):
            raise ValueError("it does not hold the identity of each file")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder}: is not a complete cache of unet_jax ({error!r}). {REMEDY}") from error
    if cache_format != CACHE_FORMAT:
        raise InputError(
            f"{folder}: is a cache of format {cache_format!r}, but this version reads {CACHE_FORMAT}. {REMEDY}"
        )
    for name, wanted in settings.items():
        if kept.get(name) != wanted:
            difference = _difference(name, kept.get(name), wanted)
            raise InputError(f"{folder}: was built from other samples or settings: {difference}. {REMEDY}")
    for name, header in files.headers.items():
        shape, dtype = header
        path = folder / f"{name}.npy"
        try:
            with open(path, "rb") as file:
                array = map_array(file)
        except (OSError, ValueError) as error:
            size = path.stat().st_size if path.exists() else 0
            raise InputError(
                f"{path}: is truncated or damaged ({size} bytes, but {header.num_bytes} bytes of "
                f"pixels are needed; {error}). {REMEDY}"
            ) from error
        if array.shape != shape or array.dtype != dtype:
            raise InputError(f"{path}: is {array.dtype} {array.shape}, but must be {dtype} {shape}. {REMEDY}")
    for record, identities in zip(source.records, identities_of, strict=True):
        if len(record.files) != len(identities):
            raise InputError(f"{folder}: is stale: {record.id!r} has more or fewer mask files than it had. {REMEDY}")
        for path, kept_identity in zip(record.files, identities, strict=True):
            _check_file(folder, record.id, path, kept_identity)


def _is_identity(value: Any) -> bool:
    """Return whether a value of meta.json can be the identity of a file, or stands for no file."""
    kinds = [type(part) for part in value] if isinstance(value, list) else []
    return value is None or kinds in ([int, int, str], [int, int, str, int])


def _check_file(folder: Path, id_: str, path: epath.Path | None, kept: list[Any] | None) -> None:
    """Raise `InputError` if a file differs from the identity that the cache was built from; None means no file."""
    if path is None or kept is None:
        if (path is None) != (kept is None):
            raise InputError(
                f"{folder}: is stale: a mask of {id_!r} is {'missing' if path is None else 'there'} now, and was not "
                f"when the cache was built ({path}). {REMEDY}"
            )
        return
    size, changed, any_change = stat_of(path)
    if [size, changed] == kept[:2] and any_change == (kept[3] if len(kept) > 3 else any_change):
        return
    if size != kept[0]:
        raise InputError(
            f"{folder}: is stale: {path} (sample {id_!r}) had {kept[0]} bytes when the cache was built, now {size}. "
            f"{REMEDY}"
        )
    digest = content_digest(path)
    if digest != kept[2]:
        raise InputError(
            f"{folder}: is stale: the content of {path} (sample {id_!r}) changed since the cache was built (digest "
            f"{kept[2]}, now {digest}). {REMEDY}"
        )


def _difference(name: str, kept: Any, wanted: Any) -> str:
    """Describe how a setting differs; long lists are described by their lengths and one differing entry."""
    if isinstance(kept, list) and len(str(kept)) + len(str(wanted)) > 200:
        only = sorted(set(map(str, kept)) ^ set(map(str, wanted)))
        return f"it holds other {name} ({len(kept)}, wanted {len(wanted)}; {only[0] if only else 'the order'} differs)"
    return f"{name} was {kept!r}, and is {wanted!r} now"
