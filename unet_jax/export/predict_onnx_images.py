"""Image files for predict_onnx.py: which ones there are, and their pixels as the network sees them.

This file stands by itself: NumPy and OpenCV only. It may be copied, changed and shipped together with the model.
"""

import io
import struct
import unicodedata
from pathlib import Path
from typing import Any

import cv2
import numpy as np

IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp", ".avif", ".jp2", ".ppm", ".pgm", ".pnm"),
    ".npy",
)
_WHITE = 65535
_MOST_NPY_CHANNELS = 64


class PredictError(ValueError):
    """Error for a model, an image or an argument that cannot be used."""


def find_images(inputs: list[str]) -> dict[str, Path]:
    """Return image files by id: the path below the named folder, or the name of a named file, without the ending."""
    files: dict[str, Path] = {}

    def add(id_: str, path: Path) -> None:
        id_ = unicodedata.normalize("NFC", id_)
        if id_ in files:
            raise PredictError(f"{path}: would write the same masks {id_}.png as {files[id_]}. Rename one of them.")
        files[id_] = path

    for entry in map(Path, inputs):
        if entry.is_dir():
            for path in sorted(entry.rglob("*")):
                relative = path.relative_to(entry)
                is_hidden = any(part.startswith(".") for part in relative.parts)
                if path.suffix.lower() in IMAGE_SUFFIXES and not is_hidden:
                    add(relative.with_name(_stem(path.name)).as_posix(), path)
        elif not entry.exists():
            raise PredictError(f"{entry}: there is no such file or folder.")
        elif entry.suffix.lower() not in IMAGE_SUFFIXES:
            raise PredictError(f"{entry}: does not end in one of {', '.join(IMAGE_SUFFIXES)}.")
        else:
            add(_stem(entry.name), entry)
    if not files:
        raise PredictError(f"no image in {', '.join(inputs)}. Images end in {', '.join(IMAGE_SUFFIXES)}.")
    return files


def _stem(name: str) -> str:
    stem = Path(name).stem
    return stem[:-4] if stem.lower().endswith(".ome") and Path(name).suffix.lower() in (".tif", ".tiff") else stem


def read_image(path: str | Path, images: dict[str, Any] | None) -> np.ndarray:
    """Read an image file as the network sees it, at its own size.

    Args:
      path: image file.
      images: `contract["images"]`: channels and intensities; None is 8-bit RGB of any file.

    Returns:
      `[h w c]` uint8 or uint16.

    Raises:
      PredictError: the file cannot be read, or has other channels or another depth than the run's images.
    """
    return decode_image(Path(path).read_bytes(), str(path), images)


def decode_image(data: bytes, name: str, images: dict[str, Any] | None) -> np.ndarray:
    """Decode the content of an image file as `read_image` does; its name says the kind of file."""
    if images and images.get("names"):
        raise PredictError(
            f"{name}: this model's images have a file for each channel ({', '.join(images['names'])}), which this "
            f"program does not join. Call it from Python: map_intensities takes an array [h w c] of them."
        )
    suffix = Path(name).suffix.lower()
    if suffix in (".tif", ".tiff"):
        _check_tiff(name, data)
    elif suffix in (".gif", ".webp"):
        _check_single(name, data)
    if images is None:
        return _decode(name, data, cv2.IMREAD_COLOR_RGB)
    if suffix == ".npy":
        pixels = _decode_npy(name, data)
    else:
        pixels = _decode(name, data, cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH)
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB) if pixels.ndim == 3 else pixels[..., None]
    return map_intensities(pixels, name, images)


def _check_type(pixels: np.ndarray, expected: np.dtype, name: str) -> None:
    """Raise `PredictError` for numbers of another kind than those that the limits were measured on."""
    found = pixels.dtype
    if found == expected or found.kind == expected.kind == "f":
        return
    if expected.kind in "ui" and found.itemsize >= expected.itemsize:
        range_ = np.iinfo(expected)
        if pixels.min() >= range_.min and pixels.max() <= range_.max and (pixels == np.rint(pixels)).all():
            return
    raise PredictError(f"{name}: has {found} values, but the images of this model have {expected}.")


def map_intensities(pixels: np.ndarray, name: str, images: dict[str, Any]) -> np.ndarray:
    """Map numbers of a file, `[h w c]`, to pixels as the network sees them."""
    found, expected = pixels.shape[-1], images["file_channels"]
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise PredictError(f"{name}: has values that are not finite. Fill such pixels with a number.")
    if found == 1 and expected == 3 and not images.get("names"):
        pixels = np.repeat(pixels, 3, axis=-1)
    elif found != expected:
        raise PredictError(f"{name}: has {found} channels, but the images of this model have {expected}.")
    if images.get("types"):
        _check_type(pixels, np.result_type(*images["types"]), name)
    pixels = np.ascontiguousarray(pixels[..., images["channels"]])
    if images["bits"] == 8:
        if pixels.dtype != np.uint8:
            raise PredictError(f"{name}: has {pixels.dtype} values, but the images of this model have 8 bits.")
        return pixels
    if images["percentiles"]:
        low, high = np.percentile(pixels, images["percentiles"], axis=(0, 1))
        high = np.where(high > low, high, low + 1.0)
    elif images["high"]:
        low, high = np.asarray(images["low"]), np.asarray(images["high"])
    else:
        largest = np.iinfo(pixels.dtype).max if pixels.dtype.kind in "ui" else 1.0
        low, high = np.zeros(pixels.shape[-1]), np.full(pixels.shape[-1], float(largest))
    scale = _WHITE / np.maximum(high - low, np.finfo(np.float64).tiny)
    return np.rint(np.clip((pixels.astype(np.float64) - low) * scale, 0, _WHITE)).astype(np.uint16)


def _decode(name: str, data: bytes, flags: int) -> np.ndarray:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error as error:
        raise PredictError(f"{name}: OpenCV refuses to decode it ({error.err}).") from error
    if image is None:
        raise PredictError(f"{name}: is not an image that OpenCV can decode ({len(data)} bytes).")
    return image


def _decode_npy(name: str, data: bytes) -> np.ndarray:
    try:
        pixels = np.load(io.BytesIO(data), allow_pickle=False)
    except Exception as error:
        raise PredictError(f"{name}: is not an array that NumPy can load ({error}).") from error
    if not isinstance(pixels, np.ndarray) or pixels.ndim not in (2, 3) or pixels.size == 0:
        raise PredictError(f"{name}: does not hold one array [height width] or [height width channels].")
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if pixels.shape[-1] > _MOST_NPY_CHANNELS or pixels.dtype.kind not in "uifb":
        raise PredictError(f"{name}: has the shape {pixels.shape} and type {pixels.dtype}, which is not an image's.")
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def _check_single(name: str, data: bytes) -> None:
    ok, frames = cv2.imdecodemulti(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if ok and len(frames) > 1:
        raise PredictError(f"{name}: holds {len(frames)} pictures. Save each one as a file of its own.")


_TIFF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1, 13: 4}


def _check_tiff(name: str, data: bytes) -> None:
    """Raise PredictError for a TIFF that OpenCV would not read as `unet-jax predict` does."""
    try:
        tags, has_more = _tiff_tags(data)
    except (struct.error, IndexError, KeyError) as error:
        raise PredictError(f"{name}: is not a TIFF file that this script can read ({error}).") from error
    bits, kinds = set(tags.get(258, (1,))), set(tags.get(339, (1,)))
    count, photometric = tags.get(277, (1,))[0], tags.get(262, (None,))[0]
    reasons = {
        "several pages": has_more or (b"images=" in data[: 2**16] and b"ImageJ=" in data[: 2**16]),
        f"photometric interpretation {photometric}": (photometric, count) not in ((1, 1), (2, 3)),
        f"compression {tags.get(259, (1,))[0]}": tags.get(259, (1,))[0] not in (1, 5, 8, 32946, 32773),
        f"bits {sorted(bits)}": (*bits, *kinds) not in ((8, 1), (16, 1), (32, 3), (64, 3)),
        "planes apart": tags.get(284, (1,))[0] != 1 and count > 1,
        f"orientation {tags.get(274, (1,))[0]}": tags.get(274, (1,))[0] != 1,
    }
    wrong = ", ".join(reason for reason, is_so in reasons.items() if is_so)
    if wrong:
        raise PredictError(
            f"{name}: is a TIFF that OpenCV alone does not read as it was trained on ({wrong}). Save it as PNG or with "
            f"numpy.save, or use unet-jax predict."
        )


def _tiff_tags(data: bytes) -> tuple[dict[int, tuple[int, ...]], bool]:
    """Return the numbers of each tag of a TIFF's first page, and whether there is another page."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None:
        raise KeyError("it does not begin as one")
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    (entries,) = struct.unpack_from(f"{order}H", data, start)
    tags = {}
    for at in range(start + 2, start + 2 + 12 * entries, 12):
        code, kind, count = struct.unpack_from(f"{order}HHI", data, at)
        if code not in (258, 259, 262, 274, 277, 284, 339):
            continue
        size = _TIFF_SIZES[kind] * count
        place = at + 8 if size <= 4 else struct.unpack_from(f"{order}I", data, at + 8)[0]
        tags[code] = struct.unpack_from(f"{order}{count}{'H' if kind == 3 else 'I' if kind == 4 else 'B'}", data, place)
    (following,) = struct.unpack_from(f"{order}I", data, start + 2 + 12 * entries)
    return tags, following != 0
