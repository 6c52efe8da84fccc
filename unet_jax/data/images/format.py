"""The channels of a run's images, and the mapping of the numbers in files to the pixels that the network sees.

Images of 8 bits stay as they are. Other numbers, such as 12 bits in 16-bit files, signed integers or floats, are
mapped from limits (per channel) to the whole range of 16 bits, so that nothing is quantised below what the file holds.
The format is found once, before training, is stored in the run, and is the same in evaluation and prediction.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from unet_jax._types import InputError
from unet_jax.data.images.files import read_image, read_pixels, read_planes
from unet_jax.data.pixels import BadSampleError

_WHITE = 65535
_AT_ONCE = 2**20  # numbers that are mapped at a time


@dataclasses.dataclass(frozen=True)
class ImageFormat:
    """Channels and intensities of the images of a run."""

    channels: tuple[int, ...] = (0, 1, 2)
    """Numbers of the file's channels that the network sees, in its order."""
    file_channels: int = 3
    """Number of channels in a file. Gray files are repeated where it is 3."""
    bits: int = 8
    """Bits of a pixel that the network sees: 8 or 16."""
    low: tuple[float, ...] = ()
    """Number in a file that becomes 0, per channel seen. Empty: 0 (or of each image, with `percentiles`)."""
    high: tuple[float, ...] = ()
    """Number in a file that becomes the largest pixel value, per channel seen. Empty: the largest of the file's
    integer type, or 1 for floats."""
    percentiles: tuple[float, ...] = ()
    """Two percentiles of each image and channel that are its limits. Empty: `low` and `high` are."""
    pages: str = "error"
    """Meaning of TIFF pages that the file does not explain; see `read_pixels`."""
    names: tuple[str, ...] = ()
    """Names of the channels, if each is in a file of its own. Empty: an image is one file."""
    types: tuple[str, ...] = ()
    """Data type of each channel in the files, if `low` and `high` were measured. Empty: any type."""

    @property
    def num_channels(self) -> int:
        """Number of channels that the network sees."""
        return len(self.channels)

    @property
    def is_plain(self) -> bool:
        """True if the channels are those of any picture: one gray, or red, green and blue of one file."""
        return not self.names and (self.file_channels, self.channels) in ((1, (0,)), (3, (0, 1, 2)))

    @property
    def dtype(self) -> np.dtype:
        """Data type of the pixels that the network sees."""
        return np.dtype(np.uint8 if self.bits == 8 else np.uint16)

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as values that JSON can hold, without those that are empty in most formats."""
        values = dataclasses.asdict(self)
        return {name: value for name, value in values.items() if value or name not in ("names", "types")}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ImageFormat":
        """Make a format from the values of `to_dict`."""
        fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        return cls(**fields)

    def label(self, channel: int) -> str:
        """Return what to call a channel that the network sees: its name, or its number in the file."""
        return self.names[channel] if self.names else f"channel {self.channels[channel]}"

    def read(self, files: Sequence[epath.Path]) -> np.ndarray:
        """Read an image as the network sees it, at its own size.

        Args:
          files: the image's file; or one for each channel, if the format names the channels.

        Returns:
          `[h w c]` uint8 or uint16.

        Raises:
          BadSampleError: a file cannot be read, or its channels, size or depth are others than the run's.
        """
        if not self.names:
            (file,) = files
            return self.apply(read_pixels(file, pages=self.pages), str(file))
        planes = read_planes(files, pages=self.pages)
        for file, plane, expected in zip(files, planes, self.types, strict=False):
            _check_type(plane, np.dtype(expected), str(file))
        return self.apply(np.stack(planes, axis=-1), str(files[0]))

    def apply(self, pixels: np.ndarray, name: str = "an image") -> np.ndarray:
        """Map numbers as they are in a file to pixels as the network sees them.

        Args:
          pixels: `[h w c]` of any integer or float type, with the channels of a file.
          name: the file's name, for messages.

        Returns:
          `[h w c]` uint8 or uint16, with the channels of the network.

        Raises:
          BadSampleError: channels or depth are others than the run's.
        """
        found = pixels.shape[-1]
        if found == 1 and self.file_channels == 3 and not self.names:
            pixels = np.repeat(pixels, 3, axis=-1)
        elif found != self.file_channels:
            raise BadSampleError(
                f"{name}: has {found} channel{'s' if found > 1 else ''}, but this run's images have "
                f"{self.file_channels}. Use images with the channels that it was trained on."
            )
        if self.channels != tuple(range(self.file_channels)):
            pixels = np.ascontiguousarray(pixels[..., list(self.channels)])
        if self.bits == 8:
            if pixels.dtype != np.uint8:
                raise BadSampleError(
                    f"{name}: has {pixels.dtype} values, but this run's images have 8 bits. Convert it to 8 bits as "
                    f"those were."
                )
            return pixels
        if self.types:
            _check_type(pixels, np.result_type(*self.types), name)
        low, high = self._limits(pixels)
        scale = _WHITE / np.maximum(high - low, np.finfo(np.float64).tiny)
        mapped = np.empty(pixels.shape, np.uint16)
        rows = max(1, _AT_ONCE // max(1, pixels[0].size))
        for start in range(0, len(pixels), rows):  # float64 of a whole image may be more than the memory holds
            band = (pixels[start : start + rows].astype(np.float64) - low) * scale
            mapped[start : start + rows] = np.rint(np.clip(band, 0, _WHITE))
        return mapped

    def _limits(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.percentiles:
            low, high = np.percentile(pixels, self.percentiles, axis=(0, 1))
            return low, np.where(high > low, high, low + 1.0)
        if self.high:
            return np.asarray(self.low), np.asarray(self.high)
        # By depth. Signed integers are read from 0: what is below is black.
        return np.zeros(self.num_channels), np.full(self.num_channels, white_of(pixels.dtype))


def white_of(dtype: np.dtype) -> float:
    """Return the number that is white by depth: the largest of an integer type, 1 for floats."""
    return float(np.iinfo(dtype).max) if dtype.kind in "ui" else 1.0


def _check_type(pixels: np.ndarray, expected: np.dtype, name: str) -> None:
    """Raise `BadSampleError` if numbers are of another type than those that the limits were measured on.

    The limits would be wrong for 8-bit copies of deeper files, or for floats from 0 to 1. Whole numbers in a larger
    type mean the same.
    """
    found = pixels.dtype
    if found == expected or found.kind == expected.kind == "f":
        return
    if expected.kind in "ui" and found.itemsize >= expected.itemsize:
        range_ = np.iinfo(expected)
        if pixels.min() >= range_.min and pixels.max() <= range_.max and (pixels == np.rint(pixels)).all():
            return
    raise BadSampleError(
        f"{name}: has {found} values, but this run's images have {expected} and were mapped by limits of such numbers. "
        f"Save it with the numbers that they have."
    )


def describe_format(image_format: ImageFormat) -> str:
    """Return a line for people: the channels, and the numbers that become black and white."""
    count, of = image_format.num_channels, image_format.file_channels
    channels = f"{count} channel{'s' if count > 1 else ''}"
    if image_format.names:
        channels += f" ({', '.join(image_format.names)})"
    elif image_format.channels != tuple(range(of)):
        channels += f" ({', '.join(map(str, image_format.channels))} of {of})"
    if image_format.bits == 8:
        return f"pixels: {channels} of 8 bits"
    if image_format.percentiles:
        low, high = image_format.percentiles
        return f"pixels: {channels}; black and white are the percentiles {low:g} and {high:g} of each image and channel"
    if not image_format.high:
        return f"pixels: {channels}; white is the largest value of a file's type"
    pairs = zip(image_format.low, image_format.high, strict=True)
    ranges = ", ".join(dict.fromkeys(f"{low:g} to {high:g}" for low, high in pairs))
    if image_format.names:
        limits = zip(image_format.names, image_format.low, image_format.high, strict=True)
        ranges = ", ".join(f"{low:g} to {high:g} ({name})" for name, low, high in limits)
    return f"pixels: {channels}; black to white is {ranges}"


RGB8 = ImageFormat()
"""Images of 8 bits with three channels."""


def read_as(files: Sequence[epath.Path], image_format: ImageFormat | None) -> np.ndarray:
    """Read an image in a run's format. None is that of runs that stored none: any image as 8-bit RGB."""
    return read_image(files[0]) if image_format is None else image_format.read(files)


def parse_channels(text: str, file_channels: int) -> tuple[int, ...]:
    """Return the channel numbers in a setting such as "0,1,3"; an empty one means all.

    Raises:
      InputError: the text is not understood, names a channel twice, or one that the files do not have.
    """
    if not text.strip():
        return tuple(range(file_channels))
    try:
        channels = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"data.channels is {text!r}, but must be numbers from 0, as in 0,1,3.") from error
    for channel in channels:
        if not 0 <= channel < file_channels:
            raise InputError(
                f"data.channels is {text!r}, but the images have {file_channels} channels: 0 to {file_channels - 1}."
            )
    if len(set(channels)) < len(channels):
        raise InputError(f"data.channels is {text!r}, but names a channel twice.")
    return channels
