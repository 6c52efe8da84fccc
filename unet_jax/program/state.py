"""Everything that changes during training."""

import dataclasses

import jax
import numpy as np
import optax

from unet_jax._types import PyTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that changes during training, and nothing that does not."""

    step: jax.Array  # int32, number of finished updates
    params: PyTree
    batch_stats: PyTree
    opt_state: optax.OptState


def num_parameters(tree: PyTree) -> int:
    """Numbers held by all arrays of a tree."""
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))
