"""Sources of samples by index: decoded from files at their own size, resized to the network's size, kept in memory."""

from collections.abc import Sequence
from typing import Generic, NoReturn, Protocol, TypeVar

import numpy as np
from etils import epath

from unet_jax._types import Sample
from unet_jax.config import DataConfig
from unet_jax.data.fit import fit_of
from unet_jax.data.images.format import ImageFormat, read_as
from unet_jax.data.masks.index_values import color_text, is_in, listed
from unet_jax.data.masks.large_arrays import values_of
from unet_jax.data.masks.placement import ShownImage, placed, shown_image
from unet_jax.data.masks.read import read_class_numbers, read_colors, read_mask
from unet_jax.data.memory import enough_memory
from unet_jax.data.padding import read_part
from unet_jax.data.pixels import BadSampleError, resize_image, resize_mask, resize_valid
from unet_jax.data.records import Layout, Record

T_co = TypeVar("T_co", covariant=True)


class Indexed(Protocol[T_co]):
    """Random access to samples. Reading is thread-safe, and the same index always returns the same one.

    Either all samples say which pixels are ignored (`Sample.valid`), or none does.
    """

    @property
    def ids(self) -> Sequence[str]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> T_co: ...


Source = Indexed[Sample]
"""Random access to samples."""


class FileSource:
    """Samples at their own size, decoded from files at each access.

    Args:
      layout: data set that the records belong to.
      records: samples of this source, in its order.
      soft_masks: accept gray levels in mask files as partial membership.
      image_format: channels and intensities of the images; None reads every image as 8-bit RGB.
    """

    def __init__(
        self,
        layout: Layout,
        records: Sequence[Record],
        *,
        soft_masks: bool = False,
        image_format: ImageFormat | None = None,
    ):
        self._layout = layout
        self._records = tuple(records)
        self._soft = soft_masks
        self._image_format = image_format

    @property
    def ids(self) -> Sequence[str]:
        return [r.id for r in self._records]

    @property
    def records(self) -> Sequence[Record]:
        return self._records

    @property
    def layout(self) -> Layout:
        return self._layout

    @property
    def image_format(self) -> ImageFormat | None:
        return self._image_format

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Sample:
        """Decode a sample; raise BadSampleError, which names the file, the value found and the remedy, if it is bad."""
        with enough_memory(self._records[index].image):
            return self._read(self._records[index])

    def _read(self, record: Record) -> Sample:
        pixels = read_as(record.images, self._image_format)
        image = shown_image(record.image, pixels)
        numbers = None
        if self._layout.index_values:
            numbers = self._numbers(record.masks[0], image)
            mask = self._classes_of(record.masks[0], numbers, image)
        else:
            mask = np.stack([self._plane(paths, image) for paths in record.masks], axis=-1)
        if not self._layout.has_ignored:
            return Sample(pixels, mask)
        valid = self._valid(record, numbers, mask.shape, image)
        return Sample(pixels, mask & valid, valid)

    def _plane(self, paths: Sequence[epath.Path], image: ShownImage) -> np.ndarray:
        """Read the mask of one class, `[h w]` uint8: the union of its files; without any it is empty."""
        union = None
        for path in paths:
            layout = self._layout
            plane = read_mask(path, soft=self._soft, instances=layout.has_objects, threshold=layout.mask_threshold)
            plane = placed(plane, path, image, self._layout.mask_orientation)
            union = plane if union is None else np.maximum(union, plane, out=union)
        return np.zeros(image.size, np.uint8) if union is None else union

    def _valid(
        self, record: Record, numbers: np.ndarray | None, shape: tuple[int, ...], image: ShownImage
    ) -> np.ndarray:
        """Read which pixels are not ignored: `[h w k]` uint8, 255 or 0."""
        valid = np.full(shape, 255, np.uint8)
        if record.ignored:
            of_all, *of_classes = record.ignored
            valid &= np.where(self._plane(of_all, image) >= 128, np.uint8(0), np.uint8(255))[..., None]
            for k, paths in enumerate(of_classes):
                valid[..., k][self._plane(paths, image) >= 128] = 0
        if self._layout.missing_is_unknown:
            is_map = bool(self._layout.index_values)
            for k in range(shape[-1]):
                if not record.masks[0 if is_map else k]:
                    valid[..., k] = 0
        if numbers is not None and self._layout.ignore_values:
            values = [value for value in values_of(numbers) if is_in(value, self._layout.ignore_values)]
            valid[np.isin(numbers, values)] = 0
        return valid

    def _numbers(self, paths: Sequence[epath.Path], image: ShownImage) -> np.ndarray | None:
        """Read the class numbers or colours of an index map, `[h w]`; None without a file."""
        if not paths:
            return None
        numbers = read_colors(paths[0]) if self._layout.has_colors else read_class_numbers(paths[0])
        return placed(numbers, paths[0], image, self._layout.mask_orientation)

    def _classes_of(self, paths: Sequence[epath.Path], numbers: np.ndarray | None, image: ShownImage) -> np.ndarray:
        """Return the masks of all classes, `[h w k]` uint8, by class numbers; without any they are empty."""
        if numbers is None:
            return np.zeros((*image.size, len(self._layout.class_names)), np.uint8)
        values = values_of(numbers)
        for value in values:
            if not is_in(value, (*self._layout.known_values, *self._layout.ignore_values)):
                self._refuse_value(paths[0], numbers, value)
        planes = []
        for ranges in self._layout.index_values:
            planes.append(np.isin(numbers, [value for value in values if is_in(value, ranges)]))
        return np.stack(planes, axis=-1).astype(np.uint8) * np.uint8(255)

    def _refuse_value(self, path: epath.Path, numbers: np.ndarray, value: int) -> NoReturn:
        """Raise BadSampleError for a value of an index map that no class has."""
        y, x = np.argwhere(numbers == value)[0]
        known = ", ".join(map(str, listed(self._layout.known_values, colors=self._layout.has_colors)))
        if self._layout.has_colors:
            raise BadSampleError(
                f"{path}: has the colour {color_text(value)} (row {y}, column {x}), but the known colours, black and "
                f"those of data.index_colors, are {known}. Name its class there, CLASS={color_text(value)} (a class "
                f"that --data.classes leaves out is outside), use --data.ignore-values if it means 'not annotated', or "
                f"correct the file."
            )
        raise BadSampleError(
            f"{path}: has the value {value} (row {y}, column {x}), but the known values, 0 and those of "
            f"data.index_values, are {known}. Name the class of this value there, use --data.ignore-values {value} if "
            f"it means 'not annotated', or correct the file."
        )


class ResizedSource:
    """Samples of another source, resized to data.image_size, also with padding, or with crops by data.scale."""

    def __init__(self, source: Source, config: DataConfig):
        self._source = source
        self._fit = fit_of(config)
        self._linear = config.mask_interpolation == "linear"

    @property
    def ids(self) -> Sequence[str]:
        return self._source.ids

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Sample:
        sample = self._source[index]
        size = self._fit.size_of(*sample.image.shape[:2])
        image, mask = resize_image(sample.image, *size), resize_mask(sample.mask, *size, linear=self._linear)
        valid = None if sample.valid is None else resize_valid(sample.valid, *size, linear=self._linear)
        if self._fit.kind == "pad":
            return read_part(image, mask, valid, (0, 0), self._fit.image_size, with_valid=True)
        return Sample(image, mask if valid is None else mask & valid, valid)


class MemorySource(Generic[T_co]):
    """Samples of another source, kept in memory after their first access; every worker process keeps its own."""

    def __init__(self, source: Indexed[T_co]):
        self._source = source
        self._samples: dict[int, T_co] = {}

    def __getstate__(self) -> dict[str, object]:
        return {"_source": self._source, "_samples": {}}

    @property
    def ids(self) -> Sequence[str]:
        return self._source.ids

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> T_co:
        sample = self._samples.get(index)
        if sample is None:
            sample = self._samples.setdefault(index, self._source[index])  # atomic: threads agree on one array
        return sample
