"""The file RUN/calibration.json: written after a fit, and read by what predicts with `--calibrated`."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from unet_jax._files import replace_text
from unet_jax._types import InputError
from unet_jax.config.predict import PredictConfig
from unet_jax.inference.predict import AS_TRAINED
from unet_jax.inference.way import Way, way_facts, way_of
from unet_jax.metrics.calibration import Calibration, Fit
from unet_jax.metrics.object_rules import LARGEST_AREA, ObjectRules, Tried
from unet_jax.runs.ensemble import Trained, members_of
from unet_jax.runs.load import Run
from unet_jax.runs.versioned_json import read_versioned, versioned_text

_FORMAT = 2
_NAMES = ("step", "split", "num_images", "way", "classes")


def calibration_path(path: epath.Path) -> epath.Path:
    """Return the path of the calibration in a run directory."""
    return path / "calibration.json"


def save_calibration(
    run: Run,
    fit: Fit,
    *,
    split: str,
    num_images: int,
    how: PredictConfig = AS_TRAINED,
    tried: Sequence[Sequence[Tried]] = (),
) -> None:
    """Write RUN/calibration.json, which belongs to the checkpoint that `run` was loaded from.

    Args:
      run: run that was calibrated.
      fit: result of `calibrate_run`, whose calibration may have the rules of `fit_objects`.
      split: name of the split that it was fitted to, recorded in the file.
      num_images: number of images that it was fitted to, recorded in the file.
      how: way of the images to the network that it was fitted with, recorded in the file.
      tried: second result of `fit_objects`, recorded in the file.
    """
    measured = {"nll": fit.nll, "ece": fit.ece, "dice": fit.dice}
    rules = fit.calibration.rules
    classes = {
        name: {
            "temperature": fit.calibration.temperature[k],
            "threshold": fit.calibration.threshold[k],
            **{score: {"before": _number(a[k]), "after": _number(b[k])} for score, (a, b) in measured.items()},
            **({"objects": dataclasses.asdict(rules[k])} if rules else {}),
            **({"objects_tried": [_tried(one) for one in tried[k]]} if tried else {}),
        }
        for k, name in enumerate(run.class_names)
    }
    values = {"step": run.step, "split": split, "num_images": num_images}
    values |= {"way": way_facts(way_of(run, how)), "classes": classes}
    replace_text(calibration_path(run.path), versioned_text(_FORMAT, values))


def _tried(tried: Tried) -> dict[str, Any]:
    """Return what was tried as values for JSON, which has neither NaN nor infinity."""
    numbers = {"dice": list(map(_number, tried.dice)), "interval": list(map(_number, tried.interval))}
    return {"rule": tried.rule, "value": tried.value, **numbers, "is_kept": tried.is_kept}


def _number(value: float) -> float | None:
    """Return a number for JSON, which has neither NaN nor infinity."""
    return float(value) if np.isfinite(value) else None


def with_calibration(run: Run) -> Run:
    """Return the run with its saved calibration. Predictions and evaluations of the returned run use it.

    Raises:
      InputError: there is no calibration, it belongs to another checkpoint, or it cannot be read.
    """
    path = calibration_path(run.path)
    if not path.exists():
        raise InputError(f"{run.path}: is not calibrated. Do it once: unet-jax calibrate {run.path} --data.root DATA")
    stored = read_calibration(path, run.class_names)
    if stored.step != run.step:
        raise InputError(
            f"{path}: belongs to the checkpoint of step {stored.step}, but that of step {run.step} was loaded. "
            f"Calibrate again, or load the other checkpoint."
        )
    return dataclasses.replace(run, calibration=stored.calibration)


def way_difference(run: Trained, way: Way) -> str:
    """Say that the calibration of a run was fitted with another way of the images to the network than it is used with.

    Args:
      run: run with its calibration, or ensemble.
      way: way that it is used with.

    Returns:
      A line for people; empty if nothing differs, if there is no calibration, or if an earlier version wrote the file,
      which did not record the way.
    """
    now = way_facts(way)
    for member in members_of(run):
        if member.calibration is None:
            continue
        path = calibration_path(member.path)
        fitted = read_calibration(path, member.class_names).way
        names = [name for name in {**now, **(fitted or {})} if fitted and fitted.get(name) != now.get(name)]
        if names and fitted:
            shown = ", ".join(
                f"--{name} {fitted.get(name, 'unused')} (now {now.get(name, 'unused')})" for name in names
            )
            return (
                f"{path}: was fitted with {shown}, so that temperatures, thresholds and rules may not be right here. "
                f"Use the same, or calibrate again with the present options."
            )
    return ""


class Stored(NamedTuple):
    """Content of calibration.json."""

    step: int
    """Step of its checkpoint."""
    calibration: Calibration
    """Temperatures, thresholds, and rules for objects."""
    way: dict[str, Any] | None
    """Way of the images to the network (`unet_jax.inference.way.way_facts`); None in files of earlier versions."""


def read_calibration(path: epath.Path, class_names: Sequence[str]) -> Stored:
    """Read a file that `save_calibration` wrote.

    Raises:
      InputError: the file is damaged, or of another format.
    """

    def parse(values: dict[str, Any]) -> Stored:
        classes = [values["classes"][name] for name in class_names]
        step = int(values["step"])
        numbers = (tuple(float(c[name]) for c in classes) for name in ("temperature", "threshold"))
        calibration = Calibration(*numbers, rules=_read_rules(classes))
        if not all(0.0 < number < math.inf for number in calibration.temperature):
            raise ValueError(f"temperatures are {calibration.temperature}, but must be positive")
        if not all(0.0 < number < 1.0 for number in calibration.threshold):
            raise ValueError(f"thresholds are {calibration.threshold}, but must be between 0 and 1")
        way = values.get("way")
        if way is not None and not isinstance(way, dict):
            raise ValueError(f"the way is {way!r}, but must be an object")
        return Stored(step, calibration, way)

    return read_versioned(path, _FORMAT, _NAMES, parse, "Calibrate again.", older=(1,))


def _read_rules(classes: Sequence[Any]) -> tuple[ObjectRules, ...]:
    """Return the rules of each class, or none if no class has any.

    Raises:
      ValueError, TypeError: an area is not a number of pixels, or a rule is not known.
    """
    rules = tuple(ObjectRules(**of_class.get("objects", {})) for of_class in classes)
    for of_class in rules:
        for area in (of_class.smallest_hole, of_class.smallest_object):
            if type(area) is not int or not 0 <= area <= LARGEST_AREA:
                raise ValueError(f"an area is {area!r}, but must be a whole number from 0 to {LARGEST_AREA}")
        if type(of_class.largest_only) is not bool:
            raise ValueError(f"largest_only is {of_class.largest_only!r}, but must be true or false")
    return rules if any(of_class != ObjectRules() for of_class in rules) else ()
