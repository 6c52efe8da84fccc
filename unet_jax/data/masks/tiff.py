"""Decoding of TIFF masks into the numbers that they hold, whatever they say how these are to be displayed."""

import io
from typing import Any

import numpy as np
import tifffile
from etils import epath

from unet_jax.data.masks.content import MaskFile, is_inverting, largest, native
from unet_jax.data.memory import open_picture, refuse_beyond_memory
from unet_jax.data.orientation import turned
from unet_jax.data.pixels import BadSampleError
from unet_jax.data.whole_files import check_num_pages, stack_error

_LOSSY = {6, 7, 33007, 34712, 34892, 33003, 33004, 33005, 50001}  # JPEG, JPEG 2000, lossy JPEG of DNG, WebP


def read_tiff_mask(path: epath.Path, data: bytes) -> MaskFile:
    """Decode a TIFF file with the numbers that it holds, whatever its photometric interpretation."""
    with tifffile.TiffFile(io.BytesIO(data), is_ome=False) as tif:  # OME would look for other files
        page: Any = tif.pages[0]
        check_num_pages(path, tif)
        _refuse_stack(path, tif, page)
        refuse_beyond_memory(path, page.nbytes, len(data))
        _refuse_gaps(path, data, page)
        photometric, bits = int(page.photometric), page.bitspersample
        if photometric not in (0, 1, 2, 3) and not (photometric == 6 and int(page.compression) == 7):
            name = getattr(page.photometric, "name", photometric)
            raise BadSampleError(
                f"{path}: has the colours {name}, but a mask is gray, RGB or has a palette. Convert it."
            )
        values = native(_tiff_pixels(path, data, page))
        full = 2**bits - 1 if page.dtype is not None and page.dtype.kind in "ub" else largest(values.dtype)
        is_lossy = int(page.compression) in _LOSSY
        num_colors = 3 if photometric in (2, 6) else 1
        channels = 1 if values.ndim == 2 else values.shape[-1]
        if channels not in (num_colors, num_colors + 1):
            raise BadSampleError(
                f"{path}: has {channels} channels, but a mask is gray, RGB or has a palette. Save one file per class."
            )
        alpha = values[..., num_colors] if channels > num_colors else None
        if values.ndim == 3:
            values = values[..., 0] if num_colors == 1 else values[..., :3]
        if photometric == 3:
            table = np.asarray(page.colormap).T  # 16 bits; some programs write 8 bits into them
            palette = (table if table.max() < 256 else table >> 8).astype(np.uint8)
            if is_inverting(palette) and _keeps_numbers(page):
                return MaskFile(values, full, alpha)
            no_data = page.tags.get(42113)  # GDAL's
            text = str(no_data.value).strip() if no_data else ""
            background = int(text) if text.isdigit() else None
            indices = values.astype(np.uint8) if values.dtype == np.bool_ else values
            return MaskFile(indices, full, alpha, palette, len(palette), background=background)
        if photometric == 0 and not _keeps_numbers(page):
            values = _by_color(path, page, values)
        return MaskFile(values, full, alpha, is_lossy=is_lossy)


def _refuse_stack(path: epath.Path, tif: tifffile.TiffFile, page: Any) -> None:
    """Raise BadSampleError if a file holds several pictures of one size. Thumbnails and pyramids are ignored."""
    pixels = page.imagelength * page.imagewidth
    count = 0
    for series in tif.series:
        first: Any = series.keyframe
        if (first.imagelength, first.imagewidth) == (page.imagelength, page.imagewidth) and not first.is_reduced:
            count += series.size // (pixels * first.samplesperpixel)
    if count > 1:
        raise stack_error(path, count)


def _tiff_pixels(path: epath.Path, data: bytes, page: Any) -> np.ndarray:
    """Decode a page as `[h w]` or `[h w c]`, turned as its orientation says."""
    try:
        values = np.asarray(page.asarray())
    except Exception as error:
        lacks_codec = "imagecodecs" in str(error) or "not supported" in str(error)
        if not lacks_codec and not isinstance(error, ModuleNotFoundError):
            raise
        return _tiff_by_pillow(path, data, page)
    if values.ndim == 3 and page.planarconfig == 2:
        values = np.moveaxis(values, 0, -1)
    if values.ndim not in (2, 3):
        raise BadSampleError(f"{path}: holds an array {list(values.shape)}. Save each picture as a file of its own.")
    return turned(values, getattr(page.tags.get(274), "value", 1))


def _tiff_by_pillow(path: epath.Path, data: bytes, page: Any) -> np.ndarray:
    """Decode a page with Pillow's libtiff, which has codecs that tifffile has only with imagecodecs, such as LZW."""
    try:
        with open_picture(data) as picture:
            values = np.array(picture)  # turned by Pillow
    except Exception as error:
        compression = getattr(page.compression, "name", page.compression)
        raise BadSampleError(
            f"{path}: is compressed with {compression}, which needs the package imagecodecs: pip install imagecodecs "
            f"(or 'unet_jax[tiff]')."
        ) from error
    bits, photometric = page.bitspersample, int(page.photometric)
    if bits in (2, 4) and photometric in (0, 1):
        values = values // np.uint8(255 // (2**bits - 1))
    if photometric == 0 and bits <= 8:  # undo Pillow's inversion
        values = ~values if values.dtype == np.bool_ else np.uint8(2**bits - 1) - values
    return values


def _refuse_gaps(path: epath.Path, data: bytes, page: Any) -> None:
    """Raise BadSampleError if a part of the pixels is not in the file. GDAL leaves parts out that are 0."""
    parts = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    is_cut = any(start + count > len(data) for start, count in parts)
    if is_cut or not parts or (any(count == 0 for _, count in parts) and not _is_by_gdal(page)):
        raise BadSampleError(f"{path}: is not a readable image (it is cut off; {len(data)} bytes). Replace it.")


def _is_by_gdal(page: Any) -> bool:
    """Return True if a page has tags of GDAL or GeoTIFF."""
    return any(code in page.tags for code in (42112, 42113, 33550, 34735))


def _keeps_numbers(page: Any) -> bool:
    """Return True if the program that wrote a MinIsWhite page means by its numbers what NumPy arrays mean.

    tifffile marks bool arrays as MinIsWhite, ImageJ images with an inverting look-up table, and GDAL what it is told
    to, without a change to the numbers: what is inside is 1 or 255.
    """
    software = str(getattr(page.tags.get(305), "value", ""))
    description = str(getattr(page.tags.get(270), "value", ""))
    is_known = software.startswith("tifffile") or description.startswith(("ImageJ=", '{"shape":'))
    return is_known or _is_by_gdal(page)


def _by_color(path: epath.Path, page: Any, values: np.ndarray) -> np.ndarray:
    """Return the pixels of a MinIsWhite page with black as 0.

    Fax compressions are MinIsWhite by their nature. In other files it may be that the numbers were turned, or only the
    tag was set: GDAL and ImageMagick do the latter.

    Raises:
      BadSampleError: the page is not compressed like a fax.
    """
    if int(page.compression) not in (2, 3, 4) or values.dtype != np.bool_:
        raise BadSampleError(
            f"{path}: is a TIFF in which 0 is white (MinIsWhite), by a program that is not known to mean it, so that "
            f"inside and outside cannot be told apart. Save it as PNG, white inside and black outside."
        )
    return ~values
