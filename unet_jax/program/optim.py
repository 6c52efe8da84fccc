"""Learning-rate schedule and optimizer from the config."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from unet_jax._types import PyTree
from unet_jax.config import OptimConfig

_WARMUP_DIVISOR = 25.0  # as PyTorch's OneCycleLR starts
_RMSPROP_EPS: dict[str, tuple[float, bool]] = {
    # version: (eps, inside the square root)
    "keras2.0": (1e-8, False),
    "keras2.1": (1e-7, False),
    "keras3": (1e-7, True),
}


def make_schedule(config: OptimConfig, num_steps: int) -> optax.Schedule:
    """The learning rate as a function of the number of finished updates, for a run of `num_steps`."""
    warmup_steps = round(config.warmup_fraction * num_steps)
    decay_steps = max(1, num_steps - warmup_steps)
    peak = config.learning_rate
    match config.schedule:
        case "cosine":
            main = optax.cosine_decay_schedule(peak, decay_steps)
        case "polynomial":
            main = optax.polynomial_schedule(peak, 0.0, config.polynomial_power, decay_steps)
        case _:
            main = optax.constant_schedule(peak)
    if warmup_steps == 0:
        return main
    warmup = optax.linear_schedule(peak / _WARMUP_DIVISOR, peak, warmup_steps)
    return optax.join_schedules([warmup, main], [warmup_steps])


def rmsprop_keras(
    learning_rate: optax.ScalarOrSchedule, *, variant: Literal["keras2.0", "keras2.1", "keras3"]
) -> optax.GradientTransformation:
    """RMSprop with decay 0.9 as a version of Keras computes it.

    "keras2.0" (to 2.1.2) divides by sqrt(v) + 1e-8, "keras2.1" (2.1.3 to 2.3) by sqrt(v) + 1e-7, and "keras3" by
    sqrt(v + 1e-7). For small gradients the first steps differ by factors of hundreds.
    """
    eps, eps_in_sqrt = _RMSPROP_EPS[variant]
    return optax.rmsprop(learning_rate, decay=0.9, eps=eps, eps_in_sqrt=eps_in_sqrt)


def _kernels_only(params: PyTree) -> PyTree:
    return jax.tree.map(lambda p: p.ndim > 1, params)


def make_optimizer(config: OptimConfig, num_steps: int) -> optax.GradientTransformation:
    """The transformation of gradients into updates, learning rate and sign included.

    Its last stage multiplies by a number in the optimizer's state that `scale_learning_rate` changes between steps
    without another compilation.
    """
    schedule = make_schedule(config, num_steps)
    match config.name:
        case "rmsprop":
            main = rmsprop_keras(schedule, variant=config.rmsprop_variant)
        case "adamw":
            main = optax.adamw(schedule, weight_decay=config.weight_decay, mask=_kernels_only)
        case "sgd":
            main = optax.sgd(schedule, momentum=config.momentum, nesterov=True)
        case _:
            raise ValueError(f"optim.name is {config.name!r}, but must be 'rmsprop', 'adamw' or 'sgd'.")
    clip = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    return optax.chain(*clip, main, _scale_by_state())


def _scale_by_state() -> optax.GradientTransformation:
    def init_fn(params: PyTree) -> jax.Array:
        del params
        return jnp.ones((), jnp.float32)

    def update_fn(updates: PyTree, state: Any, params: Any = None, **_: Any) -> tuple[PyTree, Any]:
        del params
        return jax.tree.map(lambda u: u * state, updates), state

    return optax.GradientTransformation(init_fn, update_fn)


def scale_learning_rate(opt_state: Any, scale: float) -> Any:
    """The optimizer state with every later update multiplied by `scale` (absolute, not cumulative)."""
    old = opt_state[-1]
    return (*opt_state[:-1], jax.device_put(np.float32(scale), old.sharding))
