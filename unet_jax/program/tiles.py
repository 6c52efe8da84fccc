"""Division of an image of any size into overlapping tiles of one size, and the blending of their logits.

Weights are products of one weight per row and one per column, and are normalised along each axis. So the weights of
all tiles add up to 1 at every pixel, and no array of their sums is needed.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from unet_jax._types import InputError

Blend = Literal["gaussian", "trapezoid"]
"""Weights of a tile: a Gaussian around its centre, or 1 inside and a ramp where tiles overlap."""
_SIGMA = 1 / 8  # standard deviation of the Gaussian, as a share of the tile's side


@dataclasses.dataclass(frozen=True)
class Tiling:
    """Size, overlap and weights of tiles.

    Raises:
      InputError: the overlap is not in [0, 1).
    """

    size: tuple[int, int]
    """Height and width of a tile in pixels, multiples of `multiple`."""
    overlap: float = 0.25
    """Share of a tile's side that it has in common with the next tile, rounded up to what `multiple` allows."""
    blend: Blend = "gaussian"
    """Weights of the tiles where they overlap."""
    multiple: int = 1
    """Number that every tile's position is a multiple of: the network's `size_multiple`, so that its poolings see the
    same blocks of pixels in a tile as in the whole image."""
    radius: int | None = None
    """Distance at which the network sees (`unet_jax.model.receptive_field`). If tiles overlap by twice as much, pixels
    that are nearer to a cut edge of a tile are left out, and the result is that of the whole image."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.overlap < 1.0:
            raise InputError(f"the overlap of tiles is {self.overlap}, but must be from 0 to below 1.")

    def axes(self, height: int, width: int) -> "tuple[Axis, Axis]":
        """Return the positions of the tiles of an image along its rows and along its columns."""
        rows, columns = (
            _axis(length, side, self.overlap, self.blend, self.multiple, self.radius)
            for length, side in zip((height, width), self.size, strict=True)
        )
        return rows, columns

    def is_exact(self) -> bool:
        """Return whether tiles give the same logits as whole images, but for rounding."""
        strides = [_stride(side, self.overlap, self.multiple) for side in self.size]
        return self.radius is not None and all(
            side - stride >= 2 * self.radius for side, stride in zip(self.size, strides, strict=True)
        )


class Axis(NamedTuple):
    """Tiles along the rows or the columns of an image."""

    length: int
    """Number of rows (columns) of the image."""
    side: int
    """Number of rows (columns) of a tile."""
    starts: tuple[int, ...]
    """First row (column) of each tile. The last tile may reach beyond the image."""
    weights: tuple[Float[np.ndarray, " side"], ...]
    """Weight of each row (column) of each tile; they add up to 1 wherever the image is."""

    def final(self, index: int) -> int:
        """Return how many of a tile's rows, from its first, no later tile contributes to."""
        is_last = index + 1 == len(self.starts)
        end = self.length if is_last else self.starts[index + 1]
        return end - self.starts[index]


def _stride(side: int, overlap: float, multiple: int) -> int:
    """Return the distance of neighbouring tiles, a multiple of `multiple`."""
    return max(multiple, int(side * (1.0 - overlap) + 1e-9) // multiple * multiple)


def _axis(length: int, side: int, overlap: float, blend: Blend, multiple: int, radius: int | None) -> Axis:
    """Place tiles along one axis, at distances as equal as `multiple` allows; the last one ends with the image.

    Neighbours then share about the same number of rows everywhere, and what two rows of tiles share is kept in memory.
    """
    stride = _stride(side, overlap, multiple)
    last = max(0, -(-length // multiple) * multiple - side)
    steps = -(-last // stride)
    starts = (*(i * last // steps // multiple * multiple for i in range(steps)), last)
    weights = [_window(side, blend)] * len(starts)
    for i in range(1, len(starts)):
        shared = starts[i - 1] + side - starts[i]
        # Without room for both radii, every weight is kept: a hard edge between tiles would be a seam.
        cut = radius if radius is not None and 2 * radius <= shared else 0
        weights[i - 1] = weights[i - 1] * _falling(side, shared, cut, blend)
        weights[i] = weights[i] * _falling(side, shared, cut, blend)[::-1]
    sums = np.zeros(last + side)
    for start, weight in zip(starts, weights, strict=True):
        sums[start : start + side] += weight
    normalised = (
        (weight / sums[start : start + side]).astype(np.float32) for start, weight in zip(starts, weights, strict=True)
    )
    return Axis(length, side, starts, tuple(normalised))


def _window(side: int, blend: Blend) -> Float[np.ndarray, " side"]:
    """Return the weights of a tile without neighbours."""
    if blend == "trapezoid":
        return np.ones(side)
    return np.exp(-0.5 * ((np.arange(side) - (side - 1) / 2) / (_SIGMA * side)) ** 2)


def _falling(side: int, shared: int, cut: int, blend: Blend) -> Float[np.ndarray, " side"]:
    """Return factors of weights towards the tile's end: 0 on the last `cut` rows, and a ramp for the trapezoid."""
    from_end = side - np.arange(side)  # 1 on the last row
    if blend == "trapezoid" and shared > 2 * cut:
        return np.clip((from_end - cut - 0.5) / (shared - 2 * cut), 0.0, 1.0)
    return (from_end > cut).astype(np.float64)


class Blender:
    """Sum of the weighted logits of an image's tiles, which come row by row of tiles.

    In memory are one tile and the rows that the present row of tiles shares with the next one.

    Args:
      axes: positions from `Tiling.axes`.
      num_classes: number of channels of the logits.
    """

    def __init__(self, axes: Sequence[Axis], num_classes: int):
        self._rows, self._columns = axes
        carried = max((self._rows.side - self._rows.final(i) for i in range(len(self._rows.starts) - 1)), default=0)
        self._below = np.zeros((carried, self._columns.length, num_classes), np.float32)
        self._num_below = 0  # rows of it that the row of tiles above has left
        self._right = np.zeros((self._rows.side, self._columns.side, num_classes), np.float32)

    def add(
        self, row: int, column: int, logits: Float[np.ndarray, "h w k"]
    ) -> tuple[int, int, Float[np.ndarray, "h2 w2 k"]]:
        """Add the logits of a tile, and return what is complete by it.

        Args:
          row: number of the row of tiles.
          column: number of the tile in its row.
          logits: the tile's logits, float32.

        Returns:
          First row, first column and blended logits of a rectangle of the image; those of all tiles cover it once.
        """
        rows, columns = self._rows, self._columns
        if column == 0:
            self._right[:] = 0.0
        # With classes and columns as one axis: NumPy is slow where the last axis is short.
        weights = rows.weights[row][:, None] * np.repeat(columns.weights[column], logits.shape[-1])
        self._right += (logits.reshape(len(logits), -1) * weights).reshape(logits.shape)
        num_rows, num_columns = rows.final(row), columns.final(column)
        y, x = rows.starts[row], columns.starts[column]
        done = self._right[:, :num_columns].copy()
        below = self._below[:, x : x + num_columns]
        done[: self._num_below] += below[: self._num_below]
        is_last_column = column + 1 == len(columns.starts)
        if row + 1 < len(rows.starts):
            below[: rows.side - num_rows] = done[num_rows:]
        if is_last_column:
            self._num_below = rows.side - num_rows if row + 1 < len(rows.starts) else 0
        else:
            kept = columns.side - num_columns
            self._right[:, :kept] = self._right[:, num_columns:].copy()
            self._right[:, kept:] = 0.0
        return y, x, done[:num_rows]
