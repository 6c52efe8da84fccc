"""The settings of random changes of training samples."""

import dataclasses
from typing import Literal

from unet_jax.config.checks import check_types, require, require_fraction


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

    crop_prob: float = 0.0
    """Probability of enlarging a part of the image to the whole."""
    crop_size: float = 0.5
    """Smallest side of that part, of the image's side."""
    crop_foreground: float = 0.5
    """Part of the crops that are placed around a pixel of a class, each class that is there as often."""
    elastic_prob: float = 0.0
    """Probability of a smooth random displacement."""
    elastic: float = 0.01
    """Its standard deviation at control points, as a part of the image's side (at most 100 pixels are used)."""
    elastic_cells: int = 4
    """Cells between control points along a side: more make finer waves."""
    brightness_prob: float = 0.0
    """Probability of adding one number to all channels."""
    brightness: float = 0.2
    """The largest, of 1."""
    contrast_prob: float = 0.0
    """Probability of moving all channels away from or towards medium gray."""
    contrast: float = 0.2
    """Largest relative change."""
    gamma_prob: float = 0.0
    """Probability of an exponent on all channels."""
    gamma: float = 0.3
    """Its largest natural logarithm."""
    blur_prob: float = 0.0
    """Probability of a Gaussian blur."""
    blur: float = 1.5
    """Its largest standard deviation in pixels."""
    noise_prob: float = 0.0
    """Probability of independent noise in every pixel and channel."""
    noise: float = 0.05
    """Its largest standard deviation, of 1."""
    cutout_prob: float = 0.0
    """Probability of a black rectangle in the image; its mask stays."""
    cutout: float = 0.3
    """Its longest side as a part of the image's."""
    where: Literal["host", "device"] = "host"
    """Who changes the pixels; the random numbers are the same."""

    def __post_init__(self) -> None:
        check_types(self, "augment.")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("_prob"):
                require_fraction(f"augment.{field.name}", value)
        require_fraction("augment.crop_foreground", self.crop_foreground)
        for name in ("hue", "saturation", "value", "shift", "rotate", "elastic", "brightness", "gamma", "blur"):
            require(getattr(self, name) >= 0.0, f"augment.{name}", getattr(self, name), "at least 0")
        for name in ("scale", "aspect", "contrast"):
            require(0.0 <= getattr(self, name) < 1.0, f"augment.{name}", getattr(self, name), "from 0 to below 1")
        for name in ("noise", "cutout"):
            require_fraction(f"augment.{name}", getattr(self, name))
        require(0.0 < self.crop_size <= 1.0, "augment.crop_size", self.crop_size, "above 0 and at most 1")
        require(self.blur <= 10.0, "augment.blur", self.blur, "at most 10 pixels")
        require(1 <= self.elastic_cells <= 32, "augment.elastic_cells", self.elastic_cells, "from 1 to 32")
