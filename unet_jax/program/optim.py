"""The learning-rate schedule and the optimizer of a config."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from unet_jax._types import PyTree
from unet_jax.config import OptimConfig

_WARMUP_DIVISOR = 25.0  # the default of PyTorch's OneCycleLR
_RMSPROP_EPS: dict[str, tuple[float, bool]] = {
    # version: (eps, inside the square root)
    "keras2.0": (1e-8, False),
    "keras2.1": (1e-7, False),
    "keras3": (1e-7, True),
}


def make_schedule(config: OptimConfig, num_steps: int) -> optax.Schedule:
    """Make the learning-rate schedule of a run of `num_steps` updates.

    In a run that was made longer, the schedule takes only the part of the steps that `optim.schedule_span` says.

    Returns:
      A function from the number of finished updates to the learning rate.

    Example:
      >>> from unet_jax.config import OptimConfig
      >>> schedule = make_schedule(OptimConfig(learning_rate=0.5, schedule="cosine"), num_steps=10)
      >>> print(f"{float(schedule(0)):.2f} {float(schedule(5)):.2f} {float(schedule(10)):.2f}")
      0.50 0.25 0.00
    """
    begin, num_steps = config.schedule_span or (0, num_steps)
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
    if warmup_steps:
        warmup = optax.linear_schedule(peak / _WARMUP_DIVISOR, peak, warmup_steps)
        main = optax.join_schedules([warmup, main], [warmup_steps])
    return (lambda step: main(jnp.maximum(step - begin, 0))) if begin else main


def rmsprop_keras(
    learning_rate: optax.ScalarOrSchedule, *, variant: Literal["keras2.0", "keras2.1", "keras3"]
) -> optax.GradientTransformation:
    """Make RMSprop with decay 0.9, as one version of Keras computes it.

    The versions differ in what they divide the gradient by, where v is the running mean of the squared gradient:
    sqrt(v) + 1e-8 in "keras2.0" (up to 2.1.2), sqrt(v) + 1e-7 in "keras2.1" (2.1.3 to 2.3), and sqrt(v + 1e-7) in
    "keras3". If gradients are small, the sizes of the first updates differ by factors of hundreds.

    Args:
      learning_rate: learning rate, or a schedule of it.
      variant: version of Keras.

    Returns:
      An optax transformation from gradients to updates, sign included.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = rmsprop_keras(0.1, variant="keras2.0")
      >>> updates, _ = tx.update(jnp.ones(()), tx.init(jnp.zeros(())))
      >>> print(f"{float(updates):.4f}")  # v is 0.1 after the first gradient of 1, so 0.1 / sqrt(0.1)
      -0.3162
    """
    eps, eps_in_sqrt = _RMSPROP_EPS[variant]
    return optax.rmsprop(learning_rate, decay=0.9, eps=eps, eps_in_sqrt=eps_in_sqrt)


def _kernels_only(params: PyTree) -> PyTree:
    """Return True for each kernel in the tree, and False for biases and for the parameters of normalisation."""
    return jax.tree.map(lambda p: p.ndim > 1, params)


MakeOptimizer = Callable[[optax.Schedule], optax.GradientTransformation]
"""Function from the schedule of the learning rate to an optimizer, sign included, such as `optax.lion`."""


def make_optimizer(
    config: OptimConfig, num_steps: int, own: MakeOptimizer | None = None
) -> optax.GradientTransformation:
    """Make the optimizer of a config, learning rate and sign included.

    Its last stage multiplies the updates by a number in the optimizer's state. `scale_learning_rate` changes this
    number between steps, which needs no new compilation. The stage before it holds the optimizer itself, in two parts
    if the encoder has a learning rate of its own or begins frozen.

    Args:
      config: settings of the optimizer.
      num_steps: number of updates in the run, for the schedule of the learning rate.
      own: function that makes the optimizer itself, in the place of that of `optim.name`.

    Returns:
      An optax transformation from gradients to updates.

    Raises:
      ValueError: the config names an unknown optimizer.
    """
    schedule = make_schedule(config, num_steps)
    make = own or functools.partial(_make_main, config)
    main = make(schedule)
    if config.encoder_factor != 1.0 or config.freeze_encoder_steps:
        # The encoder's part counts its own updates, which begin when it is not frozen any more.
        factor, start = config.encoder_factor, config.freeze_encoder_steps
        of_encoder = make(lambda count: factor * schedule(count + start))
        main = optax.partition({"encoder": of_encoder, "rest": main}, _parts)
    clip = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    return optax.chain(*clip, main, _scale_by_state())


def _make_main(config: OptimConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Make the optimizer itself, with one schedule of the learning rate."""
    match config.name:
        case "rmsprop":
            return rmsprop_keras(schedule, variant=config.rmsprop_variant)
        case "adamw":
            return optax.adamw(schedule, weight_decay=config.weight_decay, mask=_kernels_only)
        case "sgd":
            return optax.sgd(schedule, momentum=config.momentum, nesterov=True)
        case _:
            raise ValueError(f"optim.name is {config.name!r}, but must be 'rmsprop', 'adamw' or 'sgd'.")


def is_encoder(stage: str) -> bool:
    """Return whether a stage of the network, by its name in the parameters, is of the encoder or the centre."""
    return stage.startswith("down") or stage == "center"


def _parts(params: PyTree) -> PyTree:
    """Return the part of each parameter: "encoder", with the centre, or "rest"."""

    def part(path: Any, _: Any) -> str:
        return "encoder" if is_encoder(path[0].key) else "rest"

    return jax.tree_util.tree_map_with_path(part, params)


def keep_encoder(old: PyTree, new: PyTree) -> PyTree:
    """Return the new parameters, or running statistics, with the old encoder."""
    return {name: old[name] if is_encoder(name) else stage for name, stage in new.items()}


def keep_encoder_state(old: Any, new: Any) -> Any:
    """Return the new state of an optimizer with `optim.freeze_encoder_steps`, with the old one for the encoder."""
    parts = new[-2]
    kept = parts._replace(inner_states={**parts.inner_states, "encoder": old[-2].inner_states["encoder"]})
    return (*new[:-2], kept, new[-1])


def _scale_by_state() -> optax.GradientTransformation:
    """Make a transformation that multiplies updates by its state, a float32 scalar that starts at 1."""

    def init_fn(params: PyTree) -> jax.Array:
        del params
        return jnp.ones((), jnp.float32)

    def update_fn(updates: PyTree, state: Any, params: Any = None, **_: Any) -> tuple[PyTree, Any]:
        del params
        return jax.tree.map(lambda u: u * state, updates), state

    return optax.GradientTransformation(init_fn, update_fn)


def scale_learning_rate(opt_state: Any, scale: float) -> Any:
    """Return the state of a `make_optimizer` optimizer in which every later update is multiplied by `scale`.

    The scale replaces that of earlier calls; scales do not accumulate.
    """
    old = opt_state[-1]
    return (*opt_state[:-1], jax.device_put(np.float32(scale), old.sharding))
