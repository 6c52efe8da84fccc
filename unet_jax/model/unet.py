"""The U-Net of the Keras original, for any depth and any widths."""

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
"""Name of convolutions' results, for what decides to keep them (`jax.checkpoint_policies`)."""


class ConvBlock(nn.Module):
    """`num_convs` times: 3x3 convolution, normalisation, ReLU; gives activations packed by `factor`.

    x is packed by `factor`; or by `pooled_from`, and then 2x2 max pooling comes first. `below`, packed by
    `below_factor`, is joined to the input of the first convolution as if it were up-sampled and concatenated.
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
    """U-Net (Ronneberger et al., 2015, arXiv:1505.04597) with one sigmoid logit per class and pixel.

    Encoder stages `down0` (full resolution), `down1`, ...; then `center`; then decoder stages `up0` (lowest
    resolution first), each on its skip connection and the up-sampled stage below, in that order in the kernel; then
    the 1x1 convolution `head`, always in float32.

    `UNet(config, num_classes).apply({"params": ..., "batch_stats": ...}, images, train)` maps `[b h w c]` floats in
    [0, 1] to `[b h w num_classes]` float32 logits; with `train=True` pass `mutable=["batch_stats"]` as well.
    Inside, each level's activations are packed as `config.packing` says; parameters and results do not depend on it.

    Raises:
      InputError: height or width is not a multiple of 2 to the number of encoder stages.
    """

    config: ModelConfig
    num_classes: int

    def __call__(self, images: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w k"]:
        backend = jax.default_backend()
        _check_size(self.config, *images.shape[1:3])
        x = pack(images, level_factors(self.config, backend)[0])
        return unpack(self.packed(x, train), logits_factor(self.config, self.num_classes, backend))

    @nn.compact
    def packed(self, images: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w k"]:
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
    """A `ConvBlock` that keeps for its gradient what `ModelConfig.remat` says; docs/memory.md compares them.

    "conv" keeps what convolutions give, and the few numbers of batch normalisation: all else is passes over them.
    "full" is "conv" inside of "block": of one stage at a time, what "conv" keeps, from the stage's input.
    """
    # Arguments are counted from self: the second is `train`, which must stay a Python bool.
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
            f"the images are {height}x{width}, but {len(config.widths)} poolings need multiples of {multiple}: "
            f"resize or pad them (prediction pads and crops by itself)."
        )
