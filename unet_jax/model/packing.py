"""Packed activations: blocks of pixels as channels, and kernels that act on them. docs/packing.md has the algebra.

`[b h w c]` packed by a factor (r, s) is `[b h/r w/s r*s*c]`: the sub-pixels of each block of r rows and s columns are
channels, sub-pixel major. They are interleaved: sorted by the lowest bits of their row and column in the block, then
by the next bits, and so on. So the four pixels that 2x2 pooling compares are contiguous slices of the channels, and
what is left after pooling is in the order of half the factor.
"""

import functools
import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from unet_jax.config import ModelConfig, parse_packing

Factor = tuple[int, int]
"""Rows and columns of a block; powers of two."""


AUTO: dict[str, dict[int, Factor]] = {
    # Measured on 2 cores: 1x2 on the first level made the training step slower (docs/packing.md).
    "cpu": {},
    # Not timed: cycles that the TPU compiler estimates for the seed's network at 1024x1024, v5e (docs/packing.md).
    "tpu": {8: (4, 4), 32: (2, 2)},
}
"""By kind of device: the factor of levels with up to so many channels. Unpacked where nothing is said."""


def level_factors(config: ModelConfig, backend: str) -> list[Factor]:
    """The factor of every level, highest resolution first, with the centre's, which is (1, 1)."""
    if config.packing != "auto":
        return [*parse_packing(config.packing, len(config.widths)), (1, 1)]
    factors = []
    for level, width in enumerate(config.widths):
        most = 2 ** (len(config.widths) - level)
        rows, columns = next((f for limit, f in sorted(AUTO.get(backend, {}).items()) if width <= limit), (1, 1))
        factors.append((min(rows, most), min(columns, most)))
    return [*factors, (1, 1)]


def num_subpixels(factor: Factor) -> int:
    return factor[0] * factor[1]


def halve(factor: Factor) -> Factor:
    """The factor after 2x2 pooling: half of it where the grid stays; 1 remains 1, there the grid halves instead."""
    return max(factor[0] // 2, 1), max(factor[1] // 2, 1)


def subpixels(factor: Factor) -> list[Factor]:
    """Row and column of each sub-pixel in its block, in the interleaved order."""
    bits = range(max(factor).bit_length())
    block = itertools.product(range(factor[0]), range(factor[1]))
    return sorted(block, key=lambda pixel: [(pixel[0] >> bit & 1, pixel[1] >> bit & 1) for bit in bits])


def repack(x: Shaped[Array, "b h w c"], old: Factor, new: Factor) -> Shaped[Array, "b h2 w2 c2"]:
    """The same pixels packed by another factor: one transposition, or nothing when the factors are equal."""
    if old == new:
        return x
    largest = max(old[0], new[0]), max(old[1], new[1])
    before, after = _axes(old, largest), _axes(new, largest)
    b, h, w, c = x.shape
    size = {"b": b, "h": h * old[0] // largest[0], "w": w * old[1] // largest[1], "c": c // num_subpixels(old)}
    x = x.reshape([size.get(axis, 2) for axis in before]).transpose([before.index(axis) for axis in after])
    return x.reshape(b, h * old[0] // new[0], w * old[1] // new[1], size["c"] * num_subpixels(new))


def _axes(factor: Factor, largest: Factor) -> list[str]:
    """Major to minor axes of activations packed by `factor`; "h1" is bit 1 of the row in a block of `largest`."""
    channel_bits = [[f"{axis}{bit}" for bit in range(f.bit_length() - 1)] for axis, f in zip("hw", factor, strict=True)]
    grid_bits = [
        [f"{axis}{bit}" for bit in reversed(range(f.bit_length() - 1, most.bit_length() - 1))]
        for axis, f, most in zip("hw", factor, largest, strict=True)
    ]
    interleaved = [bit for pair in itertools.zip_longest(*channel_bits) for bit in pair if bit is not None]
    return ["b", "h", *grid_bits[0], "w", *grid_bits[1], *interleaved, "c"]


def pack(x: Shaped[Array, "b h w c"], factor: Factor) -> Shaped[Array, "b h/r w/s r*s*c"]:
    """Blocks of pixels become channels."""
    return repack(x, (1, 1), factor)


def unpack(x: Shaped[Array, "b h/r w/s r*s*c"], factor: Factor) -> Shaped[Array, "b h w c"]:
    """The inverse of `pack`."""
    return repack(x, factor, (1, 1))


def pack_kernel(kernel: Float[Array, "kh kw c d"], factor: Factor) -> Float[Array, "gh gw r*s*c r*s*d"]:
    """The kernel of a 'same' convolution, for input and output packed by `factor`."""
    return kernel if factor == (1, 1) else _scatter(kernel, factor, _taps)


def pack_kernel_of_upsampled(kernel: Float[Array, "3 3 c d"], factor: Factor) -> Float[Array, "gh gw p*q*c t*u*d"]:
    """The kernel of a 'same' 3x3 convolution of a 2x2 up-sampled input, for the input before that.

    The input is packed by (p, q) = `halve(factor)`, the output by (t, u) = `upsampled_factor(factor)`. Taps that read
    the same pixel are added.
    """
    return _scatter(kernel, factor, _taps_of_upsampled)


def upsampled_factor(factor: Factor) -> Factor:
    """What a convolution of up-sampled input gives where `factor` is wanted: at least 2."""
    return max(factor[0], 2), max(factor[1], 2)


def _scatter(kernel: Array, factor: Factor, taps_of_axis: Callable[[int, int], np.ndarray]) -> Array:
    packed = jnp.einsum(
        "klsdet,deio->klsito",
        _taps_2d(kernel.shape[0], factor, taps_of_axis),
        kernel,
        precision=jax.lax.Precision.HIGHEST,  # a sum of a few numbers, which a TPU would round to bfloat16 first
    )
    gh, gw, s, c, t, d = packed.shape
    return packed.reshape(gh, gw, s * c, t * d)


@functools.cache
def _taps_2d(size: int, factor: Factor, taps_of_axis: Callable[[int, int], np.ndarray]) -> np.ndarray:
    """T[k, l, s, d, e, t] = 1 where output sub-pixel t, at tap (d, e), reads sub-pixel s of grid offset (k, l)."""
    rows, columns = (taps_of_axis(size, f) for f in factor)
    pixels_in = np.array(subpixels((rows.shape[1], columns.shape[1])))
    pixels_out = np.array(subpixels((rows.shape[3], columns.shape[3])))
    rows = rows[:, pixels_in[:, 0]][..., pixels_out[:, 0]]
    columns = columns[:, pixels_in[:, 1]][..., pixels_out[:, 1]]
    return np.einsum("ksdt,lset->klsdet", rows, columns)


def _taps(size: int, r: int) -> np.ndarray:
    """T[k, a, d, b] = 1 where output sub-pixel b, at tap d, reads sub-pixel a of grid offset k, along one axis."""
    margin = size // 2
    reach = math.ceil(margin / r)
    taps = np.zeros((2 * reach + 1, r, size, r), np.float32)
    for d, b in itertools.product(range(size), range(r)):
        offset, a = divmod(b + d - margin, r)
        taps[offset + reach, a, d, b] = 1.0
    return taps


def _taps_of_upsampled(size: int, r: int) -> np.ndarray:
    """The same for an input of half the resolution, packed by r / 2 on the same grid.

    Where r is 1 the grid cannot stay. Then the output has a block of two pixels for each of the h + 1 gaps between
    the h input pixels and the zeros around them: both read only the two pixels that the gap separates.
    """
    in_gaps = r == 1
    r_in, r_out = max(r // 2, 1), max(r, 2)
    taps = np.zeros((2 if in_gaps else 3, r_in, size, r_out), np.float32)
    for d, b in itertools.product(range(size), range(r_out)):
        offset, a = divmod((b + d - size // 2 - in_gaps) // 2, r_in)
        taps[offset + 1, a, d, b] = 1.0
    return taps
