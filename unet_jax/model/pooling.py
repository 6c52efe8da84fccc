"""2x2 max pooling of activations that may be packed, alone and before a convolution."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from unet_jax.config.packing import Factor
from unet_jax.model.convolution import convolve
from unet_jax.model.packing import halve, pack_kernel


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def max_pool(x: Float[Array, "b h w c"], factor: Factor = (1, 1)) -> Float[Array, "b h2 w2 c2"]:
    """The largest of each 2x2 block, packed by `halve(factor)`.

    Of equals the first in reading order gets the gradient, as in TensorFlow and PyTorch (`jnp.max` divides it among
    them), and so with every packing. NaN wins.
    """
    return _max_pool_forward(x, factor)[0]


def _max_pool_forward(x: Array, factor: Factor) -> tuple[Array, Array]:
    """Also which of the four it was, 0 to 3 in x's dtype."""
    upper, lower = _halves(x, 1, packed=factor[0] > 1)
    left, first = _first_of_pair(*_halves(upper, 2, packed=factor[1] > 1))
    right, third = _first_of_pair(*_halves(lower, 2, packed=factor[1] > 1))
    largest, in_upper = _first_of_pair(left, right)
    winner = jnp.where(in_upper, jnp.where(first, 0, 1), jnp.where(third, 2, 3))
    return largest, winner.astype(x.dtype)  # as int8 it would be a pass of its own on a TPU (docs/tpu.md)


def _max_pool_backward(factor: Factor, winner: Array, gradient: Array) -> tuple[Array]:
    zero = jnp.zeros((), gradient.dtype)
    parts = [jnp.where(winner == i, gradient, zero) for i in range(4)]
    upper = _join(parts[0], parts[1], 2, packed=factor[1] > 1)
    lower = _join(parts[2], parts[3], 2, packed=factor[1] > 1)
    return (_join(upper, lower, 1, packed=factor[0] > 1),)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def convolve_pooled(
    x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw i o"], factor: Factor, new: Factor
) -> Float[Array, "b h2 w2 d"]:
    """A 'same' convolution of `max_pool(x, factor)`, packed by `new`."""
    if min(factor) == 1:
        return convolve(max_pool(x, factor), pack_kernel(kernel, halve(factor), new))
    return _convolve_pooled_channels(x, kernel, factor, new)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve_pooled_channels(x: Array, kernel: Array, factor: Factor, new: Factor) -> Array:
    """`convolve_pooled` where the four pixels of a block are four groups of channels.

    Their gradients are four copies of the pooled pixel's, of which one is kept. To place copies in the channels is
    expensive on a TPU; to repeat the kernel's channels costs nothing, so that the convolution's gradient comes out
    four times already (docs/tpu.md).
    """
    return _convolve_pooled_forward(x, kernel, factor, new)[0]


def _convolve_pooled_forward(x: Array, kernel: Array, factor: Factor, new: Factor) -> tuple[Array, Any]:
    pooled, winner = _max_pool_forward(x, factor)
    return convolve(pooled, pack_kernel(kernel, halve(factor), new)), (pooled, winner, kernel)


def _convolve_pooled_backward(factor: Factor, new: Factor, kept: Any, gradient: Array) -> tuple[Array, Array]:
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
    """Even and odd rows (axis 1) or columns (axis 2) of `[b h w c]`; packed, they lead the channels."""
    if packed:
        even, odd = jnp.split(x, 2, axis=-1)
        return even, odd
    pairs = x.reshape(*x.shape[:axis], x.shape[axis] // 2, 2, *x.shape[axis + 1 :])
    even, odd = (jax.lax.index_in_dim(pairs, i, axis + 1, keepdims=False) for i in (0, 1))
    return even, odd


def _join(even: Array, odd: Array, axis: int, *, packed: bool) -> Array:
    """The inverse of `_halves`."""
    if packed:
        return jnp.concatenate([even, odd], axis=-1)
    pairs = jnp.stack([even, odd], axis=axis + 1)
    return pairs.reshape(*even.shape[:axis], 2 * even.shape[axis], *even.shape[axis + 1 :])


def _first_of_pair(first: Array, second: Array) -> tuple[Array, Array]:
    """The larger, and whether it is the first; it is when they are equal."""
    is_first = (first >= second) | jnp.isnan(first)
    return jnp.where(is_first, first, second), is_first
