"""Normalisation layers for activations that may be packed. Parameters and statistics are always float32."""

import functools
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from unet_jax._formulations import by_platform
from unet_jax.config.packing import Factor, num_subpixels

STATISTICS = "statistics"
"""Name of a batch's statistics for rematerialisation policies (`jax.checkpoint_policies`), which may keep them."""


def over_subpixels(x: Float[Array, " d"], count: int) -> Float[Array, "1 1 1 c"]:
    """Repeat one number per channel for each of `count` sub-pixels, so that it broadcasts with packed activations."""
    return jnp.tile(x, count)[None, None, None, :]


def add_bias(x: Float[Array, "b h w c"], bias: Float[Array, " d"]) -> Float[Array, "b h w c"]:
    """Add one number per channel to packed activations x, whose c channels are c / d sub-pixels of d channels."""
    return x + over_subpixels(bias, x.shape[-1] // bias.shape[0]).astype(x.dtype)


def activate(x: Float[Array, "..."], negative_slope: float) -> Float[Array, "..."]:
    """Return x where it is positive, else x times the slope: 0 is ReLU, 1 is no activation at all."""
    if negative_slope == 0.0:
        return jax.nn.relu(x)
    return x if negative_slope == 1.0 else jax.nn.leaky_relu(x, negative_slope)


class BatchNorm(nn.Module):
    """Batch normalisation over batch, height and width, followed by ReLU, leaky ReLU, or nothing.

    x is the result of a convolution without its bias `conv_bias`. A call, for training, normalises x with the
    statistics of the batch, and moves the running statistics towards them. `normalize` normalises x with the running
    statistics, which do not change.

    The batch is always normalised with its biased variance. The running variance moves towards the same biased
    variance, as in Keras 2.0 and 3, or, if `variance` is "keras2.1", towards the variance multiplied by
    n / (n - 1 - eps) with n = b h w, as in Keras 2.1.4 to 2.3.

    Under `jit` with a batch that is sharded over devices, the means are those of the global batch: XLA's partitioner
    inserts the collectives, none is written here.

    Reference: Ioffe and Szegedy, Batch Normalization, 2015 (arXiv:1502.03167).

    Attributes:
      features: number of channels d of the unpacked network.
      momentum: share of the old running statistics that is kept at each step.
      eps: number added to the variance.
      variance: target of the running variance, see above.
      factor: packing of x and of the result.
      negative_slope: slope of the activation below 0, as in `activate`.
    """

    features: int
    momentum: float = 0.99
    eps: float = 1e-3
    variance: Literal["biased", "keras2.1"] = "biased"
    factor: Factor = (1, 1)
    negative_slope: float = 0.0

    def setup(self) -> None:
        self.scale = self.param("scale", nn.initializers.ones_init(), (self.features,), jnp.float32)
        self.bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32)
        self.running_mean = self.variable("batch_stats", "mean", jnp.zeros, (self.features,), jnp.float32)
        self.running_var = self.variable("batch_stats", "var", jnp.ones, (self.features,), jnp.float32)

    def __call__(self, x: Float[Array, "b h w c"], conv_bias: Float[Array, " d"]) -> Float[Array, "b h w c"]:
        """Normalise x with the statistics of the batch, and move the running statistics towards them."""
        shift = self.running_mean.value - conv_bias
        outputs: Any = batch_norm(x, self.scale, self.bias, shift, self.eps, self.negative_slope)
        y, mean, var = outputs
        if not self.is_initializing():
            mean, var = jax.lax.stop_gradient(mean + conv_bias), jax.lax.stop_gradient(var)
            var = var * _variance_correction(x.size // self.features, self.eps, self.variance)
            self.running_mean.value = self.momentum * self.running_mean.value + (1.0 - self.momentum) * mean
            self.running_var.value = self.momentum * self.running_var.value + (1.0 - self.momentum) * var
        return y

    def slope(self) -> Float[Array, " d"]:
        """Return what each channel is multiplied by when it is normalised with the running statistics."""
        return self.scale * jax.lax.rsqrt(self.running_var.value + self.eps)

    def normalize(self, x: Float[Array, "b h w c"], conv_bias: Float[Array, " d"]) -> Float[Array, "b h w c"]:
        """Normalise x, the convolution with the kernel of `foldable_kernel`, with the running statistics."""
        slope = self.slope()
        offset = self.bias + (conv_bias - self.running_mean.value) * slope
        count = num_subpixels(self.factor)

        def scale_and_shift(x: Array, slope: Array, offset: Array) -> Array:
            y = x.astype(jnp.float32) * over_subpixels(slope, count) + over_subpixels(offset, count)
            return activate(y, self.negative_slope).astype(x.dtype)

        def shift_only(x: Array, slope: Array, offset: Array) -> Array:
            return activate(x + over_subpixels(offset, count).astype(x.dtype), self.negative_slope)

        return by_platform(scale_and_shift, x, slope, offset, norm_in_kernel=shift_only)


def foldable_kernel(kernel: Float[Array, "kh kw c d"], slope: Float[Array, " d"]) -> Float[Array, "kh kw c d"]:
    """Return the kernel of a convolution that `BatchNorm.normalize` follows.

    It is the kernel itself, or, where batch normalisation is folded into it, the kernel times the slope of each output
    channel. Then the convolution, its bias and ReLU are one pass, which cuDNN has as one call.
    """

    def fold(kernel: Array, slope: Array) -> Array:
        return kernel * slope[None, None, None, :]

    return by_platform(lambda kernel, slope: kernel, kernel, slope, norm_in_kernel=fold)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def batch_norm(
    x: Float[Array, "b h w c"],
    scale: Float[Array, " d"],
    bias: Float[Array, " d"],
    shift: Float[Array, " d"],
    eps: float,
    negative_slope: float = 0.0,
) -> tuple[Float[Array, "b h w c"], Float[Array, " d"], Float[Array, " d"]]:
    """Compute f(scale (x - mean) / sqrt(var + eps) + bias) with the mean and variance of each channel of x.

    f is `activate` with `negative_slope`: by default max(0, .).

    Both statistics come from one pass over x: the variance is E[(x - shift)^2] - E[x - shift]^2. This is exact in real
    arithmetic for any `shift`, and loses digits as (mean - shift)^2 / var grows, so a `shift` near the mean is best.

    The gradient is written out so that x is the only large array kept for it. The derivative that JAX would produce
    passes over the activations more often.

    Args:
      x: packed activations, whose c channels are c / d sub-pixels of d channels.
      scale: factor of each normalised channel, float32.
      bias: offset of each normalised channel, float32.
      shift: estimate of the mean, such as the running mean, float32. It has no gradient.
      eps: number added to the variance.
      negative_slope: slope of the activation below 0.

    Returns:
      The normalised activations in x's dtype, and the mean and the biased variance `[d]` in float32. Gradients with
      respect to the mean and the variance are ignored.

    Reference: the shifted data algorithm in Chan, Golub and LeVeque, 1983 (doi:10.1080/00031305.1983.10483115).
    """
    return _batch_norm_forward(x, scale, bias, shift, eps, negative_slope)[0]


def _batch_norm_forward(x: Array, scale: Array, bias: Array, shift: Array, eps: float, negative_slope: float) -> Any:
    count = x.shape[-1] // shift.shape[0]
    x32 = x.astype(jnp.float32)
    shifted = x32 - over_subpixels(shift, count)
    mean_shifted, mean_square = _means_per_channel((shifted, jnp.square(shifted)), count)
    mean = mean_shifted + shift
    var = jnp.maximum(mean_square - jnp.square(mean_shifted), 0.0)
    inverse = jax.lax.rsqrt(var + eps)
    mean, inverse = checkpoint_name(mean, STATISTICS), checkpoint_name(inverse, STATISTICS)
    slope = scale * inverse
    y = x32 * over_subpixels(slope, count) + over_subpixels(bias - mean * slope, count)
    y = jnp.maximum(y, 0.0) if negative_slope == 0.0 else activate(y, negative_slope)
    return (y.astype(x.dtype), mean, var), (x, scale, bias, mean, inverse)


def _batch_norm_backward(
    eps: float, negative_slope: float, kept: Any, gradients: Any
) -> tuple[Array, Array, Array, None]:
    # With z = (x - mean) * inverse and g the gradient behind the activation, the gradients are sum(g z) for scale,
    # sum(g) for bias, and slope * (g - mean(g) - z mean(g z)) for x. The mask is computed again from x, so that no
    # other large array is kept.
    x, scale, bias, mean, inverse = kept
    gradient, _, _ = gradients
    count = x.shape[-1] // mean.shape[0]
    slope = scale * inverse
    centred = x.astype(jnp.float32) - over_subpixels(mean, count)
    positive = centred * over_subpixels(slope, count) + over_subpixels(bias, count) > 0.0
    gradient = gradient.astype(jnp.float32)
    gradient = jnp.where(positive, gradient, 0.0 if negative_slope == 0.0 else negative_slope * gradient)
    mean_gradient, mean_product = _means_per_channel((gradient, gradient * centred), count)
    mean_product = mean_product * inverse
    gradient_x = (
        gradient * over_subpixels(slope, count)
        - over_subpixels(slope * mean_gradient, count)
        - centred * over_subpixels(slope * inverse * mean_product, count)
    )
    pixels = float(x.size // mean.shape[0])  # an int would be int32, which overflows at 2048 images of 1024x1024
    return gradient_x.astype(x.dtype), pixels * mean_product, pixels * mean_gradient, None


batch_norm.defvjp(_batch_norm_forward, _batch_norm_backward)


def _means_per_channel(arrays: tuple[Array, Array], count: int) -> tuple[Array, Array]:
    """Return the mean of each channel over all pixels, where each grid position holds `count` sub-pixels."""

    def one_by_one(*arrays: Array) -> tuple[Array, ...]:
        return tuple(jnp.mean(jnp.mean(x, axis=(0, 1, 2)).reshape(count, -1), axis=0) for x in arrays)

    def together(*arrays: Array) -> tuple[Array, ...]:
        zeros = (jnp.zeros((), arrays[0].dtype),) * len(arrays)
        sums = jax.lax.reduce(arrays, zeros, lambda a, b: tuple(x + y for x, y in zip(a, b, strict=True)), (0, 1, 2))
        pixels = float(arrays[0].size // sums[0].size * count)
        return tuple(jnp.sum(x.reshape(count, -1), axis=0) / pixels for x in sums)

    return by_platform(one_by_one, *arrays, sums_in_one=together)


def _variance_correction(count: int, eps: float, variance: Literal["biased", "keras2.1"]) -> float:
    """Return the factor for the running variance of `count` numbers: 1 for "biased", and for a single number."""
    return count / (count - 1.0 - eps) if variance == "keras2.1" and count > 1 else 1.0


class GroupNorm(nn.GroupNorm):
    """Group normalisation of packed activations; sub-pixels count as pixels of their image.

    Reference: Wu and He, Group Normalization, 2018 (arXiv:1803.08494).
    """

    factor: Factor = (1, 1)
    """Packing of the input and of the result."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        b, h, w, c = x.shape
        count = num_subpixels(self.factor)
        return super().__call__(x.reshape(b, h, w, count, c // count)).reshape(x.shape)
