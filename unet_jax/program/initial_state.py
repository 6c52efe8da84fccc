"""The network of a config, and a state before the first update."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from unet_jax._types import PyTree
from unet_jax.config import ModelConfig
from unet_jax.model import UNet
from unet_jax.program.state import TrainState


def init_state(key: jax.Array, model: UNet, tx: optax.GradientTransformation) -> TrainState:
    """A state before the first update; pure, so it can be jitted, sharded or passed to `jax.eval_shape`."""
    size = model.config.size_multiple
    variables = model.init(key, jnp.zeros((1, size, size, 3), jnp.float32), False)
    params = variables["params"]
    return TrainState(jnp.zeros((), jnp.int32), params, variables.get("batch_stats", {}), tx.init(params))


def with_prior_bias(params: PyTree, prevalence: np.ndarray) -> PyTree:
    """Parameters whose head starts at each class's log-odds, so that training does not begin by unlearning 0.5.

    Args:
      params: of a `UNet`.
      prevalence: `[k]`, share of the training pixels in each class; clipped to [1e-4, 1 - 1e-4].
    """
    p = np.clip(np.asarray(prevalence, np.float64), 1e-4, 1.0 - 1e-4)
    head = dict(params["head"], bias=jnp.asarray(np.log(p / (1.0 - p)), jnp.float32))
    return dict(params, head=head)


def make_model(config: ModelConfig, num_classes: int) -> UNet:
    """The network of a config."""
    return UNet(config, num_classes)
