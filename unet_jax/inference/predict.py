"""Prediction on new images: probabilities, and mask files."""

import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

import numpy as np
from etils import epath
from jaxtyping import Float, Num
from jaxtyping import UInt as Pixels

from unet_jax._types import InputError
from unet_jax.config import ModelConfig
from unet_jax.data.images.format import read_as
from unet_jax.data.images.tiff import GeoTags, read_geo_tags, write_tiff
from unet_jax.data.pixels import resize_image, resize_probs, write_png
from unet_jax.devices.mesh import check_rows, fetch, put_whole_batch
from unet_jax.devices.processes import is_first
from unet_jax.inference.inputs import ImageFiles
from unet_jax.program.build import build_predict_step
from unet_jax.program.steps import PredictStep
from unet_jax.report.pictures import render_overlay, to_rgb
from unet_jax.runs.load import Run

_BATCH_SIZE = 8

T = TypeVar("T")


@functools.lru_cache(maxsize=8)
def _predict_step(config: ModelConfig, num_classes: int) -> PredictStep:
    """Build the prediction step once per network, for all runs that have this network."""
    return build_predict_step(config, num_classes)


def _run_step(run: Run, images: Pixels[np.ndarray, "b h w c"]) -> Float[np.ndarray, "b h w k"]:
    """Compute the probabilities of a batch, which is padded so that it can be divided evenly over the devices."""
    check_rows(images.shape[1], run.config.model.size_multiple, run.mesh)
    fill = -len(images) % run.mesh.shape["data"]
    padded = np.concatenate([images, np.zeros((fill, *images.shape[1:]), images.dtype)])
    step = _predict_step(run.config.model, len(run.class_names))
    probs = step(run.state.params, run.state.batch_stats, put_whole_batch(padded, run.mesh))
    return np.asarray(fetch(probs, run.mesh))[: len(images)]


def predict_images(run: Run, images: Iterable[Num[np.ndarray, "h w c"]]) -> Iterator[Float[np.ndarray, "h w k"]]:
    """Yield the probabilities of each image at its own size, in order. A few images are computed at a time.

    Images are resized to the size that the network was trained at (`data.image_size`), and the probabilities are
    resized back, both as in training and evaluation. If the run has its calibration, the probabilities are then
    calibrated.

    Args:
      run: run from `load_run`.
      images: `[h w c]`, each of any size, with the channels and numbers of the run's image files, as `read_pixels`
        returns them; uint8 RGB for most runs.

    Yields:
      `[h w k]` float32 in [0, 1], classes in the order of `run.class_names`.

    Raises:
      InputError: an image has other channels or another type than the run's.

    Example:
      >>> run = unet_jax.load_run("RUN")  # doctest: +SKIP
      >>> masks = [probs > run.threshold for probs in unet_jax.predict_images(run, images)]  # doctest: +SKIP
    """
    for probs, _ in predict_pairs(run, ((_as_seen(run, image), None) for image in images)):
        yield probs


def predict_pairs(
    run: Run, pairs: Iterable[tuple[Pixels[np.ndarray, "h w c"], T]]
) -> Iterator[tuple[Float[np.ndarray, "h w k"], T]]:
    """Yield probabilities as `predict_images` does, each with the companion that was paired with its image.

    Images are as the network sees them: uint8 or uint16 in the run's image format.
    """
    size = run.config.data.height_and_width
    pending: list[tuple[np.ndarray, T]] = []

    def flush() -> Iterator[tuple[np.ndarray, T]]:
        # always full: one shape, one compilation
        batch = np.zeros((_BATCH_SIZE, *size, run.info.num_channels), run.info.image_dtype)
        for i, (image, _) in enumerate(pending):
            batch[i] = resize_image(image, *size)
        for (image, companion), probs in zip(pending, _run_step(run, batch), strict=False):
            resized = resize_probs(probs, *image.shape[:2])
            yield run.calibration.probs(resized) if run.calibration else resized, companion
        pending.clear()

    for image, companion in pairs:
        pending.append((image, companion))
        if len(pending) == _BATCH_SIZE:
            yield from flush()
    if pending:
        yield from flush()


def _as_seen(run: Run, image: np.ndarray) -> np.ndarray:
    """Map an image as it is in a file to the pixels that the network sees, `[h w c]`.

    Raises:
      InputError: the image's shape, channels or type are others than the run's.
    """
    image = np.asarray(image)
    if image.ndim != 3 or image.size == 0:
        raise InputError(
            f"an image has shape {image.shape}, but must be [height width {run.info.num_channels}] with at least one "
            f"pixel."
        )
    if run.info.image_format is not None:
        return run.info.image_format.apply(image, f"an image of shape {image.shape}")
    if image.shape[-1] != 3 or image.dtype != np.uint8:
        raise InputError(
            f"an image has shape {image.shape} and dtype {image.dtype}, but must be [height width 3] uint8 RGB."
        )
    return image


def _checked_batch(run: Run, images: np.ndarray) -> np.ndarray:
    """Return the images, or raise `InputError` if they are not a batch."""
    images = np.asarray(images)
    if images.ndim != 4:
        raise InputError(
            f"images have shape {images.shape} and dtype {images.dtype}, but must be [batch height width "
            f"{run.info.num_channels}]; for one image: images[None]."
        )
    return images


def predict_probs(run: Run, images: Num[np.ndarray, "b h w c"]) -> Float[np.ndarray, "b h w k"]:
    """Compute the probability of each class at each pixel, at the size of the images.

    See `predict_images` for how images are resized and probabilities calibrated.

    Args:
      run: run from `load_run`.
      images: `[b h w c]` of any size, with the channels and numbers of the run's image files; uint8 RGB for most runs.

    Returns:
      `[b h w k]` float32 in [0, 1], classes in the order of `run.class_names`. Classes are independent, so their
      probabilities need not add up to 1.

    Raises:
      InputError: the images have other channels or another type than the run's.

    Example:
      >>> run = unet_jax.load_run("RUN")  # doctest: +SKIP
      >>> unet_jax.predict_probs(run, np.zeros((2, 300, 400, 3), np.uint8)).shape  # doctest: +SKIP
      (2, 300, 400, 2)
    """
    images = _checked_batch(run, images)
    if len(images) == 0:
        return np.zeros((*images.shape[:3], len(run.class_names)), np.float32)
    return np.stack(list(predict_images(run, images)))


def predict_probs_unresized(run: Run, images: Num[np.ndarray, "b h w c"]) -> Float[np.ndarray, "b h w k"]:
    """Compute probabilities as `predict_probs` does, but without resizing the images.

    Use it for networks that should see objects at the scale of the files. Images whose size the network cannot take
    are padded, and their probabilities cropped. Each new shape of images is compiled once.

    Args:
      run: run from `load_run`.
      images: `[b h w c]` of any size, with the channels and numbers of the run's image files; uint8 RGB for most runs.

    Returns:
      `[b h w k]` float32 in [0, 1].

    Raises:
      InputError: the images have other channels or another type than the run's.

    Example:
      >>> run = unet_jax.load_run("RUN")  # doctest: +SKIP
      >>> probs = unet_jax.predict_probs_unresized(run, np.zeros((1, 1000, 700, 3), np.uint8))  # doctest: +SKIP
    """
    seen = [_as_seen(run, image) for image in _checked_batch(run, images)]
    if not seen:
        return np.zeros((*np.shape(images)[:3], len(run.class_names)), np.float32)
    probs = _run_step(run, np.stack(seen))
    return run.calibration.probs(probs) if run.calibration else probs


def predict_files(run: Run, images: Mapping[str, ImageFiles], out: epath.Path) -> Iterator[str]:
    """Write `out/CLASS/ID.png` (0 or 255) and `out/overlay/ID.png` at each image's own size; yield finished ids.

    The masks of a GeoTIFF are `out/CLASS/ID.tif`, with its georeferencing tags. All connected processes must be given
    the same files. Only the first process writes.

    Args:
      run: run from `load_run`.
      images: the file, or the files of the channels, of each image by its id, from `find_inputs`.
      out: folder for the masks and overlays.

    Raises:
      InputError: an image lies in `out`, or `out` holds files that would be overwritten and that this function did not
        write.
    """
    for path in (path for files in images.values() for path in files):
        if out.absolute() in path.absolute().parents:
            raise InputError(f"{out}: the image {path} lies in it. Choose another --out, outside of the images.")
    taken = [name for name in run.class_names if (out / name).exists()]
    if is_first() and taken and not (out / "overlay").exists():
        raise InputError(
            f"{out / taken[0]}: is there already and was not made by predict (no overlay/ beside it); its files would "
            f"be overwritten. Choose another --out."
        )

    def read() -> Iterator[tuple[np.ndarray, tuple[str, np.ndarray]]]:
        for id_, files in images.items():
            image = read_as(files, run.info.image_format)
            yield image, (id_, image)

    for probs, (id_, image) in predict_pairs(run, read()):
        if is_first():
            mask = probs > run.threshold
            tags = read_geo_tags(images[id_][0])
            for k, name in enumerate(run.class_names):
                _write_mask(out / name, id_, mask[..., k].astype(np.uint8) * np.uint8(255), tags)
            write_png(out / "overlay" / f"{id_}.png", render_overlay(to_rgb(image), mask))
        yield id_


def _write_mask(folder: epath.Path, id_: str, pixels: np.ndarray, tags: GeoTags) -> None:
    """Write a mask as PNG, or as TIFF if it has georeferencing tags, which PNG cannot hold."""
    if tags:
        write_tiff(folder / f"{id_}.tif", pixels, tags)
    else:
        write_png(folder / f"{id_}.png", pixels)
