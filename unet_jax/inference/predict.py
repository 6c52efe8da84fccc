"""Prediction on images in memory: the probability of each class at each pixel."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np
from jaxtyping import Float, Num
from jaxtyping import UInt as Pixels

from unet_jax._types import InputError
from unet_jax.config.predict import PredictConfig
from unet_jax.data.images.rows import rows_of
from unet_jax.devices.mesh import check_rows
from unet_jax.inference.fits import network_of, predict_patches, way_of
from unet_jax.program.tile_stream import Failure
from unet_jax.runs.load import Run

T = TypeVar("T")
AS_TRAINED = PredictConfig()


def predict_images(
    run: Run, images: Iterable[Num[np.ndarray, "h w c"]], how: PredictConfig = AS_TRAINED
) -> Iterator[Float[np.ndarray, "h w k"]]:
    """Yield the probabilities of each image at its own size, in order. A few images are computed at a time.

    Images come to the network as the run was trained, unless `how` says otherwise: resized to `data.image_size`, and
    the probabilities resized back, or in overlapping tiles (docs/large-images.md). If the run has its calibration, the
    probabilities are then calibrated.

    Args:
      run: run from `load_run`.
      images: `[h w c]`, each of any size, with the channels and numbers of the run's image files, as `read_pixels`
        returns them; uint8 RGB for most runs.
      how: fit, scale, overlap and weights of tiles, and test-time augmentation.

    Yields:
      `[h w k]` float32 in [0, 1], classes in the order of `run.class_names`.

    Raises:
      InputError: an image has other channels or another type than the run's, or a setting of `how` has no effect.

    Example:
      >>> run = unet_jax.load_run("RUN")  # doctest: +SKIP
      >>> masks = [probs > run.threshold for probs in unet_jax.predict_images(run, images)]  # doctest: +SKIP
    """
    for probs, _ in predict_pairs(run, ((_as_seen(run, image), None) for image in images), how):
        yield probs


def predict_pairs(
    run: Run, pairs: Iterable[tuple[Pixels[np.ndarray, "h w c"], T]], how: PredictConfig = AS_TRAINED
) -> Iterator[tuple[Float[np.ndarray, "h w k"], T]]:
    """Yield probabilities as `predict_images` does, each with the companion that was paired with its image.

    Images are as the network sees them: uint8 or uint16 in the run's image format.
    """
    images = ((rows_of(image), (image.shape[:2], companion)) for image, companion in pairs)
    whole = None
    for part in predict_patches(run, images, way_of(run, how)):
        if isinstance(part, Failure):
            raise part.error
        (height, width), companion = part.image
        if part.is_last and part.values.shape[:2] == (height, width):
            yield part.values, companion
            continue
        if whole is None:
            whole = np.empty((height, width, part.values.shape[-1]), np.float32)
        rows, columns = part.values.shape[:2]
        whole[part.y : part.y + rows, part.x : part.x + columns] = part.values
        if part.is_last:
            yield whole, companion
            whole = None


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


def predict_probs(
    run: Run, images: Num[np.ndarray, "b h w c"], how: PredictConfig = AS_TRAINED
) -> Float[np.ndarray, "b h w k"]:
    """Compute the probability of each class at each pixel, at the size of the images.

    See `predict_images` for how images come to the network and probabilities are calibrated.

    Args:
      run: run from `load_run`.
      images: `[b h w c]` of any size, with the channels and numbers of the run's image files; uint8 RGB for most runs.
      how: the same as in `predict_images`.

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
    return np.stack(list(predict_images(run, images, how)))


def predict_probs_unresized(run: Run, images: Num[np.ndarray, "b h w c"]) -> Float[np.ndarray, "b h w k"]:
    """Compute probabilities as `predict_probs` does, but without resizing the images.

    Use it for networks that should see objects at the scale of the files. Images whose size the network cannot take
    are padded, and their probabilities cropped. Each new shape of images is compiled once. `predict_images` with
    `PredictConfig(fit="crop")` sees the same scale, in tiles of one size.

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
    check_rows(len(seen[0]), run.config.model.size_multiple, run.mesh)
    shares = run.mesh.shape["data"]
    network = network_of(run, "none", logits=False, batch_size=1)
    fill = [np.zeros_like(seen[0])] * (-len(seen) % shares)
    probs = network.finish(network.start(np.stack([*seen, *fill])))[: len(seen)]
    return run.calibration.probs(probs) if run.calibration else probs
