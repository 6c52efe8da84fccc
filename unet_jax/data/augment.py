"""Random changes of a sample: `(rng, sample, config) -> sample`, NumPy and OpenCV.

`changes` draws what happens; here pixels follow. Colours, warp and flips are those of the Keras original, bit for bit
(with soft masks: nearest pixels it did not have). `device_augment` does the same on an accelerator.
"""

import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from unet_jax._types import Sample
from unet_jax.config import AugmentConfig
from unet_jax.data.augment_draws import Change, draw_change, grid_unit, noise_factor, spline_weights

_BORDERS = {"constant": cv2.BORDER_CONSTANT, "reflect": cv2.BORDER_REFLECT_101}
_MOST_CHANNELS = 32  # that all of OpenCV's functions used here can do at once
_HUES = np.arange(256)

Operation = Callable[[np.ndarray, bool], np.ndarray]


def shift_color(image: np.ndarray, shifts: tuple[float, float, float], *, circular_hue: bool) -> np.ndarray:
    """Adds to hue (of 180), saturation and value (of 255) of an `[h w 3]` uint8 RGB image.

    Shifts are rounded half to even and the sums saturate at 0 and 255. A hue above 180 means the hue 180 below it; a
    negative sum is 0, which is red, unless `circular_hue` wraps it.
    """
    hue, saturation, value = (min(max(round(shift), -(10**6)), 10**6) for shift in shifts)
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hsv = cv2.add(hsv, (0.0 if circular_hue else hue, saturation, value, 0.0), dst=hsv)  # type: ignore
    if circular_hue:
        table = ((_HUES + hue) % 180).astype(np.uint8)
        hsv = cv2.insertChannel(cv2.LUT(cv2.extractChannel(hsv, 0), table), hsv, 0)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def tone_table(brightness: float, contrast: float, gamma: float) -> np.ndarray:
    """`[256]` uint8: contrast (x^gamma - 1/2) + 1/2 + brightness for x in [0, 1]."""
    values = contrast * ((np.arange(256) / 255.0) ** gamma - 0.5) + 0.5 + brightness
    return np.rint(255.0 * values).clip(0, 255).astype(np.uint8)


def _warp_operation(matrix: np.ndarray, elastic: np.ndarray | None, size: tuple[int, int], border: str) -> Operation:
    """`(pixels, linear) -> pixels` for arrays of 1, 3 or 4 channels that OpenCV treats as if each were alone."""
    height, width = size
    options = {"borderMode": _BORDERS[border], "borderValue": (0, 0, 0, 0)}
    if elastic is None:

        def warp_affine(pixels: np.ndarray, linear: bool) -> np.ndarray:
            flags = (cv2.INTER_LINEAR if linear else cv2.INTER_NEAREST) | cv2.WARP_INVERSE_MAP
            return cv2.warpPerspective(pixels, matrix, (width, height), flags=flags, **options)

        return warp_affine
    rows, columns = (spline_weights(length, elastic.shape[-1]) for length in size)
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    unit = np.float32(grid_unit(matrix))
    maps = []
    for (a, b, c), points in zip(matrix[:2].astype(np.float32), elastic, strict=True):
        displacement = np.rint(rows @ points @ columns.T / unit) * unit
        maps.append(a * x + b * y + c + displacement)

    def warp_elastic(pixels: np.ndarray, linear: bool) -> np.ndarray:
        interpolation = cv2.INTER_LINEAR if linear else cv2.INTER_NEAREST
        return cv2.remap(pixels, maps[0], maps[1], interpolation, **options)

    return warp_elastic


def warp(pixels: np.ndarray, matrix: np.ndarray, *, linear: bool, border: str) -> np.ndarray:
    """An `[h w c]` uint8 array whose pixels come from where the matrix says; any c.

    Args:
      pixels: the input.
      matrix: `[3 3]`, from output to input coordinates (x, y, 1).
      linear: bilinear, else the nearest pixel.
      border: "constant" is 0 in every channel, "reflect" mirrors.
    """
    operation = _warp_operation(matrix, None, pixels.shape[:2], border)
    return _joined(_warp_planes(operation, _planes(pixels), linear=linear))


def _warp_planes(operation: Operation, planes: Sequence[np.ndarray], *, linear: bool) -> list[np.ndarray]:
    """Four planes at a time, which OpenCV warps in half the time of three and a quarter of the time of two."""
    out = []
    for start in range(0, len(planes), 4):
        part = list(planes[start : start + 4])
        if len(part) == 1:
            out.append(operation(part[0], linear))
        else:
            filled = cv2.merge(part + part[-1:] * (4 - len(part)))
            out.extend(cv2.split(operation(filled, linear))[: len(part)])
    return out


def _planes(pixels: np.ndarray) -> Sequence[np.ndarray]:
    """`[h w]` each."""
    if pixels.shape[-1] <= _MOST_CHANNELS:
        return cv2.split(pixels)
    return [np.ascontiguousarray(pixels[..., k]) for k in range(pixels.shape[-1])]


def _joined(planes: Sequence[np.ndarray]) -> np.ndarray:
    if len(planes) > _MOST_CHANNELS:
        return np.stack(planes, axis=-1)
    return cv2.merge(planes).reshape(*planes[0].shape, len(planes))


def _warp_sample(sample: Sample, operation: Operation, *, linear_masks: bool) -> Sample:
    if linear_masks:  # image and masks together
        planes = _warp_planes(operation, [*_planes(sample.image), *_planes(sample.mask)], linear=True)
        return Sample(_joined(planes[:3]), _joined(planes[3:]))
    image = cv2.cvtColor(operation(cv2.cvtColor(sample.image, cv2.COLOR_RGB2RGBA), True), cv2.COLOR_RGBA2RGB)
    return Sample(image, _joined(_warp_planes(operation, _planes(sample.mask), linear=False)))


def _flip(pixels: np.ndarray, flips: tuple[bool, bool, bool]) -> np.ndarray:
    """OpenCV's are 50 times faster than copying a reversed view."""
    left_right, top_bottom, transposed = flips
    if left_right or top_bottom:
        code = -1 if left_right and top_bottom else 1 if left_right else 0
        if pixels.shape[-1] <= _MOST_CHANNELS:
            pixels = cv2.flip(pixels, code).reshape(pixels.shape)
        else:
            pixels = np.ascontiguousarray(pixels[:: -1 if top_bottom else 1, :: -1 if left_right else 1])
    return np.ascontiguousarray(pixels.swapaxes(0, 1)) if transposed else pixels


def blur_radius(config: AugmentConfig) -> int:
    """Of the kernel that every blur of this config uses: three of its largest standard deviation."""
    return math.ceil(3 * config.blur)


def add_noise(image: np.ndarray, factor: int, key: int) -> np.ndarray:
    """Adds `factor` (see `noise_factor`) times the sum of four random bytes less 510 to every value.

    The bytes are a hash (the finaliser of MurmurHash3) of the value's position and the key, in integers, so that any
    device gets the same.
    """
    bits = np.arange(image.size, dtype=np.uint32) * np.uint32(0x9E3779B1) + np.uint32(key)
    for shift, multiplier in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        bits ^= bits >> np.uint32(shift)
        bits *= np.uint32(multiplier)
    total = bits.view(np.uint8).reshape(-1, 4).sum(axis=-1, dtype=np.int32) - 510
    noise = (total * np.int32(factor) + np.int32(2**15)) >> 16
    return np.clip(image + noise.reshape(image.shape), 0, 255).astype(np.uint8)


def apply_change(sample: Sample, change: Change, config: AugmentConfig, *, linear_masks: bool) -> Sample:
    """The sample after a change; the input is left alone, and returned where nothing happens."""
    image, mask = sample
    if change.color is not None:
        image = shift_color(image, change.color, circular_hue=config.circular_hue)
    if change.tone is not None:
        image = cv2.LUT(image, tone_table(*change.tone))
    if change.matrix is not None:
        operation = _warp_operation(change.matrix, change.elastic, mask.shape[:2], config.border)
        image, mask = _warp_sample(Sample(image, mask), operation, linear_masks=linear_masks)
    if any(change.flips):
        image, mask = _flip(image, change.flips), _flip(mask, change.flips)
    if change.blur:
        size = 2 * blur_radius(config) + 1
        image = cv2.GaussianBlur(image, (size, size), change.blur, borderType=cv2.BORDER_REFLECT_101)
    if change.noise:
        image = add_noise(image, noise_factor(change.noise), change.noise_key)
    top, bottom, left, right = change.cutout
    if bottom > top and right > left:
        image = image.copy()
        image[top:bottom, left:right] = 0
    return Sample(image, mask)


def augment(rng: np.random.Generator, sample: Sample, config: AugmentConfig, *, linear_masks: bool = False) -> Sample:
    """One random variant of a sample; the input is left alone.

    Args:
      rng: the only source of randomness.
      sample: image and masks of one size.
      config: probabilities and limits.
      linear_masks: warp masks bilinearly into soft borders instead of by nearest neighbour.
    """
    change = draw_change(rng, config, sample.mask, linear_masks=linear_masks)
    return apply_change(sample, change, config, linear_masks=linear_masks)
