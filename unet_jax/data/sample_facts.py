"""Facts about one sample that an audit collects: sizes, pixels and objects of each class, gray levels, digest."""

import hashlib
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from unet_jax._types import Sample
from unet_jax.data.constant_masks import share_map
from unet_jax.data.fit import Fit
from unet_jax.data.pixels import resize_mask, resize_valid

NUM_BINS = 256
"""Number of bins of the histogram of an image's values, from 0 to the largest value of its type."""
_ROWS_AT_ONCE = 2**20  # pixels per matrix product; float32 counts exactly up to 2**24
_INSIDE = 128  # a mask's pixel is in the class from this value on


class SampleFacts(NamedTuple):
    """Facts about one usable sample with k classes and c channels."""

    size: tuple[int, int]  # height and width in pixels
    joint: np.ndarray  # [k k] float64: number of pixels in both classes, at the image's own size
    known: np.ndarray  # [k k] float64: number of pixels in the first class where the second one is not ignored
    num_annotated: np.ndarray  # [k] int64: number of pixels where the class is not ignored
    num_seen: np.ndarray  # [k] int64: number of pixels in the class at the network's size
    num_objects: np.ndarray  # [k] int64: number of connected objects at the image's own size
    num_vanished: np.ndarray  # [k] int64: how many of these have no pixel at the network's size
    growth_for_all: np.ndarray  # [k] int64: factor of the network's size at which none vanishes
    brightest: int  # largest value of the image, as 0 to 255
    digest: str  # digest of the decoded pixels
    histogram: np.ndarray  # [c 256] int64: number of pixels in each bin of values
    share_map: np.ndarray  # [g g k] uint8: share of each block of the image in each class (`constant_masks`)
    known_map: np.ndarray | None = None  # [g g k] uint8: share of each block that is not ignored; None: all

    @property
    def num_pixels(self) -> int:
        """Number of pixels of the image."""
        return self.size[0] * self.size[1]


def facts_of(sample: Sample, fit: Fit | None, *, linear_masks: bool = False) -> SampleFacts:
    """Collect the facts about a sample.

    Args:
      sample: image `[h w c]` uint8 or uint16, mask `[h w k]` uint8, and valid `[h w k]` uint8 or None, at their own
        size.
      fit: size at which the network sees images, or None for the image's own size.
      linear_masks: whether masks are resized bilinearly (`data.mask_interpolation`).
    """
    image, mask, valid = sample
    white, num_classes, joint = np.iinfo(image.dtype).max, mask.shape[-1], _joint_counts(mask, mask)
    # A copy of one class at a time: a mask of many classes and megapixels need not be in memory twice.
    classes = [
        _seen_objects(
            np.ascontiguousarray(mask[..., k : k + 1]),
            None if valid is None else np.ascontiguousarray(valid[..., k : k + 1]),
            fit,
            linear_masks,
        )
        for k in range(num_classes)
    ]
    num_seen, num_objects, num_vanished, growth_for_all = (
        np.array(values, np.int64) for values in zip(*classes, strict=True)
    )
    return SampleFacts(
        size=image.shape[:2],
        joint=joint,
        known=np.repeat(np.diag(joint)[:, None], num_classes, axis=1) if valid is None else _joint_counts(mask, valid),
        num_annotated=np.full(num_classes, mask[..., 0].size) if valid is None else (valid > 0).sum(axis=(0, 1)),
        num_seen=num_seen,
        num_objects=num_objects,
        num_vanished=num_vanished,
        growth_for_all=growth_for_all,
        brightest=int(image.max()) * 255 // white,
        digest=pixel_digest(image),
        histogram=_histogram(image, white + 1),
        share_map=_share_maps(mask),
        known_map=None if valid is None else _share_maps(valid),
    )


def _share_maps(mask: UInt8[np.ndarray, "h w k"]) -> np.ndarray:
    """Return the share of each block inside each class, one class at a time: `[g g k]` uint8."""
    return np.concatenate([share_map(mask[..., k : k + 1] >= _INSIDE) for k in range(mask.shape[-1])], axis=-1)


def pixel_digest(image: np.ndarray) -> str:
    """Return a digest of an image's decoded pixels, so that copies in files of other kinds have the same one.

    Args:
      image: `[h w c]`, of any type.

    Returns:
      32 hexadecimal digits.

    Example:
      >>> gray = np.zeros((2, 3, 1), np.uint8)
      >>> pixel_digest(gray) == pixel_digest(gray.copy()), pixel_digest(gray) == pixel_digest(gray.reshape(3, 2, 1))
      (True, False)
    """
    digest = hashlib.sha256(f"{image.shape} {image.dtype.str}".encode())
    digest.update(np.ascontiguousarray(image).data.cast("B"))
    return digest.hexdigest()[:32]


def _joint_counts(first: UInt8[np.ndarray, "h w k"], second: UInt8[np.ndarray, "h w k"]) -> np.ndarray:
    """Count the pixels that are in channel i of the first and in channel j of the second array: `[k k]` float64."""
    pair = [(pixels >= _INSIDE).reshape(-1, pixels.shape[-1]) for pixels in (first, second)]
    joint = np.zeros((first.shape[-1], second.shape[-1]))
    for start in range(0, len(pair[0]), _ROWS_AT_ONCE):
        rows, others = (inside[start : start + _ROWS_AT_ONCE].astype(np.float32) for inside in pair)
        joint += rows.T @ others
    return joint


def _histogram(image: np.ndarray, num_values: int) -> np.ndarray:
    """Count the values of each channel in bins of equal width: `[c 256]` int64."""
    counts = np.zeros((image.shape[-1], NUM_BINS), np.int64)
    rows = max(1, 2**24 // image.shape[1])  # OpenCV counts in float32, which is exact up to 2**24
    for start in range(0, len(image), rows):
        part = np.ascontiguousarray(image[start : start + rows])
        for channel in range(image.shape[-1]):
            bins = cv2.calcHist([part], [channel], None, [NUM_BINS], [0, num_values])
            counts[channel] += bins.reshape(-1).astype(np.int64)
    return counts


def _seen_objects(
    plane: UInt8[np.ndarray, "h w 1"],
    valid: UInt8[np.ndarray, "h w 1"] | None,
    fit: Fit | None,
    linear_masks: bool,
) -> tuple[int, int, int, int]:
    """Return what the network sees of one class: its pixels, its objects, those that vanish, and the growth for all.

    An object is a set of pixels that touch by an edge or a corner. It vanishes if no pixel of the resized mask stems
    from it.
    """
    height, width = plane.shape[:2]
    inside = plane[..., 0] >= _INSIDE
    num_labels, labels = cv2.connectedComponents(inside.astype(np.uint8), connectivity=8, ltype=cv2.CV_32S)
    num_objects = num_labels - 1
    if fit is None:
        return int(inside.sum()), num_objects, 0, 1
    size = fit.size_of(height, width)
    seen, alive = _alive(plane, labels, num_labels, size, linear_masks)
    known = True if valid is None else resize_valid(valid, *size, linear=linear_masks)[..., 0] > 0
    num_seen = int((seen & known).sum())
    num_alive = num_now = int(alive.sum())
    growth = 1
    while num_now < num_objects and (size[0] < height or size[1] < width):
        growth *= 2
        size = fit.size_of(height, width, growth)
        num_now = int(_alive(plane, labels, num_labels, size, linear_masks)[1].sum())
    if num_now < num_objects:  # bilinearly, a single pixel is only certain to stay at twice its own size
        growth *= 2
    return num_seen, num_objects, num_objects - num_alive, growth


def _alive(
    plane: UInt8[np.ndarray, "h w 1"], labels: np.ndarray, num_labels: int, size: tuple[int, int], linear_masks: bool
) -> tuple[Bool[np.ndarray, "s t"], Bool[np.ndarray, " n"]]:
    """Return which pixels of the resized mask are inside, and which objects they stem from (label 0 is left out)."""
    height, width = plane.shape[:2]
    seen = resize_mask(plane, *size, linear=linear_masks)[..., 0] >= _INSIDE
    alive = np.zeros(num_labels, bool)
    if linear_masks:
        y, x = np.nonzero(seen)
        for rows in _bilinear_sources(height, size[0]):
            for columns in _bilinear_sources(width, size[1]):
                alive[labels[rows[y], columns[x]]] = True
    else:
        # The bytes of the labels are resized like a mask, so that they are taken from the same pixels as the mask is.
        as_bytes = labels.view(np.uint8).reshape(height, width, 4)
        resized = np.ascontiguousarray(resize_mask(as_bytes, *size)).view(np.int32)[..., 0]
        alive[resized[seen]] = True
    return seen, alive[1:]


def _bilinear_sources(source: int, target: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the two source positions that each of `target` positions is interpolated from."""
    first = np.floor((np.arange(target) + 0.5) * source / target - 0.5).astype(np.int64)
    return np.clip(first, 0, source - 1), np.clip(first + 1, 0, source - 1)
