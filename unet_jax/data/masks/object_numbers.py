"""Detection of object or class numbers in a file that is to be read as a soft mask."""

import numpy as np

_WINDOW = 2048  # height and width in pixels that are looked at, at most
_FEW = 4  # a soft mask whose largest level is at most 4 of 255 says nothing


def look_like_counts(levels: np.ndarray, values: list[int], white: int) -> bool:
    """Return True if gray levels look like numbers of objects or classes, 0 to N.

    Numbers are consecutive, at least in runs: most have a neighbour by 1. Soft masks of many levels have that too, but
    their levels change little from pixel to pixel, or every pixel. Numbers stand in regions of one value, one or few
    for each object, beside 0 or any other number. The largest value does not count as one: it may be the inside of
    objects in a soft mask that does not reach white.

    Args:
      levels: `[h w]` integers.
      values: the values that occur, sorted.
      white: level of a pixel that is fully inside, which is no number.

    Example:
      >>> labels = np.kron([[0, 1, 0, 2], [0, 0, 0, 0], [3, 0, 4, 5]], np.ones((9, 9), int))
      >>> ramp = np.tile(np.arange(200), (50, 1))
      >>> look_like_counts(labels, list(range(6)), 255), look_like_counts(ramp, list(range(200)), 255)
      (True, False)
    """
    numbers = {v for v in values if v not in (0, white)}
    if len(numbers) < 2 or sum(v - 1 in numbers or v + 1 in numbers for v in numbers) < len(numbers) / 2:
        return False
    largest = max(numbers)
    if white >= 255 and largest <= _FEW:
        return True
    window, is_number = _window(levels, (levels != 0) & (levels != white) & (levels != largest))
    num_values = len(np.unique(window[is_number]))
    if num_values > window.size / 8:  # too few pixels for regions
        return False
    equal, jump = _neighbours(window, is_number)
    if jump < 1.5:
        return False
    if equal >= 0.6 and jump >= largest / 8:
        return True
    return jump >= min(largest / 25, 5.0) and _num_regions(window, is_number) <= 3 * num_values


def _window(levels: np.ndarray, is_number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a part of both arrays, at most 2048x2048, that begins where the first numbers are."""
    top, left = int(is_number.any(axis=1).argmax()), int(is_number.any(axis=0).argmax())
    part = np.s_[top : top + _WINDOW, left : left + _WINDOW]
    return levels[part].astype(np.int64), is_number[part]


def _pairs(array: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the pixels of an array with their neighbours to the right, and those with neighbours below."""
    return [(array[:, :-1], array[:, 1:]), (array[:-1], array[1:])]


def _neighbours(window: np.ndarray, is_number: np.ndarray) -> tuple[float, float]:
    """Return the share of equal pairs among neighbours with a number, and the mean difference of the unequal ones."""
    pairs = zip(_pairs(window), _pairs(is_number), strict=True)
    differences = np.concatenate([np.abs(a - b)[is_a | is_b] for (a, b), (is_a, is_b) in pairs])
    unequal = differences[differences > 0]
    return 1.0 - unequal.size / max(1, differences.size), float(unequal.mean()) if unequal.size else 0.0


def _num_regions(window: np.ndarray, is_number: np.ndarray) -> int:
    """Count the connected regions of one number."""
    # Imported here, because few masks need it, and every command would wait for it.
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    index = np.arange(window.size).reshape(window.shape)
    ends = []
    for (a, b), (is_a, _), (i, j) in zip(_pairs(window), _pairs(is_number), _pairs(index), strict=True):
        is_joined = is_a & (a == b)
        ends.append((i[is_joined], j[is_joined]))
    rows, columns = (np.concatenate(parts) for parts in zip(*ends, strict=True))
    graph = coo_array((np.ones(len(rows), np.int8), (rows, columns)), shape=(window.size, window.size))
    count, _ = connected_components(graph, directed=False)
    return int(count - (~is_number).sum())
