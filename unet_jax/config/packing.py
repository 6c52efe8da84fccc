"""The order of the pixels of a packed block, which host and devices share. docs/packing.md says what packing is for."""

import functools
import itertools
import re
from typing import NamedTuple

from unet_jax._types import InputError

Factor = tuple[int, int]
"""Rows and columns of a block; powers of two."""


class Packing(NamedTuple):
    """How the two arrays of a sample are packed."""

    image: Factor = (1, 1)
    label: Factor = (1, 1)


UNPACKED = Packing()


def num_subpixels(factor: Factor) -> int:
    return factor[0] * factor[1]


@functools.cache
def subpixels(factor: Factor) -> tuple[Factor, ...]:
    """Row and column of each sub-pixel in its block.

    Interleaved: sorted by the lowest bits of row and column, then by the next bits, and so on. So the four pixels that
    2x2 pooling compares are contiguous slices of the channels, and what is left is in the order of half the factor.
    """
    bits = range(max(factor).bit_length())
    block = itertools.product(range(factor[0]), range(factor[1]))
    return tuple(sorted(block, key=lambda pixel: [(pixel[0] >> bit & 1, pixel[1] >> bit & 1) for bit in bits]))


def parse_packing(packing: str, num_levels: int) -> list[tuple[int, int]]:
    """Rows and columns for each level of a `ModelConfig.packing`: "2,1x2" gives [(2, 2), (1, 2), (1, 1), ...].

    "none" and "auto" give (1, 1) everywhere: what "auto" means is up to the model.
    """
    if packing in ("none", "auto"):
        return [(1, 1)] * num_levels
    factors = []
    for level, part in enumerate(packing.split(",")):
        found = re.fullmatch(r"\s*(\d+)(?:x(\d+))?\s*", part)
        factor = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
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
