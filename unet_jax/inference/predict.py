"""Prediction on new images: probabilities, and mask files."""

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
from etils import epath
from jaxtyping import Float, UInt8

from unet_jax._types import InputError
from unet_jax.config import ModelConfig
from unet_jax.data.pixels import IMAGE_SUFFIXES, read_image, resize_image, resize_probs, write_png
from unet_jax.devices.mesh import check_rows, fetch, put_whole_batch
from unet_jax.devices.processes import is_first
from unet_jax.program.build import build_predict_step
from unet_jax.program.steps import PredictStep
from unet_jax.report.pictures import render_overlay
from unet_jax.runs.load import Run

_BATCH_SIZE = 8

T = TypeVar("T")


@functools.lru_cache(maxsize=8)
def _predict_step(config: ModelConfig, num_classes: int) -> PredictStep:
    """Build the prediction step once per network, for all runs that have this network."""
    return build_predict_step(config, num_classes)


def _run_step(run: Run, images: UInt8[np.ndarray, "b h w 3"]) -> Float[np.ndarray, "b h w k"]:
    """Compute the probabilities of a batch, which is padded so that it can be divided evenly over the devices."""
    check_rows(images.shape[1], run.config.model.size_multiple, run.mesh)
    fill = -len(images) % run.mesh.shape["data"]
    padded = np.concatenate([images, np.zeros((fill, *images.shape[1:]), np.uint8)])
    step = _predict_step(run.config.model, len(run.class_names))
    probs = step(run.state.params, run.state.batch_stats, put_whole_batch(padded, run.mesh))
    return np.asarray(fetch(probs, run.mesh))[: len(images)]


def predict_images(run: Run, images: Iterable[UInt8[np.ndarray, "h w 3"]]) -> Iterator[Float[np.ndarray, "h w k"]]:
    """Yield the probabilities of each image at its own size, in order. A few images are computed at a time.

    Images are resized to the size that the network was trained at (`data.image_size`), and the probabilities are
    resized back, both as in training and evaluation. If the run has its calibration, the probabilities are then
    calibrated.

    Args:
      run: run from `load_run`.
      images: `[h w 3]` uint8 RGB, each of any size.

    Yields:
      `[h w k]` float32 in [0, 1], classes in the order of `run.class_names`.

    Raises:
      InputError: an image has another shape or dtype.

    Example:
      >>> run = unet_jax.load_run("RUN")  # doctest: +SKIP
      >>> masks = [probs > run.threshold for probs in unet_jax.predict_images(run, images)]  # doctest: +SKIP
    """
    for probs, _ in predict_pairs(run, ((image, None) for image in images)):
        yield probs


def predict_pairs(
    run: Run, pairs: Iterable[tuple[UInt8[np.ndarray, "h w 3"], T]]
) -> Iterator[tuple[Float[np.ndarray, "h w k"], T]]:
    """Yield probabilities as `predict_images` does, each with the companion that was paired with its image."""
    size = run.config.data.image_size
    pending: list[tuple[np.ndarray, T]] = []

    def flush() -> Iterator[tuple[np.ndarray, T]]:
        batch = np.zeros((_BATCH_SIZE, size, size, 3), np.uint8)  # always full: one shape, one compilation
        for i, (image, _) in enumerate(pending):
            batch[i] = resize_image(image, size, size)
        for (image, companion), probs in zip(pending, _run_step(run, batch), strict=False):
            resized = resize_probs(probs, *image.shape[:2])
            yield run.calibration.probs(resized) if run.calibration else resized, companion
        pending.clear()

    for image, companion in pairs:
        pending.append((_checked_image(image), companion))
        if len(pending) == _BATCH_SIZE:
            yield from flush()
    if pending:
        yield from flush()


def _checked_batch(images: np.ndarray) -> np.ndarray:
    """Return the images, or raise `InputError` if their shape or dtype is wrong."""
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
        raise InputError(
            f"images have shape {images.shape} and dtype {images.dtype}, but must be [batch height width 3] uint8 RGB; "
            f"for one image: images[None]."
        )
    return images


def _checked_image(image: np.ndarray) -> np.ndarray:
    """Return the image, or raise `InputError` if its shape or dtype is wrong."""
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise InputError(
            f"an image has shape {image.shape} and dtype {image.dtype}, but must be [height width 3] uint8 RGB."
        )
    return image


def predict_probs(run: Run, images: UInt8[np.ndarray, "b h w 3"]) -> Float[np.ndarray, "b h w k"]:
    """Compute the probability of each class at each pixel, at the size of the images.

    See `predict_images` for how images are resized and probabilities calibrated.

    Args:
      run: run from `load_run`.
      images: `[b h w 3]` uint8 RGB, of any size.

    Returns:
      `[b h w k]` float32 in [0, 1], classes in the order of `run.class_names`. Classes are independent, so their
      probabilities need not add up to 1.

    Raises:
      InputError: the images have another shape or dtype.

    Example:
      >>> run = unet_jax.load_run("RUN")  # doctest: +SKIP
      >>> unet_jax.predict_probs(run, np.zeros((2, 300, 400, 3), np.uint8)).shape  # doctest: +SKIP
      (2, 300, 400, 2)
    """
    images = _checked_batch(images)
    if len(images) == 0:
        return np.zeros((*images.shape[:3], len(run.class_names)), np.float32)
    return np.stack(list(predict_images(run, images)))


def predict_probs_unresized(run: Run, images: UInt8[np.ndarray, "b h w 3"]) -> Float[np.ndarray, "b h w k"]:
    """Compute probabilities as `predict_probs` does, but without resizing the images.

    Use it for networks that should see objects at the scale of the files. Images whose size the network cannot take
    are padded, and their probabilities cropped. Each new shape of images is compiled once.

    Args:
      run: run from `load_run`.
      images: `[b h w 3]` uint8 RGB, of any size.

    Returns:
      `[b h w k]` float32 in [0, 1].

    Raises:
      InputError: the images have another shape or dtype.

    Example:
      >>> run = unet_jax.load_run("RUN")  # doctest: +SKIP
      >>> probs = unet_jax.predict_probs_unresized(run, np.zeros((1, 1000, 700, 3), np.uint8))  # doctest: +SKIP
    """
    probs = _run_step(run, _checked_batch(images))
    return run.calibration.probs(probs) if run.calibration else probs


def find_inputs(inputs: Sequence[str | epath.Path]) -> dict[str, epath.Path]:
    """Find image files, and return them by id.

    The id is the file's name without its suffix. In a folder, it is the path below the folder without the suffix.

    Args:
      inputs: image files, and folders that are searched for image files at any depth.

    Raises:
      InputError: there is no such file, a name does not end like an image's, or two files have the same id.
    """
    files: dict[str, epath.Path] = {}
    if not inputs:
        raise InputError("no image was named: give files or folders after the run.")
    for entry in inputs:
        path = epath.Path(entry)
        if (path / "images").is_dir() and (path / "masks").is_dir():
            raise InputError(f"{path}: is a data set with masks. Name its images: {path / 'images'}.")
        if path.is_dir():
            matched = {str((p.parent / p.stem).relative_to(path)): p for p in _walk(path)}
            if not matched:
                raise InputError(f"{path}: holds no image. Images end in {', '.join(IMAGE_SUFFIXES)}.")
        elif not path.exists():
            raise InputError(f"{path}: there is no such file or folder.")
        elif path.suffix.lower() not in IMAGE_SUFFIXES:
            raise InputError(f"{path}: does not end in one of {', '.join(IMAGE_SUFFIXES)}.")
        else:
            matched = {path.stem: path}
        for id_, file in matched.items():
            if id_ in files:
                raise InputError(
                    f"{file}: would write the same output {id_}.png as {files[id_]}. Predict them separately, with "
                    f"another --out."
                )
            files[id_] = file
    return files


def _walk(folder: epath.Path) -> Iterator[epath.Path]:
    """Yield the image files in a folder and below it; names that begin with a dot are left out."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _walk(path)
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            yield path


def predict_files(run: Run, files: dict[str, epath.Path], out: epath.Path) -> Iterator[str]:
    """Write `out/CLASS/ID.png` (0 or 255) and `out/overlay/ID.png` at each image's own size; yield finished ids.

    All connected processes must be given the same files. Only the first process writes.

    Args:
      run: run from `load_run`.
      files: image files by id, from `find_inputs`.
      out: folder for the masks and overlays.

    Raises:
      InputError: an image lies in `out`, or `out` holds files that would be overwritten and that this function did not
        write.
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
    read = ((image, (id_, image)) for id_, path in files.items() for image in (read_image(path),))
    for probs, (id_, image) in predict_pairs(run, read):
        if is_first():
            mask = probs > run.threshold
            for k, name in enumerate(run.class_names):
                write_png(out / name / f"{id_}.png", mask[..., k].astype(np.uint8) * np.uint8(255))
            write_png(out / "overlay" / f"{id_}.png", render_overlay(image, mask))
        yield id_
