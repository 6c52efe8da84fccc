"""Images of any size through the network of a run: resized, in tiles, or as a whole (`PredictConfig`)."""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from etils import epy
from jaxtyping import Array, Float

from unet_jax._types import InputError, PyTree
from unet_jax.config import ModelConfig
from unet_jax.data.fit import scaled_size
from unet_jax.data.images.rows import ImageRows
from unet_jax.data.images.scaling import resize_rows, scaled
from unet_jax.data.pixels import BadSampleError, resize_image, resize_probs
from unet_jax.devices.mesh import check_rows
from unet_jax.inference.way import Way, seen_size
from unet_jax.program.build import build_logits_step, build_predict_step
from unet_jax.program.own import Own
from unet_jax.program.symmetries import Augmentation, symmetries_of
from unet_jax.program.tile_stream import Failure, Network, Patch, blended, cut, on_devices, run_batches
from unet_jax.runs.ensemble import Trained, image_formats, members_of
from unet_jax.runs.load import Run

with epy.lazy_imports():  # imported when it is used, because importing it takes long
    from scipy import special

T = TypeVar("T")

BATCH_SIZE = 8
"""Number of images, symmetries counted, that the network computes at once."""
_MOST_BYTES = 2**28  # of probabilities at an image's own size, above which they are resized in blocks of rows


def _step_of(run: Run, tta: Augmentation, *, logits: bool) -> Callable[..., Any]:
    """Return a step of a run. It is built once per network, for all runs that have this network."""
    return _step(run.config.model, len(run.class_names), tta, run.own, logits=logits)


@functools.lru_cache(maxsize=16)
def _step(config: ModelConfig, num_classes: int, tta: Augmentation, own: Own, *, logits: bool) -> Callable[..., Any]:
    return (build_logits_step if logits else build_predict_step)(config, num_classes, tta=tta, own=own)


def network_of(run: Trained, tta: Augmentation, *, logits: bool, batch_size: int = BATCH_SIZE) -> Network:
    """Return the network of a run on its devices, or the mean of the networks of an ensemble.

    Args:
      run: trained run or ensemble. Images have the channels of `image_formats(run)`, one format after the other.
      tta: test-time augmentation.
      logits: compute logits, not probabilities.
      batch_size: number of images at once, symmetries counted.
    """
    count = max(1, batch_size // len(symmetries_of(tta)))
    if isinstance(run, Run):
        step = _step_of(run, tta, logits=logits)
        return on_devices(step, run.state.params, run.state.batch_stats, run.mesh, batch_size=count)
    steps = [_step_of(member, tta, logits=True) for member in run.members]
    formats = image_formats(run)
    views = [formats.index(member.info.image_format) for member in run.members]

    def mean(params: list[PyTree], batch_stats: list[PyTree], images: Array) -> Array:
        seen = jnp.split(images, len(formats), axis=-1) if len(formats) > 1 else [images]
        entries = zip(steps, params, batch_stats, views, strict=True)
        values = [step(params_, stats, seen[view]) for step, params_, stats, view in entries]
        return _mean_logits(values) if logits else _mean_probs(values)

    states = [member.state for member in run.members]
    params, batch_stats = [state.params for state in states], [state.batch_stats for state in states]
    return on_devices(mean, params, batch_stats, run.mesh, batch_size=count)


@jax.jit
def _mean_logits(values: list[Float[Array, "b h w k"]]) -> Float[Array, "b h w k"]:
    return sum(values[1:], values[0]) / len(values)


@jax.jit
def _mean_probs(values: list[Float[Array, "b h w k"]]) -> Float[Array, "b h w k"]:
    return jax.nn.sigmoid(_mean_logits(values))


def predict_patches(run: Trained, images: Iterable[tuple[ImageRows, T]], way: Way) -> Iterator[Patch[T] | Failure[T]]:
    """Yield the probabilities of images of any size, calibrated if the run has its calibration.

    Args:
      run: trained run or ensemble.
      images: images as the network sees them, each with a companion. For an ensemble the channels are those of
        `image_formats(run)`, one format after the other.
      way: way of the images to the network, from `way_of`.

    Yields:
      Probabilities of rectangles that cover each image once, from the top to the bottom. An image whose file cannot be
      read to its end ends with a `Failure`.
    """
    batch_size = 1 if way.fit == "whole" else BATCH_SIZE
    network = network_of(run, way.tta, logits=way.fit == "crop", batch_size=batch_size)
    calibration = run.calibration
    for part in patches_through(network, _divisible(run, images, way), way):
        if calibration and isinstance(part, Patch):
            part = part._replace(values=calibration.probs(part.values))
        yield part


def patches_through(
    network: Network, images: Iterable[tuple[ImageRows, T]], way: Way
) -> Iterator[Patch[T] | Failure[T]]:
    """Yield probabilities as `predict_patches` does, before calibration, by a network of any origin.

    Args:
      network: network that computes logits for crop, and probabilities for the other fits.
      images: images as the network sees them, each with a companion.
      way: way of the images to the network.
    """
    compute = {"stretch": _resized, "pad": _resized, "crop": _in_tiles, "whole": _in_one_piece}[way.fit]
    return compute(network, images, way)


def _divisible(run: Trained, images: Iterable[tuple[ImageRows, T]], way: Way) -> Iterator[tuple[ImageRows, T]]:
    """Yield the images; raise InputError for one whose rows cannot be divided over the devices of an image."""
    for image, companion in images:
        rows = way.tiling.size[0]
        if way.fit == "whole":
            rows, _ = scaled_size(image.height, image.width, way.scale)
        for member in members_of(run):
            check_rows(rows, member.config.model.size_multiple, run.mesh)
        yield image, companion


def _resized(network: Network, images: Iterable[tuple[ImageRows, T]], way: Way) -> Iterator[Patch[T] | Failure[T]]:
    """Resize each image to the network's size, or into it with its aspect kept, and the probabilities back."""

    def resized() -> Iterator[tuple[np.ndarray | None, tuple[ImageRows, T, InputError | None]]]:
        for image, companion in images:
            try:
                yield _at_size(image, way), (image, companion, None)
            except BadSampleError as error:
                yield None, (image, companion, error)

    for probs, (image, companion, error) in run_batches(network, resized()):
        if probs is None:
            assert error is not None
            yield Failure(companion, error)
        else:
            height, width = seen_size(image, way)
            yield from _resized_back(probs[:height, :width], image.height, image.width, companion)


def network_inputs(image: ImageRows, way: Way) -> Iterator[np.ndarray]:
    """Yield what the network sees of an image, `[h w c]`: its tiles for crop, otherwise itself at another size."""
    if way.fit == "crop":
        yield from (tile for tile, _ in cut(scaled(image, way.scale), way.tiling))
    else:
        yield scaled(image, way.scale).whole() if way.fit == "whole" else _at_size(image, way)


def _at_size(image: ImageRows, way: Way) -> np.ndarray:
    """Return an image at the network's size: resized, and the rest mirrored."""
    pixels = resize_image(image.whole(), *seen_size(image, way))
    padding = [(0, side - length) for side, length in zip(way.tiling.size, pixels.shape[:2], strict=True)]
    return np.pad(pixels, (*padding, (0, 0)), mode="symmetric")


def _resized_back(probs: np.ndarray, height: int, width: int, companion: T) -> Iterator[Patch[T]]:
    """Yield probabilities at an image's own size: at once, or in blocks of rows where they would need much memory."""
    if 4 * height * width * probs.shape[-1] <= _MOST_BYTES:
        yield Patch(companion, 0, 0, resize_probs(probs, height, width), True)
        return
    y = 0
    for block in resize_rows([probs], len(probs), height, width):
        yield Patch(companion, y, 0, block, y + len(block) == height)
        y += len(block)


def _in_tiles(network: Network, images: Iterable[tuple[ImageRows, T]], way: Way) -> Iterator[Patch[T] | Failure[T]]:
    """Blend the logits of overlapping tiles."""
    at_scale = ((scaled(image, way.scale), (image, companion)) for image, companion in images)
    parts: Iterator[Any] = (
        part._replace(values=special.expit(part.values)) if isinstance(part, Patch) else part
        for part in blended(network, at_scale, way.tiling)
    )
    yield from _unchanged(parts) if way.scale == 1.0 else _unscaled(parts, way.scale)


def _unchanged(parts: Iterable[Any]) -> Iterator[Patch[Any] | Failure[Any]]:
    """Yield the results with their own companions."""
    for part in parts:
        yield part._replace(image=part.image[1])


def _unscaled(parts: Iterator[Any], scale: float) -> Iterator[Patch[Any] | Failure[Any]]:
    """Resize probabilities of scaled images to the images' own sizes, in blocks of whole rows."""
    for first in parts:
        image, companion = first.image
        height, width = scaled_size(image.height, image.width, scale)
        failures = []

        def rows(part: Any = first, width: int = width, failures: list[Any] = failures) -> Iterator[np.ndarray]:
            while True:
                if isinstance(part, Failure):
                    failures.append(part)
                    return
                if part.x == 0:
                    band = np.empty((len(part.values), width, part.values.shape[-1]), np.float32)
                band[:, part.x : part.x + part.values.shape[1]] = part.values
                if part.x + part.values.shape[1] == width:
                    yield band
                if part.is_last:
                    return
                part = next(parts)

        y = 0
        for block in resize_rows(rows(), height, image.height, image.width):
            yield Patch(companion, y, 0, block, y + len(block) == image.height)
            y += len(block)
        for failure in failures:
            yield Failure(companion, failure.error)


def _in_one_piece(network: Network, images: Iterable[tuple[ImageRows, T]], way: Way) -> Iterator[Patch[T] | Failure[T]]:
    """Compute each image as one piece; each new size is compiled once."""
    for image, companion in images:
        try:
            pixels = scaled(image, way.scale).whole()
        except BadSampleError as error:
            yield Failure(companion, error)
            continue
        for probs, _ in run_batches(network, [(pixels, None)]):
            assert probs is not None
            yield from _resized_back(probs, image.height, image.width, companion)
