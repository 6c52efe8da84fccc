"""Reading of large TIFF files in blocks of rows, as their strips and tiles are stored."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import tifffile
from etils import epath

from unet_jax.data.images.tiff import channels_last, open_tiff, orientation, plan_tiff
from unet_jax.data.pixels import BadSampleError

_READ_PHOTOMETRICS = (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB, tifffile.PHOTOMETRIC.YCBCR)
_READ_AT_ONCE = 2**22  # encoded bytes; tifffile decodes the segments that it reads at once in several threads
_BLOCK_BYTES = 2**24


class TiffRows(NamedTuple):
    """The image of a TIFF file as blocks of rows, with the numbers that the file holds."""

    height: int
    width: int
    blocks: Callable[[], Iterator[np.ndarray]]  # `[rows width c]` of the file's dtype


def open_tiff_rows(path: epath.Path, *, pages: str, least_bytes: int) -> TiffRows | None:
    """Open the image of a local TIFF file.

    Args:
      path: the file.
      pages: meaning of unexplained pages, as in `read_tiff`.
      least_bytes: number of bytes of pixels below which the file is not opened.

    Returns:
      None if the file is smaller, or if its image can only be read as a whole: rotated, of a palette, white as 0,
      multiplied by alpha, planes one after the other in compressed strips, or with a codec that is not installed.

    Raises:
      BadSampleError: the file is damaged, or does not hold one image.
    """
    with open_tiff(path, path) as tif:
        plan = plan_tiff(path, tif, pages)
        series, page = plan.series, plan.series.keyframe
        height, width = (series.shape[series.axes.index(axis)] for axis in "YX")
        is_plain = page.photometric in _READ_PHOTOMETRICS and page.bitspersample >= 8 and not plan.is_premultiplied
        if series.nbytes < least_bytes or not is_plain or orientation(page) != 1:
            return None
        if series.dataoffset is not None and page.compression == 1:
            dtype = np.dtype(series.dtype).newbyteorder(tif.byteorder)
            offset, shape, y_axis = series.dataoffset, series.shape, series.axes.index("Y")
            if offset + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize > path.stat().length:
                raise BadSampleError(f"{path}: is cut off: its pixels do not end in the file. Restore the file.")
            num_rows = max(1, _BLOCK_BYTES * height // series.nbytes)
            found = lambda: _mapped(path, dtype, offset, shape, y_axis, num_rows)  # noqa: E731
        elif page.planarconfig == 1 and series.axes.removesuffix("S").endswith("YX") and _can_decode(page):
            found = lambda: _decoded(path, pages)  # noqa: E731
        else:
            return None

    def blocks() -> Iterator[np.ndarray]:
        done = 0
        try:
            for block in found():
                pixels = channels_last(block, plan)
                done += len(pixels)
                yield pixels if plan.alpha is None else np.delete(pixels, plan.alpha, axis=-1)
        except Exception as error:  # tifffile and codecs raise errors of many types for damaged files
            raise BadSampleError(f"{path}: cannot be decoded from row {done} on ({error}). Replace it.") from error
        if done != height:
            raise BadSampleError(f"{path}: has {height} rows, but only {done} can be decoded. Replace it.")

    return TiffRows(height, width, blocks)


def _can_decode(page: Any) -> bool:
    """Return whether the codec of a page is installed."""
    return page.compression == 1 or page.compression in tifffile.TIFF.DECOMPRESSORS


def _mapped(
    path: epath.Path, dtype: np.dtype, offset: int, shape: tuple[int, ...], y_axis: int, num_rows: int
) -> Iterator[np.ndarray]:
    """Yield blocks of pixels that are stored one after the other, with the axes of the series."""
    pixels = np.memmap(path, dtype, "r", offset=offset, shape=shape)
    for start in range(0, shape[y_axis], num_rows):
        rows = [slice(None)] * len(shape)
        rows[y_axis] = slice(start, start + num_rows)
        yield np.array(pixels[tuple(rows)])


def _decoded(path: epath.Path, pages: str) -> Iterator[np.ndarray]:
    """Yield rows of strips or tiles, of all pages of the series, with the axes of the series."""
    with open_tiff(path, path) as tif:
        series = plan_tiff(path, tif, pages).series
        for of_pages in zip(*(_rows_of_segments(page.aspage()) for page in series.pages), strict=True):
            stacked = np.stack(of_pages)  # [pages rows width samples]
            axes = series.shape[: len(series.axes) - (3 if series.axes.endswith("S") else 2)]
            samples = stacked.shape[3:] if series.axes.endswith("S") else ()
            yield stacked.reshape(*axes, *stacked.shape[1:3], *samples)


def _rows_of_segments(page: Any) -> Iterator[np.ndarray]:
    """Yield each row of strips or tiles of one page: `[rows width samples]`."""
    rows, first = None, 0
    per_block = page.tilelength if page.is_tiled else page.rowsperstrip
    for segment, (_, _, y, x, _), (_, num_rows, num_columns, _) in page.segments(buffersize=_READ_AT_ONCE):
        if rows is None or y != first:
            if rows is not None:
                yield rows
            shape = (min(per_block, page.imagelength - y), page.imagewidth, page.samplesperpixel)
            rows, first = np.full(shape, page.nodata, page.dtype), y
        if segment is not None:
            part = rows[: min(num_rows, len(rows)), x : x + num_columns]
            part[...] = segment[0, : part.shape[0], : part.shape[1]]
    if rows is not None:
        yield rows
