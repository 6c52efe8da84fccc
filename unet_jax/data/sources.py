"""Samples by position: decoded at their own size, then at the network's size, kept in memory where asked."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from etils import epath

from unet_jax._types import Sample
from unet_jax.config import DataConfig
from unet_jax.data.layout import Layout, Record
from unet_jax.data.pixels import BadSampleError, read_gray, read_image, read_mask, resize_image, resize_mask


class Source(Protocol):
    """Random access to samples; reading one is thread-safe and always gives the same."""

    @property
    def ids(self) -> Sequence[str]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


class FileSource:
    """Samples at their own size, decoded from files at each access."""

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
        """Raises `BadSampleError` naming the file, the value found and the remedy."""
        record = self._records[index]
        image = read_image(record.image)
        if self._layout.index_values:
            mask = self._classes_of(record.masks[0], image)
        else:
            planes = [self._plane(path, image) for path in record.masks]
            mask = np.stack(planes, axis=-1)
        return Sample(image, mask)

    def _plane(self, path: epath.Path | None, image: np.ndarray) -> np.ndarray:
        if path is None:
            return np.zeros(image.shape[:2], np.uint8)
        plane = read_mask(path, soft=self._soft)
        _check_size(path, plane, image)
        return plane

    def _classes_of(self, path: epath.Path | None, image: np.ndarray) -> np.ndarray:
        if path is None:
            return np.zeros((*image.shape[:2], len(self._layout.class_names)), np.uint8)
        indices = read_gray(path, class_numbers=True).astype(np.int64)
        _check_size(path, indices, image)
        known = self._layout.known_values
        for value in np.unique(indices):
            if int(value) not in known:
                raise BadSampleError(
                    f"{path}: has the value {int(value)}, but data.index_values and 0 give {sorted(known)}. Name the "
                    f"class of this value, or correct the file."
                )
        planes = [np.isin(indices, list(values)) for values in self._layout.index_values]
        return np.stack(planes, axis=-1).astype(np.uint8) * np.uint8(255)


def _check_size(path: epath.Path, mask: np.ndarray, image: np.ndarray) -> None:
    if mask.shape[:2] != image.shape[:2]:
        turned = mask.shape[1::-1] == image.shape[:2]
        remedy = "One of them is turned: apply its EXIF rotation." if turned else "Export both at the same size."
        raise BadSampleError(
            f"{path}: is {mask.shape[1]}x{mask.shape[0]} pixels (width x height), but its image is "
            f"{image.shape[1]}x{image.shape[0]}. {remedy}"
        )


class ResizedSource:
    """Samples of one size."""

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
    """Keeps every sample that was read once. Worker processes each keep their own."""

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
