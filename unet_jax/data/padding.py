"""Parts of images that may reach beyond them: there the image is mirrored, and its pixels are ignored."""

from typing import Protocol

import numpy as np

from unet_jax._types import Sample


class Rows(Protocol):
    """Pixels `[h w k]` of which rows are read: an array, a memory-mapped one, or one in bits."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: slice, /) -> np.ndarray: ...


def read_part(
    image: Rows, mask: Rows, valid: Rows | None, place: tuple[int, int], size: tuple[int, int], *, with_valid: bool
) -> Sample:
    """Return a part of an image and its masks, whose rows only are read.

    Where it reaches beyond the image, at the bottom or on the right, the image is mirrored (with the edge row), as in
    prediction, and pixels are ignored.

    Args:
      image: `[h w c]` uint8 or uint16.
      mask: `[h w k]` uint8.
      valid: `[h w k]` uint8, or None if nothing is ignored.
      place: first row and first column of the part.
      size: height and width of the part.
      with_valid: the part says which pixels are ignored, also if none is.
    """
    (top, left), (height, width) = place, image.shape[:2]
    inside = min(size[0], height - top), min(size[1], width - left)
    part, part_mask = mirrored_part(image, place, size), mirrored_part(mask, place, size)
    if valid is None and not with_valid and inside == size:
        return Sample(part, part_mask)
    part_valid = np.full_like(part_mask, 255) if valid is None else mirrored_part(valid, place, size)
    part_valid[inside[0] :] = 0
    part_valid[:, inside[1] :] = 0
    return Sample(part, part_mask & part_valid, part_valid)


def mirrored_part(pixels: Rows, place: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Return a part of height and width `size`; beyond the bottom and the right edge it is mirrored.

    Example:
      >>> mirrored_part(np.arange(3).reshape(1, 3, 1), (0, 1), (1, 6))[0, :, 0].tolist()
      [1, 2, 2, 1, 1, 2]
    """
    (top, left), (height, width) = place, pixels.shape[:2]
    rows = pixels[top : min(top + size[0], height)]
    part = rows[:, left : min(left + size[1], width)]
    if part.shape[:2] != size:
        part = part[_mirrored(size[0], len(part))][:, _mirrored(size[1], part.shape[1])]
    return np.array(part, order="C")


def _mirrored(count: int, length: int) -> np.ndarray:
    """Return `count` positions below `length`, of an axis that is mirrored wherever it ends."""
    position = np.arange(count) % (2 * length)
    return np.where(position < length, position, 2 * length - 1 - position)
