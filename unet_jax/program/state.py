"""The training state: everything that changes from step to step."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from unet_jax._types import PyTree


@jax.tree_util.register_pytree_with_keys_class
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
    ema: dict[str, PyTree] | None = None
    """Running mean of the parameters and running statistics (`params`, `batch_stats`); None without `train.ema`."""

    # Without a mean, the tree has no entry for it: checkpoints of such runs have the form that they always had.
    def tree_flatten_with_keys(self) -> tuple[list[tuple[Any, PyTree]], None]:
        """Return the parts of the tree with their names, for jax."""
        names = [field.name for field in dataclasses.fields(self) if field.name != "ema" or self.ema is not None]
        return [(jax.tree_util.GetAttrKey(name), getattr(self, name)) for name in names], None

    @classmethod
    def tree_unflatten(cls, _: None, parts: Any) -> "TrainState":
        """Make a state from its parts, for jax."""
        return cls(*parts)


def start_state(params: PyTree, batch_stats: PyTree, tx: optax.GradientTransformation) -> TrainState:
    """Return the state before the first update, with these parameters and a new state of the optimizer."""
    return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, tx.init(params))


def with_ema(state: TrainState) -> TrainState:
    """Return the state with a running mean that begins with its parameters and statistics."""
    own = {"params": state.params, "batch_stats": state.batch_stats}
    return dataclasses.replace(state, ema=jax.tree.map(jnp.copy, own))  # a step donates both, so they must be two


def averaged(state: TrainState) -> TrainState:
    """Return the state to evaluate: that whose parameters and statistics are the running mean, if there is one."""
    return dataclasses.replace(state, **state.ema, ema=None) if state.ema is not None else state


def num_parameters(tree: PyTree) -> int:
    """Return the total number of elements of all arrays in a tree."""
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))
