"""Several runs that predict together: their logits are averaged."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from etils import epath
from jax.sharding import Mesh
from jaxtyping import Float
from scipy import special

from unet_jax._types import InputError
from unet_jax.data.images.format import ImageFormat
from unet_jax.devices.mesh import make_mesh
from unet_jax.metrics.calibration import Calibration
from unet_jax.metrics.object_rules import ObjectRules
from unet_jax.runs.load import Run, load_run

_LIMITS = ("low", "high", "percentiles", "types")
"""Fields of `ImageFormat` that depend on the training images, so that they may differ between the runs of folds."""


@dataclasses.dataclass(frozen=True, repr=False)
class Ensemble:
    """Several runs whose logits are averaged, from `load_ensemble`. Functions of prediction take it like a `Run`.

    Raises:
      InputError: there is no run, or the runs cannot predict together: their classes, channels, `data.fit`,
        `data.image_size` or `data.scale` differ, or only some of them have their calibration.

    Example:
      >>> ensemble = load_ensemble(["FOLD0", "FOLD1"])  # doctest: +SKIP
      >>> masks = [probs > ensemble.threshold for probs in unet_jax.predict_images(ensemble, images)]  # doctest: +SKIP
    """

    members: tuple[Run, ...]
    """The runs."""

    def __post_init__(self) -> None:
        if not self.members:
            raise InputError("an ensemble needs at least one run.")
        first = self.members[0]
        for member in self.members[1:]:
            for what, of_first, found in zip(_FACTS, _facts(first), _facts(member), strict=True):
                if found != of_first:
                    raise InputError(
                        f"{member.path}: {what} {found}, but in {first.path} {of_first}. Only runs that are alike in "
                        f"this can be averaged: predict with them separately."
                    )

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the channels."""
        return self.members[0].class_names

    @property
    def mesh(self) -> Mesh:
        """Devices that hold the states."""
        return self.members[0].mesh

    @property
    def calibration(self) -> Calibration | None:
        """Mean of the runs' calibrations: of the factors 1 / temperature, and of the thresholds' logits; or None.

        A rule for objects is used if all runs have it, with the smallest of their areas.
        """
        all_ = [member.calibration for member in self.members if member.calibration]
        if not all_:
            return None
        temperature = 1.0 / np.mean([1.0 / np.asarray(one.temperature) for one in all_], axis=0)
        threshold = special.expit(np.mean([special.logit(one.threshold) for one in all_], axis=0))
        rules = [one.rules or (ObjectRules(),) * len(self.class_names) for one in all_]
        values = (zip(*map(dataclasses.astuple, of_class), strict=True) for of_class in zip(*rules, strict=True))
        common = tuple(ObjectRules(*map(min, of_class)) for of_class in values)
        has_rules = any(of_class != ObjectRules() for of_class in common)
        return Calibration(tuple(temperature.tolist()), tuple(threshold.tolist()), common if has_rules else ())

    @property
    def threshold(self) -> Float[np.ndarray, " k"]:
        """Probability above which a pixel belongs to the class: `[k]` float32; the mean of the runs' in logits."""
        logits = [special.logit(member.threshold.astype(np.float64)) for member in self.members]
        return special.expit(np.mean(logits, axis=0)).astype(np.float32)

    def __repr__(self) -> str:
        return "Ensemble(\n" + "".join(f"  {member!r}\n" for member in self.members) + ")"


Trained = Run | Ensemble
"""One run, or several that predict together."""
_FACTS = ("the classes are", "the images have", "data.fit is", "data.image_size is", "data.scale is", "it is")


def _facts(run: Run) -> tuple[Any, ...]:
    """Return what must be equal in all runs, in the order of `_FACTS`, as it is shown in a message."""
    data, image_format = run.config.data, run.info.image_format
    channels = "8-bit RGB of any file"
    if image_format:
        fields = {name: value for name, value in image_format.to_dict().items() if name not in _LIMITS}
        channels = ", ".join(f"{name} {value}" for name, value in fields.items())
        channels += ", limits of each image" if image_format.percentiles else ""
    calibrated = "calibrated" if run.calibration else "not calibrated"
    return (", ".join(run.class_names), channels, data.fit, data.height_and_width, data.scale, calibrated)


def load_ensemble(
    paths: Sequence[str | epath.Path], checkpoint: Literal["best", "last"] = "best", *, mesh: Mesh | None = None
) -> Ensemble:
    """Load several trained networks that predict together: their logits are averaged in float32.

    Runs of equal networks use one compiled step; runs of other networks have a step of their own.

    Args:
      paths: run directories, such as the folds of a cross-validation.
      checkpoint, mesh: the same as in `load_run`.

    Returns:
      The runs, which `predict_images`, `predict_probs` and `evaluate_run` take like one run.

    Raises:
      InputError: a run cannot be loaded, one is named twice, or they cannot predict together (`Ensemble`).

    Example:
      >>> ensemble = load_ensemble(["FOLD0", "FOLD1", "FOLD2"])  # doctest: +SKIP
      >>> probs = unet_jax.predict_probs(ensemble, images)  # doctest: +SKIP
    """
    check_distinct(paths)
    mesh = mesh or make_mesh()
    return Ensemble(tuple(load_run(path, checkpoint, mesh=mesh) for path in paths))


def check_distinct(paths: Sequence[str | epath.Path]) -> None:
    """Raise `InputError` if a run is named twice, which would give it twice the weight."""
    seen: dict[str, str | epath.Path] = {}
    for path in paths:
        place = str(path) if "://" in str(path) else str(epath.Path(path).resolve())
        if place in seen:
            also = "" if str(seen[place]) == str(path) else f" (also as {seen[place]})"
            raise InputError(f"{path}: is named twice{also}. Name each run once.")
        seen[place] = path


def members_of(run: Trained) -> tuple[Run, ...]:
    """Return the runs that predict together."""
    return run.members if isinstance(run, Ensemble) else (run,)


def image_formats(run: Trained) -> tuple[ImageFormat | None, ...]:
    """Return the distinct formats in which the runs see an image, such as limits of intensity of each fold."""
    return tuple(dict.fromkeys(member.info.image_format for member in members_of(run)))
