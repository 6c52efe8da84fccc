"""The identity of a file: size in bytes, times of its last changes in ns, and a digest of its content."""

import hashlib
import os
from typing import Any

from etils import epath

from unet_jax.data.pixels import BadSampleError, read_bytes


def identity(path: epath.Path) -> list[Any]:
    """Return [size, time of the last change of the content, of the content or its attributes, digest] of a file.

    The second time is the system's own, and cannot be set by programs. Buckets have none: there it is 0.

    Raises:
      BadSampleError: the file cannot be read.
    """
    return [*stat_of(path), content_digest(path)]


def same_content(path: epath.Path, before: list[Any]) -> list[Any]:
    """Return the identity of a file, whose content is read only if its size or times are not those of `before`."""
    now = stat_of(path)
    return [*now, before[3] if now == before[:3] else content_digest(path)]


def stat_of(path: epath.Path) -> list[int]:
    """Return size and times of a file, which tell most changes without reading it.

    Raises:
      BadSampleError: the file is not there.
    """
    try:
        if "://" in str(path):
            stat = path.stat()
            return [stat.length, int(stat.mtime * 1e9), 0]
        local = os.stat(path)
        return [local.st_size, local.st_mtime_ns, local.st_ctime_ns]
    except OSError as error:
        raise BadSampleError(f"{path}: cannot be read ({error}). Restore the file or remove the sample.") from error


def content_digest(path: epath.Path) -> str:
    """Return a digest of the content of a file."""
    return hashlib.blake2b(read_bytes(path), digest_size=16).hexdigest()
