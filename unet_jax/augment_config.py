"""The settings of random changes of training samples."""

import dataclasses
from typing import Literal

from unet_jax._checks import check_types, require, require_fraction


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """Random changes of training samples. Limits are symmetric: 0.1 means from -0.1 to 0.1."""

    color_prob: float = 0.5
    """Probability of a shift in hue, saturation and value."""
    hue: float = 10.0
    """Largest hue shift, in OpenCV's units of 2 degrees."""
    saturation: float = 5.0
    """Largest saturation shift, of 255."""
    value: float = 15.0
    """Largest value (brightness) shift, of 255."""
    circular_hue: bool = True
    """Wrap hue at red. Off: clamp at 0 as `cv2.add` does, which is what the Keras original did."""
    geometry_prob: float = 0.5
    """Probability of a shift, scale and rotation."""
    shift: float = 0.0625
    """Largest shift as a part of the image's side."""
    scale: float = 0.1
    """Largest relative change of size."""
    rotate: float = 0.0
    """Largest rotation in degrees."""
    aspect: float = 0.0
    """Largest relative change of the ratio of width to height."""
    border: Literal["constant", "reflect"] = "constant"
    """What fills the image outside its border: black, or its mirror image (without the edge row)."""
    horizontal_flip_prob: float = 0.5
    """Probability of mirroring left to right."""
    vertical_flip_prob: float = 0.0
    """Probability of mirroring top to bottom."""
    transpose_prob: float = 0.0
    """Probability of exchanging rows and columns; with both flips, all eight symmetries of the square."""

    def __post_init__(self) -> None:
        check_types(self, "augment.")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("_prob"):
                require_fraction(f"augment.{field.name}", value)
        for name in ("hue", "saturation", "value", "shift", "rotate"):
            require(getattr(self, name) >= 0.0, f"augment.{name}", getattr(self, name), "at least 0")
        for name in ("scale", "aspect"):
            require(0.0 <= getattr(self, name) < 1.0, f"augment.{name}", getattr(self, name), "from 0 to below 1")
