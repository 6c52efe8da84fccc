"""Augmentation of a sample on the host: `(rng, sample, config) -> sample`, in NumPy and OpenCV.

`augment_draws` draws the random numbers of a change; this module changes the pixels accordingly. Colour shift, warp
and flips are bit for bit those of the Keras original if masks are warped bilinearly (the original had no
nearest-neighbour warp). `unet_jax.program.augment_step` applies the same changes on the devices.
"""

import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from unet_jax._types import Sample
from unet_jax.config import AugmentConfig
from unet_jax.data.augment_color import change_tone, shift_any_color
from unet_jax.data.augment_draws import Change, draw_change, noise_factor, spline_weights
from unet_jax.data.warp_matrix import grid_unit

_BORDERS = {"constant": cv2.BORDER_CONSTANT, "reflect": cv2.BORDER_REFLECT_101}
_MOST_CHANNELS = 32  # most channels of an array that all OpenCV functions used here accept

Operation = Callable[[np.ndarray, bool], np.ndarray]
"""Warp `(pixels, linear) -> pixels`: bilinear if `linear`, else by nearest neighbour."""


def _warp_operation(matrix: np.ndarray, elastic: np.ndarray | None, size: tuple[int, int], border: str) -> Operation:
    """Build a warp for arrays of 1, 3 or 4 channels; with these numbers OpenCV treats each channel independently."""
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
    """Warp an array of any number of channels by an affine matrix.

    Args:
      pixels: `[h w c]` uint8.
      matrix: `[3 3]`, maps output to input coordinates (x, y, 1), in pixels.
      linear: interpolate bilinearly; if False, take the nearest pixel.
      border: filling outside the input: "constant" is 0 in every channel, "reflect" mirrors without the edge row.

    Returns:
      `[h w c]` uint8.
    """
    operation = _warp_operation(matrix, None, pixels.shape[:2], border)
    return _joined(_warp_planes(operation, _planes(pixels), linear=linear))


def _warp_planes(operation: Operation, planes: Sequence[np.ndarray], *, linear: bool) -> list[np.ndarray]:
    """Warp `[h w]` planes four at a time.

    OpenCV needs half the time for four channels that it needs for three, and a quarter of the time for two.
    """
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
    """Split `[h w c]` into c planes `[h w]`."""
    if pixels.shape[-1] <= _MOST_CHANNELS:
        return cv2.split(pixels)
    return [np.ascontiguousarray(pixels[..., k]) for k in range(pixels.shape[-1])]


def _joined(planes: Sequence[np.ndarray]) -> np.ndarray:
    """Stack planes `[h w]` into `[h w c]`."""
    if len(planes) > _MOST_CHANNELS:
        return np.stack(planes, axis=-1)
    return cv2.merge(planes).reshape(*planes[0].shape, len(planes))


def _warp_sample(sample: Sample, operation: Operation, *, linear_masks: bool) -> Sample:
    """Warp the image bilinearly, and the masks bilinearly or by nearest neighbour.

    Pixels that are ignored are warped as a mask is, so that those from outside of the image are not ignored where the
    border is constant, and mirrored where it is mirrored. Bilinearly, a pixel is ignored if a part of it is.
    """
    if sample.valid is not None:
        num_classes = sample.mask.shape[-1]
        masks = np.concatenate([sample.mask, ~sample.valid], axis=-1)
        image, masks, _ = _warp_sample(Sample(sample.image, masks), operation, linear_masks=linear_masks)
        valid = _where(masks[..., num_classes:] == 0)
        return Sample(image, masks[..., :num_classes] & valid, valid)
    if linear_masks and sample.image.dtype == np.uint8:  # image and masks share groups of four planes
        num_channels = sample.image.shape[-1]
        planes = _warp_planes(operation, [*_planes(sample.image), *_planes(sample.mask)], linear=True)
        return Sample(_joined(planes[:num_channels]), _joined(planes[num_channels:]))
    if sample.image.shape[-1] == 3:
        image = cv2.cvtColor(operation(cv2.cvtColor(sample.image, cv2.COLOR_RGB2RGBA), True), cv2.COLOR_RGBA2RGB)
    else:
        image = _joined(_warp_planes(operation, _planes(sample.image), linear=True))
    return Sample(image, _joined(_warp_planes(operation, _planes(sample.mask), linear=linear_masks)))


def _where(condition: np.ndarray) -> np.ndarray:
    """Return 255 where a condition holds, and 0 elsewhere, in uint8."""
    return condition.astype(np.uint8) * np.uint8(255)


def _flip(pixels: np.ndarray, flips: tuple[bool, bool, bool]) -> np.ndarray:
    """Flip left to right and top to bottom, then transpose."""
    left_right, top_bottom, transposed = flips
    if left_right or top_bottom:
        code = -1 if left_right and top_bottom else 1 if left_right else 0
        if pixels.shape[-1] <= _MOST_CHANNELS:  # cv2.flip is 50 times faster than copying a reversed view
            pixels = cv2.flip(pixels, code).reshape(pixels.shape)
        else:
            pixels = np.ascontiguousarray(pixels[:: -1 if top_bottom else 1, :: -1 if left_right else 1])
    return np.ascontiguousarray(pixels.swapaxes(0, 1)) if transposed else pixels


def blur_radius(config: AugmentConfig) -> int:
    """Return the radius, in pixels, of every blur kernel of this config: 3 times the largest standard deviation."""
    return math.ceil(3 * config.blur)


def add_noise(image: np.ndarray, factor: int, key: int) -> np.ndarray:
    """Add approximately normal noise to every value of an image.

    The noise is `factor` times (the sum of four random bytes, less its mean 510). The bytes are a hash (the finaliser
    of MurmurHash3) of the value's position and the key, computed in integers, so that every device gets the same noise.

    Args:
      image: `[h w c]` uint8 or uint16.
      factor: scale of the noise in 2**-16 gray levels, from `noise_factor`.
      key: 32 random bits; equal keys give equal noise.

    Returns:
      `[h w c]` of the same type, clipped to its range.
    """
    bits = np.arange(image.size, dtype=np.uint32) * np.uint32(0x9E3779B1) + np.uint32(key)
    for shift, multiplier in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        bits ^= bits >> np.uint32(shift)
        bits *= np.uint32(multiplier)
    total = bits.view(np.uint8).reshape(-1, 4).sum(axis=-1, dtype=np.int32) - 510
    if image.dtype == np.uint16:  # 257 times as many levels: the last factors of two are taken off in two steps
        noise = (total * np.int32(factor * 257 >> 8) + np.int32(2**7)) >> 8
        return np.clip(image.astype(np.int32) + noise.reshape(image.shape), 0, 65535).astype(np.uint16)
    noise = (total * np.int32(factor) + np.int32(2**15)) >> 16
    return np.clip(image + noise.reshape(image.shape), 0, 255).astype(np.uint8)


def apply_change(sample: Sample, change: Change, config: AugmentConfig, *, linear_masks: bool) -> Sample:
    """Apply a change to a sample. The input's arrays are not modified; they are returned where nothing changes.

    Args:
      sample: image `[h w c]` uint8 or uint16, masks `[h w k]` uint8, and valid `[h w k]` uint8 or None, of one size.
      change: random numbers from `draw_change`.
      config: configuration that `change` was drawn with.
      linear_masks: value that `change` was drawn with: warp masks bilinearly instead of by nearest neighbour.

    Returns:
      The changed sample, of the same types; h and w are exchanged if the change transposes. With
      `augment.ignore_outside` it always has `valid`.
    """
    image, mask, valid = sample
    if valid is None and config.ignore_outside:
        valid = np.full(mask.shape, 255, np.uint8)
    if change.color is not None:
        image = shift_any_color(image, change.color, circular_hue=config.circular_hue)
    if change.tone is not None:
        image = change_tone(image, change.tone)
    if change.matrix is not None:
        operation = _warp_operation(change.matrix, change.elastic, mask.shape[:2], config.border)
        image, mask, valid = _warp_sample(Sample(image, mask, valid), operation, linear_masks=linear_masks)
        if valid is not None and config.ignore_outside:
            to_image = _warp_operation(change.matrix, change.elastic, valid.shape[:2], "constant")
            inside = _where(to_image(np.full(valid.shape[:2], 255, np.uint8), linear_masks) == 255)[..., None]
            mask, valid = mask & inside, valid & inside
    if any(change.flips):
        image, mask = _flip(image, change.flips), _flip(mask, change.flips)
        valid = None if valid is None else _flip(valid, change.flips)
    if change.blur:
        size = 2 * blur_radius(config) + 1
        blurred = [
            cv2.GaussianBlur(plane, (size, size), change.blur, borderType=cv2.BORDER_REFLECT_101)
            for plane in ([image] if image.shape[-1] == 3 else _planes(image))
        ]
        image = blurred[0] if image.shape[-1] == 3 else _joined(blurred)
    if change.noise:
        image = add_noise(image, noise_factor(change.noise), change.noise_key)
    top, bottom, left, right = change.cutout
    if bottom > top and right > left:
        image = image.copy()
        image[top:bottom, left:right] = 0
    return Sample(image, mask, valid)


def augment(rng: np.random.Generator, sample: Sample, config: AugmentConfig, *, linear_masks: bool = False) -> Sample:
    """Return one random variant of a sample; the input's arrays are not modified.

    Colour shift, shift-scale-rotate and horizontal flip follow the Keras original (see `augment_draws`).

    Args:
      rng: the only source of randomness.
      sample: image `[h w c]` uint8 or uint16 (RGB if c is 3), and masks `[h w k]` uint8 (0 to 255), of one size.
      config: probabilities and limits of the changes.
      linear_masks: warp masks bilinearly, which makes soft borders, instead of by nearest neighbour.

    Returns:
      A sample of the same shapes; h and w are exchanged if it was transposed.

    Example:
      >>> import numpy as np
      >>> from unet_jax import Sample
      >>> from unet_jax.config import AugmentConfig
      >>> from unet_jax.data.augment import augment
      >>> sample = Sample(np.zeros((1, 4, 3), np.uint8), np.array([[[255], [0], [0], [0]]], np.uint8))
      >>> only_flip = AugmentConfig(color_prob=0.0, geometry_prob=0.0, horizontal_flip_prob=1.0)
      >>> augment(np.random.default_rng(0), sample, only_flip).mask[0, :, 0].tolist()
      [0, 0, 0, 255]
    """
    change = draw_change(rng, config, sample.mask, linear_masks=linear_masks)
    return apply_change(sample, change, config, linear_masks=linear_masks)
