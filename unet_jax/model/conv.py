"""The convolution layer of every stage, on activations that may be packed (`unet_jax.model.packing`).

In shapes, h, w and c are the sizes of the packed array. Parameters are always float32, with every
packing the same.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unet_jax._formulations import by_platform
from unet_jax.config.packing import Factor, num_subpixels
from unet_jax.model.convolution import (
    convolve,
    convolve_below,
    convolve_joined,
    convolve_upsampled,
    repack_by_convolution,
)
from unet_jax.model.normalization import add_bias, foldable_kernel
from unet_jax.model.packing import halve, pack_kernel, pack_strided_kernel
from unet_jax.model.pooling import convolve_pooled

KERNEL_INITS = {
    "glorot_uniform": nn.initializers.glorot_uniform(),
    "he_normal": nn.initializers.he_normal(),
}


class Conv(nn.Module):
    """Convolution with 'same' padding and an odd square kernel, which returns its result and its bias separately.

    The bias is not added here. Batch normalisation would subtract it again together with the mean, and its gradient,
    which is 0, would cost another pass over the activations: a sum over all pixels. Where no batch normalisation
    follows, `add_bias` adds it.

    With `stride` 2, the result has half the resolution of x; its padding is that of stride 1, as in PyTorch.

    If `below` is given, the input is x concatenated with the 2x2 up-sampled `below`. Packed, this is computed as the
    sum of two convolutions, with the kernel's input channels divided between them, so that neither the up-sampled
    nor the concatenated array is created. Unpacked, `convolve_joined` computes it. Without x, the input is
    `below` alone, up-sampled.

    If `slope` is given, `BatchNorm.normalize` must follow, whose slope it is.

    Attributes:
      features: number of output channels d of the unpacked network.
      kernel_size: height and width of the kernel, odd.
      kernel_init: initialiser of the kernel `[kernel_size kernel_size c d]`.
      bias_init: initialiser of the bias `[d]`.
      dtype: dtype of the computation and of the result; the parameters are float32.
      factor: packing of the result.
      factor_in: packing of x; by default `factor`.
      pooled_from: packing of x if x is to be 2x2 max-pooled first; it replaces `factor_in`.
      stride: 1, or 2 for half the resolution.
      below_factor: packing of `below`, which has half the resolution of the result; by default `halve(factor)`.
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
    stride: int = 1

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"] | None, below: Array | None = None, slope: Array | None = None
    ) -> tuple[Float[Array, "b h w features"], Float[Array, " d"]]:
        factor_in = self.pooled_from or self.factor_in or self.factor
        below_factor = self.below_factor or halve(self.factor)
        own = 0 if x is None else x.shape[-1] // num_subpixels(factor_in)
        lower = 0 if below is None else below.shape[-1] // num_subpixels(below_factor)
        shape = (self.kernel_size, self.kernel_size, own + lower, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        bias = self.param("bias", self.bias_init, (self.features,), jnp.float32)
        if slope is not None:
            kernel = foldable_kernel(kernel, slope)
        if below is not None and self.factor == (1, 1):
            below = repack_by_convolution(below, below_factor, (1, 1)).astype(self.dtype)
            if x is None:
                return convolve_below(below, kernel), bias
            return convolve_joined(x.astype(self.dtype), below, kernel), bias
        if x is None:
            assert below is not None
            return convolve_upsampled(below.astype(self.dtype), kernel, below_factor, self.factor), bias
        if self.stride == 2:
            return convolve(x.astype(self.dtype), pack_strided_kernel(kernel, factor_in, self.factor)), bias
        if self.pooled_from is not None:
            return convolve_pooled(x.astype(self.dtype), kernel, self.pooled_from, self.factor), bias
        y = convolve(x.astype(self.dtype), pack_kernel(kernel[:, :, :own], factor_in, self.factor))
        if below is not None:
            y = y + convolve_upsampled(below.astype(self.dtype), kernel[:, :, own:], below_factor, self.factor)
        return y, bias


class Head(nn.Module):
    """The output layer: a 1x1 convolution with bias, computed in float32.

    Attributes:
      num_classes: number of output channels k of the unpacked network.
      kernel_init: initialiser of the kernel `[1 1 c k]`.
      factor: packing of the result.
      factor_in: packing of x.
    """

    num_classes: int
    kernel_init: nn.initializers.Initializer
    factor: Factor
    factor_in: Factor

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        channels = x.shape[-1] // num_subpixels(self.factor_in)
        kernel = self.param("kernel", self.kernel_init, (1, 1, channels, self.num_classes), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.num_classes,), jnp.float32)

        def by_convolution(x: Array, kernel: Array) -> Array:
            return convolve(x.astype(jnp.float32), pack_kernel(kernel, self.factor_in, self.factor))

        few = {"head_by_sums": _sums_over_channels} if self.num_classes <= 4 else {}
        ways = few if self.factor == self.factor_in == (1, 1) else {}
        return add_bias(by_platform(by_convolution, x, kernel, **ways), bias)


@functools.partial(jax.checkpoint, prevent_cse=False)  # keep the arguments for the gradient, and no parts of the kernel
def _sums_over_channels(x: Array, kernel: Array) -> Array:
    """Compute a 1x1 convolution as one sum of products for each class, which is fused with what surrounds it."""
    x = x.astype(jnp.float32)
    sums = [jnp.sum(x * kernel[0, 0, :, i][None, None, None, :], axis=-1) for i in range(kernel.shape[-1])]
    return jnp.stack(sums, axis=-1)
