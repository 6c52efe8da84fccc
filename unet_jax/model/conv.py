"""The convolution that every stage is made of, on activations that may be packed (`unet_jax.model.packing`).

h, w and c are the packed array's. Parameters are always float32, and the same with every packing.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from unet_jax.config.packing import Factor, num_subpixels
from unet_jax.model.convolution import convolve, convolve_joined, convolve_upsampled, repack_by_convolution
from unet_jax.model.packing import halve, pack_kernel
from unet_jax.model.pooling import convolve_pooled

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
    the up-sampled `below` concatenated: packed, the sum of two convolutions with the kernel's input channels divided
    among them, where neither of the two tensors is made; unpacked, `convolve_joined`.
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
        below_factor = self.below_factor or halve(self.factor)
        own = x.shape[-1] // num_subpixels(factor_in)
        lower = 0 if below is None else below.shape[-1] // num_subpixels(below_factor)
        shape = (self.kernel_size, self.kernel_size, own + lower, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        bias = self.param("bias", self.bias_init, (self.features,), jnp.float32)
        if below is not None and self.factor == (1, 1):
            below = repack_by_convolution(below, below_factor, (1, 1)).astype(self.dtype)
            return convolve_joined(x.astype(self.dtype), below, kernel), bias
        if self.pooled_from is not None:
            return convolve_pooled(x.astype(self.dtype), kernel, self.pooled_from, self.factor), bias
        y = convolve(x.astype(self.dtype), pack_kernel(kernel[:, :, :own], factor_in, self.factor))
        if below is not None:
            y = y + convolve_upsampled(below.astype(self.dtype), kernel[:, :, own:], below_factor, self.factor)
        return y, bias
