"""Resizing of images and probabilities that come in blocks of rows: the result comes in blocks of rows too.

Columns are resized by OpenCV, block by block. Rows are weighted sums of the rows that a block or its neighbours hold,
with OpenCV's weights: by area where neither side grows, else bilinearly.
"""

from collections.abc import Iterable, Iterator

import numpy as np
from etils import epy

from unet_jax.data.fit import scaled_size
from unet_jax.data.images.rows import ImageRows
from unet_jax.data.pixels import resize_columns

with epy.lazy_imports():  # imported when it is used, because importing it takes long
    from scipy import sparse

_BLOCK_BYTES = 2**25  # of a block of the result


def scaled(image: ImageRows, scale: float) -> ImageRows:
    """Return an image at another scale.

    Args:
      image: image whose blocks are uint8 or uint16.
      scale: size of the result, as a multiple of the image's.
    """
    if scale == 1.0:
        return image
    height, width = scaled_size(image.height, image.width, scale)

    def blocks() -> Iterator[np.ndarray]:
        by_area = height <= image.height and width <= image.width
        dtype = np.dtype(np.uint8)

        def floats() -> Iterator[np.ndarray]:
            nonlocal dtype
            for block in image.blocks():
                dtype = block.dtype
                yield block.astype(np.float32)

        for block in resize_rows(floats(), image.height, height, width, by_area=by_area):
            yield np.clip(np.rint(block), 0, np.iinfo(dtype).max).astype(dtype)

    return ImageRows(height, width, blocks)


def resize_rows(
    blocks: Iterable[np.ndarray], num_rows: int, height: int, width: int, *, by_area: bool = False
) -> Iterator[np.ndarray]:
    """Resize an array that comes in blocks of rows.

    Args:
      blocks: float32 blocks `[rows w c]` from the top to the bottom.
      num_rows: number of rows of all blocks together.
      height: number of rows of the result.
      width: number of columns of the result.
      by_area: use the mean over the area of each new pixel, for images that shrink; otherwise interpolate bilinearly.

    Yields:
      float32 blocks `[rows width c]`, `height` rows in all.
    """
    weights = _row_weights(num_rows, height, by_area=by_area)
    first_row = np.minimum.reduceat(weights.indices, weights.indptr[:-1])
    end_row = np.maximum.reduceat(weights.indices, weights.indptr[:-1]) + 1
    held, start, done = None, 0, 0  # rows from `start` on that are still needed; rows of the result so far
    for block in blocks:
        resized = resize_columns(block, width, by_area=by_area)
        held = resized if held is None or not len(held) else np.concatenate([held, resized])
        ready = int(np.searchsorted(end_row, start + len(held), side="right"))
        flat = held.reshape(len(held), -1)
        while done < ready:
            end = min(ready, done + max(1, _BLOCK_BYTES // flat[:1].nbytes))
            part = weights[done:end, start : start + len(held)] @ flat
            yield part.astype(np.float32, copy=False).reshape(end - done, *held.shape[1:])
            done = end
        unused = min(int(first_row[done]) - start, len(held)) if done < height else len(held)
        held, start = held[unused:], start + unused


def _row_weights(num_rows: int, height: int, *, by_area: bool) -> "sparse.csr_array":
    """Return the weight of each of `num_rows` rows in each of `height` new rows."""
    ratio = num_rows / height
    if not by_area:
        position = np.clip((np.arange(height) + 0.5) * ratio - 0.5, 0, num_rows - 1)
        above = np.minimum(position.astype(np.int64), max(num_rows - 2, 0))
        below = np.minimum(above + 1, num_rows - 1)
        part = position - above
        values, columns = np.stack([1 - part, part], axis=1), np.stack([above, below], axis=1)
    else:
        edges = np.arange(height + 1) * ratio
        first = np.floor(edges[:-1]).astype(np.int64)
        columns = first[:, None] + np.arange(int(np.ceil(ratio)) + 1)
        overlap = np.minimum(columns + 1, edges[1:, None]) - np.maximum(columns, edges[:-1, None])
        values = np.clip(overlap, 0.0, None) / ratio
        columns = np.minimum(columns, num_rows - 1)
    rows = np.repeat(np.arange(height), columns.shape[1])
    used = values.reshape(-1) > 1e-6
    entries = (values.reshape(-1)[used].astype(np.float32), (rows[used], columns.reshape(-1)[used]))
    weights = sparse.csr_array(entries, shape=(height, num_rows))
    weights.sum_duplicates()
    return weights
