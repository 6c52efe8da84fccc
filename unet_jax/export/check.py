"""The check of an export: images go through the target's runtime and through the run, and are compared."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from scipy import special

from unet_jax import metrics
from unet_jax._types import InputError
from unet_jax.config import ModelConfig
from unet_jax.config.predict import PredictConfig
from unet_jax.data.images.format import read_as
from unet_jax.data.pixels import resize_image
from unet_jax.data.sources import FileSource
from unet_jax.export.contract import network_size
from unet_jax.inference.evaluate import select_records
from unet_jax.inference.inputs import find_inputs
from unet_jax.inference.predict import AS_TRAINED, seen_masks
from unet_jax.metrics.scores import Scores
from unet_jax.program.initial_state import make_model
from unet_jax.program.steps import unit_range
from unet_jax.runs.load import Run

TOLERANCE = 1e-4
"""Largest difference of probabilities that an export in float32 may have from the run."""


class CheckImage(NamedTuple):
    """An image for the check."""

    id: str
    """Name of the image."""
    image: np.ndarray
    """`[h w c]` as the network sees it, at its own size."""
    masks: Bool[np.ndarray, "h w k"] | None
    """True masks, or None if they are not known."""
    valid: Bool[np.ndarray, "h w k"] | None = None
    """True where the masks are not ignored, or None if they are nowhere."""


class Target(NamedTuple):
    """An export in its own runtime."""

    network: Callable[[np.ndarray], np.ndarray]
    """Function from images `[b h w c]` of the network's size to probabilities `[b h w k]`."""
    masks: Callable[[np.ndarray], np.ndarray] | None
    """Function from one image `[h w c]` of any size to its masks `[h w k]`, bool. None: the target knows only images of
    the network's size, at which its masks are compared."""
    is_calibrated: bool = False
    """True if `network` returns calibrated probabilities."""


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Result of a check."""

    num_images: int
    """Number of images that were compared."""
    largest_difference: float
    """Largest difference between two probabilities at the network's size."""
    num_pixels: int
    """Number of pixels of all masks that were compared."""
    differing: dict[str, int]
    """Number of pixels whose masks differ, of the images that have any, by image."""
    dice: dict[str, dict[str, float]] | None = None
    """Mean Dice over the images by class, of the run and of the export; None if true masks were not given."""

    def describe(self) -> str:
        """Return one line for people."""
        count = sum(self.differing.values())
        dice = ""
        if self.dice:
            run, export = self.dice["run"], self.dice["export"]
            means = f"{np.mean(list(run.values())):.4f} and {np.mean(list(export.values())):.4f}"
            classes = ", ".join(f"{name} {run[name]:.4f} and {export[name]:.4f}" for name in run)
            dice = f"; mean Dice of the run and of the export {means} ({classes})"
        where = f" ({', '.join(f'{name}: {number}' for name, number in list(self.differing.items())[:5])})"
        return (
            f"checked on {self.num_images} images: probabilities within {self.largest_difference:.1e} of the run's, "
            f"masks differ in {count} of {self.num_pixels} pixels{where if count else ''}{dice}"
        )


_REMEDY = "Or check with other images of the kind that the network will see: --images FILE_OR_FOLDER."


@dataclasses.dataclass(frozen=True)
class CheckImages:
    """Images for the check, each of which is read when it is needed."""

    ids: Sequence[str]
    """Names of the images."""
    read: Callable[[int], CheckImage]
    """Function that reads the image at a position."""

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[CheckImage]:
        return map(self.read, range(len(self.ids)))


def split_images(run: Run, root: str, split: Literal["train", "val"], most: int = 0) -> CheckImages:
    """Return images of a split that the run has recorded, with their masks, evenly spread over it.

    Args:
      run: run from `load_run`.
      root: folder of the data set.
      split: "train" or "val".
      most: largest number of images; 0 = all.

    Raises:
      InputError: the data set or its images are not there.
    """
    if not run.info.splits[split]:
        remedy = "Export without --quantize int8." if split == "train" else _REMEDY
        raise InputError(f"{run.path}: has no images of the split {split}, which the export needs. {remedy}")
    data = dataclasses.replace(run.config.data, root=root, splits=None, classes=run.class_names)
    try:
        _, layout, records = select_records(run, data, split)
    except InputError as error:
        raise InputError(
            f"the export needs images of the run's split {split}, but {error} Name the folder of the data set with "
            f"--data-root. {_REMEDY if split == 'val' else ''}".rstrip()
        ) from error
    source = FileSource(layout, _spread(records, most), soft_masks=data.soft_masks, image_format=run.info.image_format)

    def read(i: int) -> CheckImage:
        sample = source[i]
        valid = None if sample.valid is None else sample.valid >= 128
        return CheckImage(source.ids[i], sample.image, sample.mask >= 128, valid)

    return CheckImages(source.ids, read)


def given_images(run: Run, inputs: Sequence[str], most: int = 0) -> CheckImages:
    """Return images from files and folders, as `split_images` does, without masks."""
    files = find_inputs(inputs, run.config.data.image_patterns)
    ids = _spread(list(files), most)
    return CheckImages(ids, lambda i: CheckImage(ids[i], read_as(files[ids[i]], run.info.image_format), None))


def _spread(items: Sequence[Any], most: int) -> Sequence[Any]:
    if not most or len(items) <= most:
        return items
    return [items[i * len(items) // most] for i in range(most)]


def _in_float32(config: ModelConfig) -> ModelConfig:
    return dataclasses.replace(config, dtype="float32")


@functools.lru_cache(maxsize=8)
def _logits_step(config: ModelConfig, num_classes: int) -> Callable[..., Array]:
    model = make_model(config, num_classes)

    def logits(params: Any, batch_stats: Any, images: Array) -> Array:
        variables = {"params": params, "batch_stats": batch_stats}
        return model.apply(variables, unit_range(jnp.asarray(images)), False)  # type: ignore[return-value]

    return jax.jit(logits)


def compare(
    run: Run,
    target: Target,
    images: Iterable[CheckImage],
    *,
    tolerance: float | None = TOLERANCE,
    name: str = "the export",
    how: PredictConfig = AS_TRAINED,
    on_progress: Callable[[int], Any] = lambda done: None,
) -> Agreement:
    """Compare an export with its run.

    Probabilities are compared with those of the run's network in float32, with exact products, whatever the device and
    `model.dtype`. Masks are compared with those that `unet-jax predict` writes here.

    Args:
      run: run with the calibration that was exported, if any.
      target: export in its own runtime.
      images: images to compare.
      tolerance: largest difference of probabilities; None = any.
      name: name of the export, for messages.
      how: way of images to the network, where the target has masks.
      on_progress: called with the number of finished images.

    Raises:
      InputError: the export differs by more than the tolerance, or there is no image.
    """
    height, width = network_size(run)
    step = _logits_step(_in_float32(run.config.model), len(run.class_names))
    params, batch_stats = jax.device_get((run.state.params, run.state.batch_stats))
    temperature = run.calibration.temperature if run.calibration and target.is_calibrated else None
    largest, pixels, differing = 0.0, 0, {}
    counts: dict[str, list[metrics.Counts]] = {"run": [], "export": []}
    done = 0
    for wanted, (id_, image, truth, valid) in seen_masks(run, ((check.image, check) for check in images), how):
        seen = resize_image(image, height, width)[None]
        with jax.default_matmul_precision("highest"):
            logits = np.asarray(step(params, batch_stats, seen), np.float64)
        expected = special.expit(np.clip(logits, -16.0, 16.0) / temperature if temperature else logits)
        actual = target.network(seen)
        largest = max(largest, _check_close(expected[0], actual[0], tolerance, f"{name}: not written, because", id_))
        if target.masks is None:
            wanted, masks, truth = expected[0] > run.threshold, actual[0] > run.threshold, None
        else:
            masks = target.masks(image)
        if (different := int((masks != wanted).sum())) > 0:
            differing[id_] = different
        pixels += wanted.size
        if truth is not None:
            counts["run"].append(metrics.counts_from_masks(wanted, truth, valid))
            counts["export"].append(metrics.counts_from_masks(masks, truth, valid))
        done += 1
        on_progress(done)
    if done == 0:
        raise InputError(f"{name}: there is no image to check it with. Give some: --images FILE_OR_FOLDER.")
    dice = {key: _mean_dice(run.class_names, values) for key, values in counts.items()} if counts["run"] else None
    return Agreement(done, largest, pixels, differing, dice)


def _check_close(
    expected: Float[np.ndarray, "h w k"],
    actual: Float[np.ndarray, "h w k"],
    tolerance: float | None,
    opening: str,
    id_: str,
) -> float:
    """Return the largest difference; raise InputError if it is above the tolerance or not a number."""
    if expected.shape != actual.shape:
        raise InputError(f"{opening} image {id_} gave the shape {actual.shape} instead of {expected.shape}.")
    difference = np.abs(expected - actual.astype(np.float64))
    if tolerance is not None and not (difference <= tolerance).all():  # also NaN
        y, x, k = np.unravel_index(np.argmax(np.where(np.isnan(difference), np.inf, difference)), difference.shape)
        raise InputError(
            f"{opening} image {id_} has the probability {actual[y, x, k]:.6f} at row {y}, column {x} (at the network's "
            f"size), class {k}, where the run has {expected[y, x, k]:.6f}: more than {tolerance:g} apart. If the "
            f"network's activations are not extremely large, this is an error of the exporter or of the runtime: "
            f"please report it."
        )
    return float(difference.max())


def _mean_dice(class_names: Sequence[str], counts: Sequence[metrics.Counts]) -> dict[str, float]:
    stacked = metrics.Counts(*(np.stack(arrays) for arrays in zip(*counts, strict=True)))
    return Scores((), tuple(class_names), stacked).per_image(metrics.dice)
