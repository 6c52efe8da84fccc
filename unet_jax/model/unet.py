"""The U-Net of the Keras original, for any depth and any widths."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unet_jax._types import InputError
from unet_jax.config import ModelConfig
from unet_jax.model.layers import KERNEL_INITS, BatchNorm, Conv, max_pool, upsample


class ConvBlock(nn.Module):
    """`num_convs` times: 3x3 convolution, normalisation, ReLU."""

    config: ModelConfig
    features: int
    num_convs: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w features"]:
        config = self.config
        for i in range(self.num_convs):
            x = Conv(
                self.features,
                kernel_init=KERNEL_INITS[config.kernel_init],
                dtype=jnp.dtype(config.dtype),
                name=f"conv{i}",
            )(x)
            if config.norm == "batch":
                norm = BatchNorm(
                    config.batch_norm_momentum, config.norm_eps, config.batch_norm_variance, name=f"norm{i}"
                )
                x = norm(x, train)
            elif config.norm == "group":
                group_size = min(config.group_size, self.features)
                group_norm = nn.GroupNorm(
                    num_groups=None, group_size=group_size, epsilon=config.norm_eps, dtype=x.dtype, name=f"norm{i}"
                )
                x = group_norm(x)
            x = jax.nn.relu(x)
        return x


class UNet(nn.Module):
    """U-Net (Ronneberger et al., 2015, arXiv:1505.04597) with one sigmoid logit per class and pixel.

    Encoder stages `down0` (full resolution), `down1`, ...; then `center`; then decoder stages `up0` (lowest
    resolution first), each on the concatenation of its skip connection and the up-sampled stage below, in that
    order; then the 1x1 convolution `head`, always in float32.

    `UNet(config, num_classes).apply({"params": ..., "batch_stats": ...}, images, train)` maps `[b h w c]` floats in
    [0, 1] to `[b h w num_classes]` float32 logits; with `train=True` pass `mutable=["batch_stats"]` as well.

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
        x = images.astype(config.dtype)
        skips = []
        for i, features in enumerate(config.widths):
            x = ConvBlock(config, features, config.num_convs_down, name=f"down{i}")(x, train)
            skips.append(x)
            x = max_pool(x)
        x = ConvBlock(config, config.center_width, config.num_convs_down, name="center")(x, train)
        for i, (features, skip) in enumerate(zip(reversed(config.widths), reversed(skips), strict=True)):
            x = jnp.concatenate([skip, upsample(x)], axis=-1)
            x = ConvBlock(config, features, config.num_convs_up, name=f"up{i}")(x, train)
        head = Conv(self.num_classes, kernel_size=1, kernel_init=KERNEL_INITS[config.kernel_init], name="head")
        return head(x)
