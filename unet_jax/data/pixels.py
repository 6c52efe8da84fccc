"""Reading and writing of image and mask files, and resizing of arrays with any number of channels."""

import io
from collections.abc import Callable

import cv2
import numpy as np
from etils import epath
from PIL import Image, ImageOps

from unet_jax._types import InputError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif")

_STACK_SUFFIXES = (".tif", ".tiff", ".gif")  # formats that hold several pictures in one file


class BadSampleError(InputError):
    """Error for a sample with a file that cannot be used; `data.on_bad_sample` decides what happens then."""


def read_bytes(path: epath.Path) -> bytes:
    """Read a file; raise BadSampleError if it is missing or unreadable."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadSampleError(f"{path}: cannot be read ({error}). Restore the file or remove the sample.") from error


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
    data = read_bytes(path)
    if path.suffix.lower() in _STACK_SUFFIXES:
        _refuse_stack(path, data)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB) if data else None
    except cv2.error as error:  # more pixels than OpenCV allows
        raise BadSampleError(f"{path}: OpenCV refuses to decode it ({error.err}). Cut the image into parts.") from error
    if image is None:
        raise BadSampleError(
            f"{path}: is not an image that OpenCV can decode ({len(data)} bytes). Replace it, or save it with 8 or 16 "
            f"bits per channel."
        )
    return image


def _refuse_stack(path: epath.Path, data: bytes) -> None:
    """Raise BadSampleError if a file holds several pictures, of which only the first would be used.

    A second picture of another size, such as a thumbnail, is ignored.
    """
    try:
        with Image.open(io.BytesIO(data)) as picture:
            count, size = getattr(picture, "n_frames", 1), picture.size
            if count > 1:
                picture.seek(1)
            second = picture.size
    except Exception:  # a file that only OpenCV can read
        return
    if count > 1 and second == size:
        raise BadSampleError(f"{path}: holds {count} pictures. Save each one as a file of its own.")


def _open_pixels(path: epath.Path) -> Image.Image:
    """Decode a file with Pillow and apply its EXIF rotation; raise BadSampleError if it cannot be decoded."""
    data = read_bytes(path)
    if path.suffix.lower() in _STACK_SUFFIXES:
        _refuse_stack(path, data)
    try:
        picture = Image.open(io.BytesIO(data))
        picture.load()
        ImageOps.exif_transpose(picture, in_place=True)
    except Exception as error:  # Pillow's decoders raise errors of many types for broken files
        raise BadSampleError(f"{path}: is not a readable image ({error}; {len(data)} bytes). Replace it.") from error
    return picture


def read_gray(path: epath.Path, *, class_numbers: bool = False) -> np.ndarray:
    """Read the gray levels of a mask file, or the class numbers of an index map.

    The file may be gray with 1, 8 or 16 bits, gray with alpha, RGB(A) with equal colour channels, or have a palette. A
    palette is read by colour if the colours that are used are gray, and by index otherwise.

    Args:
      path: mask file.
      class_numbers: read a palette by colour only if all of its colours are gray, used or not, so that all files with
        the same palette are read in the same way.

    Returns:
      `[h w]` bool, uint8 or uint16.

    Raises:
      BadSampleError: the file cannot be read, has colours, is transparent where that matters, or has another depth.
    """
    picture = _open_pixels(path)
    if picture.mode == "P":
        return _read_palette(picture, look_at_all=class_numbers)
    pixels = np.asarray(picture)
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    if picture.mode in ("LA", "RGBA", "RGB"):
        colors = pixels[..., :1] if picture.mode == "LA" else pixels[..., :3]
        if not (colors == colors[..., :1]).all():
            y, x = np.argwhere((colors != colors[..., :1]).any(axis=-1))[0]
            raise BadSampleError(
                f"{path}: is a colour image (row {y}, column {x} is {tuple(int(v) for v in colors[y, x])}), but a mask "
                f"has one gray channel. Save one gray file per class."
            )
        if picture.mode != "RGB":
            _refuse_transparency(path, colors[..., 0], pixels[..., -1])
        return colors[..., 0]
    if pixels.ndim != 2 or pixels.dtype not in (np.bool_, np.uint8, np.uint16, np.int32):
        raise BadSampleError(
            f"{path}: has mode {picture.mode} ({pixels.dtype}, shape {pixels.shape}), but a mask must be gray with 1, "
            f"8 or 16 bits. Convert it."
        )
    if pixels.dtype == np.int32:
        low, high = int(pixels.min()), int(pixels.max())
        if low < 0 or high > 65535:
            raise BadSampleError(f"{path}: has values from {low} to {high}, but a mask holds 0 to 65535. Convert it.")
        pixels = pixels.astype(np.uint16)
    return pixels


def _refuse_transparency(path: epath.Path, gray: np.ndarray, alpha: np.ndarray) -> None:
    """Raise BadSampleError if the mask seems to be in the alpha channel, which is not read.

    That is so for a shape painted on a transparent layer, where gray level and transparency disagree.
    """
    clear = alpha < alpha.max()
    if clear.any() and (gray[clear].any() or not gray.any()):
        y, x = np.argwhere(clear)[0]
        raise BadSampleError(
            f"{path}: is partly transparent (row {y}, column {x} has alpha {alpha[y, x]}), so that inside and outside "
            f"cannot be told apart by gray level. Save it without transparency, white inside and black outside."
        )


def _read_palette(picture: Image.Image, *, look_at_all: bool) -> np.ndarray:
    """Return colours if those used (or all, with `look_at_all`) are gray, else indices: `[h w]` uint8."""
    indices = np.asarray(picture)
    flat = picture.getpalette() or []
    palette = np.zeros((256, 3), np.uint8)
    palette.reshape(-1)[: len(flat)] = flat[:768]
    decisive = palette if look_at_all else palette[np.unique(indices)]
    if (decisive == decisive[:, :1]).all():
        return palette[indices, 0]
    return indices


def read_mask(path: epath.Path, *, soft: bool) -> np.ndarray:
    """Read the mask of one class.

    Foreground is the largest value of the file's depth (255 or 65535), 255 in a 16-bit file, or 1 in a file without
    larger values; the same holds for the indices of a coloured palette. Other values are refused unless `soft` is on.

    Args:
      path: mask file.
      soft: accept gray levels between black and white as partial membership.

    Returns:
      `[h w]` uint8: 0 is outside, 255 is inside, and values between are partial membership.

    Raises:
      BadSampleError: the file cannot be read or holds other values; the message names the values.
    """
    pixels = read_gray(path)
    if pixels.dtype == np.bool_:
        return pixels.astype(np.uint8) * np.uint8(255)
    values = np.flatnonzero(np.bincount(pixels.reshape(-1), minlength=2))
    full = 255 if pixels.dtype == np.uint8 else 65535
    if values[-1] <= 1:
        return (pixels == 1).astype(np.uint8) * np.uint8(255)
    for foreground in (full, 255):
        if set(values.tolist()) <= {0, foreground}:
            return (pixels == foreground).astype(np.uint8) * np.uint8(255)
    if soft:  # 16 bits that hold an 8-bit mask are an 8-bit mask
        return pixels.astype(np.uint8) if values[-1] <= 255 else np.round(pixels / 257.0).astype(np.uint8)
    strange = [int(v) for v in values if v not in (0, full)]
    shown = ", ".join(str(v) for v in strange[:5]) + (f" and {len(strange) - 5} more" if len(strange) > 5 else "")
    raise BadSampleError(
        f"{path}: has the gray level{'s' if len(strange) > 1 else ''} {shown}, but a mask must be 0 and 255 (or 0 and "
        f"1). Save it again without blur or JPEG, use --data.soft-masks if partial membership is meant, or "
        f"--data.index-map if the values are class numbers."
    )


def write_png(path: epath.Path, pixels: np.ndarray) -> None:
    """Write `[h w]` gray or `[h w 3]` RGB pixels, uint8, as a PNG file; make its folder if there is none."""
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    ok, data = cv2.imencode(".png", pixels)
    if not ok:
        raise OSError(f"{path}: OpenCV could not encode a PNG of shape {pixels.shape}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.tobytes())


def by_channel_groups(operation: Callable[[np.ndarray], np.ndarray], pixels: np.ndarray) -> np.ndarray:
    """Apply an OpenCV operation to an `[h w c]` array of any c, and keep the last axis also where c is 1.

    The operation receives 1, 3 or 4 channels at a time: with these numbers `cv2.warpPerspective` treats each channel
    independently. It cannot fill more than 4 channels at the border, and for 2 channels it has another, slower
    algorithm that rounds differently.
    """
    channels = pixels.shape[-1]
    parts, start = [], 0
    while start < channels:
        count = {1: 1, 2: 1, 3: 3}.get(channels - start, 4)
        part = operation(np.ascontiguousarray(pixels[..., start : start + count]))
        parts.append(part[..., None] if part.ndim == 2 else part)
        start += count
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)


def resize_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize an `[h w c]` image: by area if neither side grows, which avoids aliasing, else bilinearly."""
    if image.shape[:2] == (height, width):
        return image
    shrinks = height <= image.shape[0] and width <= image.shape[1]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return by_channel_groups(lambda part: cv2.resize(part, (width, height), interpolation=interpolation), image)


def resize_mask(mask: np.ndarray, height: int, width: int, *, linear: bool = False) -> np.ndarray:
    """Resize `[h w k]` masks by nearest neighbour (exact, by pixel centres), or bilinearly with soft borders."""
    if mask.shape[:2] == (height, width):
        return mask
    interpolation = cv2.INTER_LINEAR if linear else cv2.INTER_NEAREST_EXACT
    return by_channel_groups(lambda part: cv2.resize(part, (width, height), interpolation=interpolation), mask)


def resize_probs(probs: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize `[h w k]` float32 probabilities bilinearly."""
    if probs.shape[:2] == (height, width):
        return probs
    return by_channel_groups(lambda part: cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR), probs)
