"""Probabilities and mask files for new images."""

import functools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from etils import epath
from jaxtyping import Float, UInt8

from unet_jax._types import InputError
from unet_jax.config import ModelConfig
from unet_jax.data.pixels import IMAGE_SUFFIXES, read_image, resize_image, resize_probs, write_png
from unet_jax.devices.compilation import compiler_options
from unet_jax.devices.mesh import check_rows, fetch, put_whole_batch
from unet_jax.devices.processes import is_first
from unet_jax.program.initial_state import make_model
from unet_jax.program.steps import PredictStep, make_predict_step
from unet_jax.report.pictures import render_overlay
from unet_jax.runs.load import Run

_BATCH_SIZE = 8


@functools.lru_cache(maxsize=8)
def _predict_step(config: ModelConfig, num_classes: int) -> PredictStep:
    """One compiled function per network, whichever run asks."""
    model = make_model(config, num_classes)
    return make_predict_step(model.apply, size_multiple=config.size_multiple, compiler_options=compiler_options())


def _run_step(run: Run, images: UInt8[np.ndarray, "b h w 3"]) -> Float[np.ndarray, "b h w k"]:
    """The batch, filled up so that it splits evenly over the devices, through the network."""
    check_rows(images.shape[1], run.config.model.size_multiple, run.mesh)
    fill = -len(images) % run.mesh.shape["data"]
    padded = np.concatenate([images, np.zeros((fill, *images.shape[1:]), np.uint8)])
    step = _predict_step(run.config.model, len(run.class_names))
    probs = step(run.state.params, run.state.batch_stats, put_whole_batch(padded, run.mesh))
    return np.asarray(fetch(probs, run.mesh))[: len(images)]


def predict_images(run: Run, images: Iterable[UInt8[np.ndarray, "h w 3"]]) -> Iterator[Float[np.ndarray, "h w k"]]:
    """Probabilities of each image at its own size, in order, a few images at a time.

    Images are resized to the size that the network was trained at (`data.image_size`), and the probabilities back,
    both as in training and evaluation; then they are calibrated, if the run was loaded so.
    """
    size = run.config.data.image_size
    pending: list[np.ndarray] = []

    def flush() -> Iterator[np.ndarray]:
        batch = np.zeros((_BATCH_SIZE, size, size, 3), np.uint8)  # always full: one shape, one compilation
        for i, image in enumerate(pending):
            batch[i] = resize_image(image, size, size)
        for image, probs in zip(pending, _run_step(run, batch), strict=False):
            resized = resize_probs(probs, *image.shape[:2])
            yield run.calibration.probs(resized) if run.calibration else resized
        pending.clear()

    for image in images:
        pending.append(_checked_image(image))
        if len(pending) == _BATCH_SIZE:
            yield from flush()
    if pending:
        yield from flush()


def _checked_batch(images: np.ndarray) -> np.ndarray:
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
        raise InputError(
            f"images have shape {images.shape} and dtype {images.dtype}, but must be [batch height width 3] uint8 RGB; "
            f"for one image: images[None]."
        )
    return images


def _checked_image(image: np.ndarray) -> np.ndarray:
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise InputError(
            f"an image has shape {image.shape} and dtype {image.dtype}, but must be [height width 3] uint8 RGB."
        )
    return image


def predict_probs(run: Run, images: UInt8[np.ndarray, "b h w 3"]) -> Float[np.ndarray, "b h w k"]:
    """Probability of each class (in the order of `run.class_names`) at each pixel.

    Args:
      run: from `load_run`.
      images: `[B H W 3]` uint8 RGB, of any size.

    Returns:
      `[B H W K]` float32 in [0, 1]; classes are independent, so they need not add up to 1.

    Raises:
      InputError: another shape or dtype.
    """
    images = _checked_batch(images)
    if len(images) == 0:
        return np.zeros((*images.shape[:3], len(run.class_names)), np.float32)
    return np.stack(list(predict_images(run, images)))


def predict_probs_unresized(run: Run, images: UInt8[np.ndarray, "b h w 3"]) -> Float[np.ndarray, "b h w k"]:
    """As `predict_probs`, but the network sees the images at their own size, padded and cropped where it must.

    For networks that should meet objects at the scale of the files. Compiles once per shape.
    """
    probs = _run_step(run, _checked_batch(images))
    return run.calibration.probs(probs) if run.calibration else probs


def find_inputs(inputs: Sequence[str | epath.Path]) -> dict[str, epath.Path]:
    """Image files by id: each file's name without ending, and in folders its path below the folder.

    Raises:
      InputError: nothing there, not an image by its ending, or two files of one id.
    """
    files: dict[str, epath.Path] = {}
    if not inputs:
        raise InputError("no image was named: give files or folders after the run.")
    for entry in inputs:
        path = epath.Path(entry)
        if (path / "images").is_dir() and (path / "masks").is_dir():
            raise InputError(f"{path}: is a data set with masks. Name its images: {path / 'images'}.")
        if path.is_dir():
            found = {str((p.parent / p.stem).relative_to(path)): p for p in _walk(path)}
            if not found:
                raise InputError(f"{path}: holds no image. Images end in {', '.join(IMAGE_SUFFIXES)}.")
        elif not path.exists():
            raise InputError(f"{path}: there is no such file or folder.")
        elif path.suffix.lower() not in IMAGE_SUFFIXES:
            raise InputError(f"{path}: does not end in one of {', '.join(IMAGE_SUFFIXES)}.")
        else:
            found = {path.stem: path}
        for id_, file in found.items():
            if id_ in files:
                raise InputError(f"{file}: and {files[id_]} would write the same output {id_}.png. Predict them apart.")
            files[id_] = file
    return files


def _walk(folder: epath.Path) -> Iterator[epath.Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _walk(path)
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            yield path


def predict_files(run: Run, files: dict[str, epath.Path], out: epath.Path) -> Iterator[str]:
    """Writes `out/CLASS/ID.png` (0 or 255) and `out/overlay/ID.png` at each image's own size; yields finished ids.

    Of connected processes, each of which must be given the same files, the first one writes.
    """
    for path in files.values():
        if out.absolute() in path.absolute().parents:
            raise InputError(f"{out}: the image {path} lies in it. Choose another --out, outside of the images.")
    taken = [name for name in run.class_names if (out / name).exists()]
    if is_first() and taken and not (out / "overlay").exists():
        raise InputError(
            f"{out / taken[0]}: is there already and was not made by predict (no overlay/ beside it); its files would "
            f"be overwritten. Choose another --out."
        )
    read: list[np.ndarray] = []  # images that are on their way through the network

    def images() -> Iterator[np.ndarray]:
        for path in files.values():
            read.append(read_image(path))
            yield read[-1]

    for id_, probs in zip(files, predict_images(run, images()), strict=True):
        mask, image = probs > run.threshold, read.pop(0)
        if not is_first():
            yield id_
            continue
        for k, name in enumerate(run.class_names):
            write_png(out / name / f"{id_}.png", mask[..., k].astype(np.uint8) * np.uint8(255))
        write_png(out / "overlay" / f"{id_}.png", render_overlay(image, mask))
        yield id_
