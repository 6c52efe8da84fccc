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

    def size_of(self, height: int, width: int, growth: int = 1) -> tuple[int, int]:
        """Return the height and width at which the network sees an image of this height and width.

        Args:
          height: the image's own height in pixels.
          width: the image's own width.
          growth: factor of a setting that the user could enlarge (see `enlarged_by`).
        """
        return self.image_size[0] * growth, self.image_size[1] * growth

    @property
    def text(self) -> str:
        """The size in words: width x height, like all sizes that are printed."""
        return f"{self.image_size[1]}x{self.image_size[0]}"

    def enlarged_by(self, growth: int) -> str:
        """Return the flag with which the network would see images larger by a factor."""
        height, width = (side * growth for side in self.image_size)
        return f"--data.image-size {height}" if height == width else f"--data.image-size {height} {width}"


def fit_of(config: DataConfig) -> Fit:
    """Return the fit of a data set's settings."""
    return Fit(config.height_and_width)
