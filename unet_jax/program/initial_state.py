"""The network of a config, and the state before the first update."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from unet_jax._types import PyTree
from unet_jax.config import Config, ModelConfig, OptimConfig
from unet_jax.devices.compilation import jit_for
from unet_jax.devices.mesh import replicated
from unet_jax.model import UNet
from unet_jax.program.optim import make_optimizer
from unet_jax.program.own import OURS, Own, OwnNetwork
from unet_jax.program.random_blocks import in_blocks
from unet_jax.program.state import TrainState, start_state, with_ema


def make_model(config: ModelConfig, num_classes: int) -> UNet:
    """Make the network of a config, without parameters."""
    return UNet(config, num_classes)


def network_of(config: ModelConfig, num_classes: int, own: Own = OURS) -> UNet | OwnNetwork:
    """Return the network of a config, or somebody's own in its place, without parameters."""
    return make_model(config, num_classes) if own.network is None else OwnNetwork(own.network, num_classes)


def init_state(
    key: jax.Array,
    model: UNet | OwnNetwork,
    tx: optax.GradientTransformation,
    num_channels: int = 3,
    size: tuple[int, int] | None = None,
) -> TrainState:
    """Return the state before the first update, with random parameters.

    The function is pure, so it can be jitted, sharded or passed to `jax.eval_shape`.

    Args:
      key: random key of the parameters.
      model: network.
      tx: optimizer.
      num_channels: number of channels of the images.
      size: height and width of the images; by default the smallest that a `UNet` takes.
    """
    height, width = size or (16, 16)
    if isinstance(model, UNet):  # its parameters do not depend on the size
        height = width = model.config.size_multiple
        key = in_blocks(key)
    variables: Any = model.init(key, jnp.zeros((1, height, width, num_channels), jnp.float32), False)
    return start_state(variables["params"], variables.get("batch_stats", {}), tx)


@functools.lru_cache(maxsize=8)
def first_state(
    model_config: ModelConfig,
    optim_config: OptimConfig,
    num_classes: int,
    num_steps: int,
    shape: tuple[int, int, int],
    own: Own = OURS,
) -> Callable[[jax.Array], TrainState]:
    """Return the jitted `key -> state` before the first update; runs of one process that need the same share it.

    Args:
      model_config, optim_config: network and optimizer.
      num_classes: number of output channels.
      num_steps: number of updates in the run, for the schedule of the learning rate.
      shape: height, width and channels of the images. A `UNet` needs the channels only.
      own: network and optimizer in the place of the library's.
    """
    model, tx = network_of(model_config, num_classes, own), make_optimizer(optim_config, num_steps, own.optimizer)
    return jit_for(jax.default_backend(), lambda key: init_state(key, model, tx, shape[2], shape[:2]))


def first_state_of(
    config: Config, num_classes: int, num_steps: int, num_channels: int, own: Own = OURS
) -> Callable[[jax.Array], TrainState]:
    """Return `first_state` for a config."""
    size = config.data.height_and_width if own.network is not None else (0, 0)  # those of a `UNet` do not depend on it
    return first_state(config.model, config.optim, num_classes, num_steps, (*size, num_channels), own)


def state_shapes(
    config: Config,
    num_classes: int,
    num_steps: int,
    mesh: Mesh | None = None,
    num_channels: int = 3,
    own: Own = OURS,
) -> TrainState:
    """Return the shapes and dtypes of a run's state, with shardings that replicate it over the mesh if one is given.

    The network is traced once for these and for the first state itself.
    """
    key = jax.eval_shape(jax.random.key, 0)
    shapes = jax.eval_shape(first_state_of(config, num_classes, num_steps, num_channels, own), key)
    if config.train.ema:
        shapes = jax.eval_shape(with_ema, shapes)
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
