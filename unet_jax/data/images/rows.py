"""Images that are read from the top to the bottom in blocks of rows, so that they need not be in memory as a whole."""

import mmap
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from unet_jax.data.images.files import check_pixels, map_npy
from unet_jax.data.images.format import ImageFormat, read_as
from unet_jax.data.images.tiff import TIFF_SUFFIXES
from unet_jax.data.images.tiff_rows import open_tiff_rows
from unet_jax.data.pixels import BadSampleError

LARGE_BYTES = 2**26
"""Number of bytes of pixels in a file from which on it is read in blocks; smaller images are decoded whole."""
_BLOCK_BYTES = 2**24


class ImageRows(NamedTuple):
    """An image as blocks of consecutive rows."""

    height: int
    """Number of rows."""
    width: int
    """Number of columns."""
    blocks: Callable[[], Iterator[np.ndarray]]
    """Function that begins at the top and yields blocks of rows, `[rows width c]`, to the bottom. It raises
    BadSampleError where the file cannot be decoded."""
    held_bytes: int = 0
    """Number of bytes that the image takes in memory while nobody asks for its blocks."""

    def whole(self) -> np.ndarray:
        """Return the whole image, `[h w c]`."""
        blocks = list(self.blocks())
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def rows_of(pixels: np.ndarray) -> ImageRows:
    """Return an image that is in memory, `[h w c]`, as one block.

    Example:
      >>> rows_of(np.zeros((5, 7, 3), np.uint8))[:2]
      (5, 7)
    """
    return ImageRows(pixels.shape[0], pixels.shape[1], lambda: iter([pixels]), pixels.nbytes)


def open_rows(files: Sequence[epath.Path], image_format: ImageFormat | None) -> ImageRows:
    """Open an image file, whose pixels come as the network sees them.

    Large local TIFF and .npy files are read block by block when blocks are asked for, if the format of the run does not
    need all pixels at once (percentiles of each image) and the file is stored in rows or tiles. All other files are
    decoded whole now.

    Args:
      files: the image's file; or one for each channel, if the format names the channels.
      image_format: format of the run; None is 8-bit RGB of any file.

    Raises:
      BadSampleError: the file cannot be read, or its channels or depth are others than the run's.
    """
    stored, path = None, files[0]
    if image_format and not (image_format.percentiles or image_format.names) and "://" not in str(path):
        if not path.is_file():
            raise BadSampleError(f"{path}: cannot be read (there is no such file). Restore it.")
        if path.suffix.lower() == ".npy":
            stored = _npy_rows(path)
        elif path.suffix.lower() in TIFF_SUFFIXES:
            stored = open_tiff_rows(path, pages=image_format.pages, least_bytes=LARGE_BYTES)
    if stored is None:
        return rows_of(read_as(files, image_format))

    def blocks() -> Iterator[np.ndarray]:
        first_row = 0
        for block in stored.blocks():
            pixels = check_pixels(path, block, first_row=first_row)
            first_row += len(block)
            yield image_format.apply(pixels, str(path))  # type: ignore[union-attr]

    return ImageRows(stored.height, stored.width, blocks)


def joined(views: Sequence[ImageRows]) -> ImageRows:
    """Join the channels of one image that was opened in several formats.

    Args:
      views: the same image, in formats that only differ in limits of intensity, so that their blocks have equal rows.
    """
    if len(views) == 1:
        return views[0]

    def blocks() -> Iterator[np.ndarray]:
        for parts in zip(*(view.blocks() for view in views), strict=True):
            yield np.concatenate(parts, axis=-1)

    return ImageRows(views[0].height, views[0].width, blocks, sum(view.held_bytes for view in views))


def _npy_rows(path: epath.Path) -> ImageRows | None:
    """Map a .npy file into memory; None if it is not large."""
    if path.stat().length < LARGE_BYTES:
        return None
    pixels = map_npy(path)
    num_rows = max(1, _BLOCK_BYTES // max(1, pixels[:1].nbytes))

    def blocks() -> Iterator[np.ndarray]:
        for start in range(0, len(pixels), num_rows):
            block = np.array(pixels[start : start + num_rows])
            _forget_pages(pixels)
            yield block.astype(block.dtype.newbyteorder("="), copy=False)

    return ImageRows(pixels.shape[0], pixels.shape[1], blocks)


def _forget_pages(mapped: np.ndarray) -> None:
    """Let the system take back what was read of a mapped file; otherwise all of it would count as memory in use."""
    base: Any = mapped
    while isinstance(base, np.ndarray):
        base = base.base
    if hasattr(mmap, "MADV_DONTNEED"):  # not on every system
        base.madvise(mmap.MADV_DONTNEED)
