"""Content of a decoded mask file, before anyone says what its numbers mean."""

from typing import Any, NamedTuple

import numpy as np


class MaskFile(NamedTuple):
    """Content of a mask file, as stored, with its rotation applied."""

    values: np.ndarray  # [h w] bool, integers or floats: gray levels, numbers, or indices; or [h w 3] colours
    full: int  # largest number of the file's depth; 0 for floats
    alpha: np.ndarray | None = None  # [h w]
    palette: np.ndarray | None = None  # [n 3] uint8, at least as long as the largest index says
    declared: int = 0  # number of colours that the palette itself has
    clear: frozenset[int] = frozenset()  # indices of the palette that the file declares transparent
    background: int | None = None  # index that the file declares its background
    is_lossy: bool = False  # compressed so that numbers change


def largest(dtype: np.dtype[Any]) -> int:
    """Return the largest number of an integer type, 1 for bool, and 0 for floats."""
    if dtype.kind in "ui":
        return int(np.iinfo(dtype).max)
    return int(dtype.kind == "b")


def is_inverting(palette: np.ndarray) -> bool:
    """Return True for the palette of ImageJ's inverting look-up table: index 0 is white, and 255 is black."""
    return len(palette) == 256 and bool((palette == np.arange(255, -1, -1)[:, None]).all())


def native(values: np.ndarray) -> np.ndarray:
    return values.astype(values.dtype.newbyteorder("="), copy=False)
