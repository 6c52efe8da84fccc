"""Masks from an ONNX file that `unet-jax export` made, with NumPy, onnxruntime and OpenCV only.

    python predict_onnx.py MODEL.onnx IMAGE_OR_FOLDER ... --out MASKS

writes MASKS/CLASS/ID.png (0 or 255) at each image's own size, with the same pixels as `unet-jax predict` on the run
that the file was made from. As a module, it has the functions `load_model`, `predict_file` and `predict_probs`.

This file and those beside it, predict_onnx_images.py, _tiles.py and _objects.py, stand by themselves: they may be
copied, changed and shipped together with the model.
"""

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import onnxruntime

if __package__:  # where the files are modules of a package
    from .predict_onnx_images import PredictError, decode_image, find_images, map_intensities, read_image
    from .predict_onnx_objects import apply_rules
    from .predict_onnx_tiles import blended_rows, far_scale, resize, resize_rows, scale_image
else:
    from predict_onnx_images import PredictError, decode_image, find_images, map_intensities, read_image
    from predict_onnx_objects import apply_rules
    from predict_onnx_tiles import blended_rows, far_scale, resize, resize_rows, scale_image

__all__ = [
    "Model",
    "PredictError",
    "decode_image",
    "far_scale",
    "load_model",
    "map_intensities",
    "predict_file",
    "predict_masks",
    "predict_probs",
    "read_image",
    "run_network",
]
FORMAT = 3
_FITS = ("stretch", "pad", "crop", "whole")
_WHITE = 65535
_LARGEST_LOGIT = 16.0
_DIGEST = "unet_jax_sha256"  # the last entry of the metadata: a digest of all bytes before its 64 digits
_HELP = """\
Write the masks of images, with the network of an ONNX file that
`unet-jax export` made.

The masks are OUT/CLASS/ID.png, 0 or 255, at each image's own size. They are
those of `unet-jax predict` with the run that the file was made from. ID is the
name of the image without its ending; for an image in a folder, it is the path
below that folder.
"""
_HELP_END = """\
An image that cannot be used is named, the others are done, and the exit status
is then 2.

example: python predict_onnx.py model.onnx photos --out masks
"""


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
      PredictError: the file is no such model, or it is damaged.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # otherwise: a warning that limits of intensities are not constants
    options.intra_op_num_threads = threads
    name = "the model" if isinstance(file, bytes) else file
    content = file if isinstance(file, bytes) else _read(file)
    has_digest = content[-66 - len(_DIGEST) : -66] == _DIGEST.encode()  # 2 bytes are between name and value
    if has_digest and content[-64:] != hashlib.sha256(memoryview(content)[:-64]).hexdigest().encode():
        raise PredictError(f"{name}: is damaged: its bytes are not those that were exported. Export it again.")
    try:
        session = onnxruntime.InferenceSession(content, options, providers=list(providers))
    except Exception as error:  # onnxruntime's exceptions have no common base
        raise PredictError(f"{name}: onnxruntime cannot load it ({str(error).splitlines()[0]}).") from error
    metadata = session.get_modelmeta().custom_metadata_map
    if "unet_jax" not in metadata:
        raise PredictError(f"{name}: was not made by unet-jax export (it has no metadata 'unet_jax').")
    if _DIGEST in metadata and not has_digest:
        raise PredictError(
            f"{name}: was changed since it was exported. If this was on purpose, remove {_DIGEST} from its metadata."
        )
    contract = json.loads(metadata["unet_jax"])
    if contract["format"] != FORMAT:
        raise PredictError(f"{name}: has format {contract['format']}, but this script reads {FORMAT}. Export it again.")
    if contract["layout"] != "pixels":
        raise PredictError(
            f"{name}: was exported with --heads, for programs that cut tiles themselves. Export it again without it."
        )
    if contract["fit"]["kind"] not in _FITS:
        raise PredictError(f"{name}: has the fit {contract['fit']['kind']!r}; this script knows {', '.join(_FITS)}.")
    for class_name in contract["class_names"]:  # they are folders of the masks
        if not class_name or "/" in class_name or "\\" in class_name or class_name in (".", ".."):
            raise PredictError(f"{name}: names a class {class_name!r}, which cannot be a folder.")
    return Model(session, contract)


def _read(file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise PredictError(f"{file}: cannot be read ({error.strerror}).") from error


def predict_file(model: Model, path: str | Path) -> np.ndarray:
    """Return the masks of an image file, `[h w k]` bool, at its own size."""
    return predict_masks(model, read_image(path, model.contract["images"]))


def predict_masks(model: Model, image: np.ndarray) -> np.ndarray:
    """Return the masks of an image from `read_image`, `[h w k]` bool, at its own size."""
    thresholds = np.asarray(model.contract["thresholds"], np.float32)
    masks = np.concatenate([probs > thresholds for probs in predict_rows(model, image)])
    height, width = seen_size(image.shape[0], image.shape[1], model.contract["fit"])
    return apply_rules(masks, model.contract["objects"], height * width)


def predict_probs(model: Model, image: np.ndarray) -> np.ndarray:
    """Return the probabilities of an image at its own size.

    Args:
      model: result of `load_model`.
      image: `[h w c]` as `read_image` returns it, uint8 or uint16.

    Returns:
      `[h w k]` float32 in [0, 1].
    """
    return np.concatenate(list(predict_rows(model, image)))


def predict_rows(model: Model, image: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the probabilities of an image in blocks of its rows, `[rows w k]`, from the top to the bottom.

    The image comes to the network as in training: resized to its size (stretch), resized into it with the ratio of the
    sides kept and the rest mirrored (pad), in overlapping tiles (crop), or as it is (whole).
    """
    contract, (height, width) = model.contract, image.shape[:2]
    fit = contract["fit"]
    if fit["kind"] == "crop":
        seen = scale_image(image, fit["scale"])
        tiles = blended_rows(seen, fit, contract["input"]["size_multiple"], lambda tiles: run_logits(model, tiles))
        rows = map(sigmoid, tiles)
        rows = rows if fit["scale"] == 1.0 else resize_rows(rows, len(seen), height, width)
    else:
        rows = iter([_at_once(model, image, fit)])
    for probs in rows:
        yield calibrate(probs, contract["temperatures"])


def _at_once(model: Model, image: np.ndarray, fit: dict[str, Any]) -> np.ndarray:
    """Return the probabilities, before calibration, of an image that the network sees in one piece."""
    height, width = fit["height"], fit["width"]
    is_whole = fit["kind"] == "whole"
    seen = (
        scale_image(image, fit["scale"])
        if is_whole
        else resize_image(image, *seen_size(image.shape[0], image.shape[1], fit))
    )
    rows, columns = seen.shape[:2]
    if not is_whole:
        seen = np.pad(seen, ((0, height - rows), (0, width - columns), (0, 0)), mode="symmetric")
    probs = sigmoid(run_logits(model, seen[None])[0])[:rows, :columns]
    return resize_probs(probs, *image.shape[:2])


def seen_size(height: int, width: int, fit: dict[str, Any]) -> tuple[int, int]:
    """Return the height and width at which the network sees an image, without what is added to fill its input."""
    if fit["kind"] == "stretch":
        return fit["height"], fit["width"]
    if fit["kind"] == "pad":
        scale = min(fit["height"] / height, fit["width"] / width)
        return min(fit["height"], max(1, round(height * scale))), min(fit["width"], max(1, round(width * scale)))
    return max(1, round(height * fit["scale"])), max(1, round(width * fit["scale"]))


def run_network(model: Model, images: np.ndarray) -> np.ndarray:
    """Return the probabilities `[b h w k]` of images `[b h w c]`, uint8 or uint16, at the scale of the network."""
    return _run(model, images, "probabilities")


def run_logits(model: Model, images: np.ndarray) -> np.ndarray:
    """Return the logits `[b h w k]`, before calibration, of images `[b h w c]` at the scale of the network."""
    return _run(model, images, "logits")


def _run(model: Model, images: np.ndarray, output: str) -> np.ndarray:
    session, contract = model
    has_limits = any(value.name == "low" for value in session.get_overridable_initializers())
    return session.run([output], feeds(images, contract["input"]["dtype"], has_limits))[0]


def feeds(images: np.ndarray, dtype: Any, has_limits: bool) -> dict[str, np.ndarray]:
    """Return the inputs of the graph for images `[b h w c]` whose intensities are mapped already."""
    inputs = {"pixels": images.astype(dtype, copy=False)}
    if has_limits:
        inputs["low"] = np.zeros(images.shape[-1], np.float32)
        inputs["high"] = np.full(images.shape[-1], _WHITE, np.float32)
    return inputs


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Return probabilities of logits, both float32."""
    with np.errstate(over="ignore"):  # to infinity, whose inverse is 0
        return 1.0 / (1.0 + np.exp(-logits))


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
    return resize(image, height, width, cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def resize_probs(probs: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize `[h w k]` probabilities bilinearly."""
    return resize(probs, height, width, cv2.INTER_LINEAR)


def write_masks(model: Model, files: dict[str, Path], out: Path) -> Iterator[tuple[PredictError | None, str]]:
    """Write `out/CLASS/ID.png` of each image; yield what was wrong with it, if anything was, and what is odd."""
    for id_, path in files.items():
        try:
            image = read_image(path, model.contract["images"])
            masks = predict_masks(model, image)
        except (PredictError, OSError) as error:
            yield PredictError(str(error)), ""
            continue
        for k, name in enumerate(model.contract["class_names"]):
            _, data = cv2.imencode(".png", masks[..., k].astype(np.uint8) * np.uint8(255))
            file = out / name / f"{id_}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            aside = file.with_name(f".{file.name}.{os.getpid()}")
            aside.write_bytes(data.tobytes())
            os.replace(aside, file)
        far = far_scale(model.contract, image.shape[0], image.shape[1])
        yield None, f"{path}: {far}" if far else ""


def main(argv: list[str] | None = None, say: Callable[[str], None] = print) -> int:
    """Run the command, and return its exit status: 0, or 2 if an image or an argument could not be used."""
    parser = argparse.ArgumentParser(
        description=_HELP, epilog=_HELP_END, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="ONNX file")
    parser.add_argument("inputs", metavar="images", nargs="+", help="image files, or folders with images at any depth")
    parser.add_argument("--out", required=True, help="folder for the masks")
    cpu = "CPUExecutionProvider"
    parser.add_argument("--provider", default=cpu, help=f"device of onnxruntime, such as CUDAExecutionProvider ({cpu})")
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
    failed = far = 0
    for error, warning in write_masks(model, files, out):
        if error is not None:
            failed += 1
            print(f"predict_onnx: {error}", file=sys.stderr)
        if warning and not far:
            print(f"WARNING: {warning}", file=sys.stderr)
        far += bool(warning)
    if far > 1:
        print(f"WARNING: the scale of {far} images is far from that of training.", file=sys.stderr)
    say(f"{len(files) - failed} of {len(files)} images predicted: {out}")
    return 2 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
