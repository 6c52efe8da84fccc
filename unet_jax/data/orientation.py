"""Orientations that picture files carry (EXIF, TIFF): how stored pixels must be turned to be shown."""

from typing import BinaryIO

import numpy as np
import tifffile
from PIL import Image

from unet_jax.data.pixels import pillow_formats
from unet_jax.data.png_chunks import PNG_START, read_chunk

_TAG = 274  # of TIFF and EXIF
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Apply an orientation, 1 to 8, to `[h w]` or `[h w c]` pixels; return a view.

    Example:
      >>> turned(np.array([[1, 2, 3]]), 3).tolist(), turned(np.array([[1, 2, 3]]), 6).tolist()
      ([[3, 2, 1]], [[1], [2], [3]])
    """
    if swaps_sides(orientation):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def swaps_sides(orientation: int) -> bool:
    """Return True if the height of what is shown is the width of what is stored."""
    return orientation in (5, 6, 7, 8)


def read_orientation(file: BinaryIO) -> int | None:
    """Return the orientation that a picture file carries, 1 to 8; None if it carries none, as most do not.

    Only what viewers follow counts: EXIF, the tag of TIFF, and what AVIF has in their place. A file that cannot be read
    carries none: whoever decodes it says what is wrong.

    Args:
      file: the opened file, at its beginning.
    """
    start = file.read(8)
    file.seek(0)
    try:
        if start[:4] in _TIFF_STARTS:
            with tifffile.TiffFile(file) as tif:
                tag = tif.pages.first.tags.get(_TAG)
                return _checked(tag.value if tag else None)
        if start == PNG_START:  # Pillow would decode the pixels to find it
            return _exif(read_chunk(file, b"eXIf"))
        with Image.open(file, formats=pillow_formats()) as picture:
            return _exif(picture.info.get("exif", b""))
    except Exception:
        return None


def _exif(data: bytes) -> int | None:
    exif = Image.Exif()
    exif.load(data)
    return _checked(exif.get(_TAG))


def _checked(value: object) -> int | None:
    return value if isinstance(value, int) and 1 <= value <= 8 else None
