"""The U-Net's layers on `[b h w c]` activations. Parameters and statistics are float32 whatever the activations are."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

KERNEL_INITS = {
    "glorot_uniform": nn.initializers.glorot_uniform(),
    "he_normal": nn.initializers.he_normal(),
}


class Conv(nn.Module):
    """A 'same' convolution with an odd square kernel and a bias."""

    features: int
    kernel_size: int = 3
    kernel_init: nn.initializers.Initializer = KERNEL_INITS["glorot_uniform"]
    bias_init: nn.initializers.Initializer = nn.initializers.zeros_init()
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w features"]:
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        bias = self.param("bias", self.bias_init, (self.features,), jnp.float32)
        x, kernel, bias = (a.astype(self.dtype) for a in (x, kernel, bias))
        return conv_same(x, kernel) + bias[None, None, None, :]


def conv_same(x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw c d"]) -> Float[Array, "b h w d"]:
    """Cross-correlation with zero padding, stride 1, for odd kernels."""
    size = kernel.shape[0]
    if min(x.shape[1:3]) < size:
        return _conv_on_tiny_grid(x, kernel)
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _conv_on_tiny_grid(x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw c d"]) -> Float[Array, "b h w d"]:
    """`conv_same` as one matrix product over gathered patches.

    XLA's CPU convolution leaves its fast path when a side of the image is smaller than the kernel: 67 ms against
    1.3 ms for 2x2 pixels, 512 to 512 channels, batch 8, on two cores. The deep end of the network lives there on small
    images.
    """
    b, h, w, _ = x.shape
    size = kernel.shape[0]
    margin = size // 2
    padded = jnp.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    patches = [padded[:, i : i + h, j : j + w, :] for i in range(size) for j in range(size)]
    columns = jnp.concatenate(patches, axis=-1).reshape(b * h * w, -1)
    return (columns @ kernel.reshape(columns.shape[-1], -1)).reshape(b, h, w, -1)


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

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones_init(), (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (channels,), jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
        x32 = x.astype(jnp.float32)
        if train:
            mean = jnp.mean(x32, axis=(0, 1, 2))
            var = jnp.mean(jnp.square(x32 - mean[None, None, None, :]), axis=(0, 1, 2))
            if not self.is_initializing():
                running_mean.value = self.momentum * running_mean.value + (1.0 - self.momentum) * mean
                new_var = var * _variance_correction(x.size // channels, self.eps, self.variance)
                running_var.value = self.momentum * running_var.value + (1.0 - self.momentum) * new_var
        else:
            mean, var = running_mean.value, running_var.value
        factor = scale * jax.lax.rsqrt(var + self.eps)
        y = (x32 - mean[None, None, None, :]) * factor[None, None, None, :] + bias[None, None, None, :]
        return y.astype(x.dtype)


def _variance_correction(count: int, eps: float, variance: Literal["biased", "keras2.1"]) -> float:
    """What the variance of `count` numbers is multiplied by; one number has none to correct."""
    return count / (count - 1.0 - eps) if variance == "keras2.1" and count > 1 else 1.0


def max_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b h/2 w/2 c"]:
    """The largest of each 2x2 block."""
    b, h, w, c = x.shape
    return jnp.max(x.reshape(b, h // 2, 2, w // 2, 2, c), axis=(2, 4))


def upsample(x: Float[Array, "b h w c"]) -> Float[Array, "b 2h 2w c"]:
    """Nearest-neighbour up-sampling: each pixel becomes a 2x2 block."""
    b, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)
