"""Augmentation on the devices: the same changes as `unet_jax.data.augment`, jitted and sharded like the batch.

The host draws the change of each sample (`unet_jax.data.augment_draws`), from the same random numbers wherever the
pixels are changed. The devices receive only a few numbers per sample. Scale, shift, rotation, crop, elastic
displacement, flips and transposition are combined into one resampling. Masks that are warped by nearest neighbour equal
the host's bit for bit, because coordinates are exact in float32 (see `augment_draws.snapped`). Images differ from the
host's by rounding.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8, UInt16

from unet_jax._types import Batch
from unet_jax.config import AugmentConfig
from unet_jax.data.augment import blur_radius
from unet_jax.data.augment_draws import spline_weights

Changes = dict[str, Array]
"""Changes of a batch as arrays, from `unet_jax.data.augment_draws.stack_changes`; without the batch axis, those of one
sample."""
Pixels = UInt8[Array, "h w c"] | UInt16[Array, "h w c"]
"""Pixels of an image on the devices."""
AugmentStep = Callable[[Batch, Changes], Batch]
"""Function `(batch, changes) -> batch`."""


def make_augment_step(config: AugmentConfig, *, linear_masks: bool, sharding: Any = None) -> AugmentStep:
    """Make the jitted function `(batch, changes) -> batch` that augments unpacked batches on the devices.

    Changes whose probability is 0 in the config are not compiled.

    Args:
      config: configuration that the changes were drawn with.
      linear_masks: value that the changes were drawn with: warp masks bilinearly instead of by nearest neighbour.
      sharding: sharding of the returned batch, or a `Batch` of shardings; by default XLA chooses it.

    Returns:
      A function that takes a `Batch` and the changes of its samples, stacked by
      `unet_jax.data.augment_draws.stack_changes`, and returns a batch of the same shapes and dtypes. Images that are
      transposed must be square.
    """

    def augment_sample(
        image: Pixels, mask: UInt8[Array, "h w k"], valid: UInt8[Array, "h w k"] | None, change: Changes
    ) -> tuple[Array, Array, Array | None]:
        if config.color_prob:
            shifted = _shift_any_color(image, change["color"], circular_hue=config.circular_hue)
            image = jnp.where(change["color_on"], shifted, image)
        if config.brightness_prob or config.contrast_prob or config.gamma_prob:
            image = _change_tone(image, change["tone"])
        if config.ignore_outside and valid is None:
            valid = jnp.full_like(mask, 255)
        image, mask, valid = _resample(image, mask, valid, change, config, linear_masks=linear_masks)
        if config.blur_prob:
            image = _blur(image, change["blur"], blur_radius(config))
        if config.noise_prob:
            image = _add_noise(image, change["noise"], change["noise_key"])
        if config.cutout_prob:
            rows, columns = jnp.arange(image.shape[0])[:, None, None], jnp.arange(image.shape[1])[None, :, None]
            top, bottom, left, right = change["cutout"]
            inside = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
            image = jnp.where(inside, jnp.zeros((), image.dtype), image)
        return image, mask, valid

    def augment_step(batch: Batch, changes: Changes) -> Batch:
        image, label, valid = jax.vmap(augment_sample)(batch.image, batch.label, batch.valid, changes)
        return Batch(image, label, batch.weight, valid)

    return jax.jit(augment_step, out_shardings=sharding)


def _white(dtype: Any) -> int:
    """Return the largest gray level of a type of pixels: 255 or 65535."""
    return int(jnp.iinfo(dtype).max)


def _levels(values: Float[Array, "..."], dtype: Any) -> Pixels:
    """Round to whole gray levels, half to even, and clip to the range of the type."""
    return jnp.clip(jnp.rint(values), 0.0, float(_white(dtype))).astype(dtype)


# OpenCV computes hue and saturation of bytes in fixed-point integers with 12 fractional bits. It multiplies by entries
# of these two tables instead of dividing.
_DIVISORS = np.maximum(np.arange(256), 1)
_SATURATION_TABLE = np.rint((255 << 12) / _DIVISORS).astype(np.int32)
_HUE_TABLE = np.rint((180 << 12) / (6.0 * _DIVISORS)).astype(np.int32)


def _shift_any_color(image: Pixels, shifts: Int[Array, "3"], *, circular_hue: bool) -> Pixels:
    """Shift hue, saturation and value of RGB, or only the value of other images, as `data.augment` does."""
    if image.shape[-1] != 3:
        white = _white(image.dtype)
        return jnp.clip(image.astype(jnp.int32) + shifts[2] * (white // 255), 0, white).astype(image.dtype)
    shift = _shift_color if image.dtype == jnp.uint8 else _shift_deep_color
    return shift(image, shifts, circular_hue=circular_hue)


def _shift_deep_color(image: Array, shifts: Int[Array, "3"], *, circular_hue: bool) -> Array:
    """Shift hue, saturation and value of 16 bits, as `data.augment_color.shift_deep_color` does, in float32."""
    r, g, b = (image[..., i].astype(jnp.float32) / 65535.0 for i in range(3))
    value = jnp.maximum(jnp.maximum(r, g), b)
    spread = value - jnp.minimum(jnp.minimum(r, g), b)
    divisor = jnp.where(spread > 0.0, spread, 1.0)
    sixth = jnp.where(
        value == r, (g - b) / divisor, jnp.where(value == g, 2.0 + (b - r) / divisor, 4.0 + (r - g) / divisor)
    )
    hue = jnp.where(spread > 0.0, sixth % 6.0, 0.0) * 60.0 + 2.0 * shifts[0].astype(jnp.float32)
    hue = hue % 360.0 if circular_hue else jnp.clip(hue, 0.0, 510.0) % 360.0
    saturation = jnp.where(value > 0.0, spread / jnp.where(value > 0.0, value, 1.0), 0.0)
    saturation = jnp.clip(saturation + shifts[1].astype(jnp.float32) / 255.0, 0.0, 1.0)
    value = jnp.clip(value + shifts[2].astype(jnp.float32) / 255.0, 0.0, 1.0)
    return _levels(65535.0 * _rgb(hue / 60.0, saturation, value), image.dtype)


def _shift_color(image: UInt8[Array, "h w 3"], shifts: Int[Array, "3"], *, circular_hue: bool) -> UInt8[Array, "h w 3"]:
    """Shift hue, saturation and value of 8 bits, as `data.augment_color.shift_color` does.

    The conversion from RGB rounds as OpenCV does (hue below 180, saturation and value up to 255). The conversion back
    to RGB is computed in float32.
    """
    r, g, b = (image[..., i].astype(jnp.int32) for i in range(3))
    value = jnp.maximum(jnp.maximum(r, g), b)
    spread = value - jnp.minimum(jnp.minimum(r, g), b)
    half = 1 << 11
    saturation = (spread * jnp.asarray(_SATURATION_TABLE)[value] + half) >> 12
    sixth = jnp.where(value == r, g - b, jnp.where(value == g, b - r + 2 * spread, r - g + 4 * spread))
    hue = (sixth * jnp.asarray(_HUE_TABLE)[spread] + half) >> 12
    hue = jnp.where(hue < 0, hue + 180, hue)
    hue = (hue + shifts[0]) % 180 if circular_hue else jnp.clip(hue + shifts[0], 0, 255) % 180
    saturation, value = jnp.clip(saturation + shifts[1], 0, 255), jnp.clip(value + shifts[2], 0, 255)
    place, s, v = (
        hue.astype(jnp.float32) / 30.0,
        saturation.astype(jnp.float32) / 255.0,
        value.astype(jnp.float32) / 255.0,
    )
    # rounded down as in OpenCV 5; OpenCV 4 rounds to nearest
    return jnp.floor(255.0 * _rgb(place, s, v)).astype(jnp.uint8)


def _rgb(place: Float[Array, "h w"], s: Float[Array, "h w"], v: Float[Array, "h w"]) -> Float[Array, "h w 3"]:
    """Convert hue (in sixths of the circle), saturation and value, both in [0, 1], to RGB in [0, 1]."""
    sector = jnp.floor(place)
    part = place - sector
    low, falling, rising = v * (1.0 - s), v * (1.0 - s * part), v * (1.0 - s * (1.0 - part))

    def channel(turn: int) -> Float[Array, "h w"]:
        """Compute one colour channel in [0, 1].

        Added to the sectors' numbers, modulo 6, `turn` makes 0 the sector of the hue circle that begins at the
        channel's pure colour. The channel is highest in this sector and in the one before it, 5.
        """
        k = (sector + turn) % 6.0
        return jnp.where((k == 0) | (k == 5), v, jnp.where(k == 1, falling, jnp.where(k == 4, rising, low)))

    return jnp.stack([channel(0), channel(4), channel(2)], axis=-1)


def _change_tone(image: Pixels, tone: Float[Array, "3"]) -> Pixels:
    """Change brightness, contrast and gamma by one table of all gray levels, as on the host."""
    brightness, contrast, gamma = tone
    white = _white(image.dtype)
    x = jnp.arange(white + 1, dtype=jnp.float32) / float(white)
    table = _levels(float(white) * (contrast * (x**gamma - 0.5) + 0.5 + brightness), image.dtype)
    return table[image.astype(jnp.int32)]


def _resample(
    image: Pixels,
    mask: UInt8[Array, "h w k"],
    valid: UInt8[Array, "h w k"] | None,
    change: Changes,
    config: AugmentConfig,
    *,
    linear_masks: bool,
) -> tuple[Pixels, UInt8[Array, "h w k"], UInt8[Array, "h w k"] | None]:
    """Compute the source coordinates of each output pixel, and read image and masks there once.

    The coordinates combine flips, transposition, the affine matrix and the elastic displacement.
    """
    height, width = image.shape[:2]
    if not (config.geometry_prob or config.crop_prob or config.elastic_prob):
        flipped = None if valid is None else _flip(valid, change["flips"], config)
        return _flip(image, change["flips"], config), _flip(mask, change["flips"], config), flipped
    rows = jax.lax.broadcasted_iota(jnp.int32, (height, width), 0)
    columns = jax.lax.broadcasted_iota(jnp.int32, (height, width), 1)
    left_right, top_bottom, transposed = change["flips"]
    y, x = rows, columns
    if config.transpose_prob:
        y, x = jnp.where(transposed, columns, rows), jnp.where(transposed, rows, columns)
    if config.vertical_flip_prob:
        y = jnp.where(top_bottom, height - 1 - y, y)
    if config.horizontal_flip_prob:
        x = jnp.where(left_right, width - 1 - x, x)
    matrix = change["matrix"]
    x, y = x.astype(jnp.float32), y.astype(jnp.float32)
    source_x, source_y = (matrix[i, 0] * x + matrix[i, 1] * y + matrix[i, 2] for i in range(2))
    if config.elastic_prob:
        down, across = (jnp.asarray(spline_weights(side, change["elastic"].shape[-1])) for side in (height, width))
        moved = jnp.einsum("yi,dij,xj->yxd", down, change["elastic"], across, precision=jax.lax.Precision.HIGHEST)
        # The host flips after it warps, so the displacements, which belong to pixels before the flip, are flipped too.
        moved = _flip(jnp.rint(moved / change["unit"]) * change["unit"], change["flips"], config)
        source_x, source_y = source_x + moved[..., 0], source_y + moved[..., 1]
    num_classes, num_channels = mask.shape[-1], image.shape[-1]
    masks = mask if valid is None else jnp.concatenate([mask, ~valid], axis=-1)
    look_at_mask = _look_bilinear if linear_masks else _look_nearest
    if linear_masks and image.dtype == mask.dtype:
        together = _look_bilinear(jnp.concatenate([image, masks], axis=-1), source_x, source_y, config.border)
        image, masks = together[..., :num_channels], together[..., num_channels:]
    else:
        image = _look_bilinear(image, source_x, source_y, config.border)
        masks = look_at_mask(masks, source_x, source_y, config.border)
    if valid is None:
        return image, masks, None
    known = masks[..., num_classes:] == 0
    if config.ignore_outside:
        everywhere = jnp.full((*mask.shape[:2], 1), 255, jnp.uint8)
        known &= look_at_mask(everywhere, source_x, source_y, "constant") == 255
    valid = jnp.where(known, jnp.uint8(255), jnp.uint8(0))
    return image, masks[..., :num_classes] & valid, valid


def _flip(pixels: Array, flips: Array, config: AugmentConfig) -> Array:
    """Flip left to right and top to bottom, then transpose: in the same order as the host."""
    if config.horizontal_flip_prob:
        pixels = jnp.where(flips[0], pixels[:, ::-1], pixels)
    if config.vertical_flip_prob:
        pixels = jnp.where(flips[1], pixels[::-1], pixels)
    if config.transpose_prob:
        pixels = jnp.where(flips[2], pixels.swapaxes(0, 1), pixels)
    return pixels


def _look_up(pixels: Pixels, x: Int[Array, "h w"], y: Int[Array, "h w"], border: str) -> Array:
    """Return the pixels `[h w c]` at integer coordinates.

    Outside of the image, the result is 0 if `border` is "constant". If it is "reflect", the image is mirrored without
    repeating the pixels at its edge.
    """
    if pixels.dtype == jnp.uint16:  # as twice as many bytes
        as_bytes = jax.lax.bitcast_convert_type(pixels, jnp.uint8).reshape(*pixels.shape[:2], -1)
        values = _look_up(as_bytes, x, y, border).reshape(*x.shape, -1, 2)
        return jax.lax.bitcast_convert_type(values, jnp.uint16)
    height, width, channels = pixels.shape
    inside = None
    if border == "constant":
        inside = ((x >= 0) & (x < width) & (y >= 0) & (y < height))[..., None]
        x, y = jnp.clip(x, 0, width - 1), jnp.clip(y, 0, height - 1)
    else:
        x, y = ((side - 1) - jnp.abs((side - 1) - v % max(1, 2 * (side - 1))) for v, side in ((x, width), (y, height)))
    # A gather costs per element, so four channels are read as one uint32: four channels cost as much as one.
    filled = jnp.pad(pixels, ((0, 0), (0, 0), (0, -channels % 4))).reshape(height * width, -1, 4)
    words = jax.lax.bitcast_convert_type(filled, jnp.uint32)
    values = jax.lax.bitcast_convert_type(words[y * width + x], jnp.uint8).reshape(*x.shape, -1)[..., :channels]
    return values if inside is None else jnp.where(inside, values, jnp.uint8(0))


def _look_nearest(pixels: Array, x: Float[Array, "h w"], y: Float[Array, "h w"], border: str) -> Array:
    """Return the pixels nearest to fractional coordinates."""
    return _look_up(pixels, jnp.rint(x).astype(jnp.int32), jnp.rint(y).astype(jnp.int32), border)


def _look_bilinear(pixels: Array, x: Float[Array, "h w"], y: Float[Array, "h w"], border: str) -> Array:
    """Interpolate bilinearly between the four pixels around fractional coordinates; round to whole levels."""
    left, top = jnp.floor(x), jnp.floor(y)
    right_share, bottom_share = (x - left)[..., None], (y - top)[..., None]
    x0, y0 = left.astype(jnp.int32), top.astype(jnp.int32)

    def at(dx: int, dy: int) -> Float[Array, "h w c"]:
        return _look_up(pixels, x0 + dx, y0 + dy, border).astype(jnp.float32)

    upper = at(0, 0) + right_share * (at(1, 0) - at(0, 0))
    lower = at(0, 1) + right_share * (at(1, 1) - at(0, 1))
    return _levels(upper + bottom_share * (lower - upper), pixels.dtype)


def _blur(image: Pixels, deviation: Float[Array, ""], radius: int) -> Pixels:
    """Blur rows and then columns with a Gaussian kernel of 2 * radius + 1 weights.

    `deviation` is the standard deviation in pixels; 0 changes nothing.
    """
    offsets = jnp.arange(-radius, radius + 1, dtype=jnp.float32)
    weights = jnp.exp(-0.5 * (offsets / jnp.maximum(deviation, 1e-3)) ** 2)
    weights = weights / weights.sum()
    out = image.astype(jnp.float32)
    for axis in (0, 1):
        width = [(radius, radius) if i == axis else (0, 0) for i in range(3)]
        padded = jnp.pad(out, width, mode="reflect")
        length = image.shape[axis]
        parts = (jax.lax.slice_in_dim(padded, i, i + length, axis=axis) for i in range(2 * radius + 1))
        out = sum((weights[i] * part for i, part in enumerate(parts)), jnp.zeros_like(out))
    return _levels(out, image.dtype)


def _add_noise(image: Pixels, factor: Int[Array, ""], key: Array) -> Pixels:
    """Add the same noise as `data.augment.add_noise`, computed in the same integers."""
    bits = jax.lax.iota(jnp.uint32, image.size) * jnp.uint32(0x9E3779B1) + key
    for shift, multiplier in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        bits = (bits ^ (bits >> jnp.uint32(shift))) * jnp.uint32(multiplier)
    octets = (bits[:, None] >> (jnp.uint32(8) * jax.lax.iota(jnp.uint32, 4))[None]) & jnp.uint32(255)
    total = octets.astype(jnp.int32).sum(axis=-1) - 510
    if image.dtype == jnp.uint16:
        noise = (total * ((factor * 257) >> 8) + (1 << 7)) >> 8
    else:
        noise = (total * factor + (1 << 15)) >> 16
    return jnp.clip(image.astype(jnp.int32) + noise.reshape(image.shape), 0, _white(image.dtype)).astype(image.dtype)
