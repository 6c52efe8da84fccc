"""A network and an optimizer that somebody gives from Python, in the place of the library's."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from unet_jax._types import InputError
from unet_jax.config import Config, ModelConfig
from unet_jax.config.dicts import flatten_config
from unet_jax.config.presets import preset_values
from unet_jax.program.optim import MakeOptimizer

_SIGNATURE = "`__call__(self, images, train)`, from [b h w c] float32 in [0, 1] to logits [b h w k]"


@dataclasses.dataclass(frozen=True, eq=False)
class Own:
    """Parts of a run that are given from Python. None stands for the library's.

    Example:
      >>> Own(optimizer=optax.lion).network is None
      True
    """

    network: Any = None
    """Flax module, called as `module(images, train)`, from `[b h w c]` float32 in [0, 1] to logits `[b h w k]`."""
    optimizer: MakeOptimizer | None = None
    """Function from the schedule of the learning rate to an optax optimizer, such as `optax.lion`."""

    def __post_init__(self) -> None:
        if self.network is not None and not all(hasattr(self.network, name) for name in ("init", "apply")):
            raise InputError(
                f"network is {_shown(self.network)}, but must be a Flax Linen module, made already, as in "
                f"network=MyNetwork(): {_SIGNATURE}."
            )
        if isinstance(self.network, type):
            raise InputError(f"network is the class {self.network.__name__}: give a module, {self.network.__name__}().")
        if isinstance(self.optimizer, optax.GradientTransformation):
            raise InputError(
                "optimizer is a finished optax transformation, but must be the function that makes it from the "
                "schedule of the learning rate: optimizer=optax.lion, or optimizer=lambda learning_rate: optax.chain("
                "optax.clip(1.0), optax.lion(learning_rate)). optim.learning_rate and optim.schedule decide the rate."
            )
        if self.optimizer is not None and not callable(self.optimizer):
            raise InputError(f"optimizer is {self.optimizer!r}, but must be a function such as optax.lion.")


OURS = Own()
"""The library's network and optimizer."""


@dataclasses.dataclass(frozen=True, eq=False)
class OwnNetwork:
    """Somebody's Flax module with the functions of `UNet` that steps use. Images and logits are not packed."""

    module: Any
    """Module, as in `Own.network`."""
    num_classes: int
    """Number of classes k."""

    def init(self, key: jax.Array, images: Array, train: bool) -> Any:
        """Return the variables of the module for images like these, as a Flax module's `init` does."""
        return self.module.init({"params": key, "dropout": jax.random.fold_in(key, 1)}, images, train)

    def apply(self, variables: Any, images: Array, train: bool, *, method: str = "", **options: Any) -> Any:
        """Return float32 logits, and the updated statistics if `mutable` asks for them.

        Raises:
          InputError: the module returns something else than logits `[b h w k]`.
        """
        del method  # packed and not packed are the same here
        result = self.module.apply(variables, images, train, **options)
        logits, updated = result if options.get("mutable") else (result, None)
        wanted = (*images.shape[:3], self.num_classes)
        if getattr(logits, "shape", None) != wanted:
            found = f"shape {logits.shape}" if hasattr(logits, "shape") else _shown(logits)
            raise InputError(
                f"the network {_shown(self.module)} returns {found} for images {images.shape}, but must return logits "
                f"[b h w k], {wanted}, one channel per class."
            )
        logits = logits.astype(jnp.float32)
        return (logits, updated) if options.get("mutable") else logits


def check_own(own: Own, num_classes: int, size: tuple[int, int], num_channels: int) -> None:
    """Raise `InputError` if a network or an optimizer of somebody's own cannot be used. Nothing is computed.

    Args:
      own: network and optimizer.
      num_classes: number of classes.
      size: height and width of the images in training.
      num_channels: number of their channels.
    """
    if own.network is not None:
        network, images = OwnNetwork(own.network, num_classes), jnp.zeros((1, *size, num_channels), jnp.float32)
        what = f"the network {_shown(own.network)} cannot be used with images [1 {size[0]} {size[1]} {num_channels}]"
        try:
            variables = jax.eval_shape(lambda key: network.init(key, images, False), jax.random.key(0))
            if more := set(variables) - {"params", "batch_stats"}:
                raise InputError(
                    f"{what}: it has the collections {sorted(more)}, but a run keeps params and batch_stats."
                )
            given = {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}
            options = {"mutable": ["batch_stats"], "rngs": {"dropout": jax.random.key(0)}}
            jax.eval_shape(lambda x: network.apply(x, images, True, **options), given)
            jax.eval_shape(lambda x: network.apply(x, images, False), given)
        except InputError:
            raise
        except Exception as error:  # the code is the user's, and so is its exception, which is kept as the cause
            raise InputError(f"{what}: {_reason(error)}. It needs {_SIGNATURE}.") from error
    if own.optimizer is not None:
        params = {"w": jnp.zeros(2), "b": jnp.zeros(())}
        try:
            tx = own.optimizer(optax.constant_schedule(0.1))
            jax.eval_shape(lambda p: tx.update(p, tx.init(p), p), params)
        except Exception as error:
            raise InputError(
                f"the optimizer {_shown(own.optimizer)} cannot be used: {_reason(error)}. It is called with the "
                f"schedule of the learning rate, and must return an optax optimizer that needs gradients and "
                f"parameters only."
            ) from error


def check_own_settings(config: Config, own: Own) -> None:
    """Raise `InputError` for a setting that somebody gave and that a network or optimizer of their own does not use.

    Values of presets and defaults do not count as given. Of `model`, only the number of `widths` is used: it says what
    the sides of images must be multiples of.
    """
    unused = []
    if own.network is not None:
        unused += [f"model.{field.name}" for field in dataclasses.fields(ModelConfig) if field.name != "widths"]
        unused += ["optim.encoder_factor", "optim.freeze_encoder_steps", "train.recalibrate"]
    if own.optimizer is not None:
        unused += ["optim.name", "optim.rmsprop_variant", "optim.momentum", "optim.weight_decay"]
    values, known, default = flatten_config(config), preset_values(), flatten_config(Config())
    for name in unused:
        if values[name] != default[name] and values[name] not in known[name]:
            part = "a network" if not name.startswith("optim.") or "encoder" in name else "an optimizer"
            raise InputError(
                f"{name} is {values[name]!r}, but the run has {part} of its own, which does not use it: leave it out."
            )


def _shown(value: Any) -> str:
    """Return what to call an object in a message, without its long content."""
    return getattr(value, "__qualname__", "") or type(value).__qualname__


def _reason(error: Exception) -> str:
    """Return the type of an error and the first line of its message."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200].rstrip('.')}"
