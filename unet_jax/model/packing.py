"""Packed activations: blocks of pixels as channels, and kernels that act on them. docs/packing.md has the algebra.

`[b h w c]` packed by a factor (r, s) is `[b h/r w/s r*s*c]`: the sub-pixels of each block of r rows and s columns are
channels, sub-pixel major, in the order of `unet_jax.config.packing`.
"""

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from unet_jax.config import ModelConfig
from unet_jax.config.packing import Factor, num_subpixels, parse_packing, subpixels

AUTO: dict[str, dict[int, Factor]] = {
    # Measured on 2 cores: 1x2 on the first level made the training step slower (docs/packing.md).
    "cpu": {},
    # Not measured: no GPU was at hand. `python benchmarks/bench_packing.py` does it.
    "gpu": {},
    # Not timed: the fewest cycles by the TPU compiler's estimate, of five choices for the seed's network at 1024x1024,
    # bfloat16, 8 images a chip of v5e (docs/tpu.md). Every stage then has 128 channels, as many as a TPU has lanes.
    "tpu": {8: (4, 4), 16: (2, 4), 32: (2, 2), 64: (1, 2)},
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


def logits_factor(config: ModelConfig, num_classes: int, backend: str) -> Factor:
    """How `UNet.packed` packs its logits: as the first level, or by more, until a block's logits fill 128 lanes."""
    rows, columns = level_factors(config, backend)[0]
    if (rows, columns) == (1, 1):
        return 1, 1
    while 2 * rows * columns * num_classes <= 128 and min(rows, columns) < config.size_multiple:
        rows, columns = (rows, 2 * columns) if columns <= rows else (2 * rows, columns)
    return rows, columns


def halve(factor: Factor) -> Factor:
    """The factor after 2x2 pooling: half of it where the grid stays; 1 remains 1, there the grid halves instead."""
    return max(factor[0] // 2, 1), max(factor[1] // 2, 1)


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


class PackedKernel(NamedTuple):
    """A convolution of packed activations: arguments of `jax.lax.conv_general_dilated`."""

    kernel: Float[Array, "gh gw c d"]
    strides: tuple[int, int]
    padding: list[tuple[int, int]]
    lhs_dilation: tuple[int, int]


def pack_kernel(
    kernel: Float[Array, "kh kw c d"], old: Factor, new: Factor, *, upsampled: bool = False
) -> PackedKernel:
    """A 'same' convolution by an odd kernel, for input packed by `old` and output packed by `new`.

    With `upsampled`, the convolution of the input's 2x2 nearest-neighbour up-sampling, which is not made: taps that
    read the same pixel are added.
    """
    if (old, new, upsampled) == ((1, 1), (1, 1), False):
        margins = [(size // 2, size // 2) for size in kernel.shape[:2]]
        return PackedKernel(kernel, (1, 1), margins, (1, 1))
    axes, taps = _taps_2d(kernel.shape[0], old, new, upsampled)
    packed = jnp.einsum(
        "klsdet,deio->klsito",
        taps,
        kernel,
        precision=jax.lax.Precision.HIGHEST,  # a sum of a few numbers, which a TPU would round to bfloat16 first
    )
    gh, gw, s, c, t, d = packed.shape
    rows, columns = axes
    return PackedKernel(
        packed.reshape(gh, gw, s * c, t * d),
        (rows.stride, columns.stride),
        [rows.padding, columns.padding],
        (rows.dilation, columns.dilation),
    )


class _Axis(NamedTuple):
    taps: np.ndarray  # T[k, a, d, b] = 1 where output sub-pixel b, at tap d, reads sub-pixel a of grid offset k
    stride: int  # of the grid of inputs, where it is finer than the grid of outputs
    dilation: int  # of the grid of inputs, where it is coarser
    padding: tuple[int, int]


@functools.cache
def _taps_2d(size: int, old: Factor, new: Factor, upsampled: bool) -> tuple[tuple[_Axis, _Axis], np.ndarray]:
    """Both axes, and T[k, l, s, d, e, t] = 1 where output sub-pixel t, at tap (d, e), reads sub-pixel s of (k, l)."""
    rows, columns = (_axis(size, r, r_out, upsampled) for r, r_out in zip(old, new, strict=True))
    pixels_in, pixels_out = np.array(subpixels(old)), np.array(subpixels(new))
    of_rows = rows.taps[:, pixels_in[:, 0]][..., pixels_out[:, 0]]
    of_columns = columns.taps[:, pixels_in[:, 1]][..., pixels_out[:, 1]]
    return (rows, columns), np.einsum("ksdt,lset->klsdet", of_rows, of_columns)


def _axis(size: int, r_in: int, r_out: int, upsampled: bool) -> _Axis:
    """One axis. A block of outputs is as wide as `stride` blocks of inputs, or a block of inputs as `dilation`."""
    zoom = 2 if upsampled else 1
    stride, dilation = max(r_out // (r_in * zoom), 1), max(r_in * zoom // r_out, 1)
    reads = []
    for j in range(dilation):  # blocks of outputs that lie differently to their inputs
        for d, b in itertools.product(range(size), range(r_out)):
            block, a = divmod((r_out * j + b + d - size // 2) // zoom, r_in)
            reads.append((block * dilation - j, a, d, b))
    first, last = min(reads)[0], max(reads)[0]
    taps = np.zeros((last - first + 1, r_in, size, r_out), np.float32)
    for k, a, d, b in reads:
        taps[k - first, a, d, b] = 1.0
    return _Axis(taps, stride, dilation, (-first, last + dilation - stride))
