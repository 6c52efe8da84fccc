"""The calibration of a run, which is fitted to a held-out split and kept in RUN/calibration.json."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from etils import epath

from unet_jax._files import replace_text
from unet_jax._types import InputError
from unet_jax.config.predict import PredictConfig
from unet_jax.data.records import Layout, Record
from unet_jax.inference.evaluate import probs_and_truths
from unet_jax.inference.predict import AS_TRAINED
from unet_jax.metrics.calibration import Calibration, Fit, fit_calibration, histogram
from unet_jax.runs.load import Run
from unet_jax.runs.versioned_json import read_versioned, versioned_text

_FORMAT = 1
_NAMES = ("step", "split", "num_images", "classes")


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
    soft = run.config.data.soft_masks
    pairs = probs_and_truths(run, layout, records, soft_masks=soft, how=how, on_open=on_open)
    histograms = []
    for done, (probs, truth, valid) in enumerate(pairs, start=1):
        histograms.append(histogram(probs, truth, valid))
        on_progress(done)
    return fit_calibration(np.stack(histograms), run.config.train.threshold)


def calibration_path(path: epath.Path) -> epath.Path:
    """Return the path of the calibration in a run directory."""
    return path / "calibration.json"


def save_calibration(run: Run, fit: Fit, *, split: str, num_images: int) -> None:
    """Write RUN/calibration.json, which belongs to the checkpoint that `run` was loaded from.

    Args:
      run: run that was calibrated.
      fit: result of `calibrate_run`.
      split: name of the split that it was fitted to, recorded in the file.
      num_images: number of images that it was fitted to, recorded in the file.
    """
    measured = {"nll": fit.nll, "ece": fit.ece, "dice": fit.dice}
    classes = {
        name: {
            "temperature": fit.calibration.temperature[k],
            "threshold": fit.calibration.threshold[k],
            **{score: {"before": _number(a[k]), "after": _number(b[k])} for score, (a, b) in measured.items()},
        }
        for k, name in enumerate(run.class_names)
    }
    values = {"step": run.step, "split": split, "num_images": num_images, "classes": classes}
    replace_text(calibration_path(run.path), versioned_text(_FORMAT, values))


def _number(value: float) -> float | None:
    """Return a number for JSON, which has no NaN."""
    return None if np.isnan(value) else float(value)


def with_calibration(run: Run) -> Run:
    """Return the run with its saved calibration. Predictions and evaluations of the returned run use it.

    Raises:
      InputError: there is no calibration, it belongs to another checkpoint, or it cannot be read.
    """
    path = calibration_path(run.path)
    if not path.exists():
        raise InputError(f"{run.path}: is not calibrated. Do it once: unet-jax calibrate {run.path} --data.root DATA")
    step, calibration = read_calibration(path, run.class_names)
    if step != run.step:
        raise InputError(
            f"{path}: belongs to the checkpoint of step {step}, but that of step {run.step} was loaded. Calibrate "
            f"again, or load the other checkpoint."
        )
    return dataclasses.replace(run, calibration=calibration)


def read_calibration(path: epath.Path, class_names: Sequence[str]) -> tuple[int, Calibration]:
    """Read a file that `save_calibration` wrote: the step of its checkpoint, and temperatures and thresholds.

    Raises:
      InputError: the file is damaged, or of another format.
    """

    def parse(values: dict[str, Any]) -> tuple[int, Calibration]:
        classes = [values["classes"][name] for name in class_names]
        step = int(values["step"])
        calibration = Calibration(*(tuple(float(c[name]) for c in classes) for name in ("temperature", "threshold")))
        if not all(0.0 < number < math.inf for number in calibration.temperature):
            raise ValueError(f"temperatures are {calibration.temperature}, but must be positive")
        if not all(0.0 < number < 1.0 for number in calibration.threshold):
            raise ValueError(f"thresholds are {calibration.threshold}, but must be between 0 and 1")
        return step, calibration

    return read_versioned(path, _FORMAT, _NAMES, parse, "Calibrate again.")
