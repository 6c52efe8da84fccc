"""Normalisation of activations that may be packed. Parameters and statistics are always float32."""

import functools
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from unet_jax.config.packing import Factor, num_subpixels

STATISTICS = "statistics"
"""Name of what batch normalisation knows of a batch, for what decides to keep it (`jax.checkpoint_policies`)."""


def over_subpixels(x: Float[Array, " d"], count: int) -> Float[Array, "1 1 1 c"]:
    """One number for each of d channels, on each of `count` sub-pixels."""
    return jnp.tile(x, count)[None, None, None, :]


def add_bias(x: Float[Array, "b h w c"], bias: Float[Array, " d"]) -> Float[Array, "b h w c"]:
    """One number for each of d channels, on c / d sub-pixels."""
    return x + over_subpixels(bias, x.shape[-1] // bias.shape[0]).astype(x.dtype)


class BatchNormReLU(nn.Module):
    """ReLU of batch normalisation over batch, height and width (Ioffe and Szegedy, 2015, arXiv:1502.03167).

    x is a convolution's result without its bias. `train` normalises with the batch's statistics and moves the running
    ones towards them; otherwise the running statistics are used and left alone. Images are normalised with the biased
    variance, which is also what the running one moves towards, as in Keras 2.0 and 3; "keras2.1" corrects it there by
    n / (n - 1 - eps) for n = b h w, as Keras 2.1.4 to 2.3 did.

    Under `jit` with a batch sharded over devices the means are global: no collective is written here.
    """

    momentum: float = 0.99
    eps: float = 1e-3
    variance: Literal["biased", "keras2.1"] = "biased"
    factor: Factor = (1, 1)

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], conv_bias: Float[Array, " d"], train: bool
    ) -> Float[Array, "b h w c"]:
        channels = conv_bias.shape[0]
        scale = self.param("scale", nn.initializers.ones_init(), (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (channels,), jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
        if not train:
            count = num_subpixels(self.factor)
            slope = scale * jax.lax.rsqrt(running_var.value + self.eps)
            offset = bias + (conv_bias - running_mean.value) * slope
            y = x.astype(jnp.float32) * over_subpixels(slope, count) + over_subpixels(offset, count)
            return jax.nn.relu(y).astype(x.dtype)
        outputs: Any = batch_norm_relu(x, scale, bias, running_mean.value - conv_bias, self.eps)
        y, mean, var = outputs
        if not self.is_initializing():
            mean, var = jax.lax.stop_gradient(mean + conv_bias), jax.lax.stop_gradient(var)
            var = var * _variance_correction(x.size // channels, self.eps, self.variance)
            running_mean.value = self.momentum * running_mean.value + (1.0 - self.momentum) * mean
            running_var.value = self.momentum * running_var.value + (1.0 - self.momentum) * var
        return y


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def batch_norm_relu(
    x: Float[Array, "b h w c"],
    scale: Float[Array, " d"],
    bias: Float[Array, " d"],
    shift: Float[Array, " d"],
    eps: float,
) -> tuple[Float[Array, "b h w c"], Float[Array, " d"], Float[Array, " d"]]:
    """max(0, scale (x - mean) / sqrt(var + eps) + bias) with the mean and variance of x, which are returned too.

    x is packed: its c channels are c / d sub-pixels of d channels. Mean and variance carry no gradient.

    Both statistics come from one pass, the variance as E[(x - shift)^2] - E[x - shift]^2, which is exact for any
    `shift` and loses digits as (mean - shift)^2 / var grows; the running mean is a good one (the shifted data
    algorithm: Chan, Golub and LeVeque, 1983, doi:10.1080/00031305.1983.10483115). The gradient is written out so that
    x is all that is kept for it: what XLA derives by itself goes over the activations more often.
    """
    return _batch_norm_relu_forward(x, scale, bias, shift, eps)[0]


def _batch_norm_relu_forward(x: Array, scale: Array, bias: Array, shift: Array, eps: float) -> Any:
    count = x.shape[-1] // shift.shape[0]
    x32 = x.astype(jnp.float32)
    shifted = x32 - over_subpixels(shift, count)
    mean_shifted = _mean_per_channel(shifted, count)
    mean = mean_shifted + shift
    var = jnp.maximum(_mean_per_channel(jnp.square(shifted), count) - jnp.square(mean_shifted), 0.0)
    inverse = jax.lax.rsqrt(var + eps)
    mean, inverse = checkpoint_name(mean, STATISTICS), checkpoint_name(inverse, STATISTICS)
    slope = scale * inverse
    y = x32 * over_subpixels(slope, count) + over_subpixels(bias - mean * slope, count)
    return (jnp.maximum(y, 0.0).astype(x.dtype), mean, var), (x, scale, bias, mean, inverse)


def _batch_norm_relu_backward(eps: float, kept: Any, gradients: Any) -> tuple[Array, Array, Array, None]:
    x, scale, bias, mean, inverse = kept
    gradient, _, _ = gradients
    count = x.shape[-1] // mean.shape[0]
    slope = scale * inverse
    centred = x.astype(jnp.float32) - over_subpixels(mean, count)
    positive = centred * over_subpixels(slope, count) + over_subpixels(bias, count) > 0.0
    gradient = jnp.where(positive, gradient.astype(jnp.float32), 0.0)
    mean_gradient = _mean_per_channel(gradient, count)
    mean_product = _mean_per_channel(gradient * centred, count) * inverse
    gradient_x = (
        gradient * over_subpixels(slope, count)
        - over_subpixels(slope * mean_gradient, count)
        - centred * over_subpixels(slope * inverse * mean_product, count)
    )
    pixels = float(x.size // mean.shape[0])  # an int would be int32, of which 2048 images of 1024x1024 are too many
    return gradient_x.astype(x.dtype), pixels * mean_product, pixels * mean_gradient, None


batch_norm_relu.defvjp(_batch_norm_relu_forward, _batch_norm_relu_backward)


def _mean_per_channel(x: Float[Array, "b h w c"], count: int) -> Float[Array, " d"]:
    """Over all pixels, with `count` sub-pixels in a position."""
    return jnp.mean(jnp.mean(x, axis=(0, 1, 2)).reshape(count, -1), axis=0)


def _variance_correction(count: int, eps: float, variance: Literal["biased", "keras2.1"]) -> float:
    """What the variance of `count` numbers is multiplied by; one number has none to correct."""
    return count / (count - 1.0 - eps) if variance == "keras2.1" and count > 1 else 1.0


class GroupNorm(nn.GroupNorm):
    """Group normalisation (Wu and He, 2018, arXiv:1803.08494); sub-pixels count as pixels of their image."""

    factor: Factor = (1, 1)

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        b, h, w, c = x.shape
        count = num_subpixels(self.factor)
        return super().__call__(x.reshape(b, h, w, count, c // count)).reshape(x.shape)
