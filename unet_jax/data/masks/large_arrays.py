"""Counting and look-ups in arrays with any number of pixels: by OpenCV where it can, else in parts.

NumPy makes 8 bytes of every index.
"""

from collections.abc import Iterator

import cv2
import numpy as np

_PIXELS_AT_ONCE = 2**22


def _parts(array: np.ndarray) -> Iterator[slice]:
    """Yield the rows of an array in parts of at most 4 million pixels."""
    rows = max(1, _PIXELS_AT_ONCE // max(1, array.shape[1]))
    for start in range(0, len(array), rows):
        yield slice(start, start + rows)


def values_of(numbers: np.ndarray) -> list[int]:
    """Return the values that occur in an `[h w]` array of bool or integers, sorted.

    Example:
      >>> values_of(np.array([[7, 0], [7, 300]]))
      [0, 7, 300]
    """
    if numbers.dtype in (np.uint8, np.uint16):
        num_values = int(np.iinfo(numbers.dtype).max) + 1
        counts = cv2.calcHist([np.ascontiguousarray(numbers)], [0], None, [num_values], [0, num_values])
        return np.flatnonzero(counts).tolist()
    return sorted(set().union(*(np.unique(numbers[part]).tolist() for part in _parts(numbers))))


def look_up(table: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Return `table[indices]`.

    Args:
      table: `[n]` of any type.
      indices: `[h w]` integers from 0 to n - 1.
    """
    if indices.dtype == np.uint8 and table.dtype in (np.uint8, np.bool_):
        all_indices = np.zeros(256, np.uint8)
        all_indices[: len(table)] = table[:256]
        return cv2.LUT(indices, all_indices).astype(table.dtype, copy=False)
    result = np.empty(indices.shape, table.dtype)
    for part in _parts(indices):
        result[part] = table[indices[part]]
    return result
