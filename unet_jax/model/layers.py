"""The U-Net's layers, on activations that may be packed (`unet_jax.model.packing`): h, w and c are the packed array's.

Parameters and statistics are float32 whatever the activations are, and the same whatever the packing is.
"""

import functools
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from unet_jax.model.packing import PackedKernel, halve, pack_kernel
from unet_jax.subpixels import Factor, num_subpixels

KERNEL_INITS = {
    "glorot_uniform": nn.initializers.glorot_uniform(),
    "he_normal": nn.initializers.he_normal(),
}


class Conv(nn.Module):
    """A 'same' convolution with an odd square kernel; returns it, packed by `factor`, and its bias.

    The bias is not added: batch normalisation subtracts it again, with the mean, and the sum over all pixels that is
    its gradient would be another pass over the activations, to find 0. `add_bias` adds it where nothing subtracts it.

    x is packed by `factor_in`, or by `factor` where that is not given; or by `pooled_from`, and then it is max-pooled
    first. With `below`, of half the resolution and packed by `below_factor` or `halve(factor)`, a convolution of x and
    the up-sampled `below` concatenated. Packed, it is the sum of two convolutions with the kernel's input channels
    divided among them, and neither of the two tensors is made. Unpacked, they are: the other way was 1.2 to 12 times
    slower on a CPU, at all sizes tried (docs/packing.md).
    """

    features: int
    kernel_size: int = 3
    kernel_init: nn.initializers.Initializer = KERNEL_INITS["glorot_uniform"]
    bias_init: nn.initializers.Initializer = nn.initializers.zeros_init()
    dtype: jnp.dtype = jnp.dtype("float32")
    factor: Factor = (1, 1)
    factor_in: Factor | None = None
    pooled_from: Factor | None = None
    below_factor: Factor | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], below: Array | None = None
    ) -> tuple[Float[Array, "b h w features"], Float[Array, " d"]]:
        factor_in = self.pooled_from or self.factor_in or self.factor
        own = x.shape[-1] // num_subpixels(factor_in)
        lower = 0 if below is None else below.shape[-1] // num_subpixels(self.below_factor or halve(self.factor))
        shape = (self.kernel_size, self.kernel_size, own + lower, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        bias = self.param("bias", self.bias_init, (self.features,), jnp.float32)
        if below is not None and self.factor == (1, 1):
            below = repack_by_convolution(below, self.below_factor or (1, 1), (1, 1))
            x, own, below = jnp.concatenate([x, upsample(below)], axis=-1), own + lower, None
        if self.pooled_from is not None:
            return convolve_pooled(x.astype(self.dtype), kernel, self.pooled_from, self.factor), bias
        y = convolve(x.astype(self.dtype), pack_kernel(kernel[:, :, :own], factor_in, self.factor))
        if below is not None:
            below_factor = self.below_factor or halve(self.factor)
            y = y + convolve_upsampled(below.astype(self.dtype), kernel[:, :, own:], below_factor, self.factor)
        return y, bias


def add_bias(x: Float[Array, "b h w c"], bias: Float[Array, " d"]) -> Float[Array, "b h w c"]:
    """One number for each of d channels, on c / d sub-pixels."""
    return x + _over_subpixels(bias, x.shape[-1] // bias.shape[0]).astype(x.dtype)


def _over_subpixels(x: Float[Array, " d"], count: int) -> Float[Array, "1 1 1 c"]:
    return jnp.tile(x, count)[None, None, None, :]


def convolve(x: Float[Array, "b h w c"], packed: PackedKernel) -> Float[Array, "b h2 w2 d"]:
    """Cross-correlation with zero padding, in x's dtype."""
    kernel = packed.kernel.astype(x.dtype)
    if packed.strides == packed.lhs_dilation == (1, 1) and (
        x.shape[1] < kernel.shape[0] or x.shape[2] < kernel.shape[1]
    ):
        return _correlate_on_tiny_grid(x, kernel, packed.padding)
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        packed.strides,
        packed.padding,
        packed.lhs_dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def convolve_upsampled(
    x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw i o"], old: Factor, new: Factor
) -> Float[Array, "b h2 w2 d"]:
    """A 'same' convolution of 2x2 nearest-neighbour up-sampled x, which is not made; packed by `old`, then by `new`."""
    if old == halve(new):
        return convolve(x, pack_kernel(kernel, old, new, upsampled=True))
    return _convolve_upsampled_repacked(x, kernel, old, new)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve_upsampled_repacked(x: Array, kernel: Array, old: Factor, new: Factor) -> Array:
    """`convolve_upsampled` where x lies on another grid than the result.

    One convolution from grid to grid is cheap on a TPU where the second is coarser, and expensive where it is finer
    (docs/tpu.md). So x is repacked first, but its gradient comes from the one convolution.
    """
    return _convolve_upsampled_forward(x, kernel, old, new)[0]


def _convolve_upsampled_forward(x: Array, kernel: Array, old: Factor, new: Factor) -> tuple[Array, Any]:
    repacked = repack_by_convolution(x, old, halve(new))
    y = convolve(repacked, pack_kernel(kernel, halve(new), new, upsampled=True))
    return y, (repacked, kernel)


def _convolve_upsampled_backward(old: Factor, new: Factor, kept: Any, gradient: Array) -> tuple[Array, Array]:
    repacked, kernel = kept
    below = halve(new)
    _, gradient_of_kernel = jax.vjp(lambda k: convolve(repacked, pack_kernel(k, below, new, upsampled=True)), kernel)
    b, h, w, c = repacked.shape
    shape = (b, h * below[0] // old[0], w * below[1] // old[1], c * num_subpixels(old) // num_subpixels(below))
    packed = pack_kernel(kernel, old, new, upsampled=True)
    transposed = jax.linear_transpose(lambda x: convolve(x, packed), jax.ShapeDtypeStruct(shape, repacked.dtype))
    return *transposed(gradient), *gradient_of_kernel(gradient)


_convolve_upsampled_repacked.defvjp(_convolve_upsampled_forward, _convolve_upsampled_backward)


def repack_by_convolution(x: Float[Array, "b h w c"], old: Factor, new: Factor) -> Float[Array, "b h2 w2 c2"]:
    """`repack`, to the bit: matrix units place channels faster than a TPU's compiler transposes them (docs/tpu.md)."""
    if old == new:
        return x
    identity = jnp.eye(x.shape[-1] // num_subpixels(old), dtype=x.dtype)[None, None]
    with jax.default_matmul_precision("highest"):  # float32 times 1 is to remain what it is
        return convolve(x, pack_kernel(identity, old, new))


def _correlate_on_tiny_grid(
    x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw c d"], padding: list[tuple[int, int]]
) -> Float[Array, "b h2 w2 d"]:
    """Cross-correlation as one matrix product over gathered patches.

    XLA's CPU convolution leaves its fast path when a side of the image is smaller than the kernel: 67 ms against
    1.3 ms for 2x2 pixels, 512 to 512 channels, batch 8, on two cores. The deep end of the network lives there on small
    images.
    """
    rows, columns, _, features = kernel.shape
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    b, h, w = x.shape[0], padded.shape[1] - rows + 1, padded.shape[2] - columns + 1
    patches = [padded[:, i : i + h, j : j + w, :] for i in range(rows) for j in range(columns)]
    gathered = jnp.concatenate(patches, axis=-1).reshape(b * h * w, -1)
    return (gathered @ kernel.reshape(-1, features)).reshape(b, h, w, features)


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
            y = x.astype(jnp.float32) * _over_subpixels(slope, count) + _over_subpixels(offset, count)
            return jax.nn.relu(y).astype(x.dtype)
        y, mean, var = batch_norm_relu(x, scale, bias, running_mean.value - conv_bias, self.eps)
        if not self.is_initializing():
            mean, var = jax.lax.stop_gradient((mean + conv_bias, var))
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
    shifted = x32 - _over_subpixels(shift, count)
    mean_shifted = _mean_per_channel(shifted, count)
    mean = mean_shifted + shift
    var = jnp.maximum(_mean_per_channel(jnp.square(shifted), count) - jnp.square(mean_shifted), 0.0)
    inverse = jax.lax.rsqrt(var + eps)
    slope = scale * inverse
    y = x32 * _over_subpixels(slope, count) + _over_subpixels(bias - mean * slope, count)
    return (jnp.maximum(y, 0.0).astype(x.dtype), mean, var), (x, scale, bias, mean, inverse)


def _batch_norm_relu_backward(eps: float, kept: Any, gradients: Any) -> tuple[Array, Array, Array, None]:
    x, scale, bias, mean, inverse = kept
    gradient, _, _ = gradients
    count = x.shape[-1] // mean.shape[0]
    slope = scale * inverse
    centred = x.astype(jnp.float32) - _over_subpixels(mean, count)
    positive = centred * _over_subpixels(slope, count) + _over_subpixels(bias, count) > 0.0
    gradient = jnp.where(positive, gradient.astype(jnp.float32), 0.0)
    mean_gradient = _mean_per_channel(gradient, count)
    mean_product = _mean_per_channel(gradient * centred, count) * inverse
    gradient_x = (
        gradient * _over_subpixels(slope, count)
        - _over_subpixels(slope * mean_gradient, count)
        - centred * _over_subpixels(slope * inverse * mean_product, count)
    )
    pixels = x.size // mean.shape[0]
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


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def max_pool(x: Float[Array, "b h w c"], factor: Factor = (1, 1)) -> Float[Array, "b h2 w2 c2"]:
    """The largest of each 2x2 block, packed by `halve(factor)`.

    Of equals the first in reading order gets the gradient, as in TensorFlow and PyTorch (`jnp.max` divides it among
    them), and so with every packing. NaN wins.
    """
    return _max_pool_forward(x, factor)[0]


def _max_pool_forward(x: Array, factor: Factor) -> tuple[Array, Array]:
    """Also which of the four it was, 0 to 3 in x's dtype."""
    upper, lower = _halves(x, 1, packed=factor[0] > 1)
    left, first = _first_of_pair(*_halves(upper, 2, packed=factor[1] > 1))
    right, third = _first_of_pair(*_halves(lower, 2, packed=factor[1] > 1))
    largest, in_upper = _first_of_pair(left, right)
    winner = jnp.where(in_upper, jnp.where(first, 0, 1), jnp.where(third, 2, 3))
    return largest, winner.astype(x.dtype)  # as int8 it would be a pass of its own on a TPU (docs/tpu.md)


def _max_pool_backward(factor: Factor, winner: Array, gradient: Array) -> tuple[Array]:
    zero = jnp.zeros((), gradient.dtype)
    parts = [jnp.where(winner == i, gradient, zero) for i in range(4)]
    rows = [_join(*parts[i : i + 2], 2, packed=factor[1] > 1) for i in (0, 2)]
    return (_join(*rows, 1, packed=factor[0] > 1),)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def convolve_pooled(
    x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw i o"], factor: Factor, new: Factor
) -> Float[Array, "b h2 w2 d"]:
    """A 'same' convolution of `max_pool(x, factor)`, packed by `new`."""
    if min(factor) == 1:
        return convolve(max_pool(x, factor), pack_kernel(kernel, halve(factor), new))
    return _convolve_pooled_channels(x, kernel, factor, new)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve_pooled_channels(x: Array, kernel: Array, factor: Factor, new: Factor) -> Array:
    """`convolve_pooled` where the four pixels of a block are four groups of channels.

    Their gradients are four copies of the pooled pixel's, of which one is kept. To place copies in the channels is
    expensive on a TPU; to repeat the kernel's channels costs nothing, so that the convolution's gradient comes out
    four times already (docs/tpu.md).
    """
    return _convolve_pooled_forward(x, kernel, factor, new)[0]


def _convolve_pooled_forward(x: Array, kernel: Array, factor: Factor, new: Factor) -> tuple[Array, Any]:
    pooled, winner = _max_pool_forward(x, factor)
    return convolve(pooled, pack_kernel(kernel, halve(factor), new)), (pooled, winner, kernel)


def _convolve_pooled_backward(factor: Factor, new: Factor, kept: Any, gradient: Array) -> tuple[Array, Array]:
    pooled, winner, kernel = kept
    _, gradient_of_kernel = jax.vjp(lambda k: convolve(pooled, pack_kernel(k, halve(factor), new)), kernel)
    packed = pack_kernel(kernel, halve(factor), new)
    repeated = packed._replace(kernel=jnp.tile(packed.kernel, (1, 1, 4, 1)))
    channels = pooled.shape[-1]
    four = jax.ShapeDtypeStruct((*pooled.shape[:-1], 4 * channels), pooled.dtype)
    (copies,) = jax.linear_transpose(lambda x: convolve(x, repeated), four)(gradient)
    winner_of = PackedKernel(jnp.tile(jnp.eye(channels), 4)[None, None], (1, 1), [(0, 0), (0, 0)], (1, 1))
    group = jnp.asarray(np.repeat(np.arange(4), channels), pooled.dtype)[None, None, None, :]
    mine = convolve(winner, winner_of) == group  # 0 to 3 are exact in any precision
    return jnp.where(mine, copies, jnp.zeros((), copies.dtype)), *gradient_of_kernel(gradient)


_convolve_pooled_channels.defvjp(_convolve_pooled_forward, _convolve_pooled_backward)


def _halves(x: Array, axis: int, *, packed: bool) -> tuple[Array, Array]:
    """Even and odd rows (axis 1) or columns (axis 2) of `[b h w c]`; packed, they lead the channels."""
    if packed:
        even, odd = jnp.split(x, 2, axis=-1)
        return even, odd
    pairs = x.reshape(*x.shape[:axis], x.shape[axis] // 2, 2, *x.shape[axis + 1 :])
    even, odd = (jax.lax.index_in_dim(pairs, i, axis + 1, keepdims=False) for i in (0, 1))
    return even, odd


def _join(even: Array, odd: Array, axis: int, *, packed: bool) -> Array:
    """The inverse of `_halves`."""
    if packed:
        return jnp.concatenate([even, odd], axis=-1)
    pairs = jnp.stack([even, odd], axis=axis + 1)
    return pairs.reshape(*even.shape[:axis], 2 * even.shape[axis], *even.shape[axis + 1 :])


def _first_of_pair(first: Array, second: Array) -> tuple[Array, Array]:
    """The larger, and whether it is the first; it is when they are equal."""
    is_first = (first >= second) | jnp.isnan(first)
    return jnp.where(is_first, first, second), is_first


def upsample(x: Float[Array, "b h w c"]) -> Float[Array, "b 2h 2w c"]:
    """Nearest-neighbour up-sampling of unpacked activations: each pixel becomes a 2x2 block."""
    b, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)
