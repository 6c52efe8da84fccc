"""Reading of image files: 8-bit RGB, or the numbers that a file holds with any number of channels and any depth."""

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from etils import epath
from PIL import Image

from unet_jax._types import InputError
from unet_jax.data.images.tiff import TIFF_SUFFIXES, read_tiff, tiff_header
from unet_jax.data.memory import enough_memory
from unet_jax.data.orientation import read_orientation, turned
from unet_jax.data.pixels import BadSampleError, pillow_formats, read_bytes
from unet_jax.data.whole_files import check_picture

_MOST_NPY_CHANNELS = 64  # more are taken for a side: the array is probably [c h w]
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 3, 6: 3}  # by colour type, without alpha
_ONE_CHANNEL_MODES = ("1", "L")


class ImageHeader(NamedTuple):
    """Facts about an image file that are known before its pixels are needed."""

    channels: int
    dtype: np.dtype
    is_rotated: bool  # the file's EXIF or TIFF orientation asks for a rotation or a mirroring


def read_image(path: str | epath.Path) -> np.ndarray:
    """Read an image as 8-bit RGB, on the host.

    Gray is repeated over the three channels, alpha is dropped, 16 bits become 8, and an EXIF rotation is applied.

    Args:
      path: file on a local disk or in a bucket.

    Returns:
      `[h w 3]` uint8, RGB, 0 to 255.

    Raises:
      BadSampleError: the file cannot be read, is not an image that OpenCV can decode, or holds several pictures of one
        size. It is an `InputError`.

    Example:
      >>> import pathlib, tempfile
      >>> import numpy as np
      >>> from PIL import Image
      >>> import unet_jax
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder) / "gray.png"
      ...     Image.fromarray(np.full((2, 4), 7, np.uint8)).save(path)
      ...     image = unet_jax.read_image(str(path))
      >>> image.shape, image[0, 0].tolist()
      ((2, 4, 3), [7, 7, 7])
    """
    path = epath.Path(path)
    with enough_memory(path):
        return _decode(path, read_bytes(path), cv2.IMREAD_COLOR_RGB)


def read_pixels(path: str | epath.Path, *, pages: str = "error") -> np.ndarray:
    """Read the numbers that an image file holds, on the host.

    Alpha is dropped, palettes become RGB, and an EXIF or TIFF rotation is applied. Nothing is scaled.

    Args:
      path: file on a local disk or in a bucket. `.npy` files hold `[h w]` or `[h w c]`.
      pages: "channels" takes pages of a TIFF whose meaning the file does not say for channels; "error" refuses them.

    Returns:
      `[h w c]`, of the file's own dtype: unsigned or signed integers or floats. Colours are in the order R, G, B.

    Raises:
      BadSampleError: the file cannot be read or decoded, holds several images, or values that are not finite.

    Example:
      >>> import pathlib, tempfile
      >>> import numpy as np
      >>> from unet_jax.data.images.files import read_pixels
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder) / "five_channels.npy"
      ...     np.save(path, np.full((2, 4, 5), 1000, np.uint16))
      ...     pixels = read_pixels(str(path))
      >>> pixels.shape, pixels.dtype.name
      ((2, 4, 5), 'uint16')
    """
    path = epath.Path(path)
    with enough_memory(path):
        return _read(path, read_bytes(path), pages)


def _read(path: epath.Path, data: bytes, pages: str) -> np.ndarray:
    """Decode the content of an image file; see `read_pixels`."""
    suffix = path.suffix.lower()
    if suffix in TIFF_SUFFIXES:
        pixels = read_tiff(path, data, pages=pages)
    elif suffix == ".npy":
        pixels = _read_npy(path, data)
    else:
        # OpenCV knows the orientations of some formats only.
        pixels = _decode(path, data, cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION)
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB) if pixels.ndim == 3 else pixels[..., None]
        pixels = np.ascontiguousarray(turned(pixels, read_orientation(io.BytesIO(data)) or 1))
    return check_pixels(path, pixels)


def read_channels(files: Sequence[str | epath.Path], *, pages: str = "error") -> np.ndarray:
    """Read an image of which each channel is a file of its own, on the host.

    Args:
      files: one file for each channel, in the order of the channels. Each holds one channel, or three equal ones.
      pages: see `read_pixels`.

    Returns:
      `[h w c]`, of the files' dtype; of different ones the smallest that holds the numbers of all.

    Raises:
      BadSampleError: a file cannot be read or holds several channels, or two have different sizes.
      InputError: there is no file.

    Example:
      >>> import pathlib, tempfile
      >>> import numpy as np
      >>> import unet_jax
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     files = [pathlib.Path(folder) / name for name in ("dapi.npy", "gfp.npy")]
      ...     for value, file in enumerate(files):
      ...         np.save(file, np.full((2, 4), value, np.uint16))
      ...     pixels = unet_jax.read_channels([str(file) for file in files])
      >>> pixels.shape, pixels[0, 0].tolist()
      ((2, 4, 2), [0, 1])
    """
    if not files:
        raise InputError("read_channels was given no file, but an image has at least one channel.")
    return np.stack(read_planes([epath.Path(file) for file in files], pages=pages), axis=-1)


def read_planes(files: Sequence[epath.Path], *, pages: str = "error") -> list[np.ndarray]:
    """Read the channels of an image as `read_channels` does, `[h w]` each, in the dtype of its own file."""
    planes: list[np.ndarray] = []
    for file in files:
        pixels = read_pixels(file, pages=pages)
        if (pixels != pixels[..., :1]).any():
            raise BadSampleError(
                f"{file}: has {pixels.shape[-1]} channels that differ, but data.image_patterns takes one channel from "
                f"each file. Save the channel in gray."
            )
        if planes and pixels.shape[:2] != planes[0].shape:
            (height, width), (first_height, first_width) = pixels.shape[:2], planes[0].shape
            raise BadSampleError(
                f"{file}: is {width}x{height} pixels (width x height), but the first channel of the same image, "
                f"{files[0]}, is {first_width}x{first_height}. Export all channels at one size."
            )
        planes.append(pixels[..., 0])
    return planes


def read_header(path: epath.Path, *, pages: str = "error") -> ImageHeader:
    """Return an image file's channels and dtype, from its header where that says them; raises as `read_pixels`."""
    suffix = path.suffix.lower()
    if suffix in TIFF_SUFFIXES:
        header = tiff_header(path, read_bytes(path), pages=pages)
        return ImageHeader(header.channels, header.dtype, header.is_rotated)
    if suffix in (".png", ".jpg", ".jpeg", ".bmp", ".gif"):
        try:
            with path.open("rb") as file:
                start = file.read(26)
                file.seek(0)
                orientation = read_orientation(file)  # type: ignore[arg-type]
                file.seek(0)
                with Image.open(file, formats=pillow_formats()) as picture:  # type: ignore[arg-type]
                    mode = picture.mode
        except Exception:  # whatever is wrong with the file, decoding says it
            pixels = read_pixels(path, pages=pages)
            return ImageHeader(pixels.shape[-1], pixels.dtype, False)
        is_rotated = orientation not in (None, 1)
        if suffix == ".png" and start[1:4] == b"PNG":  # Pillow does not tell RGB of 16 bits from RGB of 8
            dtype = np.dtype(np.uint16 if start[24] == 16 else np.uint8)
            return ImageHeader(_PNG_CHANNELS.get(start[25], 3), dtype, is_rotated)
        return ImageHeader(1 if mode in _ONE_CHANNEL_MODES else 3, np.dtype(np.uint8), is_rotated)
    pixels = read_pixels(path, pages=pages)
    with path.open("rb") as file:
        orientation = read_orientation(file)  # type: ignore[arg-type]
    return ImageHeader(pixels.shape[-1], pixels.dtype, orientation not in (None, 1))


def _decode(path: epath.Path, data: bytes, flags: int) -> np.ndarray:
    """Decode with OpenCV: `[h w]` or `[h w 3]`."""
    check_picture(path, data)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error as error:  # more pixels than OpenCV allows
        raise BadSampleError(f"{path}: OpenCV refuses to decode it ({error.err}). Cut the image into parts.") from error
    if image is None:
        raise BadSampleError(f"{path}: is not an image that OpenCV can decode ({len(data)} bytes). Replace it.")
    return image


def _read_npy(path: epath.Path, data: bytes) -> np.ndarray:
    pixels = _load_npy(path, io.BytesIO(data))
    return np.ascontiguousarray(pixels.astype(pixels.dtype.newbyteorder("="), copy=False))


def map_npy(path: epath.Path) -> np.ndarray:
    """Map a local `.npy` file into memory, as `[h w c]` of the file's dtype and byte order; raises as `read_pixels`."""
    return _load_npy(path, str(path), mmap_mode="r")


def _load_npy(path: epath.Path, source: Any, **options: Any) -> np.ndarray:
    """Load the array of an image, `[h w c]`; raise BadSampleError if it is not one."""
    try:
        pixels = np.load(source, allow_pickle=False, **options)
    except MemoryError:
        raise
    except Exception as error:
        raise BadSampleError(f"{path}: is not an array that NumPy can load ({error}). Save it with np.save.") from error
    if not isinstance(pixels, np.ndarray) or pixels.ndim not in (2, 3):
        shape = getattr(pixels, "shape", "several arrays")
        raise BadSampleError(f"{path}: holds {shape}, but an image is [height width] or [height width channels].")
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if pixels.shape[-1] > _MOST_NPY_CHANNELS:
        raise BadSampleError(
            f"{path}: has the shape {pixels.shape}, but an image is [height width channels]. If channels come first, "
            f"save np.moveaxis(a, 0, -1)."
        )
    return pixels


def check_pixels(path: epath.Path, pixels: np.ndarray, *, first_row: int = 0) -> np.ndarray:
    """Return numbers that can be mapped to intensities; raise BadSampleError for those that cannot.

    Args:
      path: the image's file, for messages.
      pixels: some rows of it, `[rows w c]`.
      first_row: number of the first of these rows.
    """
    if pixels.size == 0:
        raise BadSampleError(f"{path}: has no pixel (shape {pixels.shape}). Replace it.")
    if pixels.dtype == np.bool_:
        return pixels.astype(np.uint8) * np.uint8(255)
    if pixels.dtype.kind not in "uif":
        raise BadSampleError(f"{path}: has values of type {pixels.dtype}. Convert them to integers or floats.")
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        y, x, channel = np.argwhere(~np.isfinite(pixels))[0]
        raise BadSampleError(
            f"{path}: has a value that is not finite ({pixels[y, x, channel]} at row {y + first_row}, column {x}, "
            f"channel {channel}). Fill such pixels with a number."
        )
    return pixels
