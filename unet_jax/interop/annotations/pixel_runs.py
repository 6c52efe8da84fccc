"""Pixel sets as runs, which are united and cut out of each other without an image for each.

Such runs are `[n 2]` int64: first position and end (exclusive) of each run in the image's pixels, counted down the
columns as COCO does. The pixel in row y and column x of an image of height h has position x * h + y.
"""

import numpy as np

NO_RUNS = np.zeros((0, 2), np.int64)


def from_toggles(positions: np.ndarray, num_pixels: int) -> np.ndarray:
    """Return the runs between positions at which inside and outside alternate; equal positions cancel out.

    Args:
      positions: `[n]` integers in any order. If n is odd, the last run goes to the image's end.
      num_pixels: height times width of the image.

    Returns:
      `[m 2]` int64, sorted and disjoint.

    Example:
      >>> from_toggles(np.array([7, 2, 4, 9]), 10).tolist()
      [[2, 4], [7, 9]]
    """
    ordered = np.sort(positions.astype(np.int64))
    if len(ordered) % 2:
        ordered = np.append(ordered, num_pixels)
    runs = ordered.reshape(-1, 2)
    return runs[runs[:, 0] < runs[:, 1]]


def from_bitmap(bitmap: np.ndarray, x: int = 0, y: int = 0, size: tuple[int, int] | None = None) -> np.ndarray:
    """Return the runs of the pixels that are set in a bitmap.

    Args:
      bitmap: `[h w]` bool.
      x: column of the image at which the bitmap begins.
      y: row of the image at which the bitmap begins.
      size: height and width of the image; by default those of the bitmap. Pixels outside of the image are cut off.

    Returns:
      `[n 2]` int64, sorted and disjoint.

    Example:
      >>> from_bitmap(np.array([[True, False], [True, True]])).tolist()
      [[0, 2], [3, 4]]
    """
    height, width = size or bitmap.shape
    inside = bitmap[max(0, -y) : max(0, height - y), max(0, -x) : max(0, width - x)].astype(np.int8)
    first_column, first_row = max(0, x), max(0, y)
    edges = np.diff(inside.T, axis=1, prepend=np.int8(0), append=np.int8(0))  # every column begins and ends outside
    columns, rows = np.nonzero(edges)
    return ((columns + first_column) * height + rows + first_row).reshape(-1, 2).astype(np.int64)


def union(parts: list[np.ndarray]) -> np.ndarray:
    """Return the pixels that are in any of the parts.

    Example:
      >>> union([np.array([[0, 4]]), np.array([[2, 6], [8, 9]])]).tolist()
      [[0, 6], [8, 9]]
    """
    if len(parts) == 1:
        return parts[0]
    runs = np.concatenate([NO_RUNS, *parts])
    return _covered(runs.reshape(-1), np.tile([1, -1], len(runs)))


def without(runs: np.ndarray, holes: np.ndarray) -> np.ndarray:
    """Return the pixels of disjoint runs that are in none of the disjoint holes.

    Example:
      >>> without(np.array([[0, 6]]), np.array([[2, 3], [5, 9]])).tolist()
      [[0, 2], [3, 5]]
    """
    positions = np.concatenate([runs.reshape(-1), holes.reshape(-1)])
    steps = np.concatenate([np.tile([1, -1], len(runs)), np.tile([-1, 1], len(holes))])
    return _covered(positions, steps)


def _covered(positions: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Return the runs in which the sum of all steps up to there is positive."""
    places, place_of = np.unique(positions, return_inverse=True)
    depth = np.cumsum(np.bincount(place_of, weights=steps, minlength=len(places)))
    inside = np.concatenate([[0], depth > 0]).astype(np.int8)
    return places[np.diff(inside) != 0].reshape(-1, 2)


def fill(runs: np.ndarray, height: int, width: int) -> np.ndarray:
    """Draw disjoint runs: `[height width]` uint8, 255 inside and 0 outside.

    Example:
      >>> fill(np.array([[0, 2], [3, 4]]), 2, 2).tolist()
      [[255, 0], [255, 255]]
    """
    steps = np.zeros(height * width + 1, np.int8)
    steps[runs[:, 0]] += 1
    steps[runs[:, 1]] -= 1
    inside = np.cumsum(steps[:-1], dtype=np.int8, out=steps[:-1])
    return np.ascontiguousarray(inside.view(np.uint8).reshape(width, height).T) * np.uint8(255)


def count(runs: np.ndarray) -> int:
    """Return the number of pixels of disjoint runs."""
    return int((runs[:, 1] - runs[:, 0]).sum())
