"""Convolutions as matrix products, for grids of so few pixels that the kernel takes most of the time (docs/cpu.md)."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Padding = tuple[tuple[int, int], tuple[int, int]]
"""Numbers of zeros ((above, below), (left, right))."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def correlate_patches(
    x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw c d"], padding: Padding
) -> Float[Array, "b h2 w2 d"]:
    """Compute the cross-correlation with stride 1 and zero padding as one product of gathered patches and the kernel.

    It avoids two costs of XLA's convolutions on CPUs (measured on two cores, forward and backward pass of one layer):

    - For the gradient, XLA transposes the kernel first. With fewer pixels than channels this takes longer than all the
      rest: 40 of 67 ms for 4x4 pixels, 1024 to 1024 channels, batch 2. Here the kernel keeps its layout in memory.
    - XLA leaves its fast path if a side of the image is smaller than the kernel: 67 ms, against 1.3 ms with the
      product, for 2x2 pixels, 512 to 512 channels, batch 8.

    Args:
      x: activations.
      kernel: kernel of shape `[kh kw c d]`.
      padding: numbers of zeros ((above, below), (left, right)).

    Returns:
      The result with h2 = h + above + below - kh + 1 rows, and w2 columns likewise.
    """
    return _correlate_patches_forward(x, kernel, padding)[0]


def _correlate_patches_forward(x: Array, kernel: Array, padding: Padding) -> tuple[Array, tuple[Array, Array]]:
    rows, columns = kernel.shape[:2]
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    patches = _stack_shifted(_stack_shifted(padded, 1, rows, axis=3), 2, columns, axis=4)
    patches = patches.reshape(*patches.shape[:3], -1)
    return jnp.einsum("bhwp,pd->bhwd", patches, kernel.reshape(-1, kernel.shape[3])), (x, kernel)


def _correlate_patches_backward(padding: Padding, kept: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    """Compute the gradients of x and of the kernel as matrix products, without a transposition of the kernel."""
    # Unlike in the forward pass, pixels are the last axis of the products: with channels last, XLA's CPU product
    # takes five times as long.
    x, kernel = kept
    sides, taps = kernel.shape[:2], kernel.reshape(-1, *kernel.shape[2:])
    begins = np.array(list(itertools.product(*map(range, sides))), np.int32)
    # Each tap of the kernel read a pixel of x for one pixel of the result, whose gradient it now gives back.
    around = [(side - 1 - before, side - 1 - after) for side, (before, after) in zip(sides, padding, strict=True)]
    readers = _windows(jnp.pad(gradient, ((0, 0), *around, (0, 0))), begins[::-1], (1, 2), x.shape[1:3])
    shares = jnp.einsum("tcd,tbhwd->tcbhw", taps, readers)
    gradient_of_x = functools.reduce(jnp.add, list(shares)[::-1])  # one pass; XLA's own sum takes ten times as long
    padded = jnp.pad(x.transpose(3, 0, 1, 2), ((0, 0), (0, 0), *padding))
    patches = _windows(padded, begins, (2, 3), gradient.shape[1:3])
    gradient_of_taps = jnp.einsum("tcbhw,bhwd->tcd", patches, gradient)
    return gradient_of_x.transpose(1, 2, 3, 0), gradient_of_taps.reshape(kernel.shape)


correlate_patches.defvjp(_correlate_patches_forward, _correlate_patches_backward)


def _stack_shifted(x: Array, over: int, count: int, *, axis: int) -> Array:
    """Stack x as seen from its first, second, ... row (or column, as `over` says), along a new axis of the result.

    On a CPU, each slice of each shape is a kernel, which takes longer to compile than to run. So rows and then columns
    are shifted, in 3 + 3 slices. Patches of 3x3 in nine slices, forward and backward, were half of the kernels of a
    deep network.
    """
    size = x.shape[over] - count + 1
    return jnp.stack([jax.lax.slice_in_dim(x, i, i + size, axis=over) for i in range(count)], axis=axis)


def _windows(x: Array, begins: np.ndarray, over: tuple[int, int], sizes: tuple[int, ...]) -> Array:
    """Stack the windows of x that begin at some rows and columns, along a new first axis.

    It is one kernel. With the windows behind the pixels, as the forward pass needs them, it would take eight times as
    long.

    Args:
      x: padded activations.
      begins: `[n 2]` int32, first row and first column of each window.
      over: dimensions of rows and columns in x.
      sizes: numbers of rows and of columns in a window.
    """
    shape = list(x.shape)
    shape[over[0]], shape[over[1]] = sizes
    numbers = jax.lax.GatherDimensionNumbers(tuple(range(1, x.ndim + 1)), (), over)
    return jax.lax.gather(x, begins, numbers, tuple(shape), mode="promise_in_bounds")
