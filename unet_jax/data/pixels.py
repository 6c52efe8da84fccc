"""Bytes of files, writing of pictures, and resizing of arrays with any number of channels."""

import functools
from collections.abc import Callable

import cv2
import numpy as np
from etils import epath
from PIL import Image

from unet_jax._files import replace_bytes
from unet_jax._types import InputError

_PILLOW_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "GIF", "WEBP", "AVIF", "JPEG2000", "PPM")


@functools.cache
def pillow_formats() -> tuple[str, ...]:
    """Return the formats that Pillow may find in a file, whatever its name: those of `IMAGE_SUFFIXES` that it has.

    Without such a list it would find PostScript too, and start a program that runs it.
    """
    Image.init()
    return tuple(name for name in _PILLOW_FORMATS if name in Image.OPEN)


class BadSampleError(InputError):
    """Error for a sample with a file that cannot be used; `data.on_bad_sample` decides what happens then."""


def read_bytes(path: epath.Path) -> bytes:
    """Read a file; raise BadSampleError if it is missing or unreadable."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadSampleError(f"{path}: cannot be read ({error}). Restore the file or remove the sample.") from error


def write_png(path: epath.Path, pixels: np.ndarray) -> None:
    """Write `[h w]` gray or `[h w 3]` RGB pixels, uint8, as a PNG file; make its folder if there is none."""
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    ok, data = cv2.imencode(".png", pixels)
    if not ok:
        raise OSError(f"{path}: OpenCV could not encode a PNG of shape {pixels.shape}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_bytes(path, data.tobytes())


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


def resize_valid(valid: np.ndarray, height: int, width: int, *, linear: bool = False) -> np.ndarray:
    """Resize `[h w k]` 255 or 0, where 0 is ignored, as `resize_mask` does; bilinearly, 0 where a part is ignored."""
    if valid.shape[:2] == (height, width):
        return valid
    ignored = resize_mask(~valid, height, width, linear=linear)
    return (ignored == 0).astype(np.uint8) * np.uint8(255)


def resize_probs(probs: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize `[h w k]` float32 probabilities bilinearly."""
    if probs.shape[:2] == (height, width):
        return probs
    return by_channel_groups(lambda part: cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR), probs)


def resize_columns(pixels: np.ndarray, width: int, *, by_area: bool) -> np.ndarray:
    """Resize `[h w c]` float32 pixels to another width: by area, or bilinearly."""
    if pixels.shape[1] == width:
        return pixels
    interpolation = cv2.INTER_AREA if by_area else cv2.INTER_LINEAR
    return by_channel_groups(lambda part: cv2.resize(part, (width, len(pixels)), interpolation=interpolation), pixels)
