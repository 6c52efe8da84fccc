"""Convolutions of activations that may be packed, as functions; and what moves pixels by them."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unet_jax.config.packing import Factor, num_subpixels
from unet_jax.model.packing import PackedKernel, halve, pack_kernel, unpack
from unet_jax.model.patches import correlate_patches


def convolve(x: Float[Array, "b h w c"], packed: PackedKernel) -> Float[Array, "b h2 w2 d"]:
    """Cross-correlation with zero padding, in x's dtype."""
    kernel = packed.kernel.astype(x.dtype)
    rows, columns = packed.padding

    def by_library(x: Array, kernel: Array) -> Array:
        numbers = ("NHWC", "HWIO", "NHWC")
        window = packed.strides, packed.padding, packed.lhs_dilation
        return jax.lax.conv_general_dilated(x, kernel, *window, dimension_numbers=numbers)

    def by_patches(x: Array, kernel: Array) -> Array:
        return correlate_patches(x, kernel, (rows, columns))

    if packed.strides != (1, 1) or packed.lhs_dilation != (1, 1):
        return by_library(x, kernel)
    if x.shape[1] < kernel.shape[0] or x.shape[2] < kernel.shape[1]:
        return by_patches(x, kernel)
    if _has_few_pixels(x, kernel):
        return jax.lax.platform_dependent(x, kernel, cpu=by_patches, default=by_library)
    return by_library(x, kernel)


def _has_few_pixels(x: Array, kernel: Array) -> bool:
    """No more in the batch than there are channels: then a CPU spends its time on the kernel (docs/cpu.md)."""
    return math.prod(x.shape[:3]) <= kernel.shape[3]


def convolve_joined(
    x: Float[Array, "b h w c"], below: Float[Array, "b h/2 w/2 c2"], kernel: Float[Array, "kh kw i d"]
) -> Float[Array, "b h w d"]:
    """A 'same' convolution of x and 2x2 nearest-neighbour up-sampled `below` concatenated; nothing is packed.

    On CPUs it is the sum of two convolutions with the kernel's input channels divided among them; so neither of the
    two tensors is made. Elsewhere it is what it says: not measured on GPUs.
    """
    if _has_few_pixels(x, kernel):
        return _convolve_concatenated(x, below, kernel)
    return jax.lax.platform_dependent(x, below, kernel, cpu=_sum_of_convolutions, default=_convolve_concatenated)


def _convolve_concatenated(x: Array, below: Array, kernel: Array) -> Array:
    return convolve(jnp.concatenate([x, upsample(below)], axis=-1), pack_kernel(kernel, (1, 1), (1, 1)))


def _sum_of_convolutions(x: Array, below: Array, kernel: Array) -> Array:
    own = x.shape[3]
    of_below = convolve_upsampled(below, kernel[:, :, own:], (1, 1), (2, 2))
    return convolve(x, pack_kernel(kernel[:, :, :own], (1, 1), (1, 1))) + unpack(of_below, (2, 2))


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
    _, gradient_of_x = jax.vjp(lambda x: convolve(x, packed), jnp.zeros(shape, repacked.dtype))
    return *gradient_of_x(gradient), *gradient_of_kernel(gradient)


_convolve_upsampled_repacked.defvjp(_convolve_upsampled_forward, _convolve_upsampled_backward)


def repack_by_convolution(x: Float[Array, "b h w c"], old: Factor, new: Factor) -> Float[Array, "b h2 w2 c2"]:
    """`repack`, to the bit: matrix units place channels faster than a TPU's compiler transposes them (docs/tpu.md)."""
    if old == new:
        return x
    identity = jnp.eye(x.shape[-1] // num_subpixels(old), dtype=x.dtype)[None, None]
    with jax.default_matmul_precision("highest"):  # float32 times 1 is to remain what it is
        return convolve(x, pack_kernel(identity, old, new))


def upsample(x: Float[Array, "b h w c"]) -> Float[Array, "b 2h 2w c"]:
    """Nearest-neighbour up-sampling of unpacked activations: each pixel becomes a 2x2 block."""
    b, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)
