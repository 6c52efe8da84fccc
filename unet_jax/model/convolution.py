"""Convolutions of activations that may be packed, as functions; and what moves pixels by them."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unet_jax.model.packing import PackedKernel, halve, pack_kernel
from unet_jax.subpixels import Factor, num_subpixels


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


def upsample(x: Float[Array, "b h w c"]) -> Float[Array, "b 2h 2w c"]:
    """Nearest-neighbour up-sampling of unpacked activations: each pixel becomes a 2x2 block."""
    b, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)
