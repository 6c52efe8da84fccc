"""Overlapping tiles for predict_onnx.py: their places and weights, blending of their logits, images at another scale.

`far_scale` says that an image comes to the network at another scale than those of training.

This file stands by itself: NumPy and OpenCV only. It may be copied, changed and shipped together with the model.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import cv2
import numpy as np

_SIGMA = 1 / 8  # standard deviation of the Gaussian weights, as a share of the tile's side
_TILES_AT_ONCE = 4  # in one call of the network
_BLOCK_ROWS = 512  # of an image that are resized at once
_FAR = 2.0  # factor by which a scale may differ from that of training before it is said


class Axis(NamedTuple):
    """Tiles along the rows or the columns of an image. The last tile may reach beyond the image."""

    starts: tuple[int, ...]
    """First row (column) of each tile."""
    weights: tuple[np.ndarray, ...]
    """Weight of each row (column) of each tile, `[side]` float32; they add up to 1 wherever the image is."""
    end: int
    """End of the last tile."""


def place_tiles(length: int, side: int, fit: dict[str, Any], multiple: int) -> Axis:
    """Place tiles along one axis, at distances as equal as `multiple` allows; the last one ends with the image.

    Args:
      length: number of rows (columns) of the image.
      side: number of rows (columns) of a tile.
      fit: `contract["fit"]`: overlap, blend, and the radius within which the network sees (None: without limit).
      multiple: number that each tile's first row is a multiple of, so that the network's poolings see the same blocks
        of pixels in a tile as in the whole image.
    """
    stride = max(multiple, int(side * (1.0 - fit["overlap"]) + 1e-9) // multiple * multiple)
    last = max(0, -(-length // multiple) * multiple - side)
    steps = -(-last // stride)
    starts = (*(i * last // steps // multiple * multiple for i in range(steps)), last)
    weights = [_window(side, fit["blend"])] * len(starts)
    for i in range(1, len(starts)):
        shared = starts[i - 1] + side - starts[i]
        radius = fit["radius"]
        cut = radius if radius is not None and 2 * radius <= shared else 0  # where a tile lacks what lies beyond it
        falling = _falling(side, shared, cut, fit["blend"])
        weights[i - 1] = weights[i - 1] * falling
        weights[i] = weights[i] * falling[::-1]
    sums = np.zeros(last + side)
    for start, weight in zip(starts, weights, strict=True):
        sums[start : start + side] += weight
    normalised = (weight / sums[start : start + side] for start, weight in zip(starts, weights, strict=True))
    return Axis(starts, tuple(weight.astype(np.float32) for weight in normalised), last + side)


def _window(side: int, blend: str) -> np.ndarray:
    """Return the weights of a tile without neighbours."""
    if blend == "trapezoid":
        return np.ones(side)
    return np.exp(-0.5 * ((np.arange(side) - (side - 1) / 2) / (_SIGMA * side)) ** 2)


def _falling(side: int, shared: int, cut: int, blend: str) -> np.ndarray:
    """Return factors of weights towards a tile's end: 0 on the last `cut` rows, and a ramp for the trapezoid."""
    from_end = side - np.arange(side)  # 1 on the last row
    if blend == "trapezoid" and shared > 2 * cut:
        return np.clip((from_end - cut - 0.5) / (shared - 2 * cut), 0.0, 1.0)
    return (from_end > cut).astype(np.float64)


def blended_rows(
    image: np.ndarray, fit: dict[str, Any], multiple: int, network: Callable[[np.ndarray], np.ndarray]
) -> Iterator[np.ndarray]:
    """Yield the blended logits of an image, `[rows w k]` float32, from the top to the bottom.

    Args:
      image: `[h w c]` of any size, at the scale of the network.
      fit, multiple: as in `place_tiles`; the size of a tile is height and width of `fit`.
      network: function from tiles `[b h w c]` to their logits `[b h w k]`.
    """
    height, width = image.shape[:2]
    side, columns_side = fit["height"], fit["width"]
    rows, columns = (place_tiles(height, side, fit, multiple), place_tiles(width, columns_side, fit, multiple))
    image = np.pad(image, ((0, rows.end - height), (0, columns.end - width), (0, 0)), mode="symmetric")
    below = None  # what a row of tiles has added to the rows that it shares with the next one
    for top, row_weights, end in zip(rows.starts, rows.weights, (*rows.starts[1:], height), strict=True):
        band = None
        for first in range(0, len(columns.starts), _TILES_AT_ONCE):
            lefts = columns.starts[first : first + _TILES_AT_ONCE]
            tiles = [image[top : top + side, left : left + columns_side] for left in lefts]
            for column, logits in enumerate(network(np.stack(tiles)), start=first):
                if band is None:
                    band = np.zeros((side, columns.end, logits.shape[-1]), np.float32)
                left, weights = columns.starts[column], columns.weights[column]
                band[:, left : left + columns_side] += logits * (row_weights[:, None, None] * weights[None, :, None])
        assert band is not None
        if below is not None:
            band[: len(below)] += below
        yield band[: end - top, :width]
        below = band[end - top :]


def scale_image(image: np.ndarray, scale: float) -> np.ndarray:
    """Return an image `[h w c]`, uint8 or uint16, at a multiple of its size, with at least one pixel."""
    if scale == 1.0:
        return image
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    by_area = height <= image.shape[0] and width <= image.shape[1]
    blocks = (image[y : y + _BLOCK_ROWS].astype(np.float32) for y in range(0, len(image), _BLOCK_ROWS))
    largest = np.iinfo(image.dtype).max
    resized = resize_rows(blocks, len(image), height, width, by_area=by_area)
    return np.concatenate([np.clip(np.rint(block), 0, largest).astype(image.dtype) for block in resized])


def resize_rows(
    blocks: Iterable[np.ndarray], num_rows: int, height: int, width: int, *, by_area: bool = False
) -> Iterator[np.ndarray]:
    """Resize an array that comes in blocks of rows, `[rows w c]` float32; the result comes in blocks too.

    Args:
      blocks: blocks from the top to the bottom.
      num_rows: number of rows of all blocks together.
      height, width: size of the result.
      by_area: take the mean over the area of each new pixel, for images that shrink; otherwise interpolate bilinearly.
    """
    rows, weights = _row_weights(num_rows, height, by_area)
    ends = rows.max(axis=1) + 1
    held, start, done = None, 0, 0  # rows from `start` on that are still needed; rows of the result so far
    for block in blocks:
        block = resize(block, len(block), width, cv2.INTER_AREA if by_area else cv2.INTER_LINEAR)
        held = block if held is None else np.concatenate([held, block])
        ready = int(np.searchsorted(ends, start + len(held), side="right"))
        if ready > done:
            result = np.zeros((ready - done, *held.shape[1:]), np.float32)
            for tap in range(rows.shape[1]):  # in this order, in float32: as the library does
                result += held[rows[done:ready, tap] - start] * weights[done:ready, tap, None, None]
            yield result
            done = ready
        first = int(rows[done].min()) if done < height else start + len(held)
        held, start = held[max(0, first - start) :], max(start, min(first, start + len(held)))


def _row_weights(num_rows: int, height: int, by_area: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows that each of `height` new rows is made of, and their weights, both `[height taps]`."""
    ratio = num_rows / height
    if by_area:
        edges = np.arange(height + 1) * ratio
        rows = np.floor(edges[:-1]).astype(np.int64)[:, None] + np.arange(int(np.ceil(ratio)) + 1)
        overlap = np.minimum(rows + 1, edges[1:, None]) - np.maximum(rows, edges[:-1, None])
        weights = np.clip(overlap, 0.0, None) / ratio
    else:
        position = np.clip((np.arange(height) + 0.5) * ratio - 0.5, 0, num_rows - 1)
        above = np.minimum(position.astype(np.int64), max(num_rows - 2, 0))
        part = position - above
        rows = np.stack([above, np.minimum(above + 1, num_rows - 1)], axis=1)
        weights = np.stack([1 - part, part], axis=1)
    is_used = weights > 1e-6
    rows = np.where(is_used, rows, rows[:, :1])
    return np.minimum(rows, num_rows - 1), np.where(is_used, weights, 0.0).astype(np.float32)


def resize(array: np.ndarray, height: int, width: int, interpolation: int) -> np.ndarray:
    """Resize an `[h w c]` array with any number of channels."""
    if array.shape[:2] == (height, width):
        return array
    parts, start, channels = [], 0, array.shape[-1]
    while start < channels:  # OpenCV rounds two channels otherwise than one, three or four
        count = {1: 1, 2: 1, 3: 3}.get(channels - start, 4)
        part = np.ascontiguousarray(array[..., start : start + count])
        part = cv2.resize(part, (width, height), interpolation=interpolation)
        parts.append(part[..., None] if part.ndim == 2 else part)
        start += count
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)


def far_scale(contract: dict[str, Any], height: int, width: int) -> str:
    """Say that the network sees an image of this size at another scale than the images that it was trained on.

    Args:
      contract: facts about the network; `contract["trained"]` has the sizes of the images and the scale of training.
      height: the image's own height.
      width: the image's own width.

    Returns:
      What is different and what to do, as `unet-jax predict` says it; empty if the scale is near that of training, or
      if it is not known.
    """
    trained, fit = contract.get("trained"), contract["fit"]
    if not trained:
        return ""
    (low_h, low_w), (high_h, high_w) = trained["smallest"], trained["largest"]
    known = f"{low_w}x{low_h}" if (low_h, low_w) == (high_h, high_w) else f"{low_w}x{low_h} to {high_w}x{high_h}"
    found = f"is {width}x{height} pixels (width x height), but the images that the network was trained on are {known}"
    if fit["kind"] in ("stretch", "pad"):
        too_large, too_small = max(height / high_h, width / high_w), max(low_h / height, low_w / width)
        if fit["kind"] == "pad":  # one scale for both sides; the largest and the smallest that training may have had
            seen_at = min(fit["height"] / height, fit["width"] / width)
            too_large = min(fit["height"] / high_h, fit["width"] / high_w) / seen_at
            too_small = seen_at / min(fit["height"] / low_h, fit["width"] / low_w)
        factor, change = (too_large, "smaller") if too_large >= too_small else (too_small, "larger")
        if factor <= _FAR:
            return ""
        return (
            f"{found}: resized to {fit['width']}x{fit['height']}, its objects become {factor:.3g} times {change} than "
            f"any that it knows. Export the run with --fit crop, which keeps the scale of training."
        )
    ratio = fit["scale"] / trained["scale"]
    if not 1 / _FAR < ratio < _FAR:
        change = f"{ratio:.3g} times larger" if ratio > 1 else f"{1 / ratio:.3g} times smaller"
        return (
            f"is looked at with the scale {fit['scale']:g}, but the network was trained at {trained['scale']:g}: its "
            f"objects become {change} than those that it knows. Export the run with --scale {trained['scale']:g}."
        )
    reduced = min(low_h / height, low_w / width)
    if reduced <= _FAR:
        return ""
    return (
        f"{found}: if it is a reduced picture of as much, its objects are {reduced:.3g} times smaller than those that "
        f"the network knows. Then export the run with --scale {fit['scale'] * reduced:.3g}."
    )
