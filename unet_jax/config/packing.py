"""The order of the pixels of a packed block, which host and devices share. docs/packing.md says what packing is for."""

import functools
import itertools
from typing import NamedTuple

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
