"""Thickness and extent of objects in masks, which say how large images must stay and how far a network must see."""

import math
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

_INSIDE = 128  # a mask's pixel is in the class from this value on


class ObjectSizes(NamedTuple):
    """Sizes in one image, in its own pixels; NaN for a class that is not in it."""

    height: int
    width: int
    thickness: tuple[float, ...]
    """Mean thickness of each class's structures: a strip's width, two thirds of a disk's diameter."""
    extent: tuple[float, ...]
    """Longer side of the box around the largest object of each class."""


def object_sizes(mask: UInt8[np.ndarray, "h w k"]) -> ObjectSizes:
    """Measure the objects of each class in one mask.

    The thickness comes from the distances of the pixels inside to the nearest pixel outside: in a strip of width w they
    run from 0 at its borders to w / 2 in its middle, with the mean w / 4.

    Example:
      >>> mask = np.zeros((40, 60, 2), np.uint8)
      >>> mask[10:18, :, 0] = 255  # a strip of 8 x 60 pixels
      >>> object_sizes(mask)
      ObjectSizes(height=40, width=60, thickness=(8.0, nan), extent=(60.0, nan))
    """
    thickness, extent = zip(*(_sizes_of(mask[..., k] >= _INSIDE) for k in range(mask.shape[-1])), strict=True)
    return ObjectSizes(mask.shape[0], mask.shape[1], thickness, extent)


def _sizes_of(inside: Bool[np.ndarray, "h w"]) -> tuple[float, float]:
    """Return thickness and extent of one class."""
    if not inside.any():
        return math.nan, math.nan
    if inside.all():
        return float(max(inside.shape)), float(max(inside.shape))
    plane = inside.astype(np.uint8)
    distance = cv2.distanceTransform(plane, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # A border pixel has distance 1 by the transform, and 1/2 from its centre to the border itself.
    thickness = 4.0 * (float(distance[inside].mean()) - 0.5)
    _, _, stats, _ = cv2.connectedComponentsWithStats(plane, connectivity=8)
    boxes = stats[1:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]].max(axis=1)
    largest = int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    return max(1.0, round(thickness, 2)), float(boxes[largest])
