"""Images with regions, as readers of annotation files return them; regions are drawn when the image's size is known."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unet_jax.interop.annotations.pixel_runs import NO_RUNS, from_bitmap, union, without
from unet_jax.interop.annotations.polygons import ellipse_runs, polygon_runs

IGNORED = "__ignore__"
"""Class name of parts of an image that nobody annotated, in any format."""


class Drawn(NamedTuple):
    """Pixels of one object."""

    runs: np.ndarray  # [n 2] int64, see unet_jax.interop.annotations.pixel_runs
    beyond: float = 0.0  # distance in pixels to which the object reaches outside of the image
    is_outside: bool = False  # no part of the object is in the image


Drawing = Callable[[int, int], Drawn]
"""Function of an image's height and width that draws an object; it raises `ValueError` with what is wrong with it."""


class Region(NamedTuple):
    """One object of one class."""

    class_name: str  # empty if the file does not say it
    kind: str  # name of the shape: polygon, rectangle, point, ...
    where: str  # file and place in it, for messages
    draw: Drawing | None  # None: a shape without area
    is_ignored: bool = False  # a part of the image in which objects of the class were not annotated one by one


@dataclasses.dataclass(frozen=True)
class AnnotatedImage:
    """One image that an annotation file names."""

    name: str  # as the file has it: a name, a path, a URL, or a name without ending
    where: str  # file and place in it, for messages
    regions: tuple[Region, ...]
    size: tuple[int, int] | None = None  # height and width that the file states
    folder: Path | None = None  # folder that the name is relative to, where the file says that
    embedded: Callable[[], bytes] | None = None  # loads the image file that the annotation file contains
    is_annotated: bool = True  # False: listed, but nobody has worked on it


@dataclasses.dataclass(frozen=True)
class Annotations:
    """Contents of one annotation file."""

    images: tuple[AnnotatedImage, ...]
    classes: tuple[str, ...] = ()  # classes that the file declares, whether or not they have objects
    notes: tuple[str, ...] = ()  # what its user should know


class ReadOptions(NamedTuple):
    """Facts that some files do not say."""

    class_attribute: str = ""  # VIA: attribute that holds the class
    rle_order: str = "columns"  # Kaggle: direction in which pixels are counted
    class_list: Path | None = None  # YOLO: file that names the classes; by default it is searched


def polygon(points: np.ndarray, holes: Sequence[np.ndarray] = (), *, is_relative: bool = False) -> Drawing:
    """Make a drawing of a polygon with holes.

    Args:
      points: `[n 2]` x and y of the corners.
      holes: polygons that are cut out.
      is_relative: coordinates are fractions of the image's width and height, not pixels.
    """

    def draw(height: int, width: int) -> Drawn:
        scale = np.array([width, height], np.float64) if is_relative else 1.0
        corners = points * scale
        beyond, is_outside = _beyond(corners.min(axis=0), corners.max(axis=0), height, width)
        runs = polygon_runs(corners, height, width)
        if holes:
            runs = without(runs, union([polygon_runs(hole * scale, height, width) for hole in holes]))
        return Drawn(runs, beyond, is_outside)

    return draw


def rectangle(x0: float, y0: float, x1: float, y1: float) -> Drawing:
    """Make a drawing of an upright rectangle between two opposite corners, in pixels."""
    return polygon(np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float64))


def ellipse(center: tuple[float, float], radii: tuple[float, float], angle: float = 0.0) -> Drawing:
    """Make a drawing of an ellipse, in pixels and radians; see `ellipse_runs`."""

    def draw(height: int, width: int) -> Drawn:
        if min(radii) <= 0:
            return Drawn(NO_RUNS)
        cos, sin = np.cos(angle), np.sin(angle)
        half = np.hypot([radii[0] * cos, radii[0] * sin], [radii[1] * sin, radii[1] * cos])
        beyond, is_outside = _beyond(np.array(center) - half, np.array(center) + half, height, width)
        return Drawn(ellipse_runs(center, radii, angle, height, width), beyond, is_outside)

    return draw


def bitmap(load: Callable[[int, int], np.ndarray], x: int = 0, y: int = 0) -> Drawing:
    """Make a drawing of a bitmap.

    Args:
      load: function of the image's height and width that returns the bitmap, `[h w]` bool.
      x: column of the image at which the bitmap begins.
      y: row of the image at which the bitmap begins.
    """

    def draw(height: int, width: int) -> Drawn:
        pixels = load(height, width)
        beyond, is_outside = _beyond(
            np.array([x, y]), np.array([x + pixels.shape[1], y + pixels.shape[0]]), height, width
        )
        return Drawn(from_bitmap(pixels, x, y, (height, width)), beyond, is_outside)

    return draw


def encoded(decode: Callable[[int, int], np.ndarray]) -> Drawing:
    """Make a drawing of runs that are decoded when the size is known."""
    return lambda height, width: Drawn(decode(height, width))


def joined(drawings: Sequence[Drawing]) -> Drawing:
    """Make a drawing of the union of several."""
    if len(drawings) == 1:
        return drawings[0]

    def draw(height: int, width: int) -> Drawn:
        parts = [drawing(height, width) for drawing in drawings]
        beyond = max((part.beyond for part in parts), default=0.0)
        return Drawn(union([part.runs for part in parts]), beyond, all(part.is_outside for part in parts))

    return draw


def _beyond(low: np.ndarray, high: np.ndarray, height: int, width: int) -> tuple[float, bool]:
    """Return how far a box reaches outside of the image, and whether all of it is outside.

    Raises:
      ValueError: it reaches so far that the coordinates cannot be this image's.
    """
    size = np.array([width, height])
    beyond = float(max(0.0, (-low).max(), (high - size).max()))
    if beyond > 10 * size.max() + 1000:
        raise ValueError(
            f"reaches from ({low[0]:g}, {low[1]:g}) to ({high[0]:g}, {high[1]:g}), far outside of the image's "
            f"{width}x{height} pixels. Are the coordinates those of another image, or of another unit?"
        )
    return beyond, bool((high <= 0).any() or (low >= size).any())
