"""The training state: everything that changes from step to step."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from unet_jax._types import PyTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """State of training: everything that a step changes, and nothing else. It is a pytree.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> state = start_state({"w": jnp.ones(3)}, {}, optax.sgd(0.1))
      >>> int(state.step), num_parameters(state.params)
      (0, 3)
    """

    step: jax.Array
    """Number of finished updates, an int32 scalar."""
    params: PyTree
    """Parameters of the network."""
    batch_stats: PyTree
    """Running means and variances of batch normalisation; empty without it."""
    opt_state: optax.OptState
    """State of the optimizer."""


def start_state(params: PyTree, batch_stats: PyTree, tx: optax.GradientTransformation) -> TrainState:
    """Return the state before the first update, with these parameters and a new state of the optimizer."""
    return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, tx.init(params))


def num_parameters(tree: PyTree) -> int:
    """Return the total number of elements of all arrays in a tree."""
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))
