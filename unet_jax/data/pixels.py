"""Reading and writing image and mask files, and resizing arrays with any number of channels."""

import io
from collections.abc import Callable

import cv2
import numpy as np
from etils import epath
from PIL import Image, UnidentifiedImageError

from unet_jax._types import InputError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif")

# cv2.warpPerspective fills borders right in at most four channels at once.
_CV2_CHANNELS = 4


class BadSampleError(InputError):
    """A file of one sample cannot be used; `data.on_bad_sample` decides what follows."""


def read_bytes(path: epath.Path) -> bytes:
    """The file's content; `BadSampleError` when it is missing or unreadable."""
    try:
        return path.read_bytes()
    except (OSError, FileNotFoundError) as error:
        raise BadSampleError(f"{path}: cannot be read ({error}). Restore the file or remove the sample.") from error


def read_image(path: epath.Path) -> np.ndarray:
    """`[h w 3]` uint8 RGB. Gray images are repeated, alpha is dropped, 16 bits become 8, EXIF rotation is applied."""
    data = np.frombuffer(read_bytes(path), np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB) if data.size else None
    if image is None:
        raise BadSampleError(f"{path}: is not an image that OpenCV can decode ({data.size} bytes). Replace the file.")
    return image


def _open_pixels(path: epath.Path) -> Image.Image:
    data = read_bytes(path)
    try:
        picture = Image.open(io.BytesIO(data))
        picture.load()
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError) as error:
        raise BadSampleError(f"{path}: is not a readable image ({error}; {len(data)} bytes). Replace it.") from error
    return picture


def read_gray(path: epath.Path) -> np.ndarray:
    """`[h w]` bool, uint8 or uint16: what a gray, 1-bit, palette, RGB(A)-with-equal-channels or 16-bit file says.

    A palette whose used colours are gray is read by colour, any other by index.
    """
    picture = _open_pixels(path)
    if picture.mode == "P":
        return _read_palette(picture)
    pixels = np.asarray(picture)
    if picture.mode in ("LA", "RGBA", "RGB"):
        colors = pixels[..., :1] if picture.mode == "LA" else pixels[..., :3]
        if not (colors == colors[..., :1]).all():
            y, x = np.argwhere((colors != colors[..., :1]).any(axis=-1))[0]
            raise BadSampleError(
                f"{path}: is a colour image (row {y}, column {x} is {tuple(int(v) for v in colors[y, x])}), but a mask "
                f"has one gray channel. Save one gray file per class."
            )
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


def _read_palette(picture: Image.Image) -> np.ndarray:
    indices = np.asarray(picture)
    flat = picture.getpalette() or []
    palette = np.zeros((256, 3), np.uint8)
    palette.reshape(-1)[: len(flat)] = flat[: 768]
    used = palette[np.unique(indices)]
    if (used == used[:, :1]).all():
        return palette[indices, 0]
    return indices


def read_mask(path: epath.Path, *, soft: bool) -> np.ndarray:
    """`[h w]` uint8, 0 outside and 255 inside; with `soft`, partial membership between them.

    Foreground is 1 or the largest value of the file's depth (255, 65535); in a coloured palette, the one index besides
    0. Anything else is a `BadSampleError` that names the value, unless `soft` says that it is meant.
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
    if soft:
        return pixels if full == 255 else np.round(pixels / 257.0).astype(np.uint8)
    strange = [int(v) for v in values if v not in (0, full)]
    shown = ", ".join(str(v) for v in strange[:5]) + (f" and {len(strange) - 5} more" if len(strange) > 5 else "")
    raise BadSampleError(
        f"{path}: has the gray level{'s' if len(strange) > 1 else ''} {shown}, but a mask must be 0 and 255 (or 0 and "
        f"1). Save it again without blur or JPEG, use --data.soft-masks if partial membership is meant, or "
        f"--data.index-map if the values are class numbers."
    )


def read_size(path: epath.Path) -> tuple[int, int]:
    """(height, width) as stored, from the header."""
    with path.open("rb") as file:
        try:
            with Image.open(file) as picture:
                return picture.height, picture.width
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
            raise BadSampleError(f"{path}: is not a readable image ({error}). Replace it.") from error


def write_png(path: epath.Path, pixels: np.ndarray) -> None:
    """`[h w]` gray or `[h w 3]` RGB, uint8, as a PNG; makes the folder."""
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    ok, data = cv2.imencode(".png", pixels)
    if not ok:
        raise OSError(f"{path}: OpenCV could not encode a PNG of shape {pixels.shape}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.tobytes())


def by_channel_groups(operation: Callable[[np.ndarray], np.ndarray], pixels: np.ndarray) -> np.ndarray:
    """Applies an OpenCV operation to `[h w c]` arrays of any c, four channels at a time, and keeps the last axis."""
    channels = pixels.shape[-1]
    parts = []
    for start in range(0, channels, _CV2_CHANNELS):
        part = operation(np.ascontiguousarray(pixels[..., start : start + _CV2_CHANNELS]))
        parts.append(part[..., None] if part.ndim == 2 else part)
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)


def resize_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear; by area when neither side grows, which does not alias."""
    if image.shape[:2] == (height, width):
        return image
    shrinks = height <= image.shape[0] and width <= image.shape[1]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return by_channel_groups(lambda part: cv2.resize(part, (width, height), interpolation=interpolation), image)


def resize_mask(mask: np.ndarray, height: int, width: int, *, linear: bool = False) -> np.ndarray:
    """`[h w k]`; nearest neighbour (exact, by pixel centres), or bilinear into soft borders."""
    if mask.shape[:2] == (height, width):
        return mask
    interpolation = cv2.INTER_LINEAR if linear else cv2.INTER_NEAREST_EXACT
    return by_channel_groups(lambda part: cv2.resize(part, (width, height), interpolation=interpolation), mask)


def resize_probs(probs: np.ndarray, height: int, width: int) -> np.ndarray:
    """`[h w k]` float32, bilinear."""
    if probs.shape[:2] == (height, width):
        return probs
    return by_channel_groups(lambda part: cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR), probs)
