"""Random changes of a sample: `(rng, sample, config) -> sample`, NumPy and OpenCV.

Each change has a `draw_` function, which turns random numbers into parameters, and a plain function that applies
them. Formulas, order of draws, rounding and borders of the colour shift, of shift-scale-rotate and of the horizontal
flip are those of the Keras original (petrosgk, Kaggle-Carvana-Image-Masking-Challenge, `train.py`), so that equal
random numbers give equal pixels. The one exception is an aspect limit above 0 (the original was used with 0), where
its formula changes the size instead of the ratio of width to height.
"""

import math
from typing import NamedTuple

import cv2
import numpy as np

from unet_jax._types import Sample
from unet_jax.config import AugmentConfig
from unet_jax.data.pixels import by_channel_groups

_BORDERS = {"constant": cv2.BORDER_CONSTANT, "reflect": cv2.BORDER_REFLECT_101}


class Geometry(NamedTuple):
    """A shift, scale and rotation about the centre of an image."""

    angle: float  # degrees, clockwise in image coordinates
    scale: float
    aspect: float
    dx: int  # pixels to the right
    dy: int  # pixels down


def draw_color(rng: np.random.Generator, config: AugmentConfig) -> tuple[float, float, float]:
    """Shifts of hue, saturation and value."""
    hue = rng.uniform(-config.hue, config.hue)
    saturation = rng.uniform(-config.saturation, config.saturation)
    value = rng.uniform(-config.value, config.value)
    return hue, saturation, value


def shift_color(image: np.ndarray, shifts: tuple[float, float, float], *, circular_hue: bool) -> np.ndarray:
    """Adds to hue (of 180), saturation and value (of 255) of an `[h w 3]` uint8 RGB image.

    Shifts are rounded half to even and the sums saturate at 0 and 255. A hue above 180 means the hue 180 below it; a
    negative sum is 0, which is red, unless `circular_hue` wraps it.
    """
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    planes = []
    for plane, shift in zip(cv2.split(hsv), shifts, strict=True):
        planes.append(plane.astype(np.int16) + round(shift))
    if circular_hue:
        planes[0] = planes[0] % 180
    merged = np.clip(np.stack(planes, axis=-1), 0, 255).astype(np.uint8)
    return cv2.cvtColor(merged, cv2.COLOR_HSV2RGB)


def draw_geometry(rng: np.random.Generator, config: AugmentConfig, height: int, width: int) -> Geometry:
    """Parameters of one warp; the shift is a whole number of pixels."""
    angle = rng.uniform(-config.rotate, config.rotate)
    scale = rng.uniform(1.0 - config.scale, 1.0 + config.scale)
    aspect = rng.uniform(1.0 - config.aspect, 1.0 + config.aspect)
    dx = round(rng.uniform(-config.shift, config.shift) * width)
    dy = round(rng.uniform(-config.shift, config.shift) * height)
    return Geometry(angle, scale, aspect, dx, dy)


def geometry_matrix(geometry: Geometry, height: int, width: int) -> np.ndarray:
    """`[3 3]` float64: where the image's corners go, as `cv2.warpPerspective` takes it."""
    sx = geometry.scale * geometry.aspect / geometry.aspect**0.5
    sy = geometry.scale / geometry.aspect**0.5
    cos, sin = math.cos(geometry.angle / 180 * math.pi), math.sin(geometry.angle / 180 * math.pi)
    linear_part = np.array([[cos * sx, -sin * sy], [sin * sx, cos * sy]])
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]])
    center = np.array([width / 2, height / 2])
    moved = np.dot(corners - center, linear_part.T) + np.array([width / 2 + geometry.dx, height / 2 + geometry.dy])
    return cv2.getPerspectiveTransform(corners.astype(np.float32), moved.astype(np.float32))


def warp(pixels: np.ndarray, matrix: np.ndarray, *, linear: bool, border: str) -> np.ndarray:
    """An `[h w c]` uint8 array under a perspective matrix; any c. A constant border is 0 in every channel."""
    height, width = pixels.shape[:2]

    def warp_part(part: np.ndarray) -> np.ndarray:
        return cv2.warpPerspective(
            part,
            matrix,
            (width, height),
            flags=cv2.INTER_LINEAR if linear else cv2.INTER_NEAREST,
            borderMode=_BORDERS[border],
            borderValue=(0, 0, 0, 0),
        )

    return by_channel_groups(warp_part, pixels)


def augment(rng: np.random.Generator, sample: Sample, config: AugmentConfig, *, soft_masks: bool = False) -> Sample:
    """One random variant of a sample; the input is left alone.

    Args:
      rng: the only source of randomness.
      sample: image and masks of one size.
      config: probabilities and limits.
      soft_masks: warp masks bilinearly into soft borders instead of by nearest neighbour.
    """
    image, mask = sample
    if rng.random() < config.color_prob:
        image = shift_color(image, draw_color(rng, config), circular_hue=config.circular_hue)
    if rng.random() < config.geometry_prob:
        height, width = image.shape[:2]
        matrix = geometry_matrix(draw_geometry(rng, config, height, width), height, width)
        image = warp(image, matrix, linear=True, border=config.border)
        mask = warp(mask, matrix, linear=soft_masks, border=config.border)
    if rng.random() < config.horizontal_flip_prob:
        image, mask = image[:, ::-1], mask[:, ::-1]
    if rng.random() < config.vertical_flip_prob:
        image, mask = image[::-1], mask[::-1]
    if rng.random() < config.transpose_prob:
        image, mask = image.swapaxes(0, 1), mask.swapaxes(0, 1)
    return Sample(np.ascontiguousarray(image), np.ascontiguousarray(mask))
