"""Sources of samples by index: decoded from files at their own size, resized to the network's size, kept in memory."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from etils import epath

from unet_jax._types import Sample
from unet_jax.config import DataConfig
from unet_jax.data.layout import Layout, Record
from unet_jax.data.pixels import BadSampleError, read_gray, read_image, read_mask, resize_image, resize_mask


class Source(Protocol):
    """Random access to samples. Reading is thread-safe, and the same index always returns the same sample."""

    @property
    def ids(self) -> Sequence[str]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


class FileSource:
    """Samples at their own size, decoded from files at each access.

    Args:
      layout: data set that the records belong to.
      records: samples of this source, in its order.
      soft_masks: accept gray levels in mask files as partial membership.
    """

    def __init__(self, layout: Layout, records: Sequence[Record], *, soft_masks: bool = False):
        self._layout = layout
        self._records = tuple(records)
        self._soft = soft_masks

    @property
    def ids(self) -> Sequence[str]:
        return [r.id for r in self._records]

    @property
    def records(self) -> Sequence[Record]:
        return self._records

    @property
    def layout(self) -> Layout:
        return self._layout

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Sample:
        """Decode a sample; raise BadSampleError, which names the file, the value found and the remedy, if it is bad."""
        record = self._records[index]
        image = read_image(record.image)
        if self._layout.index_values:
            mask = self._classes_of(record.masks[0], image)
        else:
            planes = [self._plane(path, image) for path in record.masks]
            mask = np.stack(planes, axis=-1)
        return Sample(image, mask)

    def _plane(self, path: epath.Path | None, image: np.ndarray) -> np.ndarray:
        """Read the mask of one class, `[h w]` uint8; without a file it is empty."""
        if path is None:
            return np.zeros(image.shape[:2], np.uint8)
        plane = read_mask(path, soft=self._soft)
        _check_size(path, plane, image)
        return plane

    def _classes_of(self, path: epath.Path | None, image: np.ndarray) -> np.ndarray:
        """Read the masks of all classes, `[h w k]` uint8, from an index map; without a file they are empty."""
        if path is None:
            return np.zeros((*image.shape[:2], len(self._layout.class_names)), np.uint8)
        indices = read_gray(path, class_numbers=True).astype(np.int64)
        _check_size(path, indices, image)
        known = self._layout.known_values
        for value in np.unique(indices):
            if int(value) not in known:
                raise BadSampleError(
                    f"{path}: has the value {int(value)}, but the known values, 0 and those of data.index_values, are "
                    f"{sorted(known)}. Name the class of this value there, or correct the file."
                )
        planes = [np.isin(indices, list(values)) for values in self._layout.index_values]
        return np.stack(planes, axis=-1).astype(np.uint8) * np.uint8(255)


def _check_size(path: epath.Path, mask: np.ndarray, image: np.ndarray) -> None:
    """Raise BadSampleError unless mask and image have the same size."""
    if mask.shape[:2] != image.shape[:2]:
        is_rotated = mask.shape[1::-1] == image.shape[:2]
        remedy = "One of them is rotated: apply its EXIF rotation." if is_rotated else "Export both at the same size."
        raise BadSampleError(
            f"{path}: is {mask.shape[1]}x{mask.shape[0]} pixels (width x height), but its image is "
            f"{image.shape[1]}x{image.shape[0]}. {remedy}"
        )


class ResizedSource:
    """Samples of another source, resized to squares of data.image_size."""

    def __init__(self, source: Source, config: DataConfig):
        self._source = source
        self._size = config.image_size
        self._linear = config.mask_interpolation == "linear"

    @property
    def ids(self) -> Sequence[str]:
        return self._source.ids

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Sample:
        sample = self._source[index]
        image = resize_image(sample.image, self._size, self._size)
        return Sample(image, resize_mask(sample.mask, self._size, self._size, linear=self._linear))


class MemorySource:
    """Samples of another source, kept in memory after their first access; every worker process keeps its own."""

    def __init__(self, source: Source):
        self._source = source
        self._samples: dict[int, Sample] = {}

    def __getstate__(self) -> dict[str, object]:
        return {"_source": self._source, "_samples": {}}

    @property
    def ids(self) -> Sequence[str]:
        return self._source.ids

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Sample:
        sample = self._samples.get(index)
        if sample is None:
            sample = self._samples.setdefault(index, self._source[index])  # atomic: threads agree on one array
        return sample
