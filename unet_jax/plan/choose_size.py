"""The rules of preset `auto` for the way of images to the network: stretched, padded or in crops, and at which size.

Every rule is a function of the sizes of images and objects to a `Choice`. Nothing is read, compiled or timed here.
"""

import math
from collections.abc import Sequence

import numpy as np

from unet_jax.config.choices import Choice
from unet_jax.data.crop_plan import crops_of_area
from unet_jax.data.fit import scaled_size
from unet_jax.data.object_sizes import ObjectSizes

PIXELS_ACROSS = 4.0
"""Pixels that the thinnest structures keep across in whole images, if these are large enough."""
CROP_PIXELS_ACROSS = 8.0
"""Pixels that they keep across in crops, where resolution costs no more updates than the length of an epoch."""
SMALLEST_SIDE, LARGEST_SIDE = 256, 1024
"""Longer side of images below which none is reduced, and above which all are."""
CROP_SIDES = 256, 512
"""Smallest and largest side of crops."""
_NUM_EXTENTS = 4  # sides of a crop, in extents of the objects
_SMALL = 16.0  # a part of the image's side, below which objects count as small
_OTHER_SIZE, _OTHER_SHAPE = 2.0, 1.25  # ratios of sides and of aspects above which images differ


def choose_fit(sizes: Sequence[ObjectSizes]) -> Choice:
    """Choose `data.fit`: crops where whole images would lose their objects, otherwise whole images.

    Args:
      sizes: sizes of the training images and of their objects.

    Example:
      >>> sheet = ObjectSizes(3000, 4000, thickness=(20.0,), extent=(30.0,))
      >>> choose_fit([sheet]).value, choose_fit([sheet._replace(height=256, width=256)]).value
      ('crop', 'stretch')
    """
    low, high = _range([math.sqrt(s.height * s.width) for s in sizes])
    if high > _OTHER_SIZE * low and _own_spread(sizes) < _relative_spread(sizes):
        between = f"images have sides from {low:.0f} to {high:.0f} pixels"
        return Choice("data.fit", "crop", f"{between}, and objects of about the same size in pixels")
    longer, thin, extent = _longer_side(sizes), thinnest(sizes), largest_extent(sizes)
    kept = thin * LARGEST_SIDE / longer
    if longer > LARGEST_SIDE and kept < min(thin, PIXELS_ACROSS):
        reason = f"structures of {thin:.1f} pixels would keep {kept:.1f} across in whole images of {LARGEST_SIDE}"
        return Choice("data.fit", "crop", reason)
    if longer > 2 * CROP_SIDES[1] and 0.0 < extent < longer / _SMALL:
        reason = f"objects of up to {extent:.0f} pixels are small in images of {longer:.0f}"
        return Choice("data.fit", "crop", reason)
    flat, wide = _range([s.width / s.height for s in sizes])
    if wide > _OTHER_SHAPE * flat:
        reason = f"the ratio of width to height goes from {flat:.2g} to {wide:.2g}, and stays as it is"
        return Choice("data.fit", "pad", reason)
    return Choice("data.fit", "stretch", "images are about alike, and their objects large enough in whole images")


def choose_scale(sizes: Sequence[ObjectSizes]) -> Choice:
    """Choose `data.scale`, the resolution of crops: as low as the thinnest structures allow.

    Example:
      >>> [choose_scale([ObjectSizes(999, 999, (thickness,), (99.0,))]).value for thickness in (5.0, 16.0, 50.0)]
      [1.0, 0.5, 0.16]
    """
    thin = thinnest(sizes)
    scale = min(1.0, CROP_PIXELS_ACROSS / thin)
    if scale > 0.75:
        return Choice("data.scale", 1.0, f"structures of {thin:.1f} pixels need the files' resolution")
    scale = float(f"{scale:.2g}")
    return Choice("data.scale", scale, f"structures of {thin:.1f} pixels keep {scale * thin:.1f} across")


def choose_crop_size(
    sizes: Sequence[ObjectSizes], scale: float, shrink: float = 1.0, multiple: int = 1, *, square: bool = False
) -> Choice:
    """Choose `data.image_size` of crops: four objects across, and no more than an image of middle size has.

    Args:
      sizes: sizes of the training images and of their objects.
      scale: value of `data.scale`.
      shrink: further factor on the sides, for a budget of time that the chosen size does not fit.
      multiple: number that must divide the sides, because the number of poolings is given.
      square: choose a square, because changes of the images exchange rows and columns.
    """
    extent = scale * largest_extent(sizes)
    wanted = min(max(_NUM_EXTENTS * extent, CROP_SIDES[0]), CROP_SIDES[1])
    reason = f"objects extend up to {extent:.0f} pixels at this scale; from {CROP_SIDES[0]} to {CROP_SIDES[1]}"
    if shrink < 1.0:
        wanted, reason = shrink * wanted, "smaller, for enough updates in the time"
    middle = [scale * float(np.median([getattr(s, side) for s in sizes])) for side in ("height", "width")]
    if square:
        middle = [max(middle)] * 2
    sides = [_rounded_up(min(wanted, side), multiple) for side in middle]
    if min(middle) < wanted:
        reason += f"; no more than an image of middle size has, {middle[1]:.0f}x{middle[0]:.0f}"
    return Choice("data.image_size", sides[0] if sides[0] == sides[1] else tuple(sides), reason)


def choose_image_size(
    sizes: Sequence[ObjectSizes],
    shrink: float = 1.0,
    multiple: int = 1,
    *,
    square: bool = False,
    pad: bool = False,
) -> tuple[Choice, float]:
    """Choose the size at which the network sees whole images.

    Args:
      sizes: sizes of the training images and of their objects.
      shrink: further factor on the sides, for a budget of time that the chosen size does not fit.
      multiple: number that must divide the sides, because the number of poolings is given.
      square: choose a square, whatever shape the images have.
      pad: images keep the ratio of their sides (`data.fit pad`).

    Returns:
      The choice of `data.image_size`, a multiple of 32 (or of 16 or 8 for small images), and the factor from the
      images' own size to it.
    """
    height, width = (float(np.median([getattr(s, side) for s in sizes])) for side in ("height", "width"))
    aspects = [s.width / s.height for s in sizes]
    same_shape = max(aspects) <= 1.1 * min(aspects)
    if pad and not same_shape:
        height = width = _longer_side(sizes)
    elif square or not same_shape or max(height, width) < 1.1 * min(height, width):
        height = width = float(np.median([math.sqrt(s.height * s.width) for s in sizes]))
    longer = max(height, width)
    thin = thinnest(sizes)
    scale = min(1.0, max(PIXELS_ACROSS / thin, SMALLEST_SIDE / longer))
    reason = f"the images' own size, {width:.0f}x{height:.0f}"
    if scale < 1.0:
        reason = f"structures of {thin:.1f} pixels keep {scale * thin:.1f} across"
    if scale * longer > LARGEST_SIDE:
        scale = LARGEST_SIDE / longer
        reason = f"no side above {LARGEST_SIDE}; structures of {thin:.1f} pixels keep {scale * thin:.1f} across"
    if shrink < 1.0:
        scale *= shrink
        reason = f"smaller, for enough updates in the time; structures of {thin:.1f} pixels keep {scale * thin:.1f}"
    if not same_shape:
        reason += "; square, because the images have different shapes"
    sides = [_rounded_up(scale * side, multiple, scale * longer) for side in (height, width)]
    value = sides[0] if sides[0] == sides[1] else tuple(sides)
    return Choice("data.image_size", value, reason), max(sides) / longer


def num_crops(sizes: Sequence[ObjectSizes], count: int, scale: float, crop_size: tuple[int, int]) -> int:
    """Return how many crops `count` images give in an epoch, if those in `sizes` are like all others.

    Example:
      >>> num_crops([ObjectSizes(64, 64, (), ()), ObjectSizes(8, 8, (), ())], 10, 1.0, (32, 32))  # 4 and 1 by area
      25
    """
    of_images = [crops_of_area(*scaled_size(s.height, s.width, scale), crop_size) for s in sizes]
    return round(count * sum(of_images) / len(of_images))


def thinnest(sizes: Sequence[ObjectSizes]) -> float:
    """Return the lower quartile over images of the mean thickness of the thinnest class, in the images' own pixels."""
    by_class = np.array([s.thickness for s in sizes], np.float64)
    present = [column[~np.isnan(column)] for column in by_class.T]
    return min((float(np.percentile(column, 25)) for column in present if len(column)), default=PIXELS_ACROSS)


def largest_extent(sizes: Sequence[ObjectSizes]) -> float:
    """Return the extent that nine tenths of the images' largest objects have at most, in own pixels; 0 without any."""
    extents = [extent for of_image in sizes for extent in of_image.extent if not math.isnan(extent)]
    return float(np.percentile(extents, 90)) if extents else 0.0


def _longer_side(sizes: Sequence[ObjectSizes]) -> float:
    return float(np.median([max(s.height, s.width) for s in sizes]))


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Return what all but a few values lie between: a single odd image among many decides nothing."""
    low, high = np.percentile(values, [5, 95])
    return float(low), float(high)


def _own_spread(sizes: Sequence[ObjectSizes]) -> float:
    """Return how much thickness in pixels varies between images: a standard deviation of logarithms."""
    return _spread([[math.log(t) for t in s.thickness] for s in sizes])


def _relative_spread(sizes: Sequence[ObjectSizes]) -> float:
    """Return how much thickness varies between images as a share of the image's side."""
    return _spread([[math.log(t / math.sqrt(s.height * s.width)) for t in s.thickness] for s in sizes])


def _spread(by_image: Sequence[Sequence[float]]) -> float:
    columns = np.array(by_image, np.float64).T
    present = [column[~np.isnan(column)] for column in columns]
    return float(np.mean([column.std() for column in present if len(column)] or [0.0]))


def _rounded_up(side: float, multiple: int, longer: float | None = None) -> int:
    """Return the next multiple of 32 (of 16 or 8 for small images, whose longer side is given), or of `multiple`."""
    longer = side if longer is None else longer
    unit = max(multiple, 32 if longer >= 192 else 16 if longer > 64 else 8)
    return max(unit, math.ceil(round(side / unit, 3)) * unit)
