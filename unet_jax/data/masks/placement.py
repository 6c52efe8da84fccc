"""Masks on their images: of one size, and turned alike where the image's file carries an orientation."""

from typing import Literal, NamedTuple

import numpy as np
from etils import epath

from unet_jax.data.orientation import read_orientation, swaps_sides, turned
from unet_jax.data.pixels import BadSampleError

MaskOrientation = Literal["auto", "shown", "stored"]
"""Pixels that masks were drawn on (`data.mask_orientation`)."""

_TURNS = {
    2: "mirrored",
    3: "upside down",
    4: "mirrored upside down",
    5: "mirrored and turned to the left",
    6: "turned to the right",
    7: "mirrored and turned to the right",
    8: "turned to the left",
}


class ShownImage(NamedTuple):
    """Facts about an image that a mask must fit. It is read as viewers show it."""

    path: epath.Path
    size: tuple[int, int]  # height and width in pixels
    orientation: int  # that its file carries; 1: stored as shown


def shown_image(path: epath.Path, pixels: np.ndarray) -> ShownImage:
    """Return the facts about an image that its masks must fit.

    Args:
      path: the image's file.
      pixels: `[h w c]` as read from it.
    """
    with path.open("rb") as file:
        orientation = read_orientation(file)  # type: ignore[arg-type]
    return ShownImage(path, pixels.shape[:2], orientation or 1)


def placed(mask: np.ndarray, path: epath.Path, image: ShownImage, rule: MaskOrientation) -> np.ndarray:
    """Return a mask as it lies on its image, turned if it was drawn on stored pixels.

    A mask whose own file carries an orientation has been turned by it. Of the others, the size often tells. Where it
    does not, and the turn would change the mask, nobody can know.

    Args:
      mask: `[h w]`, with the orientation of its own file applied.
      path: the mask's file.
      image: its image.
      rule: what somebody said about it.

    Raises:
      BadSampleError: the mask has another size than the image, or it cannot be told whether it must be turned.
    """
    if image.orientation != 1 and rule != "shown" and not _was_turned(path):
        stored = image.size[::-1] if swaps_sides(image.orientation) else image.size
        as_shown = turned(mask, image.orientation)
        fits_both = mask.shape[:2] == image.size == stored
        if rule == "stored" or (mask.shape[:2] == stored and not fits_both):
            mask = np.ascontiguousarray(as_shown)
        elif fits_both and not np.array_equal(as_shown, mask):
            raise BadSampleError(
                f"{path}: may belong to its image as it is shown, or as it is stored: {image.path} is shown "
                f"{_TURNS[image.orientation]} (orientation {image.orientation}), and both have one size. Look at one "
                f"such mask in a program, and say it for all: --data.mask-orientation shown (it fits what viewers "
                f"show), or stored (it must be turned as the image is)."
            )
    if mask.shape[:2] != image.size:
        is_rotated = mask.shape[1::-1] == image.size
        remedy = "One of them is rotated: rotate the file." if is_rotated else "Export both at the same size."
        raise BadSampleError(
            f"{path}: is {mask.shape[1]}x{mask.shape[0]} pixels (width x height), but its image is "
            f"{image.size[1]}x{image.size[0]}. {remedy}"
        )
    return mask


def _was_turned(path: epath.Path) -> bool:
    """Return True if a mask's file says how it is shown, so that it lies as people see it."""
    with path.open("rb") as file:
        orientation = read_orientation(file)  # type: ignore[arg-type]
    # Many programs write 1 into every TIFF, without knowing. In EXIF, somebody turned the pixels.
    return orientation is not None and (orientation != 1 or path.suffix.lower() not in (".tif", ".tiff"))
