"""Matrices of warps: shift, scale and rotation as one matrix, and the grid on which its coordinates are exact."""

import math
from typing import NamedTuple

import cv2
import numpy as np

ELASTIC_LIMIT = 100.0
"""Largest displacement of a control point of an elastic warp, in pixels."""


class Geometry(NamedTuple):
    """Shift, scale and rotation about the centre of an image."""

    angle: float  # degrees, clockwise in image coordinates
    scale: float  # factor of size
    aspect: float  # factor of the ratio of width to height
    dx: int  # pixels to the right
    dy: int  # pixels down


def geometry_matrix(geometry: Geometry, height: int, width: int) -> np.ndarray:
    """Return the `[3 3]` float64 matrix from input to output coordinates, as `cv2.warpPerspective` takes it.

    It is computed from where the image's four corners move, in float32, as in the Keras original.
    """
    sx = geometry.scale * geometry.aspect / geometry.aspect**0.5
    sy = geometry.scale / geometry.aspect**0.5
    cos, sin = math.cos(geometry.angle / 180 * math.pi), math.sin(geometry.angle / 180 * math.pi)
    linear_part = np.array([[cos * sx, -sin * sy], [sin * sx, cos * sy]])
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]])
    center = np.array([width / 2, height / 2])
    moved = np.dot(corners - center, linear_part.T) + np.array([width / 2 + geometry.dx, height / 2 + geometry.dy])
    return cv2.getPerspectiveTransform(corners.astype(np.float32), moved.astype(np.float32))


def snapped(matrix: np.ndarray, height: int, width: int) -> np.ndarray:
    """Round an affine `[3 3]` matrix to a grid on which the coordinates of every pixel are exact in float32.

    The four linear numbers become even multiples of 2**-f, and the two offsets become odd multiples of it. So no
    rounding occurs in any order of operations, and no coordinate lies half way between two pixels: OpenCV, NumPy and
    all devices agree on the nearest pixel. At 1024x1024 the linear numbers change by at most 2**-11, about the centre.
    """
    # float32 has 24 significant bits. No coordinate, elastic displacement included, exceeds `reach`, so multiples of
    # reach / 2**23 (rounded up to a power of two) are exact. Even plus odd is odd, while half-way points are even
    # multiples of the unit, so they never occur.
    center = np.array([(width - 1) / 2, (height - 1) / 2])
    linear, target = matrix[:2, :2], matrix[:2, :2] @ center + matrix[:2, 2]
    reach = np.abs(linear).sum(axis=1).max() * max(height, width) + np.abs(matrix[:2, 2]).max() + ELASTIC_LIMIT
    unit = 2.0 ** -(23 - math.ceil(math.log2(reach)))
    out = np.eye(3)
    out[:2, :2] = np.rint(linear / (2 * unit)) * 2 * unit
    offset = target - out[:2, :2] @ center
    out[:2, 2] = (2 * np.floor(offset / (2 * unit)) + 1) * unit
    return out


def grid_unit(matrix: np.ndarray) -> float:
    """Return the unit, in pixels, that elastic displacements are rounded to when they are added to a matrix.

    For a snapped matrix it is twice the power of two of which the offsets are odd multiples, so that sums stay odd
    multiples of that power.
    """
    if not matrix[0, 2]:
        return 2.0**-20  # not snapped
    mantissa, exponent = math.frexp(abs(matrix[0, 2]))
    bits = int(mantissa * 2**53)
    return 2.0 * math.ldexp(float(bits & -bits), exponent - 53)
