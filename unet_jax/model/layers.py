"""The U-Net's layers, on activations that may be packed (`unet_jax.model.packing`): h, w and c are the packed array's.

Parameters and statistics are float32 whatever the activations are, and the same whatever the packing is.
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unet_jax.model.packing import (
    Factor,
    halve,
    num_subpixels,
    pack_kernel,
    pack_kernel_of_upsampled,
    repack,
    upsampled_factor,
)

KERNEL_INITS = {
    "glorot_uniform": nn.initializers.glorot_uniform(),
    "he_normal": nn.initializers.he_normal(),
}


class Conv(nn.Module):
    """A 'same' convolution with an odd square kernel and a bias, on activations packed by `factor`.

    With `below`, of half the resolution and packed by `halve(factor)`, a convolution of x and the up-sampled `below`
    concatenated. Packed, it is the sum of two convolutions with the kernel's input channels divided among them, and
    neither of the two tensors is made. Unpacked, they are: `conv_of_upsampled` was 1.2 to 12 times slower on a CPU, at
    all sizes tried (docs/packing.md).
    """

    features: int
    kernel_size: int = 3
    kernel_init: nn.initializers.Initializer = KERNEL_INITS["glorot_uniform"]
    bias_init: nn.initializers.Initializer = nn.initializers.zeros_init()
    dtype: jnp.dtype = jnp.dtype("float32")
    factor: Factor = (1, 1)

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], below: Array | None = None) -> Float[Array, "b h w features"]:
        own = x.shape[-1] // num_subpixels(self.factor)
        lower = 0 if below is None else below.shape[-1] // num_subpixels(halve(self.factor))
        shape = (self.kernel_size, self.kernel_size, own + lower, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        bias = self.param("bias", self.bias_init, (self.features,), jnp.float32)
        bias = jnp.tile(bias, num_subpixels(self.factor)).astype(self.dtype)
        if below is not None and self.factor == (1, 1):
            x, own, below = jnp.concatenate([x, upsample(below)], axis=-1), own + lower, None
        y = conv_same(x.astype(self.dtype), kernel[:, :, :own], self.factor)
        if below is not None:
            y = y + conv_of_upsampled(below.astype(self.dtype), kernel[:, :, own:], self.factor)
        return y + bias[None, None, None, :]


def conv_same(
    x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw c d"], factor: Factor = (1, 1)
) -> Float[Array, "b h w d"]:
    """Cross-correlation with zero padding, stride 1, for odd kernels; x and the result are packed by `factor`."""
    kernel = pack_kernel(kernel, factor).astype(x.dtype)
    return _correlate(x, kernel, (kernel.shape[0] // 2, kernel.shape[1] // 2))


def conv_of_upsampled(
    x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c d"], factor: Factor = (1, 1)
) -> Float[Array, "b h2 w2 d"]:
    """`conv_same` of nearest-neighbour up-sampled x, which is not made: each output pixel reads 2x2 pixels of x.

    x is packed by `halve(factor)`, the result by `factor`.
    """
    kernel = pack_kernel_of_upsampled(kernel, factor).astype(x.dtype)
    y = repack(_correlate(x, kernel, (1, 1)), upsampled_factor(factor), factor)
    rows, columns = (slice(1, -1) if f == 1 else slice(None) for f in factor)
    return y[:, rows, columns]


def _correlate(
    x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw c d"], margin: tuple[int, int]
) -> Float[Array, "b h2 w2 d"]:
    """Cross-correlation, stride 1, with `margin` zeros around x."""
    if x.shape[1] < kernel.shape[0] or x.shape[2] < kernel.shape[1]:
        return _correlate_on_tiny_grid(x, kernel, margin)
    padding = [(m, m) for m in margin]
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _correlate_on_tiny_grid(
    x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw c d"], margin: tuple[int, int]
) -> Float[Array, "b h2 w2 d"]:
    """`_correlate` as one matrix product over gathered patches.

    XLA's CPU convolution leaves its fast path when a side of the image is smaller than the kernel: 67 ms against
    1.3 ms for 2x2 pixels, 512 to 512 channels, batch 8, on two cores. The deep end of the network lives there on small
    images.
    """
    rows, columns, _, features = kernel.shape
    padded = jnp.pad(x, ((0, 0), (margin[0], margin[0]), (margin[1], margin[1]), (0, 0)))
    b, h, w = x.shape[0], padded.shape[1] - rows + 1, padded.shape[2] - columns + 1
    patches = [padded[:, i : i + h, j : j + w, :] for i in range(rows) for j in range(columns)]
    gathered = jnp.concatenate(patches, axis=-1).reshape(b * h * w, -1)
    return (gathered @ kernel.reshape(-1, features)).reshape(b, h, w, features)


class BatchNorm(nn.Module):
    """Batch normalisation over batch, height and width (Ioffe and Szegedy, 2015, arXiv:1502.03167).

    `train` normalises with the batch's statistics and moves the running ones towards them; otherwise the running
    statistics are used and left alone. Images are normalised with the biased variance, which is also what the running
    one moves towards, as in Keras 2.0 and 3; "keras2.1" corrects it there by n / (n - 1 - eps) for n = b h w, as
    Keras 2.1.4 to 2.3 did. Statistics are computed in two passes: E[x^2] - E[x]^2 loses all digits when the mean is
    large.

    Under `jit` with a batch sharded over devices the means are global: no collective is written here.
    """

    momentum: float = 0.99
    eps: float = 1e-3
    variance: Literal["biased", "keras2.1"] = "biased"
    factor: Factor = (1, 1)

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
        count = num_subpixels(self.factor)
        channels = x.shape[-1] // count
        scale = self.param("scale", nn.initializers.ones_init(), (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (channels,), jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)

        def mean_of(x: Float[Array, "b h w c"]) -> Float[Array, " channels"]:
            return jnp.mean(jnp.mean(x, axis=(0, 1, 2)).reshape(count, channels), axis=0)

        def tile(x: Float[Array, " channels"]) -> Float[Array, "1 1 1 c"]:
            return jnp.tile(x, count)[None, None, None, :]

        x32 = x.astype(jnp.float32)
        if train:
            mean = mean_of(x32)
            var = mean_of(jnp.square(x32 - tile(mean)))
            if not self.is_initializing():
                running_mean.value = self.momentum * running_mean.value + (1.0 - self.momentum) * mean
                new_var = var * _variance_correction(x.size // channels, self.eps, self.variance)
                running_var.value = self.momentum * running_var.value + (1.0 - self.momentum) * new_var
        else:
            mean, var = running_mean.value, running_var.value
        factor = scale * jax.lax.rsqrt(var + self.eps)
        y = (x32 - tile(mean)) * tile(factor) + tile(bias)
        return y.astype(x.dtype)


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


def max_pool(x: Float[Array, "b h w c"], factor: Factor = (1, 1)) -> Float[Array, "b h2 w2 c2"]:
    """The largest of each 2x2 block, packed by `halve(factor)`.

    Of equals the first in reading order gets the gradient, as in TensorFlow and PyTorch (`jnp.max` divides it among
    them), and so with every packing. NaN wins.
    """
    b, h, w, _ = x.shape
    rows, columns = (1 if f > 1 else 2 for f in factor)  # in the grid; the others lead the channels
    x = x.reshape(b, h // rows, rows, w // columns, columns, 2 // rows, 2 // columns, -1)
    x = _first_of_pair(x, 4 if columns == 2 else 6)
    x = _first_of_pair(x, 2 if rows == 2 else 5)
    return x.reshape(b, h // rows, w // columns, -1)


def _first_of_pair(x: Array, axis: int) -> Array:
    """The larger half along an axis of two; the first when they are equal."""
    first, second = jnp.split(x, 2, axis=axis)
    return jnp.where((first >= second) | jnp.isnan(first), first, second)


def upsample(x: Float[Array, "b h w c"]) -> Float[Array, "b 2h 2w c"]:
    """Nearest-neighbour up-sampling of unpacked activations: each pixel becomes a 2x2 block."""
    b, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)
