"""The network of a config, and the state before the first update."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from unet_jax._types import PyTree
from unet_jax.config import Config, ModelConfig
from unet_jax.devices.mesh import replicated
from unet_jax.model import UNet
from unet_jax.program.optim import make_optimizer
from unet_jax.program.state import TrainState, start_state, with_ema


def make_model(config: ModelConfig, num_classes: int) -> UNet:
    """Make the network of a config, without parameters."""
    return UNet(config, num_classes)


def init_state(key: jax.Array, model: UNet, tx: optax.GradientTransformation, num_channels: int = 3) -> TrainState:
    """Return the state before the first update, with random parameters.

    The function is pure, so it can be jitted, sharded or passed to `jax.eval_shape`.

    Args:
      key: random key of the parameters.
      model: network.
      tx: optimizer.
    """
    size = model.config.size_multiple
    variables = model.init(key, jnp.zeros((1, size, size, num_channels), jnp.float32), False)
    return start_state(variables["params"], variables.get("batch_stats", {}), tx)


def state_shapes(
    config: Config, num_classes: int, num_steps: int, mesh: Mesh | None = None, num_channels: int = 3
) -> TrainState:
    """Return the shapes and dtypes of a run's state, with shardings that replicate it over the mesh if one is given."""
    model, tx = make_model(config.model, num_classes), make_optimizer(config.optim, num_steps)

    def make_state(key: jax.Array) -> TrainState:
        state = init_state(key, model, tx, num_channels)
        return with_ema(state) if config.train.ema else state

    shapes = jax.eval_shape(make_state, jax.random.key(0))
    if mesh is None:
        return shapes
    sharding = replicated(mesh)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes)


def with_prior_bias(params: PyTree, prevalence: np.ndarray) -> PyTree:
    """Return the parameters with the bias of the output layer, or layers, set to each class's log-odds.

    The first probabilities are then about as frequent as the class. With a bias of 0 they would be about 0.5, which
    training would have to unlearn first.

    Args:
      params: parameters of a `UNet`.
      prevalence: `[k]`, share of the training pixels in each class, in [0, 1]; clipped to [1e-4, 1 - 1e-4].
    """
    p = np.clip(np.asarray(prevalence, np.float64), 1e-4, 1.0 - 1e-4)
    bias = np.log(p / (1.0 - p)).astype(np.float32)
    heads = {name: layer for name, layer in params.items() if name.startswith("head")}
    return {**params, **{name: dict(layer, bias=jnp.array(bias)) for name, layer in heads.items()}}
