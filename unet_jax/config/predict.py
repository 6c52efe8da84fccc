"""Settings of prediction, which may differ from one use of a run to the next."""

import dataclasses
from typing import Literal

from unet_jax.config.checks import check_types, require


@dataclasses.dataclass(frozen=True)
class PredictConfig:
    """Way of images of any size to the network, and of its answers back to their size (docs/large-images.md)."""

    fit: Literal["as-trained", "stretch", "pad", "crop", "whole"] = "as-trained"
    """Way from an image to the network. as-trained: as the run was trained (data.fit).
    stretch: resized to data.image_size. pad: resized with the ratio of the sides kept, and the rest mirrored.
    crop: in overlapping tiles of data.image_size. whole: in one piece; every new size is compiled."""
    scale: float | None = None
    """Size of the image, as a multiple of its own, at which crop and whole look at it.
    By default the scale that the network was trained at."""
    overlap: float = 0.25
    """Share of a tile's side that neighbouring tiles have in common (crop)."""
    blend: Literal["gaussian", "trapezoid"] = "gaussian"
    """Weights of overlapping tiles (crop): a Gaussian around the centre, or 1 inside and a ramp in the overlap."""
    tta: Literal["none", "flips", "d4"] = "none"
    """Test-time augmentation: mean logits over the 4 flips, or over the 8 flips and rotations, of each image or tile.
    It costs 4 or 8 times as much."""

    def __post_init__(self) -> None:
        check_types(self, "")
        require(self.scale is None or 0.0 < self.scale <= 100.0, "--scale", self.scale, "above 0, at most 100")
        require(0.0 <= self.overlap <= 0.9, "--overlap", self.overlap, "from 0 to 0.9")


@dataclasses.dataclass(frozen=True)
class OutputConfig:
    """Files that unet-jax predict writes beside a mask for each class."""

    overlay: bool = True
    """Pictures overlay/ID.png of the masks on the image. Those of sides above 4096 pixels are reduced."""
    probs: Literal["none", "tiff", "npy"] = "none"
    """Probabilities: tiff writes probs/CLASS/ID.tif, 16 bits from 0 (0.0) to 65535 (1.0).
    npy writes probs/ID.npy, float32, [height width class]."""
    csv: bool = False
    """Tables images.csv (area and number of objects of each class) and objects.csv (area, centroid and box of each)."""
    skip_existing: bool = False
    """Leave images out whose files are all there, to continue a job that was interrupted."""
