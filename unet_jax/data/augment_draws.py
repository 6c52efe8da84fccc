"""The random numbers of augmentation: a `Change` is drawn once, on the host, wherever the pixels are changed.

`unet_jax.data.augment` applies a change on the host, `unet_jax.program.augment_step` on the devices.

The colour shift, shift-scale-rotate and the horizontal flip are drawn first and in this order, as in the Keras
original (petrosgk, Kaggle-Carvana-Image-Masking-Challenge, `train.py`), so that equal random numbers give equal
pixels. The one exception is an aspect limit above 0 (the original was used with 0): there the original's formula
changes the size instead of the ratio of width to height. Changes that the original did not have are drawn after these.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import cv2
import numpy as np

from unet_jax.config import AugmentConfig
from unet_jax.data.warp_matrix import ELASTIC_LIMIT, Geometry, geometry_matrix, grid_unit, snapped

# Displacements of control points, in pixels, are multiples of this unit, and spline weights are multiples of 1/64, so
# that their sums are exact in float32.
_ELASTIC_UNIT = 1 / 16
_FOREGROUND_TRIES = 10  # pixels tried per class, since a warp may move a pixel out of the image


class Change(NamedTuple):
    """All changes of one sample, in the order of their application. None (or 0, or False) means no such change."""

    color: tuple[float, float, float] | None = None  # shifts from `draw_color`
    tone: tuple[float, float, float] | None = None  # brightness added (white is 1), contrast factor, gamma exponent
    matrix: np.ndarray | None = None  # [3 3] float64: from output to input coordinates (x, y, 1), in pixels
    elastic: np.ndarray | None = None  # [2 n n] float32: x and y displacement of control points, in input pixels
    flips: tuple[bool, bool, bool] = (False, False, False)  # left to right, top to bottom, transposed
    blur: float = 0.0  # standard deviation in pixels
    noise: float = 0.0  # standard deviation (white is 1)
    noise_key: int = 0  # 32 random bits
    cutout: tuple[int, int, int, int] = (0, 0, 0, 0)  # rows from, to (exclusive); columns from, to (exclusive)


def draw_change(rng: np.random.Generator, config: AugmentConfig, mask: np.ndarray, *, linear_masks: bool) -> Change:
    """Draw the change of one sample.

    Args:
      rng: the only source of randomness.
      config: probabilities and limits of the changes.
      mask: `[h w k]` uint8; its values are read only to place a crop around foreground.
      linear_masks: masks will be warped bilinearly, by the Keras original's matrix. If False, the matrix is snapped to
        a grid (see `snapped`), so that the nearest pixel is the same wherever it is computed.

    Returns:
      Numbers that `apply_change` on the host or, after `stack_changes`, the augmentation on the devices takes.
    """
    height, width = mask.shape[:2]
    color = draw_color(rng, config) if rng.random() < config.color_prob else None
    matrix = None
    if rng.random() < config.geometry_prob:
        forward = geometry_matrix(draw_geometry(rng, config, height, width), height, width)
        matrix = np.asarray(cv2.invert(forward)[1])
    flips = (
        bool(rng.random() < config.horizontal_flip_prob),
        bool(rng.random() < config.vertical_flip_prob),
        bool(rng.random() < config.transpose_prob),
    )
    if rng.random() < config.crop_prob:
        crop = _draw_crop(rng, config, mask, np.eye(3) if matrix is None else matrix)
        matrix = crop if matrix is None else matrix @ crop
    elastic = _draw_elastic(rng, config, height, width) if rng.random() < config.elastic_prob else None
    if elastic is not None and matrix is None:
        matrix = np.eye(3)
    if matrix is not None and not linear_masks:
        matrix = snapped(matrix, height, width)
    blur = rng.uniform(0.0, config.blur) if rng.random() < config.blur_prob else 0.0
    noise, noise_key = 0.0, 0
    if rng.random() < config.noise_prob:
        noise, noise_key = rng.uniform(0.0, config.noise), int(rng.integers(2**32))
    size = (width, height) if flips[2] else (height, width)
    cutout = _draw_cutout(rng, config, *size) if rng.random() < config.cutout_prob else (0, 0, 0, 0)
    return Change(color, _draw_tone(rng, config), matrix, elastic, flips, blur, noise, noise_key, cutout)


class Sized(Protocol):
    """WholeImage as far as a crop's place depends on it."""

    @property
    def size(self) -> tuple[int, int]: ...

    def num_pixels(self, class_: int) -> int: ...

    def pixel(self, class_: int, number: int) -> tuple[int, int]: ...


def draw_window(rng: np.random.Generator, image: Sized, size: tuple[int, int], class_: int | None) -> tuple[int, int]:
    """Draw the place of a crop at the image's resolution.

    A random pixel is drawn, of the class if there is one, else of the whole image. The pixel of a class comes to lie
    anywhere in the inner 80 % of the crop, any other one in its centre. The crop is then moved into the image, as far
    as it fits.

    Args:
      rng: the only source of randomness.
      image: image that is cropped.
      size: height and width of the crop.
      class_: class that the crop is placed on, or None.

    Returns:
      Top row and left column.
    """
    count = image.num_pixels(class_) if class_ is not None else 0
    if class_ is not None and count:
        pixel, places = image.pixel(class_, int(rng.integers(count))), rng.uniform(0.1, 0.9, 2)
    else:
        pixel, places = [int(rng.integers(length)) for length in image.size], (0.5, 0.5)
    top, left = (
        min(max(at - int(place * side), 0), max(length - side, 0))
        for at, place, side, length in zip(pixel, places, size, image.size, strict=True)
    )
    return top, left


def draw_color(rng: np.random.Generator, config: AugmentConfig) -> tuple[float, float, float]:
    """Draw the shifts of hue (in units of 2 degrees), saturation and value (in gray levels)."""
    hue = rng.uniform(-config.hue, config.hue)
    saturation = rng.uniform(-config.saturation, config.saturation)
    value = rng.uniform(-config.value, config.value)
    return hue, saturation, value


def draw_geometry(rng: np.random.Generator, config: AugmentConfig, height: int, width: int) -> Geometry:
    """Draw shift, scale and rotation; the shift is a whole number of pixels."""
    angle = rng.uniform(-config.rotate, config.rotate)
    scale = rng.uniform(1.0 - config.scale, 1.0 + config.scale)
    aspect = rng.uniform(1.0 - config.aspect, 1.0 + config.aspect)
    dx = round(rng.uniform(-config.shift, config.shift) * width)
    dy = round(rng.uniform(-config.shift, config.shift) * height)
    return Geometry(angle, scale, aspect, dx, dy)


def _draw_crop(rng: np.random.Generator, config: AugmentConfig, mask: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Draw a crop of the warped image, enlarged to the whole: `[3 3]`, from output to warped coordinates."""
    height, width = mask.shape[:2]
    size = rng.uniform(config.crop_size, 1.0)
    room_x, room_y = (1.0 - size) * width, (1.0 - size) * height
    x, y = rng.uniform(0.0, room_x), rng.uniform(0.0, room_y)
    if rng.random() < config.crop_foreground:
        foreground = _foreground_pixel(rng, mask, matrix)
        if foreground is not None:  # it is placed in the inner 80 % of the crop, where the image's border allows
            along_x, along_y = rng.uniform(0.1, 0.9, 2) * size
            x = min(max(foreground[0] - along_x * width, 0.0), room_x)
            y = min(max(foreground[1] - along_y * height, 0.0), room_y)
    offset = 0.5 * size - 0.5  # pixel centres lie at whole numbers, so a pixel's outer edge is at -0.5
    return np.array([[size, 0.0, x + offset], [0.0, size, y + offset], [0.0, 0.0, 1.0]])


def _foreground_pixel(rng: np.random.Generator, mask: np.ndarray, matrix: np.ndarray) -> tuple[float, float] | None:
    """Return where a random pixel (x, y) of a random class lies after the warp, or None if none was found inside.

    All classes that occur in the image are equally likely.
    """
    height, width, num_classes = mask.shape
    back = np.linalg.inv(matrix)
    for class_ in rng.permutation(num_classes):
        inside = np.flatnonzero(np.ascontiguousarray(mask[..., class_]) >= 128)
        for _ in range(_FOREGROUND_TRIES if len(inside) else 0):
            row, column = divmod(int(inside[rng.integers(len(inside))]), width)
            x, y, w = back @ (column, row, 1.0)
            if 0 <= x / w <= width - 1 and 0 <= y / w <= height - 1:
                return x / w, y / w
    return None


def _draw_elastic(rng: np.random.Generator, config: AugmentConfig, height: int, width: int) -> np.ndarray:
    """Draw normal displacements of the control points of a cubic B-spline with `elastic_cells` cells along each side.

    Returns `[2 n n]` float32, in pixels, with n = `elastic_cells` + 3.
    """
    count = config.elastic_cells + 3
    pixels = rng.normal(0.0, 1.0, (2, count, count)) * (config.elastic * max(height, width))
    return np.rint(pixels.clip(-ELASTIC_LIMIT, ELASTIC_LIMIT) / _ELASTIC_UNIT).astype(np.float32) * _ELASTIC_UNIT


def spline_weights(size: int, num_points: int) -> np.ndarray:
    """Return cubic B-spline weights `[size num_points]` float32: multiples of 1/64 whose rows add up to 1."""
    cells = num_points - 3
    position = (np.arange(size) + 0.5) / size * cells
    cell = np.minimum(position.astype(int), cells - 1)
    t = position - cell
    weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=-1) / 6
    weights = np.rint(weights * 64)
    weights[np.arange(size), weights.argmax(axis=-1)] += 64 - weights.sum(axis=-1)
    out = np.zeros((size, num_points), np.float32)
    out[np.arange(size)[:, None], cell[:, None] + np.arange(4)] = weights / 64
    return out


def _draw_tone(rng: np.random.Generator, config: AugmentConfig) -> tuple[float, float, float] | None:
    """Draw brightness, contrast and gamma; None if none of them changes."""
    brightness, contrast, gamma = 0.0, 1.0, 1.0
    if rng.random() < config.brightness_prob:
        brightness = rng.uniform(-config.brightness, config.brightness)
    if rng.random() < config.contrast_prob:
        contrast = rng.uniform(1.0 - config.contrast, 1.0 + config.contrast)
    if rng.random() < config.gamma_prob:
        gamma = math.exp(rng.uniform(-config.gamma, config.gamma))
    return None if (brightness, contrast, gamma) == (0.0, 1.0, 1.0) else (brightness, contrast, gamma)


def _draw_cutout(rng: np.random.Generator, config: AugmentConfig, height: int, width: int) -> tuple[int, int, int, int]:
    """Draw a rectangle whose centre may lie anywhere in the image; parts outside are cut off."""
    rows, columns = rng.uniform(0.0, config.cutout, 2) * (height, width)
    y, x = rng.uniform(0.0, 1.0, 2) * (height, width)
    top, bottom, left, right = y - rows / 2, y + rows / 2, x - columns / 2, x + columns / 2
    return (max(0, round(top)), min(height, round(bottom)), max(0, round(left)), min(width, round(right)))


def stack_changes(changes: Sequence[Change], num_points: int) -> dict[str, np.ndarray]:
    """Stack the changes of a batch into arrays for the augmentation on the devices.

    A change that does not happen gets values that change nothing.

    Args:
      changes: one change per sample of the batch, b in all.
      num_points: control points along each side of the elastic grid, n.

    Returns:
      One array with leading axis b per kind of change, such as "matrix" `[b 2 3]` and "elastic" `[b 2 n n]`, float32.
    """
    no_color, no_tone, no_elastic = (0.0, 0.0, 0.0), (0.0, 1.0, 1.0), np.zeros((2, num_points, num_points), np.float32)
    identity = np.eye(3)
    return {
        "color_on": np.array([c.color is not None for c in changes]),
        "color": np.array([[_bounded(s) for s in c.color or no_color] for c in changes], np.int32),
        "tone": np.array([c.tone or no_tone for c in changes], np.float32),
        "matrix": np.stack([identity if c.matrix is None else c.matrix for c in changes])[:, :2].astype(np.float32),
        "elastic": np.stack([no_elastic if c.elastic is None else c.elastic for c in changes]),
        "unit": np.array([1.0 if c.matrix is None else grid_unit(c.matrix) for c in changes], np.float32),
        "flips": np.array([c.flips for c in changes]),
        "blur": np.array([c.blur for c in changes], np.float32),
        "noise": np.array([noise_factor(c.noise) for c in changes], np.int32),
        "noise_key": np.array([c.noise_key for c in changes], np.uint32),
        "cutout": np.array([c.cutout for c in changes], np.int32),
    }


def _bounded(shift: float) -> int:
    """Round a colour shift and clamp it to +-1e6, which int32 can hold; 255 saturates already."""
    return round(min(max(shift, -1e6), 1e6))


def noise_factor(noise: float) -> int:
    """Return the factor, in 2**-16 gray levels, that scales a sum of four random bytes, less its mean 510, to noise.

    Such a sum is close to normal; its standard deviation is sqrt(4 (256**2 - 1) / 12).

    Args:
      noise: standard deviation of the noise (white is 1).
    """
    return round(noise * 255.0 / math.sqrt((256**2 - 1) / 3) * 2**16)
