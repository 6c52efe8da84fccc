"""Convolutions as matrix products, for grids of so few pixels that the kernel takes most of the time (docs/cpu.md)."""

import functools
import itertools

import jax
import jax.numpy as jnp
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
    h, w = padded.shape[1] - rows + 1, padded.shape[2] - columns + 1
    taps = itertools.product(range(rows), range(columns))
    patches = jnp.concatenate([padded[:, i : i + h, j : j + w, :] for i, j in taps], axis=-1)
    return jnp.einsum("bhwp,pd->bhwd", patches, kernel.reshape(-1, kernel.shape[3])), (x, kernel)


def _correlate_patches_backward(padding: Padding, kept: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    """Compute the gradients of x and of the kernel as two matrix products, without a transposition of the kernel."""
    # Unlike in the forward pass, pixels are the last axis of the patches: with channels last, XLA's CPU product
    # takes five times as long.
    x, kernel = kept
    h, w = gradient.shape[1:3]

    def gather(x: Array) -> Float[Array, "kh*kw c b h w"]:
        padded = jnp.pad(x.transpose(3, 0, 1, 2), ((0, 0), (0, 0), *padding))
        taps = itertools.product(range(kernel.shape[0]), range(kernel.shape[1]))
        return jnp.stack([padded[:, :, i : i + h, j : j + w] for i, j in taps])

    patches, scatter = jax.vjp(gather, x)
    of_taps = kernel.reshape(-1, *kernel.shape[2:])
    gradient_of_patches = jnp.einsum("tcd,bhwd->tcbhw", of_taps, gradient)
    gradient_of_taps = jnp.einsum("tcbhw,bhwd->tcd", patches, gradient)
    return *scatter(gradient_of_patches), gradient_of_taps.reshape(kernel.shape)


correlate_patches.defvjp(_correlate_patches_forward, _correlate_patches_backward)
