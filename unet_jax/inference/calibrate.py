"""The calibration of a run, fitted to a held-out split: temperatures, thresholds, and rules for objects."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from unet_jax._types import InputError
from unet_jax.config.predict import PredictConfig
from unet_jax.data.images.rows import rows_of
from unet_jax.data.records import Layout, Record
from unet_jax.inference.evaluate import samples_of, truth_of
from unet_jax.inference.fits import predict_patches
from unet_jax.inference.predict import AS_TRAINED, seen_masks
from unet_jax.inference.way import seen_area, way_of
from unet_jax.metrics.calibration import Calibration, Fit, empty_histogram, fit_calibration, histogram
from unet_jax.metrics.object_rules import Tried, fit_rules, packed
from unet_jax.program.tile_stream import Failure
from unet_jax.runs.load import Run


def calibrate_run(
    run: Run,
    layout: Layout,
    records: Sequence[Record],
    *,
    how: PredictConfig = AS_TRAINED,
    on_open: Callable[[str, int, int], Any] = lambda id_, height, width: None,
    on_progress: Callable[[int], Any] = lambda done: None,
) -> Fit:
    """Fit a temperature and a threshold per class to a run's checkpoint, on images at their own size.

    Args:
      run: run from `load_run`, without calibration.
      layout: layout of the data set.
      records: samples to fit to, whose masks are read.
      how: way of the images to the network, which should be that of later predictions.
      on_open: function that is called with the id, height and width of each image.
      on_progress: function that is called with the number of finished images.

    Returns:
      The calibration, with cross entropy, calibration error and Dice before and after it.

    Raises:
      InputError: the run was loaded with its calibration.
    """
    if run.calibration is not None:
        raise InputError(f"{run.path}: was loaded with its calibration. Load it without calibration.")
    return fit_calibration(_histograms(run, layout, records, how, on_open, on_progress), run.config.train.threshold)


def _histograms(
    run: Run,
    layout: Layout,
    records: Sequence[Record],
    how: PredictConfig,
    on_open: Callable[[str, int, int], Any],
    on_progress: Callable[[int], Any],
) -> Iterator[Int[np.ndarray, "2 k n"]]:
    """Yield the histogram of each image; its probabilities are never in memory as a whole if it is in tiles."""
    samples = samples_of(run, layout, records, _soft(run), on_open)
    images = ((rows_of(image), truth_of(sample)) for image, sample in samples)
    counts, done = empty_histogram(len(run.class_names)), 0
    for part in predict_patches(run, images, way_of(run, how)):
        if isinstance(part, Failure):
            raise part.error
        rows, columns = part.values.shape[:2]
        here = slice(part.y, part.y + rows), slice(part.x, part.x + columns)
        truth, valid = part.image
        counts += histogram(part.values, truth[here], None if valid is None else valid[here])
        if part.is_last:
            done += 1
            on_progress(done)
            yield counts
            counts = empty_histogram(len(run.class_names))


def fit_objects(
    run: Run,
    layout: Layout,
    records: Sequence[Record],
    *,
    how: PredictConfig = AS_TRAINED,
    on_open: Callable[[str, int, int], Any] = lambda id_, height, width: None,
    on_progress: Callable[[int], Any] = lambda done: None,
) -> tuple[Calibration, list[list[Tried]]]:
    """Fit rules for the objects of each class to a calibrated run, on images at their own size.

    The images are predicted once more, with the thresholds that the rules are for.

    Args:
      run: run with the calibration that the rules are added to.
      layout, records, how, on_open, on_progress: the same as in `calibrate_run`.

    Returns:
      The calibration with rules, and what was tried for each class (`unet_jax.metrics.object_rules.fit_rules`).

    Raises:
      InputError: the run is not calibrated.
    """
    if run.calibration is None:
        raise InputError(f"{run.path}: is not calibrated. Fit temperatures and thresholds first: calibrate_run.")
    calibration = dataclasses.replace(run.calibration, rules=())
    run = dataclasses.replace(run, calibration=calibration)
    way, images = way_of(run, how), []
    pairs = ((image, truth_of(sample)) for image, sample in samples_of(run, layout, records, _soft(run), on_open))
    for done, (masks, (truth, valid)) in enumerate(seen_masks(run, pairs, how), start=1):
        height, width = masks.shape[:2]
        images.append(packed(masks, truth, valid, seen_area(height, width, way)))
        on_progress(done)
    fits = [fit_rules(images, k) for k in range(len(run.class_names))]
    return dataclasses.replace(calibration, rules=tuple(rules for rules, _ in fits)), [tried for _, tried in fits]


def _soft(run: Run) -> bool:
    return run.config.data.soft_masks
