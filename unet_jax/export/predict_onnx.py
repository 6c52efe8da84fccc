"""Masks from an ONNX file that `unet-jax export` made, with NumPy, onnxruntime and OpenCV only.

    python predict_onnx.py MODEL.onnx IMAGE_OR_FOLDER ... --out MASKS

writes MASKS/CLASS/ID.png (0 or 255) at each image's own size, with the same pixels as `unet-jax predict` on the run
that the file was made from. As a module, it has the functions `load_model`, `predict_file` and `predict_probs`.

This file stands by itself: it may be copied, changed and shipped together with the model.
"""

import argparse
import io
import json
import os
import struct
import sys
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import onnxruntime

FORMAT = 1
IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp", ".avif", ".jp2", ".ppm", ".pgm", ".pnm"),
    ".npy",
)
_WHITE = 65535
_LARGEST_LOGIT = 16.0
_MOST_NPY_CHANNELS = 64


class PredictError(ValueError):
    """Error for a model, an image or an argument that cannot be used."""


class Model(NamedTuple):
    """A loaded ONNX file."""

    session: Any
    """`onnxruntime.InferenceSession`."""
    contract: dict[str, Any]
    """The file's metadata `unet_jax`: class names, sizes, intensities, thresholds."""


def load_model(file: str | bytes, *, providers: tuple[str, ...] = ("CPUExecutionProvider",), threads: int = 0) -> Model:
    """Load a model.

    Args:
      file: path of the ONNX file, or its content.
      providers: onnxruntime's devices, most wanted first, such as "CUDAExecutionProvider".
      threads: number of threads; 0 = onnxruntime's own choice.

    Raises:
      PredictError: the file is no such model.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # otherwise: a warning that limits of intensities are not constants
    options.intra_op_num_threads = threads
    name = "the model" if isinstance(file, bytes) else file
    try:
        session = onnxruntime.InferenceSession(file, options, providers=list(providers))
    except Exception as error:  # onnxruntime's exceptions have no common base
        raise PredictError(f"{name}: onnxruntime cannot load it ({str(error).splitlines()[0]}).") from error
    text = session.get_modelmeta().custom_metadata_map.get("unet_jax")
    if text is None:
        raise PredictError(f"{name}: was not made by unet-jax export (it has no metadata 'unet_jax').")
    contract = json.loads(text)
    if contract["format"] != FORMAT:
        raise PredictError(f"{name}: has format {contract['format']}, but this script reads {FORMAT}. Export again.")
    if contract["layout"] != "pixels":
        raise PredictError(
            f"{name}: was exported with --heads, for programs that cut tiles themselves. Export it again without it."
        )
    for class_name in contract["class_names"]:  # they are folders of the masks
        if not class_name or "/" in class_name or "\\" in class_name or class_name in (".", ".."):
            raise PredictError(f"{name}: names a class {class_name!r}, which cannot be a folder.")
    return Model(session, contract)


def predict_file(model: Model, path: str | Path) -> np.ndarray:
    """Return the masks of an image file, `[h w k]` bool, at its own size."""
    return predict_masks(model, read_image(path, model.contract["images"]))


def predict_masks(model: Model, image: np.ndarray) -> np.ndarray:
    """Return the masks of an image from `read_image`, `[h w k]` bool, at its own size."""
    return predict_probs(model, image) > np.asarray(model.contract["thresholds"], np.float32)


def predict_probs(model: Model, image: np.ndarray) -> np.ndarray:
    """Return the probabilities of an image at its own size.

    Args:
      model: result of `load_model`.
      image: `[h w c]` as `read_image` returns it, uint8 or uint16.

    Returns:
      `[h w k]` float32 in [0, 1].
    """
    fit = model.contract["fit"]
    if fit["kind"] != "stretch":
        raise PredictError(
            f"the network was trained with data.fit {fit['kind']}, and this script only resizes images. Bring images "
            f"to {fit['width']}x{fit['height']} pixels as in training, and call run_network; or use unet-jax predict."
        )
    probs = run_network(model, resize_image(image, fit["height"], fit["width"])[None])[0]
    return calibrate(resize_probs(probs, *image.shape[:2]), model.contract["temperatures"])


def run_network(model: Model, images: np.ndarray) -> np.ndarray:
    """Return the network's probabilities of images `[b h w c]`, uint8 or uint16, before calibration."""
    session, contract = model
    has_limits = any(value.name == "low" for value in session.get_overridable_initializers())
    output = "uncalibrated" if contract["temperatures"] else "probabilities"
    return session.run([output], feeds(images, contract["input"]["dtype"], has_limits))[0]


def feeds(images: np.ndarray, dtype: Any, has_limits: bool) -> dict[str, np.ndarray]:
    """Return the inputs of the graph for images `[b h w c]` whose intensities are mapped already."""
    inputs = {"pixels": images.astype(dtype, copy=False)}
    if has_limits:
        inputs["low"] = np.zeros(images.shape[-1], np.float32)
        inputs["high"] = np.full(images.shape[-1], _WHITE, np.float32)
    return inputs


def calibrate(probs: np.ndarray, temperatures: list[float] | None) -> np.ndarray:
    """Divide the logits of probabilities `[..., k]` by the temperatures, if there are any."""
    if temperatures is None:
        return probs
    with np.errstate(divide="ignore"):
        p = probs.astype(np.float64)
        logits = np.clip(np.log(p) - np.log1p(-p), -_LARGEST_LOGIT, _LARGEST_LOGIT)
    return (1.0 / (1.0 + np.exp(-logits / np.asarray(temperatures)))).astype(np.float32)


def resize_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize an `[h w c]` image: by area if neither side grows, else bilinearly."""
    shrinks = height <= image.shape[0] and width <= image.shape[1]
    return _resize(image, height, width, cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def resize_probs(probs: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize `[h w k]` probabilities bilinearly."""
    return _resize(probs, height, width, cv2.INTER_LINEAR)


def _resize(array: np.ndarray, height: int, width: int, interpolation: int) -> np.ndarray:
    if array.shape[:2] == (height, width):
        return array
    parts, start, channels = [], 0, array.shape[-1]
    while start < channels:  # OpenCV rounds two channels otherwise than one, three or four
        count = {1: 1, 2: 1, 3: 3}.get(channels - start, 4)
        part = np.ascontiguousarray(array[..., start : start + count])
        part = cv2.resize(part, (width, height), interpolation=interpolation)
        parts.append(part[..., None] if part.ndim == 2 else part)
        start += count
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)


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


def write_masks(model: Model, files: dict[str, Path], out: Path) -> Iterator[tuple[str, PredictError | None]]:
    """Write `out/CLASS/ID.png` of each image; yield its id and what was wrong with it, if anything was."""
    for id_, path in files.items():
        try:
            masks = predict_file(model, path)
        except (PredictError, OSError) as error:
            yield id_, PredictError(str(error))
            continue
        for k, name in enumerate(model.contract["class_names"]):
            _, data = cv2.imencode(".png", masks[..., k].astype(np.uint8) * np.uint8(255))
            file = out / name / f"{id_}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            aside = file.with_name(f".{file.name}.{os.getpid()}")
            aside.write_bytes(data.tobytes())
            os.replace(aside, file)
        yield id_, None


def main(argv: list[str] | None = None, say: Callable[[str], None] = print) -> int:
    """Run the command, and return its exit status: 0, or 2 if an image or an argument could not be used."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="ONNX file made by unet-jax export")
    parser.add_argument("inputs", nargs="+", help="image files, or folders that are searched for them")
    parser.add_argument("--out", required=True, help="folder for the masks CLASS/ID.png")
    parser.add_argument("--provider", default="CPUExecutionProvider", help="device of onnxruntime")
    options = parser.parse_args(argv)
    try:
        files, out = find_images(options.inputs), Path(options.out)
        for path in files.values():
            if out.absolute() in path.absolute().parents:
                raise PredictError(f"{out}: the image {path} lies in it. Choose another --out.")
        model = load_model(options.model, providers=(options.provider,))
    except PredictError as error:
        print(f"predict_onnx: {error}", file=sys.stderr)
        return 2
    failed = 0
    for _, error in write_masks(model, files, out):
        if error is not None:
            failed += 1
            print(f"predict_onnx: {error}", file=sys.stderr)
    say(f"{len(files) - failed} of {len(files)} images predicted: {out}")
    return 2 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
