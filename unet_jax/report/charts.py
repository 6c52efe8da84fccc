"""Charts of a page as SVG: curves scaled to a square of 100, with what the page's script needs to zoom them."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

_MOST_POINTS = 400  # of a curve; more cannot be told apart

Points = Sequence[tuple[float, float]]
"""Points (x, y) of a curve. Those that are not finite are left out."""


class Line(NamedTuple):
    """A curve as the page shows it."""

    name: str
    color: str
    points: str  # of an SVG polyline, 0 to 100 by 0 to 100
    last: str  # its newest number


class Chart(NamedTuple):
    """Curves with one pair of axes."""

    title: str
    unit: str  # of the horizontal axis
    x: tuple[float, float]
    y: tuple[float, float]
    lines: list[Line]
    mark: float | None = None  # place of a vertical line, 0 to 100
    has_diagonal: bool = False


def make_chart(
    title: str,
    unit: str,
    curves: Mapping[str, tuple[str, Points]],
    *,
    x: tuple[float, float] | None = None,
    y: tuple[float, float] | None = None,
    mark: float | None = None,
    has_diagonal: bool = False,
) -> Chart:
    """Scale curves to a square of 100.

    Args:
      title: what the vertical axis shows.
      unit: what the horizontal axis shows.
      curves: colour and points by name.
      x, y: ends of the axes; by default those of the points, and 0 for y.
      mark: place of a vertical line on the horizontal axis.
      has_diagonal: draw a line from the lower left to the upper right corner.

    Example:
      >>> make_chart("loss", "epoch", {"train": ("#777", [(1, 1.0), (2, 0.5)])}).lines[0].points
      '0.00,0.00 100.00,50.00'
    """
    finite = {name: (c, [p for p in points if math.isfinite(p[1])]) for name, (c, points) in curves.items()}
    every = [point for _, points in finite.values() for point in points]
    left, right = x or (min((p[0] for p in every), default=0.0), max((p[0] for p in every), default=1.0))
    low, high = y or (min(0.0, *(p[1] for p in every), 0.0), max((p[1] for p in every), default=1.0))
    width, height = (right - left) or 1.0, (high - low) or 1.0

    def scaled(points: Points) -> str:
        kept = points[:: -(-len(points) // _MOST_POINTS) or 1]
        kept = kept if not points or kept[-1] == points[-1] else [*kept, points[-1]]
        return " ".join(f"{100 * (a - left) / width:.2f},{100 - 100 * (b - low) / height:.2f}" for a, b in kept)

    lines = [
        Line(name, color, scaled(points), f"{points[-1][1]:.4f}" if points else "")
        for name, (color, points) in finite.items()
    ]
    at = None if mark is None else 100 * (mark - left) / width
    return Chart(title, unit, (left, right), (low, high), lines, at, has_diagonal)
