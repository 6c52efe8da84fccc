"""The U-Net of the Keras original, for any depth and any widths."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unet_jax._types import InputError
from unet_jax.config import ModelConfig
from unet_jax.model.layers import KERNEL_INITS, BatchNorm, Conv, GroupNorm, max_pool
from unet_jax.model.packing import Factor, halve, level_factors, pack, repack, unpack


class ConvBlock(nn.Module):
    """`num_convs` times: 3x3 convolution, normalisation, ReLU; on activations packed by `factor`.

    `below` is joined to the input of the first convolution as if it were up-sampled and concatenated.
    """

    config: ModelConfig
    features: int
    num_convs: int
    factor: Factor

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], train: bool, below: Float[Array, "b h2 w2 c2"] | None = None
    ) -> Float[Array, "b h w d"]:
        config = self.config
        for i in range(self.num_convs):
            x = Conv(
                self.features,
                kernel_init=KERNEL_INITS[config.kernel_init],
                dtype=jnp.dtype(config.dtype),
                factor=self.factor,
                name=f"conv{i}",
            )(x, below if i == 0 else None)
            if config.norm == "batch":
                norm = BatchNorm(
                    config.batch_norm_momentum,
                    config.norm_eps,
                    config.batch_norm_variance,
                    self.factor,
                    name=f"norm{i}",
                )
                x = norm(x, train)
            elif config.norm == "group":
                group_norm = GroupNorm(
                    num_groups=None,
                    group_size=min(config.group_size, self.features),
                    epsilon=config.norm_eps,
                    dtype=x.dtype,
                    factor=self.factor,
                    name=f"norm{i}",
                )
                x = group_norm(x)
            x = jax.nn.relu(x)
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

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w k"]:
        config = self.config
        multiple = config.size_multiple
        height, width = images.shape[1:3]
        if height % multiple or width % multiple:
            raise InputError(
                f"the images are {height}x{width}, but {len(config.widths)} poolings need multiples of {multiple}: "
                f"resize or pad them (prediction pads and crops by itself)."
            )
        factors = level_factors(config, jax.default_backend())
        x = pack(images.astype(config.dtype), factors[0])
        skips = []
        for i, features in enumerate(config.widths):
            x = ConvBlock(config, features, config.num_convs_down, factors[i], name=f"down{i}")(x, train)
            skips.append(x)
            x = repack(max_pool(x, factors[i]), halve(factors[i]), factors[i + 1])
        x = ConvBlock(config, config.center_width, config.num_convs_down, factors[-1], name="center")(x, train)
        for i, level in enumerate(reversed(range(len(config.widths)))):
            below = repack(x, factors[level + 1], halve(factors[level]))
            block = ConvBlock(config, config.widths[level], config.num_convs_up, factors[level], name=f"up{i}")
            x = block(skips[level], train, below)
        head = Conv(
            self.num_classes,
            kernel_size=1,
            kernel_init=KERNEL_INITS[config.kernel_init],
            factor=factors[0],
            name="head",
        )
        return unpack(head(x), factors[0])
