"""Additions to a training step, as functions from training step to training step. Most of them follow its update.

`freeze_encoder` chooses between two steps, `correct_statistics` takes the start out of the running statistics,
`average_weights` keeps a running mean of the weights, and `skip_non_finite` takes an update back that is not finite.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from unet_jax._types import Batch
from unet_jax.program.optim import keep_encoder, keep_encoder_state
from unet_jax.program.state import TrainState
from unet_jax.program.steps import Metrics, TrainStep


def freeze_encoder(train_step: TrainStep, frozen_step: TrainStep, num_steps: int) -> TrainStep:
    """Make a jitted training step that leaves the encoder as it is in the first updates.

    Args:
      train_step: training step `(state, batch) -> (state, metrics)`.
      frozen_step: training step whose network normalises the encoder with its running statistics, without gradients.
      num_steps: number of updates that `frozen_step` makes.

    Returns:
      A function like `train_step`, which donates the state that it is called with. It holds both programs, of which
      each update runs one. What the optimizer keeps about the encoder does not change while it is frozen.
    """

    def frozen(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        new, metrics = frozen_step(state, batch)
        opt_state = keep_encoder_state(state.opt_state, new.opt_state)
        return dataclasses.replace(new, params=keep_encoder(state.params, new.params), opt_state=opt_state), metrics

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        return jax.lax.cond(state.step < num_steps, frozen, train_step, state, batch)

    return jax.jit(step, donate_argnums=0)


def correct_statistics(train_step: TrainStep, momentum: float) -> TrainStep:
    """Make a jitted training step whose running statistics hold nothing from before the first update.

    A running mean with momentum m that starts at s still holds the share m^n of s after n updates. Here its weights are
    divided by their sum, 1 - m^n, and s has none. So the statistics after the first update are those of its batch, and
    later ones are the same weighted mean as before. Kingma and Ba correct the moments of Adam in this way (2014,
    arXiv:1412.6980, section 3).

    Args:
      train_step: training step `(state, batch) -> (state, metrics)`, whose running statistics have this momentum.
      momentum: share of the old running statistics that each update keeps.

    Returns:
      A function like `train_step`, which donates the state that it is called with.
    """

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        new, metrics = train_step(state, batch)
        # Updates that `skip_non_finite` takes back count too: their part of the start is then left to fade.
        # With c = 1 / (1 - m^n), the corrected mean of n batches moves by c (1 - m) towards the n-th.
        factor = 1.0 / (1.0 - jnp.float32(momentum) ** new.step)
        moved = jax.tree.map(lambda old, now: old + factor * (now - old), state.batch_stats, new.batch_stats)
        return dataclasses.replace(new, batch_stats=moved), metrics

    return jax.jit(step, donate_argnums=0)


def average_weights(train_step: TrainStep, decay: float) -> TrainStep:
    """Make a jitted training step that also moves a running mean of the parameters and running statistics, `state.ema`.

    The mean after update n keeps the share min(decay, (1 + n) / (10 + n)), so that the first, random weights are soon
    forgotten (the rule of TensorFlow's ExponentialMovingAverage with `num_updates`).

    Args:
      train_step: training step `(state, batch) -> (state, metrics)`.
      decay: largest share of the old mean that an update keeps.

    Returns:
      A function like `train_step`, which donates the state that it is called with. The state must have a mean to begin
      with (`unet_jax.program.state.with_ema`).

    Reference: Polyak and Juditsky, 1992 (doi:10.1137/0330046).
    """

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        if state.ema is None:
            raise ValueError("the state has no running mean of the weights: begin with `with_ema(state)`.")
        new, metrics = train_step(state, batch)
        count = new.step.astype(jnp.float32)
        share = 1.0 - jnp.minimum(decay, (1.0 + count) / (10.0 + count))
        now = {"params": new.params, "batch_stats": new.batch_stats}
        return dataclasses.replace(new, ema=optax.incremental_update(now, state.ema, share)), metrics

    return jax.jit(step, donate_argnums=0)


def keep_if_finite(old: TrainState, new: TrainState, metrics: Metrics) -> TrainState:
    """Return the new state, or, if a metric is not finite, the old state with the new step. The function is pure.

    `optax.apply_if_finite` is not enough: the running statistics of batch normalisation must stay as well, and the
    optimizer's state must have the same structure whether steps are skipped or not.

    Args:
      old: state before the step.
      new: state after the step.
      metrics: scalars of the step.
    """
    finite = jnp.all(jnp.isfinite(jnp.stack(list(metrics.values()))))
    kept = jax.tree.map(lambda before, after: jnp.where(finite, after, before), old, new)
    return dataclasses.replace(kept, step=new.step)


def skip_non_finite(train_step: TrainStep) -> TrainStep:
    """Make a jitted training step that leaves everything but `state.step` unchanged if a metric is not finite.

    Args:
      train_step: training step `(state, batch) -> (state, metrics)`.

    Returns:
      A function like `train_step`, which donates the state that it is called with.
    """

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        new, metrics = train_step(state, batch)
        return keep_if_finite(state, new, metrics), metrics

    return jax.jit(step, donate_argnums=0)
