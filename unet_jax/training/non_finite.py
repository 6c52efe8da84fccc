"""What happens when the loss or its gradient is not finite: training stops, leaves the step out, or goes back."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from unet_jax._types import Batch, InputError
from unet_jax.program.state import TrainState

MAX_SKIPS = 10
"""Steps left out one after the other, after which the next one that is not finite stops the run."""
MAX_ROLLBACKS = 3
"""Returns to one checkpoint, after which the next step that is not finite stops the run."""

Step = Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]


class NonFiniteLossError(InputError):
    """The loss or its gradient is not a finite number any more. `step` says when, where one run is meant."""

    def __init__(self, message: str, step: int = 0):
        super().__init__(message)
        self.step = step


def describe(step: int, metrics: dict[str, float], ids: Sequence[str]) -> str:
    """A sentence that says which metrics of a step on these images are not finite."""
    found = ", ".join(f"{name} is {value}" for name, value in metrics.items() if not math.isfinite(value))
    return f"step {step}: {found} (images {', '.join(ids)})."


def keep_if_finite(old: TrainState, new: TrainState, metrics: dict[str, jax.Array]) -> TrainState:
    """The new state, or where a metric is not finite the old one with the new step; pure.

    `optax.apply_if_finite` would not do: statistics of batch normalisation have to stay as well, and optimizer states
    the same with and without.
    """
    finite = jnp.all(jnp.isfinite(jnp.stack(list(metrics.values()))))
    kept = jax.tree.map(lambda before, after: jnp.where(finite, after, before), old, new)
    return dataclasses.replace(kept, step=new.step)


def skip_non_finite(train_step: Step, compiler_options: dict[str, str] | None = None) -> Any:
    """A training step, jitted, that changes nothing but `step` where a metric is not finite; the state is donated."""

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        new, metrics = train_step(state, batch)
        return keep_if_finite(state, new, metrics), metrics

    return jax.jit(step, donate_argnums=0, compiler_options=compiler_options)
