"""Reading and writing image and mask files, and resizing arrays with any number of channels."""

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
    """A file of one sample cannot be used; `data.on_bad_sample` decides what follows."""


def read_bytes(path: epath.Path) -> bytes:
    """The file's content; `BadSampleError` when it is missing or unreadable."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadSampleError(f"{path}: cannot be read ({error}). Restore the file or remove the sample.") from error


def read_image(path: str | epath.Path) -> np.ndarray:
    """`[h w 3]` uint8 RGB. Gray images are repeated, alpha is dropped, 16 bits become 8, EXIF rotation is applied."""
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
    """Of several pictures only the first would be used. Smaller ones, such as thumbnails, are no concern."""
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
    data = read_bytes(path)
    if path.suffix.lower() in _STACK_SUFFIXES:
        _refuse_stack(path, data)
    try:
        picture = Image.open(io.BytesIO(data))
        picture.load()
        ImageOps.exif_transpose(picture, in_place=True)
    except Exception as error:  # Pillow's decoders raise whatever a broken file leads them to
        raise BadSampleError(f"{path}: is not a readable image ({error}; {len(data)} bytes). Replace it.") from error
    return picture


def read_gray(path: epath.Path, *, class_numbers: bool = False) -> np.ndarray:
    """`[h w]` bool, uint8 or uint16: what a gray, 1-bit, palette, RGB(A)-with-equal-channels or 16-bit file says.

    A palette is read by colour when the colours used are gray, by index otherwise; with `class_numbers`, when all of
    its colours are gray, so that files with one palette are read one way whatever they show.
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
    """A shape painted on a transparent layer is in the alpha channel, where nobody would look for it."""
    clear = alpha < alpha.max()
    if clear.any() and (gray[clear].any() or not gray.any()):
        y, x = np.argwhere(clear)[0]
        raise BadSampleError(
            f"{path}: is partly transparent (row {y}, column {x} has alpha {alpha[y, x]}), so that inside and outside "
            f"cannot be told apart by gray level. Save it without transparency, white inside and black outside."
        )


def _read_palette(picture: Image.Image, *, look_at_all: bool) -> np.ndarray:
    indices = np.asarray(picture)
    flat = picture.getpalette() or []
    palette = np.zeros((256, 3), np.uint8)
    palette.reshape(-1)[: len(flat)] = flat[:768]
    decisive = palette if look_at_all else palette[np.unique(indices)]
    if (decisive == decisive[:, :1]).all():
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
    """`[h w]` gray or `[h w 3]` RGB, uint8, as a PNG; makes the folder."""
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    ok, data = cv2.imencode(".png", pixels)
    if not ok:
        raise OSError(f"{path}: OpenCV could not encode a PNG of shape {pixels.shape}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.tobytes())


def by_channel_groups(operation: Callable[[np.ndarray], np.ndarray], pixels: np.ndarray) -> np.ndarray:
    """Applies an OpenCV operation to `[h w c]` arrays of any c and keeps the last axis.

    OpenCV gets 1, 3 or 4 channels at once: in those `cv2.warpPerspective` treats each channel as if it were alone.
    More it cannot fill at the border, and for 2 it has another, slower algorithm with other roundings.
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
