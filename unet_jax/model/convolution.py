"""Convolution functions for activations that may be packed, and repacking and up-sampling of such activations."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unet_jax._formulations import by_platform
from unet_jax.config.packing import Factor, num_subpixels
from unet_jax.model.packing import PackedKernel, halve, pack_kernel, unpack
from unet_jax.model.patches import correlate_patches


def convolve(x: Float[Array, "b h w c"], packed: PackedKernel) -> Float[Array, "b h2 w2 d"]:
    """Compute the cross-correlation of x and a packed kernel, with zero padding, in x's dtype.

    Args:
      x: packed activations.
      packed: kernel, strides, padding and input dilation, from `pack_kernel`.

    Returns:
      The packed result, in x's dtype. Small grids are computed as matrix products (`correlate_patches`): always where
      the grid is smaller than the kernel, and on CPUs where it has few pixels.
    """
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
    if _is_known(x) and (x.shape[1] < kernel.shape[0] or x.shape[2] < kernel.shape[1]):
        return by_patches(x, kernel)
    if _has_few_pixels(x, kernel):
        return by_platform(by_library, x, kernel, small_grids_as_products=by_patches)
    return by_library(x, kernel)


def _has_few_pixels(x: Array, kernel: Array) -> bool:
    """Return whether the batch has at most as many pixels as the kernel has output channels.

    A CPU then spends most of its time on the kernel and not on the pixels (docs/cpu.md).
    """
    return _is_known(x) and math.prod(x.shape[:3]) <= kernel.shape[3]


def _is_known(x: Array) -> bool:
    """Return whether batch, height and width are numbers; in an exported program they may be symbols."""
    return all(isinstance(size, int) for size in x.shape[:3])


def convolve_joined(
    x: Float[Array, "b h w c"], below: Float[Array, "b h/2 w/2 c2"], kernel: Float[Array, "kh kw i d"]
) -> Float[Array, "b h w d"]:
    """Convolve the concatenation of x and the 2x2 nearest-neighbour up-sampled `below`; nothing is packed.

    On CPUs and GPUs the result is the sum of two convolutions, with the kernel's input channels divided between them,
    so that neither the up-sampled nor the concatenated array is created (docs/cpu.md, docs/gpu.md). On other devices,
    and where there are few pixels, the two arrays are created and convolved.

    Args:
      x: activations at the resolution of the result, such as a skip connection.
      below: activations at half that resolution.
      kernel: kernel with i = c + c2 input channels, those of x first; both its sides are odd.

    Returns:
      The convolution with 'same' padding, in x's dtype.

    Example:
      >>> import jax.numpy as jnp
      >>> from unet_jax.model.convolution import convolve_joined
      >>> convolve_joined(jnp.ones((1, 4, 4, 3)), jnp.ones((1, 2, 2, 5)), jnp.ones((3, 3, 8, 2))).shape
      (1, 4, 4, 2)
    """
    if _has_few_pixels(x, kernel):
        return _convolve_concatenated(x, below, kernel)
    ways = {"joined_by_blocks": _convolve_apart_by_blocks}
    if _has_many_pixels(below):
        ways["joined_by_transposition"] = _convolve_apart_by_transposition
    return by_platform(_convolve_concatenated, x, below, kernel, **ways)


def _has_many_pixels(below: Array) -> bool:
    """Return whether the result has so many pixels, 64x64 or more, that they take the time and not the kernels."""
    return _is_known(below) and below.shape[1] * below.shape[2] >= 32 * 32


def convolve_below(below: Float[Array, "b h/2 w/2 c"], kernel: Float[Array, "kh kw c d"]) -> Float[Array, "b h w d"]:
    """Convolve the 2x2 nearest-neighbour up-sampled `below` alone; nothing is packed. See `convolve_joined`."""

    def of_upsampled(below: Array, kernel: Array) -> Array:
        return convolve(upsample(below), pack_kernel(kernel, (1, 1), (1, 1)))

    ways = {"joined_by_blocks": _convolve_below_by_blocks}
    if _has_many_pixels(below):
        ways["joined_by_transposition"] = _convolve_below_by_transposition
    return by_platform(of_upsampled, below, kernel, **ways)


def _convolve_concatenated(x: Array, below: Array, kernel: Array) -> Array:
    """Convolve the concatenation itself."""
    return convolve(jnp.concatenate([x, upsample(below)], axis=-1), pack_kernel(kernel, (1, 1), (1, 1)))


def _convolve_apart(of_below: Callable[[Array, Array], Array], x: Array, below: Array, kernel: Array) -> Array:
    """Convolve x and `below` each with its part of the kernel, and add the results."""
    own = x.shape[3]
    part = of_below(below, kernel[:, :, own:])
    return convolve(x, pack_kernel(kernel[:, :, :own], (1, 1), (1, 1))) + part


def _convolve_below_by_blocks(below: Array, kernel: Array) -> Array:
    """Convolve `below` at its own resolution, to the four pixels of each 2x2 block at once: packed by (2, 2)."""
    return unpack(convolve_upsampled(below, kernel, (1, 1), (2, 2)), (2, 2))


def _convolve_below_by_transposition(below: Array, kernel: Array) -> Array:
    """Convolve `below` by a transposed convolution of stride 2, whose kernel has one row and column more.

    Two taps side by side read the same pixel of `below` for one of two output pixels. So the kernel becomes the sum of
    itself and itself moved by one, in rows and in columns, and 3x3 taps become 2x2 for each output pixel.
    """
    wide = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)  # not a matrix product: the GPU's compiler fails at a tiny one
    for axis in (0, 1):
        after, before = ([(0, 0)] * axis + [pad] + [(0, 0)] * (3 - axis) for pad in ((0, 1), (1, 0)))
        wide = jnp.pad(wide, after) + jnp.pad(wide, before)
    return _convolve_transposed(below, wide.astype(below.dtype))


@jax.custom_vjp
def _convolve_transposed(x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw d c"]) -> Float[Array, "b 2h 2w d"]:
    """Compute the transposed convolution of stride 2: the gradient of the input of `_convolve_strided`.

    It is written as that gradient, because XLA then calls cuDNN's kernel for gradients, and not a convolution of an
    input with zeros between its pixels (docs/gpu.md).
    """
    b, h, w, _ = x.shape
    zeros = jnp.zeros((b, 2 * h, 2 * w, kernel.shape[2]), x.dtype)  # a convolution is linear, so any input will do
    return jax.vjp(lambda z: _convolve_strided(z, kernel), zeros)[1](x)[0]


def _convolve_strided(z: Array, kernel: Array) -> Array:
    margin = kernel.shape[0] // 2 - 1
    padding = [(margin, margin)] * 2
    return jax.lax.conv_general_dilated(z, kernel, (2, 2), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _convolve_transposed_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _convolve_transposed(x, kernel), (x, kernel)


def _convolve_transposed_backward(kept: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = kept
    return _convolve_strided(gradient, kernel), *jax.vjp(lambda k: _convolve_strided(gradient, k), kernel)[1](x)


_convolve_transposed.defvjp(_convolve_transposed_forward, _convolve_transposed_backward)

_convolve_apart_by_blocks = functools.partial(_convolve_apart, _convolve_below_by_blocks)
_convolve_apart_by_transposition = functools.partial(_convolve_apart, _convolve_below_by_transposition)


def convolve_upsampled(
    x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw i o"], old: Factor, new: Factor
) -> Float[Array, "b h2 w2 d"]:
    """Convolve the 2x2 nearest-neighbour up-sampling of x with 'same' padding, without creating the up-sampled array.

    Args:
      x: activations packed by `old`.
      kernel: unpacked kernel; both its sides are odd.
      old: packing of x.
      new: packing of the result, which has twice the resolution of x.
    """
    if old == halve(new):
        return convolve(x, pack_kernel(kernel, old, new, upsampled=True))
    return _convolve_upsampled_repacked(x, kernel, old, new)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve_upsampled_repacked(x: Array, kernel: Array, old: Factor, new: Factor) -> Array:
    """Compute `convolve_upsampled` where the grid of packed blocks of x differs from that of the result.

    A single convolution between two grids is cheap on a TPU if the grid of its result is the coarser one, and expensive
    if it is the finer one (docs/tpu.md). So the forward pass repacks x first and then convolves on one grid, while the
    gradient of x comes from the single convolution between the grids.
    """
    return _convolve_upsampled_forward(x, kernel, old, new)[0]


def _convolve_upsampled_forward(x: Array, kernel: Array, old: Factor, new: Factor) -> tuple[Array, Any]:
    repacked = repack_by_convolution(x, old, halve(new))
    y = convolve(repacked, pack_kernel(kernel, halve(new), new, upsampled=True))
    return y, (repacked, kernel)


def _convolve_upsampled_backward(old: Factor, new: Factor, kept: Any, gradient: Array) -> tuple[Array, Array]:
    # A custom derivative, because the derivative of the forward pass would go through the repacking as well.
    # A convolution is linear in its input, so the gradient of x can be taken at zeros: x itself need not be kept, but
    # only the repacked x, which the gradient of the kernel needs.
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
    """Repack x by a convolution with the 1x1 identity; the result equals that of `repack` bit for bit.

    On a TPU the matrix units move channels faster in this way than the compiler's transpositions do (docs/tpu.md).
    """
    if old == new:
        return x
    identity = jnp.eye(x.shape[-1] // num_subpixels(old), dtype=x.dtype)[None, None]
    with jax.default_matmul_precision("highest"):  # float32 times 1 must remain exact
        return convolve(x, pack_kernel(identity, old, new))


def upsample(x: Float[Array, "b h w c"]) -> Float[Array, "b 2h 2w c"]:
    """Up-sample unpacked activations by nearest neighbour: each pixel becomes a 2x2 block."""
    b, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)
