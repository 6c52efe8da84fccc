"""The U-Net architecture of the Keras original, for any depth and any widths."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from unet_jax._types import InputError
from unet_jax.config import ModelConfig
from unet_jax.config.packing import Factor
from unet_jax.model.conv import KERNEL_INITS, Conv
from unet_jax.model.normalization import STATISTICS, BatchNormReLU, GroupNorm, add_bias
from unet_jax.model.packing import level_factors, logits_factor, pack, unpack

CONVOLUTION = "convolution"
"""Name of convolutions' results for rematerialisation policies (`jax.checkpoint_policies`), which may keep them."""


class ConvBlock(nn.Module):
    """One stage: `num_convs` times a 3x3 convolution, normalisation and ReLU.

    If `below` is given (half the resolution, packed by `below_factor`), the first convolution reads x concatenated with
    the up-sampled `below`.

    Attributes:
      config: settings of the whole network.
      features: number of output channels d, before packing.
      num_convs: number of convolutions.
      factor: packing of the result, and of x if `pooled_from` is None.
      pooled_from: packing of x if x is to be 2x2 max-pooled first.
      below_factor: packing of `below`; by default `halve(factor)`.
    """

    config: ModelConfig
    features: int
    num_convs: int
    factor: Factor
    pooled_from: Factor | None = None
    below_factor: Factor | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], train: bool, below: Float[Array, "b h2 w2 c2"] | None = None
    ) -> Float[Array, "b h w d"]:
        config = self.config
        for i in range(self.num_convs):
            y, bias = Conv(
                self.features,
                kernel_init=KERNEL_INITS[config.kernel_init],
                dtype=jnp.dtype(config.dtype),
                factor=self.factor,
                pooled_from=self.pooled_from if i == 0 else None,
                below_factor=self.below_factor,
                name=f"conv{i}",
            )(x, below if i == 0 else None)
            y = checkpoint_name(y, CONVOLUTION)
            if config.norm == "batch":
                x = BatchNormReLU(
                    config.batch_norm_momentum,
                    config.norm_eps,
                    config.batch_norm_variance,
                    self.factor,
                    name=f"norm{i}",
                )(y, bias, train)
            elif config.norm == "group":
                group_norm = GroupNorm(
                    num_groups=None,
                    group_size=min(config.group_size, self.features),
                    epsilon=config.norm_eps,
                    dtype=y.dtype,
                    factor=self.factor,
                    name=f"norm{i}",
                )
                x = jax.nn.relu(group_norm(add_bias(y, bias)))
            else:
                x = jax.nn.relu(add_bias(y, bias))
        return x


class UNet(nn.Module):
    """U-Net that computes one logit per pixel and class, for independent (sigmoid) classes.

    The stages, by the names of their parameters, are the encoder `down0` (full resolution), `down1`, ...; `center`; the
    decoder `up0` (lowest resolution), `up1`, ...; and the 1x1 convolution `head`, which always computes in float32.
    The first convolution of a decoder stage reads the skip connection and the up-sampled result of the stage below it,
    in this order of input channels.

    Inside, the activations of each level are packed as `config.packing` says. Parameters and results do not depend on
    the packing.

    Reference: Ronneberger, Fischer and Brox, U-Net, 2015 (arXiv:1505.04597).

    Attributes:
      config: settings of the network: widths, depth, normalisation, dtype, packing, rematerialisation.
      num_classes: number of classes k.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from unet_jax import UNet
      >>> from unet_jax.config import ModelConfig
      >>> model = UNet(ModelConfig(widths=(4,), center_width=8, num_convs_down=1, num_convs_up=1), num_classes=2)
      >>> images = jnp.zeros((1, 8, 8, 3))
      >>> variables = jax.jit(lambda key: model.init(key, images, train=False))(jax.random.key(0))
      >>> sorted(variables), sorted(variables["params"])
      (['batch_stats', 'params'], ['center', 'down0', 'head', 'up0'])
      >>> logits = jax.jit(lambda x: model.apply(variables, x, train=False))(images)
      >>> logits.shape  # with train=True: logits, updated = model.apply(..., mutable=["batch_stats"])
      (1, 8, 8, 2)
    """

    config: ModelConfig
    num_classes: int

    def __call__(self, images: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w k"]:
        """Return the logits of a batch of images.

        Args:
          images: float images in [0, 1].
          train: True to normalise with the statistics of the batch and to update the running statistics, which needs
            `mutable=["batch_stats"]` in `apply`; False to normalise with the running statistics.

        Returns:
          Logits, float32.

        Raises:
          InputError: height or width is not a multiple of 2 to the number of encoder stages.
        """
        backend = jax.default_backend()
        _check_size(self.config, *images.shape[1:3])
        x = pack(images, level_factors(self.config, backend)[0])
        return unpack(self.packed(x, train), logits_factor(self.config, self.num_classes, backend))

    @nn.compact
    def packed(self, images: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w k"]:
        """Return packed float32 logits of images that are packed already; call it with `apply(..., method="packed")`.

        Args:
          images: float images in [0, 1], packed by the first of `level_factors(config, backend)`.
          train: see `__call__`.

        Returns:
          Logits, packed by `logits_factor(config, num_classes, backend)`.

        Raises:
          InputError: the unpacked height or width is not a multiple of 2 to the number of encoder stages.
        """
        config = self.config
        factors = level_factors(config, jax.default_backend())
        _check_size(config, *(size * f for size, f in zip(images.shape[1:3], factors[0], strict=True)))
        block_type = _rematerialized(config.remat)
        x, pooled_from, skips = images.astype(config.dtype), None, []
        for level, width in enumerate(config.widths):
            block = block_type(config, width, config.num_convs_down, factors[level], pooled_from, name=f"down{level}")
            x, pooled_from = block(x, train), factors[level]
            skips.append(x)
        center = block_type(config, config.center_width, config.num_convs_down, factors[-1], pooled_from, name="center")
        x = center(x, train)
        for i, level in enumerate(reversed(range(len(config.widths)))):
            block = block_type(
                config,
                config.widths[level],
                config.num_convs_up,
                factors[level],
                below_factor=factors[level + 1],
                name=f"up{i}",
            )
            x = block(skips[level], train, x)
        head = Conv(
            self.num_classes,
            kernel_size=1,
            kernel_init=KERNEL_INITS[config.kernel_init],
            factor=logits_factor(config, self.num_classes, jax.default_backend()),
            factor_in=factors[0],
            name="head",
        )
        return add_bias(*head(x))


def _rematerialized(remat: str) -> type[ConvBlock]:
    """Return a `ConvBlock` class that keeps for its gradient what `ModelConfig.remat` says (see docs/memory.md).

    "conv" keeps the results of convolutions and the small statistics of batch normalisation; everything else is
    computed again from them by passes over the activations. "block" keeps only the input of each stage. "full" is
    "conv" inside "block": the backward pass computes one stage at a time again from its input, and keeps for this
    stage what "conv" keeps.
    """
    # `static_argnums` counts `self` as 0, so 2 is `train`, which must stay a Python bool.
    remat_block = functools.partial(nn.remat, static_argnums=(2,))
    keep = jax.checkpoint_policies.save_only_these_names(CONVOLUTION, STATISTICS)
    match remat:
        case "conv":
            return remat_block(ConvBlock, policy=keep)
        case "block":
            return remat_block(ConvBlock)
        case "full":
            return remat_block(remat_block(ConvBlock, policy=keep))
        case _:
            return ConvBlock


def _check_size(config: ModelConfig, height: int, width: int) -> None:
    multiple = config.size_multiple
    if height % multiple or width % multiple:
        raise InputError(
            f"the images are {height}x{width} (height x width), but with {len(config.widths)} poolings both must be "
            f"multiples of {multiple}: resize or pad the images (prediction pads and crops by itself)."
        )
