"""Dice of constant masks: masks that are the same for every image, whatever it shows. A network must beat them."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, UInt8

from unet_jax.data.pixels import resize_image

GRID = 32
"""Rows and columns of the blocks that an image is divided into. A constant mask is made of whole blocks."""
_THRESHOLDS = np.arange(0.05, 1.0, 0.05, dtype=np.float32)


def share_map(inside: Bool[np.ndarray, "h w k"]) -> UInt8[np.ndarray, "g g k"]:
    """Return the share of each block of an image that is inside each class, 0 to 255, on a grid of `GRID` x `GRID`.

    Example:
      >>> left_half = np.zeros((64, 128, 1), bool)
      >>> left_half[:, :64] = True
      >>> share_map(left_half)[0, [0, 15, 16], 0].tolist()
      [255, 255, 0]
    """
    return resize_image(inside.astype(np.uint8) * 255, GRID, GRID)


def constant_dice(
    train_maps: Sequence[UInt8[np.ndarray, "g g k"]],
    maps: Sequence[UInt8[np.ndarray, "g g k"]],
    shares: Float[np.ndarray, "n k"],
    train_known: Sequence[UInt8[np.ndarray, "g g k"]] | None = None,
    known: Sequence[UInt8[np.ndarray, "g g k"]] | None = None,
) -> tuple[float, ...]:
    """Return the mean per-image Dice of each class's best constant mask.

    The masks tried are the empty mask, the full mask, and the blocks where the mean of the training masks reaches one
    of 19 thresholds. So the result is a lower bound of what can be reached without a look at the image.

    Args:
      train_maps: maps of the training images, from `share_map`.
      maps: maps of the n images that are scored.
      shares: share of all pixels of these images in each class, which is exact where the maps are rounded.
      train_known, known: maps of the pixels that are not ignored; None: all. Ignored pixels count nowhere, and an image
        that ignores all pixels of a class has no part in its mean.

    Returns:
      One number per class, 0 for one that all images ignore; empty if there are no images.

    Example:
      >>> half = np.zeros((GRID, GRID, 1), np.uint8)
      >>> half[:, :16] = 255
      >>> constant_dice([half, half], [half], np.array([[0.5]]))  # the best mask is that half
      (1.0,)
    """
    if not len(maps) or not len(train_maps):
        return ()
    return tuple(
        _best_dice(
            _mean_map(train_maps, train_known, k),
            _rows(maps, k),
            shares[:, k],
            None if known is None else _rows(known, k),
        )
        for k in range(shares.shape[1])
    )


def _mean_map(
    maps: Sequence[UInt8[np.ndarray, "g g k"]], known: Sequence[UInt8[np.ndarray, "g g k"]] | None, k: int
) -> Float[np.ndarray, "g g"]:
    """Return the mean of the maps of one class over images, of each block's pixels that are not ignored."""
    total = sum((m[..., k].astype(np.float64) for m in maps), np.zeros((GRID, GRID)))
    if known is None:
        return total / (255.0 * len(maps))
    return total / np.maximum(sum((m[..., k].astype(np.float64) for m in known), np.zeros((GRID, GRID))), 1.0)


def _rows(maps: Sequence[UInt8[np.ndarray, "g g k"]], k: int) -> Float[np.ndarray, "n b"]:
    """Return the shares of one class as one row for each image."""
    return np.stack([m[..., k].ravel() for m in maps]).astype(np.float32) / 255.0


def _best_dice(
    mean_map: Float[np.ndarray, "g g"],
    maps: Float[np.ndarray, "n b"],
    shares: Float[np.ndarray, " n"],
    known: Float[np.ndarray, "n b"] | None = None,
) -> float:
    """Return the mean per-image Dice of the best constant mask of one class."""
    if known is not None:
        counted = known.any(axis=1)
        if not counted.any():
            return 0.0
        maps, shares, known = maps[counted], shares[counted], known[counted]
    blocks = mean_map.size
    masks = np.concatenate(
        [np.ones((1, blocks), bool), mean_map.reshape(1, -1) >= _THRESHOLDS[:, None]]
    )  # [m b]: the full mask, then those of the thresholds
    overlap = maps @ masks.T.astype(np.float32) / blocks
    # The maps' own sums are rounded. Scaled to the exact shares, the overlap can never be larger than the class.
    overlap *= (shares / np.maximum(maps.mean(axis=1), 1e-12))[:, None]
    claimed = masks.mean(axis=1)[None, :] if known is None else known @ masks.T.astype(np.float32) / blocks
    total = shares[:, None] + claimed
    dice = np.where(total > 0.0, 2.0 * overlap / np.maximum(total, 1e-12), 1.0).mean(axis=0)
    return round(float(max(dice.max(), np.mean(shares == 0.0))), 6)
