"""2x2 max pooling of activations that may be packed, by itself and fused with the convolution that follows it."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from unet_jax._formulations import by_platform
from unet_jax.config.packing import Factor
from unet_jax.model.convolution import convolve
from unet_jax.model.packing import halve, pack_kernel


def max_pool(x: Float[Array, "b h w c"], factor: Factor = (1, 1)) -> Float[Array, "b h2 w2 c2"]:
    """Return the largest value of each 2x2 block of pixels.

    If several pixels of a block are equal, the first one in reading order gets the whole gradient, with every packing.
    So it is in TensorFlow and PyTorch; `jnp.max` divides the gradient among them. A NaN counts as the largest.

    Args:
      x: activations packed by `factor`.
      factor: packing of x.

    Returns:
      The pooled activations, at half the resolution, packed by `halve(factor)`.

    Example:
      >>> import jax.numpy as jnp
      >>> from unet_jax.model.pooling import max_pool
      >>> max_pool(jnp.arange(8.0).reshape(1, 2, 4, 1)).tolist()
      [[[[5.0], [7.0]]]]
    """
    if factor == (1, 1):
        return by_platform(functools.partial(_max_pool, factor=factor), x, winner_in_int8=_max_pool_int8)
    return _max_pool(x, factor)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _max_pool(x: Array, factor: Factor) -> Array:
    return _max_pool_forward(x, factor)[0]


def _max_pool_forward(x: Array, factor: Factor) -> tuple[Array, Array]:
    """Return the largest of each block, and its position in the block in reading order: 0 to 3, in x's dtype."""
    upper, lower = _halves(x, 1, packed=factor[0] > 1)
    left, first = _first_of_pair(*_halves(upper, 2, packed=factor[1] > 1))
    right, third = _first_of_pair(*_halves(lower, 2, packed=factor[1] > 1))
    largest, in_upper = _first_of_pair(left, right)
    winner = jnp.where(in_upper, jnp.where(first, 0, 1), jnp.where(third, 2, 3))
    return largest, winner.astype(x.dtype)  # int8 would need a separate pass on a TPU (docs/tpu.md)


def _max_pool_backward(factor: Factor, winner: Array, gradient: Array) -> tuple[Array]:
    # A custom derivative, so that only one number per block is kept for it (the winner's position, and not x), and so
    # that one of several equal pixels gets the gradient.
    zero = jnp.zeros((), gradient.dtype)
    parts = [jnp.where(winner == i, gradient, zero) for i in range(4)]
    upper = _join(parts[0], parts[1], 2, packed=factor[1] > 1)
    lower = _join(parts[2], parts[3], 2, packed=factor[1] > 1)
    return (_join(upper, lower, 1, packed=factor[0] > 1),)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)


@jax.custom_vjp
def _max_pool_int8(x: Array) -> Array:
    """Compute `max_pool` of activations that are not packed, and keep one byte per block for the gradient."""
    return _max_pool_int8_forward(x)[0]


def _max_pool_int8_forward(x: Array) -> tuple[Array, Array]:
    # Without the barrier, XLA fuses the winner's computation into the gradient, and x is read again there.
    largest, winner = _max_pool_forward(x, (1, 1))
    return jax.lax.optimization_barrier((largest, winner.astype(jnp.int8)))


def _max_pool_int8_backward(winner: Array, gradient: Array) -> tuple[Array]:
    # One comparison with the position of each pixel in its block; a concatenation of four would be passes of their own.
    b, h, w, c = gradient.shape
    position = jnp.arange(4, dtype=jnp.int8).reshape(1, 1, 2, 1, 2, 1)
    is_winner = winner[:, :, None, :, None, :] == position
    gradient = jnp.where(is_winner, gradient[:, :, None, :, None, :], jnp.zeros((), gradient.dtype))
    return (gradient.reshape(b, 2 * h, 2 * w, c),)


_max_pool_int8.defvjp(_max_pool_int8_forward, _max_pool_int8_backward)


def max_pool_3x3(x: Float[Array, "b h w c"]) -> Float[Array, "b h/2 w/2 c"]:
    """Return the largest value of each 3x3 block around every second row and column; nothing is packed.

    It is PyTorch's `MaxPool2d(3, stride=2, padding=1)`, which a ResNet has after its first convolution.

    Example:
      >>> import jax.numpy as jnp
      >>> from unet_jax.model.pooling import max_pool_3x3
      >>> max_pool_3x3(jnp.arange(16.0).reshape(1, 4, 4, 1))[0, :, :, 0].tolist()
      [[5.0, 7.0], [13.0, 15.0]]
    """
    padding = ((0, 0), (1, 1), (1, 1), (0, 0))
    # The start is a number: with an array, JAX does not see that this is a maximum, and has no gradient for it.
    return jax.lax.reduce_window(x, -np.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), padding)


def convolve_pooled(
    x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw i o"], factor: Factor, new: Factor
) -> Float[Array, "b h2 w2 d"]:
    """Convolve `max_pool(x, factor)` with 'same' padding.

    Args:
      x: activations packed by `factor`.
      kernel: unpacked kernel; both its sides are odd.
      factor: packing of x.
      new: packing of the result, which has half the resolution of x.
    """
    if min(factor) == 1:
        return convolve(max_pool(x, factor), pack_kernel(kernel, halve(factor), new))
    return _convolve_pooled_channels(x, kernel, factor, new)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve_pooled_channels(x: Array, kernel: Array, factor: Factor, new: Factor) -> Array:
    """Compute `convolve_pooled` where the four pixels of each pooled block are four groups of x's channels.

    The gradients of the four pixels are four copies of the pooled pixel's gradient, of which one is kept and three are
    set to 0. To copy into channels is expensive on a TPU. To repeat the kernel's input channels costs nothing, and the
    convolution for the gradient then returns the four copies directly (docs/tpu.md).
    """
    return _convolve_pooled_forward(x, kernel, factor, new)[0]


def _convolve_pooled_forward(x: Array, kernel: Array, factor: Factor, new: Factor) -> tuple[Array, Any]:
    pooled, winner = _max_pool_forward(x, factor)
    return convolve(pooled, pack_kernel(kernel, halve(factor), new)), (pooled, winner, kernel)


def _convolve_pooled_backward(factor: Factor, new: Factor, kept: Any, gradient: Array) -> tuple[Array, Array]:
    # `repeated` reads four copies of the pooled channels, so its gradient has the channels of x; it is linear, so the
    # gradient can be taken at zeros. `winner_of` (four 1x1 identities) copies the winner's position to all four groups
    # by a convolution, because slices and concatenations of channels are expensive on a TPU.
    pooled, winner, kernel = kept
    _, gradient_of_kernel = jax.vjp(lambda k: convolve(pooled, pack_kernel(k, halve(factor), new)), kernel)
    packed = pack_kernel(kernel, halve(factor), new)
    repeated = packed._replace(kernel=jnp.tile(packed.kernel, (1, 1, 4, 1)))
    channels = pooled.shape[-1]
    four = jnp.zeros((*pooled.shape[:-1], 4 * channels), pooled.dtype)
    (copies,) = jax.vjp(lambda x: convolve(x, repeated), four)[1](gradient)
    winner_of = pack_kernel(jnp.tile(jnp.eye(channels), 4)[None, None], (1, 1), (1, 1))
    group = jnp.asarray(np.repeat(np.arange(4), channels), pooled.dtype)[None, None, None, :]
    mine = convolve(winner, winner_of) == group  # 0 to 3 are exact in any precision
    return jnp.where(mine, copies, jnp.zeros((), copies.dtype)), *gradient_of_kernel(gradient)


_convolve_pooled_channels.defvjp(_convolve_pooled_forward, _convolve_pooled_backward)


def _halves(x: Array, axis: int, *, packed: bool) -> tuple[Array, Array]:
    """Return the even and the odd rows (axis 1) or columns (axis 2) of `[b h w c]`.

    If this axis is packed, they are the first and the second half of the channels.
    """
    if packed:
        even, odd = jnp.split(x, 2, axis=-1)
        return even, odd
    pairs = x.reshape(*x.shape[:axis], x.shape[axis] // 2, 2, *x.shape[axis + 1 :])
    even, odd = (jax.lax.index_in_dim(pairs, i, axis + 1, keepdims=False) for i in (0, 1))
    return even, odd


def _join(even: Array, odd: Array, axis: int, *, packed: bool) -> Array:
    """Join even and odd rows or columns again: the inverse of `_halves`."""
    if packed:
        return jnp.concatenate([even, odd], axis=-1)
    pairs = jnp.stack([even, odd], axis=axis + 1)
    return pairs.reshape(*even.shape[:axis], 2 * even.shape[axis], *even.shape[axis + 1 :])


def _first_of_pair(first: Array, second: Array) -> tuple[Array, Array]:
    """Return the larger value, and whether it is the first one; of two equal values the first is taken."""
    is_first = (first >= second) | jnp.isnan(first)
    return jnp.where(is_first, first, second), is_first
