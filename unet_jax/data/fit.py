"""The way from an image's own size to the size at which the network sees it (`data.fit`)."""

import dataclasses

from unet_jax.config import DataConfig


@dataclasses.dataclass(frozen=True)
class Fit:
    """The size at which the network sees an image.

    Example:
      >>> fit = Fit((256, 512))
      >>> fit.size_of(100, 100), fit.text, fit.enlarged_by(2)
      ((256, 512), '512x256', '--data.image-size 512 1024')
    """

    image_size: tuple[int, int]
    """Height and width of `data.image_size`."""
    kind: str = "stretch"
    """Value of `data.fit`."""
    scale: float = 1.0
    """Value of `data.scale`, for crops."""

    def size_of(self, height: int, width: int, growth: int = 1) -> tuple[int, int]:
        """Return the height and width at which the network sees an image, whole or in crops.

        Args:
          height: the image's own height in pixels.
          width: the image's own width.
          growth: factor by which the setting is larger that `enlarged_by` names.
        """
        if self.kind == "crop":
            return scaled_size(height, width, self._scale(growth))
        if self.kind == "pad":
            high, wide = (side * growth for side in self.image_size)
            scale = min(high / height, wide / width)
            return min(high, max(1, round(height * scale))), min(wide, max(1, round(width * scale)))
        return self.image_size[0] * growth, self.image_size[1] * growth

    @property
    def text(self) -> str:
        """The size in words; width comes before height, as in all sizes that are printed."""
        if self.kind == "crop":
            return "the files' resolution" if self.scale == 1.0 else f"{self.scale:g} of the files' resolution"
        return f"{self.image_size[1]}x{self.image_size[0]}" + (" with their aspect" if self.kind == "pad" else "")

    def enlarged_by(self, growth: int) -> str:
        """Return the flag with which the network would see images larger by a factor."""
        if self.kind == "crop":
            return f"--data.scale {self._scale(growth):g}"
        height, width = (side * growth for side in self.image_size)
        return f"--data.image-size {height}" if height == width else f"--data.image-size {height} {width}"

    @property
    def alternative(self) -> str:
        """Another remedy where objects vanish, as the end of a sentence; empty if there is none."""
        return "" if self.kind == "crop" else "; or use --data.fit crop, which does not resize"

    def _scale(self, growth: int) -> float:
        """Return the scale after growth: the files' own resolution is enough, unless masks are bilinear."""
        grown = self.scale * growth
        return 1.0 if self.scale < 1.0 < grown < 2.0 else grown


def fit_of(config: DataConfig) -> Fit:
    """Return the fit of a data set's settings."""
    return Fit(config.height_and_width, config.fit, config.scale)


def scaled_size(height: int, width: int, scale: float) -> tuple[int, int]:
    """Return the height and width of an image at a scale, at least one pixel each.

    Example:
      >>> scaled_size(101, 3, 0.1)
      (10, 1)
    """
    return max(1, round(height * scale)), max(1, round(width * scale))
