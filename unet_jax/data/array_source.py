"""Samples from arrays in memory, and the meaning of the arrays that a source may give."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from unet_jax._types import InputError, Sample

_FILE_TYPES = {"uint8": "uint8", "uint16": "uint16", "int16": "int16"}  # what each type is written as
_FILE_TYPES |= dict.fromkeys(("float16", "float32", "float64"), "float32")


class ArraySource:
    """Samples from arrays in memory, for `unet_jax.fit`.

    Args:
      images: `[n h w c]`, or `[n h w]` for one channel; or a sequence of images `[h w c]` or `[h w]` that may differ in
        size. uint8, uint16, int16 or floats.
      masks: `[n h w k]`, or `[n h w]` for one class; or a sequence of masks. Each channel is the mask of one class:
        bool, 0 and 1, or 0 and 255; or floats from 0 to 1 (soft masks, with `data.soft_masks`).
      class_names: names of the classes, in the order of the channels; by default class0, class1, ...
      ids: names of the images; by default their numbers.
      valid: where the masks were annotated, in the shapes of `masks` or with one channel for all classes: bool, 0 and
        1, or 0 and 255. Other pixels are ignored (docs/data.md). By default everywhere.

    Raises:
      InputError: the numbers of images, masks, names or ids do not fit each other.

    Example:
      >>> import numpy as np
      >>> from unet_jax import ArraySource
      >>> images = np.zeros((5, 64, 64, 3), np.uint8)
      >>> masks = np.zeros((5, 64, 64, 2), bool)
      >>> source = ArraySource(images, masks, ["cell", "nucleus"])
      >>> len(source), source.class_names, source[0].mask.shape
      (5, ('cell', 'nucleus'), (64, 64, 2))
    """

    def __init__(
        self,
        images: Sequence[Any] | np.ndarray,
        masks: Sequence[Any] | np.ndarray,
        class_names: Sequence[str] = (),
        *,
        ids: Sequence[str] = (),
        valid: Sequence[Any] | np.ndarray | None = None,
    ):
        if len(images) != len(masks):
            raise InputError(f"there are {len(images)} images, but {len(masks)} masks: give one mask for each image.")
        if valid is not None and len(valid) != len(masks):
            raise InputError(f"there are {len(masks)} masks, but {len(valid)} arrays in valid: give one for each mask.")
        if ids and len(ids) != len(images):
            raise InputError(f"there are {len(images)} images, but {len(ids)} ids: give one for each image, or none.")
        if isinstance(class_names, str):
            raise InputError(f"class_names is {class_names!r}, but must be a list of names: [{class_names!r}].")
        self._images, self._masks, self._valid = images, masks, valid
        self.ids: tuple[str, ...] = tuple(ids) or tuple(f"{i:06d}" for i in range(len(images)))
        num_classes = 0
        if len(images):
            num_classes = self[0].mask.shape[-1]
            if class_names and len(class_names) != num_classes:
                raise InputError(
                    f"the masks have {num_classes} channels, but there are {len(class_names)} class names "
                    f"({', '.join(class_names)}): each class has a channel of its own."
                )
        self.class_names: tuple[str, ...] = tuple(class_names) or tuple(f"class{k}" for k in range(num_classes))

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Sample:
        valid = None if self._valid is None else self._valid[index]
        return as_sample(self._images[index], self._masks[index], self.ids[index], valid)


def as_sample(image: Any, mask: Any, name: str, valid: Any = None) -> Sample:
    """Return an image and its masks as a sample, with the conventions of the whole library.

    Args:
      image: `[h w c]` or `[h w]`.
      mask: `[h w k]` or `[h w]`, with values as in `ArraySource`.
      name: id of the sample, for messages.
      valid: `[h w k]`, `[h w 1]` or `[h w]`, with values as in `ArraySource`, or None.

    Returns:
      Image `[h w c]` uint8, uint16, int16 or float32, mask `[h w k]` uint8, 0 to 255, and valid like the mask, or None.

    Raises:
      InputError: a shape, a type or a value cannot be used.
    """
    image, mask = np.asarray(image), np.asarray(mask)
    image = image[..., None] if image.ndim == 2 else image
    mask = mask[..., None] if mask.ndim == 2 else mask
    for what, array in (("image", image), ("mask", mask)):
        if array.ndim != 3 or array.size == 0:
            raise InputError(f"the {what} of {name!r} has shape {array.shape}, but must be [height width channels].")
    if image.shape[:2] != mask.shape[:2]:
        raise InputError(
            f"the mask of {name!r} has {mask.shape[0]}x{mask.shape[1]} pixels (height x width), but its image has "
            f"{image.shape[0]}x{image.shape[1]}."
        )
    if image.dtype.name not in _FILE_TYPES:
        raise InputError(
            f"the image of {name!r} is {image.dtype}, but must be uint8, uint16, int16 or float. Convert it, for "
            f"example by image.astype(np.uint16)."
        )
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise InputError(f"the image of {name!r} has values that are not finite. Replace them, by np.nan_to_num or so.")
    image = image.astype(_FILE_TYPES[image.dtype.name], copy=False)
    if valid is None:
        return Sample(image, _levels(mask, name))
    known = _known(np.asarray(valid), mask.shape, name)
    # Masks under ignored pixels may hold anything, such as 255 for "not annotated" among 0 and 1.
    return Sample(
        image, _levels(np.where(known, mask, 0).astype(mask.dtype), name), known.astype(np.uint8) * np.uint8(255)
    )


def _known(valid: np.ndarray, shape: tuple[int, ...], name: str) -> np.ndarray:
    """Return where a mask was annotated, `[h w k]` bool."""
    valid = valid[..., None] if valid.ndim == 2 else valid
    if valid.shape not in (shape, (*shape[:2], 1)):
        raise InputError(f"valid of {name!r} has shape {valid.shape}, but must have that of the mask, {shape}.")
    is_bool = valid.dtype == np.bool_ or set(np.unique(valid).tolist()) in ({0}, {1}, {255}, {0, 1}, {0, 255})
    if not is_bool:
        raise InputError(
            f"valid of {name!r} has values from {valid.min()} to {valid.max()} ({valid.dtype}), but must be bool, 0 "
            f"and 1, or 0 and 255."
        )
    return np.broadcast_to(valid > 0, shape)


def _levels(mask: np.ndarray, name: str) -> np.ndarray:
    """Return a mask as membership in 256 levels, `[h w k]` uint8."""
    if mask.dtype == np.bool_:
        return mask.astype(np.uint8) * np.uint8(255)
    low, high = mask.min(), mask.max()
    if mask.dtype.kind == "f" and low >= 0.0 and high <= 1.0:
        return np.rint(mask.astype(np.float64) * 255.0).astype(np.uint8)
    if mask.dtype.kind in "iu" and low >= 0:
        if high <= 1:
            return mask.astype(np.uint8) * np.uint8(255)
        if high == 255:
            return mask.astype(np.uint8)
    raise InputError(
        f"the mask of {name!r} has values from {low} to {high} ({mask.dtype}), but each channel is the mask of one "
        f"class: bool, 0 and 1, 0 and 255, or floats from 0 to 1. Class numbers become masks by "
        f"numbers[..., None] == np.arange(1, num_classes + 1)."
    )
