"""Polygons and ellipses as pixels.

Coordinates are continuous: (0, 0) is the upper left corner of the image, and the pixel in row y and column x covers
x to x + 1 and y to y + 1. A pixel is inside a shape if its centre is. Polygons are drawn bit for bit as pycocotools
does, which rounds coordinates to fifths of a pixel; where a polygon crosses itself, the even-odd rule decides.
"""

import numpy as np

from unet_jax.interop.annotations.pixel_runs import from_toggles

_SCALE = 5  # steps per pixel in which pycocotools follows a border
_CENTRE = 2  # the step before the centre of a pixel: 0 1 2 | 3 4


def polygon_runs(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the pixels inside a polygon, as `rleFrPoly` of pycocotools does.

    Args:
      points: `[n 2]` float64, x and y of the corners in pixels. The last corner is joined to the first.
      height: height of the image, in pixels.
      width: width of the image, in pixels. Parts of the polygon outside of the image are cut off.

    Returns:
      Runs (see `unet_jax.interop.annotations.pixel_runs`).

    Example:
      >>> from unet_jax.interop.annotations.pixel_runs import fill
      >>> fill(polygon_runs(np.array([[1.0, 0.0], [3.0, 0.0], [3.0, 2.0], [1.0, 2.0]]), 3, 4), 3, 4).tolist()
      [[0, 255, 255, 0], [0, 255, 255, 0], [0, 0, 0, 0]]
    """
    columns, rows = _border(points)
    # Neighbours on the border differ by at most one step; where that step passes the centres of a column of pixels,
    # inside and outside alternate below the upper of the two.
    moves = np.flatnonzero(columns[1:] != columns[:-1])
    left = np.minimum(columns[moves], columns[moves + 1])
    upper = np.minimum(rows[moves], rows[moves + 1])
    column, step = np.divmod(left, _SCALE)
    passes = (step == _CENTRE) & (column >= 0) & (column < width)
    row = np.clip((upper[passes] + _SCALE - _CENTRE - 1) // _SCALE, 0, height)
    return from_toggles(column[passes] * height + row, height * width)


def _border(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Follow a polygon's border in steps of a fifth of a pixel: x and y of every step, `[m]` int64.

    Order of operations and rounding (towards zero, also of negative numbers) are those of pycocotools.
    """
    x0, y0 = _towards_zero(_SCALE * points + 0.5).T
    x1, y1 = np.roll(x0, -1), np.roll(y0, -1)
    is_flat = np.abs(x1 - x0) >= np.abs(y1 - y0)
    backwards = np.where(is_flat, x0 > x1, y0 > y1)  # such edges are followed from their end
    x0, x1 = np.where(backwards, x1, x0), np.where(backwards, x0, x1)
    y0, y1 = np.where(backwards, y1, y0), np.where(backwards, y0, y1)
    length = np.where(is_flat, x1 - x0, y1 - y0)
    slope = np.where(is_flat, y1 - y0, x1 - x0) / np.maximum(length, 1)
    edge = np.repeat(np.arange(len(points)), length + 1)
    step = np.arange(len(edge)) - np.repeat(np.cumsum(length + 1) - (length + 1), length + 1)
    step = np.where(backwards[edge], length[edge] - step, step)
    x0, y0, is_flat, aside = x0[edge], y0[edge], is_flat[edge], slope[edge] * step
    columns = np.where(is_flat, x0 + step, _towards_zero(x0 + aside + 0.5))
    rows = np.where(is_flat, _towards_zero(y0 + aside + 0.5), y0 + step)
    return columns, rows


def _towards_zero(values: np.ndarray) -> np.ndarray:
    """Round as C does when it converts a double to an integer."""
    return np.trunc(values).astype(np.int64)


def ellipse_runs(
    center: tuple[float, float], radii: tuple[float, float], angle: float, height: int, width: int
) -> np.ndarray:
    """Return the pixels whose centres are inside an ellipse or on its border.

    Args:
      center: x and y of the centre, in pixels.
      radii: half axes in pixels, before the rotation along x and along y.
      angle: rotation in radians, from the x axis towards the y axis (clockwise on the screen).
      height: height of the image, in pixels.
      width: width of the image, in pixels. Parts outside of the image are cut off.

    Returns:
      Runs (see `unet_jax.interop.annotations.pixel_runs`).

    Example:
      >>> from unet_jax.interop.annotations.pixel_runs import fill
      >>> fill(ellipse_runs((1.5, 1.5), (1.2, 1.2), 0.0, 3, 3), 3, 3).tolist()
      [[0, 255, 0], [255, 255, 255], [0, 255, 0]]
    """
    cos, sin = np.cos(angle), np.sin(angle)
    weight_x, weight_y = 1.0 / np.square(np.asarray(radii, np.float64))
    x = np.arange(width) + 0.5 - center[0]
    # On a column of pixel centres, the points (x, y) of the ellipse solve a * y**2 + 2 * b * y + c <= 0.
    a = weight_x * sin**2 + weight_y * cos**2
    b = (weight_x - weight_y) * sin * cos * x
    c = (weight_x * cos**2 + weight_y * sin**2) * x**2 - 1.0
    reached = np.flatnonzero(b**2 - a * c >= 0.0)
    root = np.sqrt((b**2 - a * c)[reached])
    first = np.ceil((-b[reached] - root) / a + center[1] - 0.5)
    end = np.floor((-b[reached] + root) / a + center[1] - 0.5) + 1
    first, end = (np.clip(rows, 0, height).astype(np.int64) for rows in (first, end))
    runs = np.stack([reached * height + first, reached * height + end], axis=1)
    return runs[runs[:, 0] < runs[:, 1]]
