"""Packing factors, and the order of the pixels in a packed block, for host and devices (docs/packing.md)."""

import functools
import itertools
import re
from typing import NamedTuple

from unet_jax._types import InputError

Factor = tuple[int, int]
"""Rows and columns of a block; both are powers of two."""


class Packing(NamedTuple):
    """Factors that the image and the label of a sample are packed by."""

    image: Factor = (1, 1)
    label: Factor = (1, 1)


UNPACKED = Packing()


def num_subpixels(factor: Factor) -> int:
    """Return the number of pixels in a block."""
    return factor[0] * factor[1]


@functools.cache
def subpixels(factor: Factor) -> tuple[Factor, ...]:
    """Return row and column of each sub-pixel in its block, in the order of the channels.

    Sub-pixels are sorted by the lowest bits of row and column, then by the next bits, and so on. So the four pixels
    that 2x2 pooling compares are contiguous slices of the channels, and the result is in the order of half the factor.
    """
    bits = range(max(factor).bit_length())
    block = itertools.product(range(factor[0]), range(factor[1]))
    return tuple(sorted(block, key=lambda pixel: [(pixel[0] >> bit & 1, pixel[1] >> bit & 1) for bit in bits]))


def parse_packing(packing: str, num_levels: int) -> list[tuple[int, int]]:
    """Return rows and columns for each level of a `ModelConfig.packing`: [(2, 2), (1, 2), (1, 1), ...] for "2,1x2".

    The result is (1, 1) everywhere for "none" and for "auto": the model decides what "auto" means.

    Raises:
      InputError: the text is not understood, or a factor is too large for its level.
    """
    if packing in ("none", "auto"):
        return [(1, 1)] * num_levels
    factors = []
    for level, part in enumerate(packing.split(",")):
        match = re.fullmatch(r"\s*(\d+)(?:x(\d+))?\s*", part)
        factor = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not all(f > 0 and f & (f - 1) == 0 for f in factor):
            raise InputError(
                f"model.packing is {packing!r}, of which {part!r} is not understood: it must be 'none', 'auto', or "
                f"powers of two for the levels, as in 4,2,2 or 1x2,2 (rows x columns)."
            )
        largest = 2 ** max(num_levels - level, 0)
        if max(factor) > largest:
            raise InputError(
                f"model.packing is {packing!r}, but the factor of level {level} must be at most {largest}, which is 2 "
                f"to the number of poolings below it, so that it divides every image that the network can take: use "
                f"'none', 'auto', or {largest} there."
            )
        factors.append(factor)
    factors += [(1, 1)] * (num_levels - len(factors))
    return factors[:num_levels]
