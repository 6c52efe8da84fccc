"""The arrays of a disk cache: how samples lie in its files, and how they are read from there.

Samples of one size are entries of arrays `[n ...]`. Images of any size lie one after the other, so that their rows
can be read alone: `images.npy` is `[pixels c]`, masks are packed into bits row by row, `rows.npy` counts the pixels of
each class in each row, and `row_digests.npy` has digests of each row, which are compared when it is first read.
"""

import dataclasses
import functools
import math
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from unet_jax._types import Sample
from unet_jax.config import DataConfig
from unet_jax.data.crops import count_rows
from unet_jax.data.images.format import RGB8, ImageFormat

_BYTE = np.dtype(np.uint8)


class Header(NamedTuple):
    """Shape and type of the array in a file."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@dataclasses.dataclass(frozen=True)
class CacheFiles:
    """Description of what the files of a cache hold."""

    sizes: tuple[tuple[int, int], ...]
    """Height and width of each sample as it is kept."""
    num_channels: int
    """Channels of the images."""
    dtype: np.dtype
    """Type of their pixels."""
    num_classes: int
    """Channels of the masks."""
    as_bits: bool
    """Masks are stored as bits, which is possible if they have no values between 0 and 255."""
    has_valid: bool
    """Samples say which pixels are ignored, which is stored as bits."""
    by_rows: bool
    """Samples are images of any size, of which rows are read."""

    @property
    def headers(self) -> dict[str, Header]:
        """Shape and type of each array, by file name without suffix."""
        if self.by_rows:
            num_pixels, num_rows = self.first_pixel[-1], self.first_row[-1]
            bits = (self.first_bits[-1],)
            masks = bits if self.as_bits else (num_pixels, self.num_classes)
            shapes = {
                "images": (num_pixels, self.num_channels),
                "masks": masks,
                "rows": (num_rows, self.num_classes),
                "row_digests": (num_rows, 3 if self.has_valid else 2),
            }
        else:
            count, size = len(self.sizes), self.sizes[0] if self.sizes else (0, 0)
            bits = (count, math.ceil(math.prod(size) * self.num_classes / 8))
            masks = bits if self.as_bits else (count, *size, self.num_classes)
            shapes = {"images": (count, *size, self.num_channels), "masks": masks}
        if self.has_valid:
            shapes["valid"] = bits
        types = {"images": self.dtype, "rows": np.dtype(np.uint32), "row_digests": np.dtype(np.uint32)}
        return {name: Header(tuple(map(int, shape)), types.get(name, _BYTE)) for name, shape in shapes.items()}

    @property
    def num_bytes(self) -> int:
        """Size of all arrays."""
        return sum(header.num_bytes for header in self.headers.values())

    def encode(self, index: int, sample: Sample) -> dict[str, tuple[np.ndarray, int]]:
        """Return what a sample adds to each file, and at which byte after the header."""
        image, mask, valid = sample
        if not self.by_rows:
            arrays = {"images": image, "masks": np.packbits(mask >= 128) if self.as_bits else mask}
            if valid is not None:
                arrays["valid"] = np.packbits(valid >= 128)
            return {name: (array, index * array.nbytes) for name, array in arrays.items()}
        start, bits_start = self.first_pixel[index], self.first_bits[index]
        places = {
            "images": (image, start * self.num_channels * self.dtype.itemsize),
            "masks": (_bit_rows(mask), bits_start) if self.as_bits else (mask, start * self.num_classes),
        }
        if valid is not None:
            places["valid"] = (_bit_rows(valid), bits_start)
        digests = np.stack([row_digests(array) for array, _ in places.values()], axis=-1)
        counts, row = count_rows(mask), self.first_row[index]
        return {
            **places,
            "rows": (counts, row * counts[:1].nbytes),
            "row_digests": (digests, row * digests[:1].nbytes),
        }

    @functools.cached_property
    def first_pixel(self) -> list[int]:
        """Position of the first pixel of each whole image, and of the end."""
        return _sums(height * width for height, width in self.sizes)

    @functools.cached_property
    def first_row(self) -> list[int]:
        """Position of the first row of each whole image, and of the end."""
        return _sums(height for height, _ in self.sizes)

    @functools.cached_property
    def first_bits(self) -> list[int]:
        """Position of the first byte of bits of each whole image, and of the end."""
        return _sums(height * math.ceil(width * self.num_classes / 8) for height, width in self.sizes)


def _sums(numbers) -> list[int]:
    """Return the sums of the first 0, 1, ... numbers."""
    sums = [0]
    for number in numbers:
        sums.append(sums[-1] + number)
    return sums


def _bit_rows(mask: np.ndarray) -> np.ndarray:
    """Pack each row of `[h w k]` into bits: `[h bytes]`."""
    return np.packbits((mask >= 128).reshape(len(mask), -1), axis=1)


def sample_digests(image: np.ndarray, mask: np.ndarray, valid: np.ndarray | None = None) -> tuple[int, int]:
    """Return the digests of a sample as it is stored: of the image, and of the mask with what is ignored in it."""
    of_mask = zlib.crc32(np.ascontiguousarray(mask).data)
    if valid is not None:
        of_mask = zlib.crc32(np.ascontiguousarray(valid).data, of_mask)
    return zlib.crc32(np.ascontiguousarray(image).data), of_mask


def row_digests(rows: np.ndarray) -> np.ndarray:
    """Return a digest of each row: `[h]` uint32."""
    return np.array([zlib.crc32(row.data) for row in np.ascontiguousarray(rows)], np.uint32)


def files_of_samples(
    num_samples: int,
    config: DataConfig,
    num_classes: int,
    image_format: ImageFormat | None = None,
    *,
    has_valid: bool = False,
) -> CacheFiles:
    """Return the files that hold samples of data.image_size."""
    sizes, has_valid = (config.height_and_width,) * num_samples, has_valid or config.fit == "pad"
    return _files_of(sizes, config, num_classes, image_format, has_valid=has_valid, by_rows=False)


def files_of_images(
    sizes: Sequence[tuple[int, int]],
    config: DataConfig,
    num_classes: int,
    image_format: ImageFormat | None = None,
    *,
    has_valid: bool = False,
) -> CacheFiles:
    """Return the files that hold whole images of these heights and widths."""
    return _files_of(tuple(sizes), config, num_classes, image_format, has_valid=has_valid, by_rows=True)


def _files_of(
    sizes: tuple[tuple[int, int], ...],
    config: DataConfig,
    num_classes: int,
    image_format: ImageFormat | None,
    *,
    has_valid: bool,
    by_rows: bool,
) -> CacheFiles:
    seen = image_format or RGB8
    as_bits = config.mask_interpolation == "nearest" and not config.soft_masks
    return CacheFiles(sizes, seen.num_channels, seen.dtype, num_classes, as_bits, has_valid, by_rows)
