"""Packed activations, which hold blocks of pixels as channels, and kernels that act on them.

An array `[b h w c]` packed by a factor (r, s) has the shape `[b h/r w/s r*s*c]`: the pixels of each block of r rows and
s columns, called sub-pixels, become channels. The channels of one sub-pixel are neighbours, and the sub-pixels have the
order of `unet_jax.config.packing.subpixels`. The algebra is in docs/packing.md.
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
    # Not measured, because no GPU was available. `python benchmarks/bench_packing.py` measures it.
    "gpu": {},
    # Not timed. Of five choices for the Keras original's network at 1024x1024 pixels, bfloat16, 8 images per v5e chip,
    # this one has the fewest cycles by the TPU compiler's estimate (docs/tpu.md). Every stage then has 128 channels, as
    # many as a TPU has lanes.
    "tpu": {8: (4, 4), 16: (2, 4), 32: (2, 2), 64: (1, 2)},
}
"""Table for the packing "auto": for each kind of device, the largest number of channels of a level and its factor.

A level takes the first entry that its number of channels does not exceed, and is not packed if there is none.
"""


def level_factors(config: ModelConfig, backend: str) -> list[Factor]:
    """Return the packing factor of every level, highest resolution first, and of the centre, which is always (1, 1).

    Args:
      config: settings of the network; `packing` and the numbers of channels matter.
      backend: kind of device ("cpu", "gpu", "tpu"), which decides what the packing "auto" means.

    Example:
      >>> from unet_jax.config import ModelConfig
      >>> from unet_jax.model.packing import level_factors
      >>> level_factors(ModelConfig(widths=(8, 16, 32), center_width=64), "tpu")
      [(4, 4), (2, 4), (2, 2), (1, 1)]
    """
    if config.packing != "auto":
        return [*parse_packing(config.packing, config.depth), (1, 1)]
    factors = []
    for level, (encoder, decoder) in enumerate(zip(config.level_widths[:-1], config.widths_of_decoder, strict=True)):
        width, most = max(encoder, decoder), 2 ** (config.depth - level)
        rows, columns = next((f for limit, f in sorted(AUTO.get(backend, {}).items()) if width <= limit), (1, 1))
        factors.append((min(rows, most), min(columns, most)))
    return [*factors, (1, 1)]


def logits_factor(config: ModelConfig, num_classes: int, backend: str) -> Factor:
    """Return the packing factor of the logits of `UNet.packed`.

    It is the factor of the first level, enlarged until the logits of a block fill 128 channels, as many as a TPU has
    lanes, or until a block could not divide every image. Logits are not packed if the first level is not.
    """
    rows, columns = level_factors(config, backend)[0]
    if (rows, columns) == (1, 1):
        return 1, 1
    while 2 * rows * columns * num_classes <= 128 and min(rows, columns) < config.size_multiple:
        rows, columns = (rows, 2 * columns) if columns <= rows else (2 * rows, columns)
    return rows, columns


def halve(factor: Factor) -> Factor:
    """Return the factor after 2x2 pooling: rows and columns halved, but at least 1.

    Where a side of the factor is halved, the grid of blocks keeps its size; where it is 1, the grid halves instead.
    """
    return max(factor[0] // 2, 1), max(factor[1] // 2, 1)


def repack(x: Shaped[Array, "b h w c"], old: Factor, new: Factor) -> Shaped[Array, "b h2 w2 c2"]:
    """Pack the pixels of x, which are packed by `old`, by `new` instead.

    This costs one transposition, or nothing if the factors are equal.
    """
    if old == new:
        return x
    largest = max(old[0], new[0]), max(old[1], new[1])
    before, after = _axes(old, largest), _axes(new, largest)
    b, h, w, c = x.shape
    size = {"b": b, "h": h * old[0] // largest[0], "w": w * old[1] // largest[1], "c": c // num_subpixels(old)}
    x = x.reshape([size.get(axis, 2) for axis in before]).transpose([before.index(axis) for axis in after])
    return x.reshape(b, h * old[0] // new[0], w * old[1] // new[1], size["c"] * num_subpixels(new))


def _axes(factor: Factor, largest: Factor) -> list[str]:
    """Return the names of the axes, major to minor, of activations packed by `factor`.

    The name "h1" stands for bit 1 of a pixel's row in a block of size `largest`, "w0" for bit 0 of its column.
    """
    channel_bits = [[f"{axis}{bit}" for bit in range(f.bit_length() - 1)] for axis, f in zip("hw", factor, strict=True)]
    grid_bits = [
        [f"{axis}{bit}" for bit in reversed(range(f.bit_length() - 1, most.bit_length() - 1))]
        for axis, f, most in zip("hw", factor, largest, strict=True)
    ]
    interleaved = [bit for pair in itertools.zip_longest(*channel_bits) for bit in pair if bit is not None]
    return ["b", "h", *grid_bits[0], "w", *grid_bits[1], *interleaved, "c"]


def pack(x: Shaped[Array, "b h w c"], factor: Factor) -> Shaped[Array, "b h/r w/s r*s*c"]:
    """Pack activations: turn each block of r x s pixels into r * s times as many channels at one position.

    Args:
      x: unpacked activations; r must divide h, and s must divide w.
      factor: rows r and columns s of a block, powers of two.

    Example:
      >>> import jax.numpy as jnp
      >>> from unet_jax.model.packing import pack
      >>> pack(jnp.arange(8).reshape(1, 2, 4, 1), (2, 2)).tolist()  # pixels 0, 1, 4 and 5 are the first block
      [[[[0, 1, 4, 5], [2, 3, 6, 7]]]]
    """
    return repack(x, (1, 1), factor)


def unpack(x: Shaped[Array, "b h/r w/s r*s*c"], factor: Factor) -> Shaped[Array, "b h w c"]:
    """Unpack activations that are packed by `factor`: the inverse of `pack`."""
    return repack(x, factor, (1, 1))


class PackedKernel(NamedTuple):
    """Arguments of `jax.lax.conv_general_dilated` for a convolution of packed activations."""

    kernel: Float[Array, "gh gw c d"]
    strides: tuple[int, int]
    padding: list[tuple[int, int]]
    lhs_dilation: tuple[int, int]


def pack_strided_kernel(kernel: Float[Array, "kh kw c d"], old: Factor, new: Factor) -> PackedKernel:
    """Return the convolution of packed activations that equals one with a stride of 2 of the unpacked ones.

    Its padding is that of a 'same' convolution, as `padding=kernel_size // 2` in PyTorch: output pixel p reads the
    pixels around 2 p. These are the even rows and columns of the convolution with stride 1; in packed results of twice
    the factor, they are the first quarter of the channels.

    Args:
      kernel: kernel of the unpacked network; kh and kw are odd and equal.
      old: packing of the input.
      new: packing of the output, which has half the resolution of the input.
    """
    if (old, new) == ((1, 1), (1, 1)):
        return pack_kernel(kernel, old, new)._replace(strides=(2, 2))
    packed = pack_kernel(kernel, old, (2 * new[0], 2 * new[1]))
    return packed._replace(kernel=packed.kernel[..., : packed.kernel.shape[-1] // 4])


def pack_kernel(
    kernel: Float[Array, "kh kw c d"], old: Factor, new: Factor, *, upsampled: bool = False
) -> PackedKernel:
    """Return the convolution of packed activations that equals a 'same' convolution of the unpacked ones.

    Args:
      kernel: kernel of the unpacked network; kh and kw are odd and equal.
      old: packing of the input.
      new: packing of the output.
      upsampled: True to convolve the 2x2 nearest-neighbour up-sampling of the input. The up-sampled array is not
        created: kernel taps that read the same input pixel are added instead.
    """
    if (old, new, upsampled) == ((1, 1), (1, 1), False):
        margins = [(size // 2, size // 2) for size in kernel.shape[:2]]
        return PackedKernel(kernel, (1, 1), margins, (1, 1))
    axes, taps = _taps_2d(kernel.shape[0], old, new, upsampled)
    packed = jnp.einsum(
        "klsdet,deio->klsito",
        taps,
        kernel,
        precision=jax.lax.Precision.HIGHEST,  # otherwise a TPU would round the kernel to bfloat16 before it adds taps
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
    """The rows or the columns of a packed convolution."""

    taps: np.ndarray  # T[k, a, d, b] = 1 where output sub-pixel b, at tap d, reads sub-pixel a of grid offset k, else 0
    stride: int  # blocks of inputs per block of outputs, if the grid of inputs is the finer one; else 1
    dilation: int  # blocks of outputs per block of inputs, if the grid of inputs is the coarser one; else 1
    padding: tuple[int, int]


@functools.cache
def _taps_2d(size: int, old: Factor, new: Factor, upsampled: bool) -> tuple[tuple[_Axis, _Axis], np.ndarray]:
    """Return both axes, and the tensor T of zeros and ones that maps a kernel to its packed form.

    T[k, l, s, d, e, t] is 1 where output sub-pixel t, at kernel tap (d, e), reads input sub-pixel s of the block at
    grid offset (k, l).
    """
    rows, columns = (_axis(size, r, r_out, upsampled) for r, r_out in zip(old, new, strict=True))
    pixels_in, pixels_out = np.array(subpixels(old)), np.array(subpixels(new))
    of_rows = rows.taps[:, pixels_in[:, 0]][..., pixels_out[:, 0]]
    of_columns = columns.taps[:, pixels_in[:, 1]][..., pixels_out[:, 1]]
    return (rows, columns), np.einsum("ksdt,lset->klsdet", of_rows, of_columns)


def _axis(size: int, r_in: int, r_out: int, upsampled: bool) -> _Axis:
    """Return one axis of a packed convolution, for blocks of r_in input pixels and r_out output pixels.

    Either a block of outputs is as wide as `stride` blocks of inputs, or a block of inputs is as wide as `dilation`
    blocks of outputs; the other of the two numbers is 1.
    """
    # At tap d, output pixel p reads input pixel p + d - size // 2 (divided by 2 if up-sampled). The pattern of blocks
    # and sub-pixels repeats after `dilation` blocks of outputs, so it is enough to visit these.
    zoom = 2 if upsampled else 1
    stride, dilation = max(r_out // (r_in * zoom), 1), max(r_in * zoom // r_out, 1)
    reads = []
    for j in range(dilation):  # blocks of outputs that differ in where their inputs are
        for d, b in itertools.product(range(size), range(r_out)):
            block, a = divmod((r_out * j + b + d - size // 2) // zoom, r_in)
            reads.append((block * dilation - j, a, d, b))
    first, last = min(reads)[0], max(reads)[0]
    taps = np.zeros((last - first + 1, r_in, size, r_out), np.float32)
    for k, a, d, b in reads:
        taps[k - first, a, d, b] = 1.0
    return _Axis(taps, stride, dilation, (-first, last + dilation - stride))
