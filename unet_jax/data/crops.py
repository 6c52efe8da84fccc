"""Images of any size that are read in parts: crops for training, a grid of parts for evaluation."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from unet_jax._types import Sample
from unet_jax.config import AugmentConfig, DataConfig
from unet_jax.data.augment_draws import draw_window
from unet_jax.data.order import EpochSample
from unet_jax.data.padding import Rows, read_part
from unet_jax.data.sources import Indexed, ResizedSource, Source


class WholeImage(NamedTuple):
    """One image with its masks, of which parts are read."""

    image: Rows
    """`[h w c]` uint8 or uint16."""
    mask: Rows
    """`[h w k]` uint8."""
    row_counts: np.ndarray
    """Number of pixels inside each class in each row: `[h k]`."""
    valid: Rows | None = None
    """`[h w k]` uint8: 255 where the class was annotated, 0 where the pixel is ignored; None: all annotated."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.image.shape[:2]
        return height, width

    def num_pixels(self, class_: int) -> int:
        """Return the number of pixels inside a class."""
        return int(self.row_counts[:, class_].sum(dtype=np.int64))

    def pixel(self, class_: int, number: int) -> tuple[int, int]:
        """Return row and column of the pixel with this number among those inside a class. One row is read."""
        ends = np.cumsum(self.row_counts[:, class_], dtype=np.int64)
        row = int(np.searchsorted(ends, number, side="right"))
        inside = np.flatnonzero(self.mask[row : row + 1][0, :, class_] >= 128)
        return row, int(inside[number - (ends[row - 1] if row else 0)])

    def read(self, top: int, left: int, size: tuple[int, int], *, with_valid: bool = False) -> Sample:
        """Return a part of height and width `size`, whose rows only are read.

        Where it reaches beyond the image, at the bottom or on the right, the image is mirrored (with the edge row), as
        in prediction, and pixels are ignored.

        Args:
          top: first row.
          left: first column.
          size: height and width of the part.
          with_valid: the part says which pixels are ignored, also if none is.
        """
        return read_part(self.image, self.mask, self.valid, (top, left), size, with_valid=with_valid)


def count_rows(mask: np.ndarray) -> np.ndarray:
    """Count the pixels inside each class in each row of `[h w k]`: `[h k]` uint32."""
    return np.stack([(mask[..., k] >= 128).sum(axis=1, dtype=np.uint32) for k in range(mask.shape[-1])], axis=-1)


WholeImages = Indexed[WholeImage]
"""Random access to images."""


class DecodedImages:
    """Pictures at `data.scale` of the files' resolution, decoded at each access."""

    def __init__(self, source: Source, config: DataConfig):
        self._samples = ResizedSource(source, config)

    @property
    def ids(self) -> Sequence[str]:
        return self._samples.ids

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> WholeImage:
        image, mask, valid = self._samples[index]
        return WholeImage(image, mask, count_rows(mask), valid)


class CropSource:
    """Random crops of images, for training.

    Args:
      images: training images.
      sizes: height and width of each.
      size: height and width of the crops.
    """

    def __init__(self, images: WholeImages, sizes: Sequence[tuple[int, int]], size: tuple[int, int]):
        self._images, self._size, self._reaches_beyond = images, size, _any_smaller(sizes, size)

    @property
    def has_valid(self) -> bool:
        """True if crops say which pixels are ignored: not annotated, or beyond an image that is smaller."""
        return self._reaches_beyond or (len(self) > 0 and self._images[0].valid is not None)

    @property
    def ids(self) -> Sequence[str]:
        return self._images.ids

    def __len__(self) -> int:
        return len(self._images)

    def draw(self, rng: np.random.Generator, element: EpochSample) -> Sample:
        """Draw the place of a crop, and read it: image `[h w c]` and mask `[h w k]`."""
        image = self._images[element.index]
        top, left = draw_window(rng, image, self._size, element.class_)
        return image.read(top, left, self._size, with_valid=self._reaches_beyond)


class GridSource:
    """Parts of images that cover each of them, for evaluation: as few as possible, at equal distances.

    Args:
      images: images.
      sizes: height and width of each.
      size: height and width of the parts.
    """

    def __init__(self, images: WholeImages, sizes: Sequence[tuple[int, int]], size: tuple[int, int]):
        self._images, self._size, self._reaches_beyond = images, size, _any_smaller(sizes, size)
        self._places = [
            (i, top, left)
            for i, of_image in enumerate(sizes)
            for top in _starts(of_image[0], size[0])
            for left in _starts(of_image[1], size[1])
        ]

    @property
    def ids(self) -> Sequence[str]:
        """Id of the image of each part."""
        ids = self._images.ids
        return [ids[i] for i, _, _ in self._places]

    def __len__(self) -> int:
        return len(self._places)

    def middle_of(self, image: int) -> Sample:
        """Return the part in the middle of an image."""
        parts = [i for i, place in enumerate(self._places) if place[0] == image]
        return self[parts[len(parts) // 2]]

    def __getitem__(self, index: int) -> Sample:
        image, top, left = self._places[index]
        return self._images[image].read(top, left, self._size, with_valid=self._reaches_beyond)


def has_valid(source: Source | CropSource, augment: AugmentConfig) -> bool:
    """Return whether training samples say which pixels are ignored (`Sample.valid`). The first one is read for it."""
    if augment.ignore_outside:
        return True
    if isinstance(source, CropSource):
        return source.has_valid
    return len(source) > 0 and source[0].valid is not None


def _any_smaller(sizes: Sequence[tuple[int, int]], size: tuple[int, int]) -> bool:
    """Return whether an image is smaller than `size` in height or width."""
    return any(height < size[0] or width < size[1] for height, width in sizes)


def _starts(length: int, side: int) -> list[int]:
    """Return where the parts of an axis begin."""
    count = -(-length // side)
    return [i * (length - side) // (count - 1) for i in range(count)] if count > 1 else [0]
