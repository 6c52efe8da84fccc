"""Settings of the augmentation: random changes of training samples."""

import dataclasses
from typing import Literal

from unet_jax.config.checks import check_types, require, require_fraction
from unet_jax.config.settings import setting

_COLOR, _GEOMETRY = ("color_prob",), ("geometry_prob",)


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """Random changes of training samples. Limits are symmetric: 0.1 means from -0.1 to 0.1."""

    color_prob: float = 0.5
    """Probability of a shift in hue, saturation and value."""
    hue: float = setting(10.0, only_with=_COLOR)
    """Largest hue shift, in OpenCV's units of 2 degrees."""
    saturation: float = setting(5.0, only_with=_COLOR)
    """Largest saturation shift, in units of 1/255."""
    value: float = setting(15.0, only_with=_COLOR)
    """Largest value (brightness) shift, in units of 1/255."""
    circular_hue: bool = setting(True, only_with=_COLOR)
    """Wrap hue around at red. If False, clamp it at 0 as `cv2.add` does, which is what the Keras original did."""
    geometry_prob: float = 0.5
    """Probability of a shift, scale and rotation."""
    shift: float = setting(0.0625, only_with=_GEOMETRY)
    """Largest shift as a fraction of the image's side."""
    scale: float = setting(0.1, only_with=_GEOMETRY)
    """Largest relative change of size."""
    rotate: float = setting(0.0, only_with=_GEOMETRY)
    """Largest rotation in degrees."""
    aspect: float = setting(0.0, only_with=_GEOMETRY)
    """Largest relative change of the ratio of width to height."""
    border: Literal["constant", "reflect"] = setting(
        "constant", only_with=("geometry_prob", "crop_prob", "elastic_prob")
    )
    """Pixels outside the image's border: black, or the mirror image (without the edge row)."""
    ignore_outside: bool = setting(False, only_with=("geometry_prob", "crop_prob", "elastic_prob"))
    """Ignore pixels from outside the image's border in the loss, in the place of learning that no class is there."""
    horizontal_flip_prob: float = 0.5
    """Probability of mirroring left to right."""
    vertical_flip_prob: float = 0.0
    """Probability of mirroring top to bottom."""
    transpose_prob: float = 0.0
    """Probability of exchanging rows and columns. With both flips, all eight symmetries of the square."""

    crop_prob: float = 0.0
    """Probability of enlarging a part of the image to the whole."""
    crop_size: float = setting(0.5, only_with=("crop_prob",))
    """Smallest side of the crop as a fraction of the image's side."""
    crop_foreground: float = setting(0.5, only_with=("crop_prob",))
    """Share of crops centred on a foreground pixel. Every class that is present is equally likely."""
    elastic_prob: float = 0.0
    """Probability of a smooth random displacement."""
    elastic: float = setting(0.01, only_with=("elastic_prob",))
    """Standard deviation of the displacement at control points, as a fraction of the side (100 pixels at most)."""
    elastic_cells: int = setting(4, only_with=("elastic_prob",))
    """Cells between control points along a side. More cells make finer waves."""
    brightness_prob: float = 0.0
    """Probability of adding one number to all channels."""
    brightness: float = setting(0.2, only_with=("brightness_prob",))
    """Largest number to add, where white is 1."""
    contrast_prob: float = 0.0
    """Probability of moving all channels away from or towards medium gray."""
    contrast: float = setting(0.2, only_with=("contrast_prob",))
    """Largest relative change of contrast."""
    gamma_prob: float = 0.0
    """Probability of raising all channels to a power."""
    gamma: float = setting(0.3, only_with=("gamma_prob",))
    """Largest natural logarithm of the exponent."""
    blur_prob: float = 0.0
    """Probability of a Gaussian blur."""
    blur: float = setting(1.5, only_with=("blur_prob",))
    """Largest standard deviation of the blur in pixels."""
    noise_prob: float = 0.0
    """Probability of independent noise in every pixel and channel."""
    noise: float = setting(0.05, only_with=("noise_prob",))
    """Largest standard deviation of the noise, where white is 1."""
    cutout_prob: float = 0.0
    """Probability of a black rectangle in the image. The masks stay as they are."""
    cutout: float = setting(0.3, only_with=("cutout_prob",))
    """Longest side of the rectangle as a fraction of the image's side."""
    where: Literal["host", "device"] = "host"
    """Processor that applies the changes: the host's CPU, or the accelerator. The random numbers are the same."""

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
