"""The U-Net architecture of the Keras original, for any depth and any widths."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unet_jax._types import InputError
from unet_jax.config import ModelConfig
from unet_jax.config.encoders import input_statistics
from unet_jax.config.packing import num_subpixels
from unet_jax.model.architecture import list_stages
from unet_jax.model.blocks import ConvStage, rematerialized
from unet_jax.model.conv import KERNEL_INITS, Head
from unet_jax.model.normalization import over_subpixels
from unet_jax.model.packing import level_factors, logits_factor, pack, unpack


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
      is_encoder_frozen: True to normalise the encoder and the centre with their running statistics even with
        `train=True`, and to leave their parameters without gradient.

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
    is_encoder_frozen: bool = False

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
        num_heads = self.config.deep_supervision if self.is_initializing() else 0
        return self._logits(images, train, num_heads)[0]

    def supervised(self, images: Float[Array, "b h w c"], train: bool) -> list[Float[Array, "b h2 w2 k"]]:
        """Return the logits of deep supervision: those of `packed`, and those of the levels below it.

        The logits of level i are float32 `[b h/2**i w/2**i k]`, and not packed. See `packed` for the arguments.
        """
        return self._logits(images, train, self.config.deep_supervision)

    @nn.compact
    def _logits(self, images: Array, train: bool, num_heads: int) -> list[Array]:
        """Return the packed logits, and the logits of lower levels from as many further heads."""
        config, backend = self.config, jax.default_backend()
        factors = level_factors(config, backend)
        _check_size(config, *(size * f for size, f in zip(images.shape[1:3], factors[0], strict=True)))
        stage_type = rematerialized(config.remat)
        num_channels = images.shape[-1] // num_subpixels(factors[0])
        x, factor_in = _normalized(images, config, num_channels).astype(config.dtype), factors[0]
        results: dict[int, Array] = {}  # the newest of each level: that of the encoder, then that of the decoder
        for stage in list_stages(config, num_channels):
            level, factor = stage.level, factors[stage.level]
            if stage.reads in ("joined", "upsampled"):
                block = stage_type(config, stage, factor, factor, below_factor=factor_in, name=stage.name)
                x = block(results.get(level), train, x)
            elif self.is_encoder_frozen:
                block = ConvStage(config, stage, factor, factor_in, name=stage.name)
                x = jax.lax.stop_gradient(block(jax.lax.stop_gradient(x), False))
            else:
                x = stage_type(config, stage, factor, factor_in, name=stage.name)(x, train)
            results[level], factor_in = x, factor
        heads = [("head", logits_factor(config, self.num_classes, backend))]
        heads += [(f"head{level}", (1, 1)) for level in range(1, num_heads + 1)]
        head = functools.partial(Head, self.num_classes, KERNEL_INITS[config.kernel_init])
        return [head(factor, factors[level], name=name)(results[level]) for level, (name, factor) in enumerate(heads)]


def _normalized(images: Array, config: ModelConfig, num_channels: int) -> Array:
    """Return packed images as the encoder wants them: minus the mean, divided by the deviation of each channel."""
    statistics = input_statistics(config.encoder_input, num_channels)
    if config.encoder == "none" or statistics is None:
        return images
    mean, std = (jnp.asarray(values, jnp.float32) for values in statistics)
    count = images.shape[-1] // num_channels
    return (images - over_subpixels(mean, count)) / over_subpixels(std, count)


def _check_size(config: ModelConfig, height: int, width: int) -> None:
    multiple = config.size_multiple
    if height % multiple or width % multiple:
        raise InputError(
            f"the images are {height}x{width} (height x width), but with {config.depth} poolings both must be "
            f"multiples of {multiple}: resize or pad the images (prediction pads and crops by itself)."
        )
