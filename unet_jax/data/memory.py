"""Files as large as memory allows: Pillow's limit lifted; files refused that need more or say what cannot be."""

import contextlib
import io
import threading
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from unet_jax.data.pixels import BadSampleError, pillow_formats

_MUCH = 2**28  # bytes; for less, nobody is asked
_MOST_TIMES = 20_000  # deflate makes pixels a thousandth at most, LZW a three thousandth; GDAL leaves out tiles of 0
_lock = threading.Lock()


def open_picture(data: bytes) -> Image.Image:
    """Open a file with Pillow, however many pixels it has."""
    with _lock:  # Pillow's limit is a variable of its module, which it looks at while it opens a file
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(io.BytesIO(data), formats=pillow_formats())
        finally:
            Image.MAX_IMAGE_PIXELS = limit


@contextlib.contextmanager
def enough_memory(path: object) -> Iterator[None]:
    """Raise BadSampleError, with the name of a file, where the block that decodes it finds too little memory.

    Example:
      >>> try:
      ...     with enough_memory("a.png"):
      ...         raise MemoryError
      ... except BadSampleError as error:
      ...     print(error)
      a.png: there is not enough memory to decode it. Cut image and mask into parts.
    """
    try:
        yield
    except MemoryError as error:
        raise BadSampleError(
            f"{path}: there is not enough memory to decode it. Cut image and mask into parts."
        ) from error


def refuse_beyond_memory(path: object, num_bytes: int, file_bytes: int) -> None:
    """Raise BadSampleError if a file of so many bytes cannot hold its pixels, or they need more memory than is free.

    Args:
      path: name of the file, for messages.
      num_bytes: number of bytes of the decoded pixels, as the file says.
      file_bytes: number of bytes of the file.
    """
    if num_bytes > max(_MUCH, _MOST_TIMES * file_bytes):
        raise BadSampleError(
            f"{path}: says that its pixels are {num_bytes / 2**30:.1f} GiB, but it has {file_bytes} bytes. Replace it; "
            f"or save it as PNG or TIFF, if it really is that large and all of one colour."
        )
    needed = 3 * num_bytes
    free = _free_memory() if needed > _MUCH else None
    if free is not None and needed > free:
        raise BadSampleError(
            f"{path}: needs {needed / 2**30:.1f} GiB of memory to be decoded, but {free / 2**30:.1f} GiB are free. Cut "
            f"image and mask into parts."
        )


def _free_memory() -> int | None:
    """Return the memory in bytes that this process can still have, by Linux and its control group; None elsewhere."""
    try:
        text = Path("/proc/meminfo").read_text()
        free = int(text.split("MemAvailable:")[1].split()[0]) * 1024
    except (OSError, IndexError, ValueError):
        return None
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())
        cached = int((group / "memory.stat").read_text().split("inactive_file ")[1].split()[0])
        return min(free, limit - int((group / "memory.current").read_text()) + cached)
    except (OSError, IndexError, ValueError):  # no control group, or no limit
        return free
