"""Refusal of picture files before they are decoded: damaged bytes, several pictures, sizes that no file can hold.

Decoders find some of this themselves, but not all of it, and each of them something else.
"""

import io
import zlib

import tifffile
from etils import epath
from PIL import Image

from unet_jax.data.memory import open_picture, refuse_beyond_memory
from unet_jax.data.pixels import BadSampleError
from unet_jax.data.png_chunks import PNG_START, damaged_chunk, read_chunk

MOST_PAGES = 512
"""Most pages of a TIFF file that are looked at: channels, levels of a pyramid, thumbnails."""
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_DEFLATE = (8, 32946)  # compressions of TIFF
_MOST_COUNTED = 100


def check_picture(path: epath.Path, data: bytes) -> None:
    """Raise BadSampleError if a file of an image cannot be decoded to the pixels that were saved, or to one picture.

    The content decides, not the ending of the name. JPEG and TIFF without deflate have no checksums.

    Args:
      path: name of the file, for messages.
      data: content of the file: a picture for OpenCV.
    """
    if data.startswith(PNG_START) and len(data) > 33:  # a shorter file has no pixels, which decoders say
        check_png(path, data)
        width, height = (int.from_bytes(data[start : start + 4], "big") for start in (16, 20))
        refuse_beyond_memory(path, 3 * width * height * max(1, data[24] // 8), len(data))
        return
    try:
        with open_picture(data) as picture:
            size = picture.size
            refuse_beyond_memory(path, 3 * size[0] * size[1], len(data))
            count = count_of_one_size(picture)
    except BadSampleError:
        raise
    except Exception:  # a file that only OpenCV can read
        return
    if count > 1:
        raise stack_error(path, count)
    if data[:4] in _TIFF_STARTS:
        _check_deflate(path, data)


def check_png(path: epath.Path, data: bytes) -> None:
    """Raise BadSampleError if chunks of a PNG file are not as they were written, or it is an animation (APNG)."""
    if kind := damaged_chunk(data):
        raise BadSampleError(
            f"{path}: is damaged: its chunk {kind} has another checksum than when it was written, or is cut off "
            f"({len(data)} bytes). Replace it."
        )
    animation = read_chunk(io.BytesIO(data), b"acTL")
    if (count := int.from_bytes(animation[:4], "big")) > 1:
        raise stack_error(path, count)


def check_num_pages(path: object, tif: tifffile.TiffFile) -> None:
    """Raise BadSampleError if a TIFF file has more pages than one image can have. All pages are not looked at."""
    try:
        tif.pages[MOST_PAGES]
    except IndexError:
        return
    raise BadSampleError(
        f"{path}: holds more than {MOST_PAGES} pages, which are no channels of one image. Save each picture as a file "
        f"of its own."
    )


def stack_error(path: object, count: int) -> BadSampleError:
    """Return the error for a file of several pictures."""
    more = "at least " if count >= _MOST_COUNTED else ""
    return BadSampleError(f"{path}: holds {more}{count} pictures. Save each one as a file of its own.")


def count_of_one_size(picture: Image.Image) -> int:
    """Return the number of pictures in a file, as far as it is counted; 1 if the second one has another size."""
    size, count = picture.size, 1
    try:
        while count < _MOST_COUNTED:
            picture.seek(count)
            if picture.size != size and count == 1:
                return 1  # such as a thumbnail
            count += 1
    except Exception:  # there is none, or it is damaged and nobody's concern
        pass
    return count


def _check_deflate(path: epath.Path, data: bytes) -> None:
    """Raise BadSampleError if a deflated part of a TIFF file's first page has another checksum than its pixels."""
    try:
        with tifffile.TiffFile(io.BytesIO(data), is_ome=False) as tif:
            page = tif.pages.first
            if int(page.compression) not in _DEFLATE:
                return
            places = zip(page.dataoffsets, page.databytecounts, strict=True)
            parts = [data[start : start + count] for start, count in places]
    except Exception:  # OpenCV says what is wrong
        return
    for part in parts:
        try:
            zlib.decompress(part)
        except zlib.error as error:
            raise BadSampleError(f"{path}: is damaged ({error}; {len(data)} bytes). Replace it.") from error
