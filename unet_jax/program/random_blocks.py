"""Random keys whose numbers are drawn in blocks of one size, so that a CPU compiles one kernel and not one per array.

Threefry's 20 rounds are the longest kernel in a program that initialises a network, and XLA compiles it anew for
every shape: for the original's network, 30 s of processor time. The numbers of a key are a function of key and position
(`jax_threefry_partitionable`), so they can be computed in any order.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.random import define_prng_impl, threefry_2x32
from jaxtyping import Array, UInt

from unet_jax._formulations import by_platform

_BLOCK = 2**14
_THREEFRY = "threefry2x32"


def in_blocks(key: Array) -> Array:
    """Return a key with the same random numbers, which are drawn in blocks; keys that are not Threefry's are returned.

    Example:
      >>> import jax
      >>> key = jax.random.key(0)
      >>> bool((jax.random.normal(in_blocks(key), (3, 5)) == jax.random.normal(key, (3, 5))).all())
      True
    """
    is_threefry = jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and str(jax.random.key_impl(key)) == _THREEFRY
    return jax.random.wrap_key_data(jax.random.key_data(key), impl=_IN_BLOCKS) if is_threefry else key


def _random_bits(key: UInt[Array, "2"], width: int, shape: tuple[int, ...]) -> Array:
    """Return random bits of a key as integers of so many bits."""

    def at_once(key: Array) -> Array:
        return jax.random.bits(_plain(key), shape, jnp.dtype(f"uint{width}"))

    def block_by_block(key: Array) -> Array:
        def block(i: Array) -> Array:
            position = i * _BLOCK + jax.lax.iota(jnp.uint32, _BLOCK)
            high, low = jnp.split(threefry_2x32(key, jnp.concatenate([jnp.zeros_like(position), position])), 2)
            return high ^ low

        # At least two blocks: XLA would compile a loop of one turn as if it were none.
        numbers = jnp.arange(max(2, -(-size // _BLOCK)), dtype=jnp.uint32)
        return jax.lax.map(block, numbers).reshape(-1)[:size].reshape(shape)

    size = math.prod(shape)
    known = width == 32 and size < 2**32 and jax.config.jax_threefry_partitionable  # type: ignore[attr-defined]
    return by_platform(at_once, key, **({"random_blocks": block_by_block} if known else {}))


def _plain(key: Array) -> Array:
    return jax.random.wrap_key_data(key, impl=_THREEFRY)


_IN_BLOCKS: Any = define_prng_impl(
    key_shape=(2,),
    seed=lambda seed: jax.random.key_data(jax.random.key(seed, impl=_THREEFRY)),
    split=lambda key, shape: jax.random.key_data(jax.random.split(_plain(key), shape)),
    fold_in=lambda key, data: jax.random.key_data(jax.random.fold_in(_plain(key), data)),
    random_bits=_random_bits,
    name="threefry2x32 in blocks",
    tag="fryb",
)
