"""Prediction on images in memory: the probability of each class at each pixel."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Float, Num
from jaxtyping import UInt as Pixels

from unet_jax._types import InputError
from unet_jax.config.predict import PredictConfig
from unet_jax.data.images.format import ImageFormat
from unet_jax.data.images.rows import rows_of
from unet_jax.devices.mesh import check_not_forked, check_rows
from unet_jax.inference.fits import network_of, predict_patches
from unet_jax.inference.way import far_scale, seen_area, way_of
from unet_jax.metrics.object_rules import apply_to_classes
from unet_jax.program.tile_stream import Failure, Patch
from unet_jax.runs.ensemble import Trained, image_formats, members_of

T = TypeVar("T")
AS_TRAINED = PredictConfig()


def predict_images(
    run: Trained, images: Iterable[Num[np.ndarray, "h w c"]], how: PredictConfig = AS_TRAINED
) -> Iterator[Float[np.ndarray, "h w k"]]:
    """Yield the probabilities of each image at its own size, in order. A few images are computed at a time.

    Images come to the network as the run was trained, unless `how` says otherwise: resized to `data.image_size`, and
    the probabilities resized back, or in overlapping tiles (docs/large-images.md). If the run has its calibration, the
    probabilities are then calibrated.

    Args:
      run: run from `load_run`, or runs from `load_ensemble`.
      images: `[h w c]`, each of any size, with the channels and numbers of the run's image files, as `read_pixels`
        returns them; uint8 RGB for most runs.
      how: fit, scale, overlap and weights of tiles, and test-time augmentation.

    Yields:
      `[h w k]` float32 in [0, 1], classes in the order of `run.class_names`.

    Raises:
      InputError: an image has other channels or another type than the run's, or a setting of `how` has no effect.

    Warns:
      UserWarning: the network sees an image at another scale than those that it was trained on; once in a call.

    Example:
      >>> run = unet_jax.load_run("RUN")  # doctest: +SKIP
      >>> masks = [probs > run.threshold for probs in unet_jax.predict_images(run, images)]  # doctest: +SKIP
    """
    way, is_said = way_of(run, how), False
    for probs, _ in predict_pairs(run, ((_as_seen(run, image), None) for image in images), how):
        if not is_said:
            text = far_scale(run, way, *probs.shape[:2])
            if text:
                warnings.warn(f"an image {text} From Python, these are fields of PredictConfig.", stacklevel=2)
            is_said = bool(text)
        yield probs


def predict_pairs(
    run: Trained, pairs: Iterable[tuple[Pixels[np.ndarray, "h w c"], T]], how: PredictConfig = AS_TRAINED
) -> Iterator[tuple[Float[np.ndarray, "h w k"], T]]:
    """Yield probabilities as `predict_images` does, each with the companion that was paired with its image.

    Images are as the network sees them: uint8 or uint16 in the run's image format.
    """
    return _assembled(run, pairs, how, lambda probs: probs, np.dtype(np.float32))


def predict_masks(
    run: Trained, images: Iterable[Num[np.ndarray, "h w c"]], how: PredictConfig = AS_TRAINED
) -> Iterator[Bool[np.ndarray, "h w k"]]:
    """Yield the masks that `unet-jax predict` writes, of each image at its own size, in order.

    They are the probabilities above `run.threshold`; if the run has its calibration with rules for objects, the rules
    are applied.

    Args:
      run, images, how: the same as in `predict_images`.

    Yields:
      `[h w k]` bool, classes in the order of `run.class_names`.

    Raises:
      InputError: the same as in `predict_images`.

    Example:
      >>> run = unet_jax.load_run("RUN")  # doctest: +SKIP
      >>> areas = [masks.sum(axis=(0, 1)) for masks in unet_jax.predict_masks(run, images)]  # doctest: +SKIP
    """
    for masks, _ in seen_masks(run, ((_as_seen(run, image), None) for image in images), how):
        yield masks


def seen_masks(
    run: Trained, pairs: Iterable[tuple[Pixels[np.ndarray, "h w c"], T]], how: PredictConfig = AS_TRAINED
) -> Iterator[tuple[Bool[np.ndarray, "h w k"], T]]:
    """Yield masks as `predict_masks` does, each with the companion that was paired with its image.

    Images are as the network sees them. In memory are the masks of an image, but only a part of its probabilities.
    """
    threshold = run.threshold
    for masks, companion in _assembled(run, pairs, how, lambda probs: probs > threshold, np.dtype(bool)):
        yield finished_masks(run, masks, how), companion


def finished_masks(run: Trained, masks: Bool[np.ndarray, "h w k"], how: PredictConfig) -> Bool[np.ndarray, "h w k"]:
    """Return the masks of an image after the rules for objects of the run's calibration, if it has any."""
    if not (run.calibration and run.calibration.rules):
        return masks
    height, width = masks.shape[:2]
    return apply_to_classes(masks, run.calibration.rules, seen_area(height, width, way_of(run, how)))


def _assembled(
    run: Trained,
    pairs: Iterable[tuple[np.ndarray, T]],
    how: PredictConfig,
    of_probs: Callable[[np.ndarray], np.ndarray],
    dtype: np.dtype,
) -> Iterator[tuple[np.ndarray, T]]:
    """Yield a function of the probabilities of whole images, which is computed as parts of them are finished."""
    images = ((rows_of(image), (image.shape[:2], companion)) for image, companion in pairs)
    return whole_images(predict_patches(run, images, way_of(run, how)), of_probs, dtype)


def whole_images(
    parts: Iterable[Patch[tuple[tuple[int, int], T]] | Failure[tuple[tuple[int, int], T]]],
    of_probs: Callable[[np.ndarray], np.ndarray],
    dtype: np.dtype,
) -> Iterator[tuple[np.ndarray, T]]:
    """Put the patches of images together, and yield a function of each image's values with its companion.

    Args:
      parts: patches, whose companions are the image's height and width and what is yielded.
      of_probs: function that is applied to the values of each patch.
      dtype: type of its results.

    Raises:
      InputError: an image could not be read to its end.
    """
    whole = None
    for part in parts:
        if isinstance(part, Failure):
            raise part.error
        (height, width), companion = part.image
        values = of_probs(part.values)
        if part.is_last and values.shape[:2] == (height, width):
            yield values, companion
            continue
        if whole is None:
            whole = np.empty((height, width, values.shape[-1]), dtype)
        rows, columns = values.shape[:2]
        whole[part.y : part.y + rows, part.x : part.x + columns] = values
        if part.is_last:
            yield whole, companion
            whole = None


def _as_seen(run: Trained, image: np.ndarray) -> np.ndarray:
    """Map an image as it is in a file to the pixels that the network sees, `[h w c]`.

    For an ensemble these are the channels of each of its formats, one after the other.

    Raises:
      InputError: the image's shape, channels or type are others than the run's.
    """
    views = [as_seen(image, image_format) for image_format in image_formats(run)]
    return views[0] if len(views) == 1 else np.concatenate(views, axis=-1)


def as_seen(image: np.ndarray, image_format: ImageFormat | None) -> np.ndarray:
    """Map an image as it is in a file to the pixels that a network with this format sees, `[h w c]`.

    Raises:
      InputError: the image's shape, channels or type are others.
    """
    image = np.asarray(image)
    if image.ndim != 3 or image.size == 0:
        channels = image_format.num_channels if image_format else 3
        raise InputError(
            f"an image has shape {image.shape}, but must be [height width {channels}] with at least one pixel."
        )
    if image_format is not None:
        return image_format.apply(image, f"an image of shape {image.shape}")
    if image.shape[-1] != 3 or image.dtype != np.uint8:
        raise InputError(
            f"an image has shape {image.shape} and dtype {image.dtype}, but must be [height width 3] uint8 RGB."
        )
    return image


def _num_channels(run: Trained) -> int:
    return members_of(run)[0].info.num_channels


def _checked_batch(run: Trained, images: np.ndarray) -> np.ndarray:
    """Return the images, or raise `InputError` if they are not a batch."""
    images = np.asarray(images)
    if images.ndim != 4:
        raise InputError(
            f"images have shape {images.shape} and dtype {images.dtype}, but must be [batch height width "
            f"{_num_channels(run)}]; for one image: images[None]."
        )
    return images


def predict_probs(
    run: Trained, images: Num[np.ndarray, "b h w c"], how: PredictConfig = AS_TRAINED
) -> Float[np.ndarray, "b h w k"]:
    """Compute the probability of each class at each pixel, at the size of the images.

    See `predict_images` for how images come to the network and probabilities are calibrated.

    Args:
      run: run from `load_run`, or runs from `load_ensemble`.
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


def predict_probs_unresized(run: Trained, images: Num[np.ndarray, "b h w c"]) -> Float[np.ndarray, "b h w k"]:
    """Compute probabilities as `predict_probs` does, but without resizing the images.

    Use it for networks that should see objects at the scale of the files. Images whose size the network cannot take
    are padded, and their probabilities cropped. Each new shape of images is compiled once. `predict_images` with
    `PredictConfig(fit="crop")` sees the same scale, in tiles of one size.

    Args:
      run: run from `load_run`, or runs from `load_ensemble`.
      images: `[b h w c]` of any size, with the channels and numbers of the run's image files; uint8 RGB for most runs.

    Returns:
      `[b h w k]` float32 in [0, 1].

    Raises:
      InputError: the images have other channels or another type than the run's.

    Example:
      >>> run = unet_jax.load_run("RUN")  # doctest: +SKIP
      >>> probs = unet_jax.predict_probs_unresized(run, np.zeros((1, 1000, 700, 3), np.uint8))  # doctest: +SKIP
    """
    check_not_forked()
    seen = [_as_seen(run, image) for image in _checked_batch(run, images)]
    if not seen:
        return np.zeros((*np.shape(images)[:3], len(run.class_names)), np.float32)
    for member in members_of(run):
        check_rows(len(seen[0]), member.config.model.size_multiple, run.mesh)
    shares = run.mesh.shape["data"]
    network = network_of(run, "none", logits=False, batch_size=1)
    fill = [np.zeros_like(seen[0])] * (-len(seen) % shares)
    probs = network.finish(network.start(np.stack([*seen, *fill])))[: len(seen)]
    return run.calibration.probs(probs) if run.calibration else probs
