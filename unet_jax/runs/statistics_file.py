"""The file RUN/statistics.json: batch normalisation's statistics of one checkpoint, computed again at the end of a run.

`unet_jax.training.recalibrate` writes it, and `load_run` uses it. The checkpoint itself stays as training left it.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from unet_jax._files import replace_text
from unet_jax._types import InputError, PyTree
from unet_jax.program.state import TrainState
from unet_jax.runs.versioned_json import DamagedError, read_versioned, versioned_text

_FORMAT = 1
_REMEDY = (
    "Delete the file, and continue the run with the command that began it, which writes it again. Without it, the "
    "running statistics of training are used."
)


class Statistics(NamedTuple):
    """Statistics that were computed again for a checkpoint."""

    step: int
    """Step of the checkpoint."""
    layers: dict[str, list[float]] | None
    """Values by place in `TrainState.batch_stats`, such as "down0/norm0/mean"; None if they were not better."""
    metrics: dict[str, float]
    """Scores on val with them: "dice" and "loss"."""
    class_dice: dict[str, float]
    """Mean per-image Dice on val with them, by class."""


def statistics_path(path: epath.Path) -> epath.Path:
    """Return the path of the file in a run directory."""
    return path / "statistics.json"


def save_statistics(path: epath.Path, statistics: Statistics) -> None:
    """Write the file of a run."""
    replace_text(statistics_path(path), versioned_text(_FORMAT, statistics._asdict()))


def read_statistics(path: epath.Path, step: int | None) -> Statistics | None:
    """Return the statistics of a run that belong to the checkpoint of a step; None if there are none.

    Raises:
      InputError: the file is damaged.
    """
    file = statistics_path(path)
    if not file.exists():
        return None
    found = read_versioned(file, _FORMAT, Statistics._fields, _parse, _REMEDY)
    return found if found.step == step else None


def used_statistics(path: epath.Path, step: int) -> Statistics | None:
    """Return the statistics that take the place of a checkpoint's own; None if there are none, or none that are better.

    Raises:
      InputError: the file is damaged.
    """
    found = read_statistics(path, step)
    return found if found is not None and found.layers is not None else None


def with_statistics(path: epath.Path, found: Statistics, state: TrainState) -> TrainState:
    """Return the state of a checkpoint with other statistics.

    Args:
      path: run directory, for the message.
      found: result of `used_statistics`.
      state: the checkpoint's state to evaluate (`unet_jax.program.state.averaged`), on the devices.

    Raises:
      InputError: the values are of another network.
    """
    layers = found.layers or {}

    def of_leaf(place: Any, leaf: jax.Array) -> jax.Array:
        values = np.asarray(layers.get(_name(place), ()), np.float32)
        if values.shape != leaf.shape or not np.isfinite(values).all():
            raise InputError(f"{statistics_path(path)}: does not fit the network at {_name(place)}. {_REMEDY}")
        return jax.device_put(values.astype(leaf.dtype), leaf.sharding)

    return dataclasses.replace(state, batch_stats=jax.tree_util.tree_map_with_path(of_leaf, state.batch_stats))


def layers_of(batch_stats: PyTree) -> dict[str, list[float]]:
    """Return the values of `TrainState.batch_stats` by place, for `Statistics`.

    Example:
      >>> layers_of({"norm0": {"mean": np.zeros(2, np.float32)}})
      {'norm0/mean': [0.0, 0.0]}
    """
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(batch_stats))
    return {_name(place): np.asarray(leaf, np.float32).tolist() for place, leaf in leaves}


def _name(place: Any) -> str:
    """Return the names that lead to a leaf."""
    return jax.tree_util.keystr(place, simple=True, separator="/")


def _parse(values: Any) -> Statistics:
    """Return what a file holds.

    Raises:
      ValueError, KeyError, TypeError, AttributeError: no version of this library would have written it.
    """
    if type(values["step"]) is not int or values["step"] < 0:
        raise DamagedError("its step is not a number of updates")
    layers = values["layers"]
    if layers is not None:
        layers = {str(name): [float(value) for value in numbers] for name, numbers in layers.items()}
    scores = [{str(name): float(value) for name, value in values[key].items()} for key in ("metrics", "class_dice")]
    if set(scores[0]) != {"dice", "loss"}:
        raise DamagedError("its scores are not dice and loss")
    return Statistics(values["step"], layers, *scores)
