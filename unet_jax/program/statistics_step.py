"""The step that computes the statistics of batch normalisation of one batch, for the mean over many."""

from collections.abc import Callable
from typing import Any

import jax

from unet_jax._types import Batch, PyTree
from unet_jax.config import Config
from unet_jax.config.dicts import replace
from unet_jax.devices.compilation import jit_for
from unet_jax.program.build import build
from unet_jax.program.steps import unit_range

MomentsStep = Callable[[PyTree, PyTree, Batch], PyTree]
"""Function `(params, batch_stats, batch) -> moments`, a tree like `batch_stats`."""


def make_moments_step(config: Config, num_classes: int, num_steps: int) -> MomentsStep:
    """Make the step that computes mean and mean square of every channel that batch normalisation normalises.

    Args:
      config: settings of the run.
      num_classes: number of classes.
      num_steps: number of updates in the run.

    Returns:
      The jitted step. Its batches are packed as for the training step. Where the statistics have a variance, its tree
      has the mean square.
    """
    # With a momentum of 0, nothing of the old statistics is kept: what remains are the batch's own.
    settings = {"model.batch_norm_momentum": 0.0, "model.batch_norm_correction": False}
    model: Any = build(replace(config, settings), num_classes, num_steps).model

    def moments_step(params: PyTree, batch_stats: PyTree, batch: Batch) -> PyTree:
        variables = {"params": params, "batch_stats": batch_stats}
        _, new = model.apply(variables, unit_range(batch.image), True, mutable=["batch_stats"], method="packed")
        return of_layers(lambda s: {"mean": s["mean"], "var": s["var"] + s["mean"] ** 2}, new["batch_stats"])

    return jit_for(jax.default_backend(), moments_step)


def statistics_of(moments: PyTree) -> PyTree:
    """Return mean and variance of all pixels from the mean of the moments of batches of equal size.

    Example:
      >>> statistics_of({"norm0": {"mean": 1.0, "var": 3.0}})  # means 0 and 2, and a variance of 1 in either batch
      {'norm0': {'mean': 1.0, 'var': 2.0}}
    """
    return of_layers(lambda s: {"mean": s["mean"], "var": s["var"] - s["mean"] ** 2}, moments)


def of_layers(function: Callable[[Any], Any], tree: PyTree) -> PyTree:
    """Apply a function to the statistics of each layer, {"mean": ..., "var": ...}."""
    return jax.tree.map(function, tree, is_leaf=lambda x: isinstance(x, dict) and set(x) == {"mean", "var"})
