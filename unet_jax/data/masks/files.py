"""Decoding of mask files of any format into the numbers that they hold, before anyone says what the numbers mean.

Pictures are read by Pillow, TIFF by tifffile, and `.npy` by NumPy. None of them is trusted with the meaning of a
number: Pillow inverts MinIsWhite and stretches 2 and 4 bits, and halves the depth of 16-bit colours.
"""

import io
from typing import Any

import cv2
import numpy as np
from etils import epath
from PIL import Image, UnidentifiedImageError

from unet_jax.data.masks.content import MaskFile, is_inverting, largest, native
from unet_jax.data.masks.tiff import read_tiff_mask
from unet_jax.data.memory import enough_memory, open_picture, refuse_beyond_memory
from unet_jax.data.orientation import read_orientation, turned
from unet_jax.data.pixels import BadSampleError, read_bytes
from unet_jax.data.png_chunks import PNG_START, read_chunk
from unet_jax.data.whole_files import check_png, count_of_one_size, stack_error

_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def read_mask_file(path: epath.Path) -> MaskFile:
    """Decode a mask file.

    Args:
      path: PNG, TIFF, GIF, BMP, JPEG, `.npy` or another file that Pillow reads.

    Raises:
      BadSampleError: the file cannot be read or decoded, holds several pictures, has channels that are no colours, or
        needs more memory than there is. The message names the file.
    """
    with enough_memory(path):
        return _read(path, read_bytes(path))


def _read(path: epath.Path, data: bytes) -> MaskFile:
    """Decode the content of a mask file; see `read_mask_file`."""
    try:
        if data[:6] == b"\x93NUMPY":
            return _npy(path, data)
        file = read_tiff_mask(path, data) if data[:4] in _TIFF_STARTS else _as_shown(_picture(path, data), data)
    except (BadSampleError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise BadSampleError(f"{path}: is no image of a known format ({len(data)} bytes). Replace it.") from error
    except Exception as error:  # decoders raise errors of many types for damaged files
        raise BadSampleError(f"{path}: is not a readable image ({error}; {len(data)} bytes). Replace it.") from error
    if file.palette is not None and is_inverting(file.palette):
        raise BadSampleError(
            f"{path}: has the palette of an inverting look-up table (0 is white, 255 black), so that inside and "
            f"outside cannot be told apart. Save it in gray, white inside and black outside."
        )
    return file


def _npy(path: epath.Path, data: bytes) -> MaskFile:
    """Decode an array that `numpy.save` wrote."""
    try:
        values = np.load(io.BytesIO(data), allow_pickle=False)
    except ValueError as error:
        is_object = "Object arrays" in str(error)
        why = "a Python object, such as cellpose's _seg.npy" if is_object else f"damaged ({error})"
        raise BadSampleError(
            f"{path}: is no array of numbers, but {why}. Save the mask as an array [h w] with numpy.save."
        ) from error
    if values.ndim == 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim != 2 or values.dtype.kind not in "buif" or values.size == 0:
        raise BadSampleError(
            f"{path}: holds an array {list(values.shape)} of {values.dtype}, but a mask is [h w] of bool, integers or "
            f"floats. Save one file per class."
        )
    return MaskFile(native(values), largest(values.dtype))


def _as_shown(file: MaskFile, data: bytes) -> MaskFile:
    """Turn a mask as the orientation says that its file carries."""
    orientation = read_orientation(io.BytesIO(data)) or 1
    alpha = None if file.alpha is None else turned(file.alpha, orientation)
    return file._replace(values=turned(file.values, orientation), alpha=alpha)


def _picture(path: epath.Path, data: bytes) -> MaskFile:
    """Decode a file that Pillow reads, but for TIFF, as it is stored."""
    if data.startswith(PNG_START):
        check_png(path, data)
    picture = open_picture(data)
    size, count = picture.size, count_of_one_size(picture)
    if count > 1:
        raise stack_error(path, count)
    picture.seek(0)
    png = (data[24], data[25]) if picture.format == "PNG" else (8, 0)  # bits a sample, and colour type
    refuse_beyond_memory(path, size[0] * size[1] * len(picture.getbands()) * max(1, png[0] // 8), len(data))
    if png[0] == 16 and png[1] in (2, 4, 6):  # Pillow would keep the upper 8 bits only
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if pixels is None:
            raise BadSampleError(f"{path}: is not a readable image ({len(data)} bytes). Replace it.")
        return MaskFile(pixels[..., 2::-1], 65535, pixels[..., 3] if pixels.shape[2] == 4 else None)
    transparency = picture.info.get("transparency")
    picture.load()
    is_lossy = picture.format in ("JPEG", "MPO", "AVIF") or (picture.format == "WEBP" and b"VP8L" not in data)
    if picture.mode == "P":
        return _with_palette(picture, transparency, data)
    if picture.mode == "PA":
        picture = picture.convert("RGBA")
    values = native(np.asarray(picture))
    if picture.mode in ("LA", "RGBA"):
        colors = values[..., 0] if picture.mode == "LA" else values[..., :3]
        return MaskFile(colors, 255, values[..., -1], is_lossy=is_lossy)
    if picture.mode not in ("1", "L", "I;16", "I", "F", "RGB"):
        raise BadSampleError(
            f"{path}: has the mode {picture.mode}, but a mask is gray, RGB or has a palette. Convert it."
        )
    full = {"1": 1, "I;16": 65535, "I": 65535, "F": 0}.get(picture.mode, 255)
    if picture.mode == "L" and png[0] < 8:  # Pillow stretches them to 0 to 255
        full = 2 ** png[0] - 1
        values = values // np.uint8(255 // full)
    alpha = None
    if transparency is not None and picture.mode in ("1", "L", "I;16", "I", "RGB"):  # one level or colour is clear
        is_clear = values == np.asarray(transparency).astype(values.dtype)
        alpha = np.where(is_clear if values.ndim == 2 else is_clear.all(axis=-1), 0, 255).astype(np.uint8)
    return MaskFile(values, full, alpha, is_lossy=is_lossy)


def _with_palette(picture: Image.Image, transparency: Any, data: bytes) -> MaskFile:
    """Return the indices and the palette of a picture."""
    colors = np.array(picture.getpalette() or [], np.uint8).reshape(-1, 3)
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(colors)] = colors
    if isinstance(transparency, bytes):
        clear = frozenset(i for i, alpha in enumerate(transparency) if alpha == 0)
    else:
        clear = frozenset() if transparency is None else frozenset({int(transparency)})
    # GIF has a field for the background. Programs that do not care leave 0 there, which says nothing.
    background = (picture.info.get("background") or None) if picture.format == "GIF" else None
    if picture.format == "PNG" and len(chunk := read_chunk(io.BytesIO(data), b"bKGD")) == 1:
        background = chunk[0]
    return MaskFile(np.asarray(picture), 255, None, palette, len(colors), clear, background)
