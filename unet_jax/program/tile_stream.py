"""Images of any size through a network of one input size: tiles in full batches, and blended logits as they are ready.

The tiles of all images form one stream, so that batches are full also where images have few tiles. Reading and cutting
run ahead in a thread, and while a batch is computed, the results of the one before are blended.
"""

import collections
import contextlib
import dataclasses
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from jax.sharding import Mesh

from unet_jax._types import InputError, PyTree
from unet_jax.data.images.rows import ImageRows
from unet_jax.data.pixels import BadSampleError
from unet_jax.data.threads import PrefetchIterator
from unet_jax.devices.mesh import fetch, put_whole_batch
from unet_jax.program.tiles import Axis, Blender, Tiling

T = TypeVar("T")


class Patch(NamedTuple, Generic[T]):
    """Finished values of a rectangle of an image. The patches of an image come from the top to the bottom."""

    image: T
    """Companion that was given together with the image."""
    y: int
    """First row of the rectangle."""
    x: int
    """First column of the rectangle."""
    values: np.ndarray
    """Logits or probabilities, `[h w k]` float32."""
    is_last: bool
    """True if the image is complete with this patch."""


class Failure(NamedTuple, Generic[T]):
    """End of an image that could not be read to its end."""

    image: T
    """Companion that was given together with the image."""
    error: InputError
    """Reason, with the file's name."""


@dataclasses.dataclass(frozen=True)
class Network:
    """A network on its devices, for batches of at most two sizes."""

    start: Callable[[np.ndarray], Any]
    """Function that starts the computation of a batch `[b h w c]` and does not wait for it."""
    finish: Callable[[Any], np.ndarray]
    """Function that waits for what `start` returned, and returns `[b h w k]` on the host."""
    batch_size: int
    """Number of images in a full batch."""
    small_batch_size: int = 1
    """Number of images in a batch where there are not enough for a full one."""


def on_devices(
    step: Callable[[PyTree, PyTree, Any], Any], params: PyTree, batch_stats: PyTree, mesh: Mesh, *, batch_size: int
) -> Network:
    """Return a network whose step, such as a `LogitsStep`, is computed on all devices of a mesh.

    Args:
      step: function `(params, batch_stats, images) -> values`.
      params: parameters, replicated over the mesh.
      batch_stats: running statistics, replicated over the mesh.
      mesh: devices.
      batch_size: number of images in a full batch, which is rounded up to a multiple of the devices that divide it.
    """
    shares = mesh.shape["data"]

    def start(images: np.ndarray) -> Any:
        return step(params, batch_stats, put_whole_batch(images, mesh))

    return Network(start, lambda values: np.asarray(fetch(values, mesh)), batch_size + -batch_size % shares, shares)


def run_batches(
    network: Network, items: Iterable[tuple[np.ndarray | None, T]]
) -> Iterator[tuple[np.ndarray | None, T]]:
    """Compute every image of a stream, in full batches if there are enough of them, and yield the values in order.

    Only one batch size is used, so that only one program is compiled: full batches, of which the last one is filled
    with zeros, or small ones if all images together do not fill one.

    Args:
      network: network on its devices.
      items: images `[h w c]` of one shape, each with a companion. A companion without an image (None) passes through.

    Yields:
      Values `[h w k]`, or None, and the companion.
    """
    begun: collections.deque[tuple[Any, list[tuple[np.ndarray | None, T]]]] = collections.deque()
    pending: list[tuple[np.ndarray | None, T]] = []
    count, any_full = 0, False

    def begin(group: list[tuple[np.ndarray | None, T]], size: int) -> None:
        images = [image for image, _ in group if image is not None]
        batch = np.zeros((size, *images[0].shape), images[0].dtype) if images else None
        if batch is not None:
            batch[: len(images)] = images
        begun.append((None if batch is None else network.start(batch), group))

    def end() -> Iterator[tuple[np.ndarray | None, T]]:
        started, group = begun.popleft()
        values = iter(()) if started is None else iter(network.finish(started))
        for image, companion in group:
            yield None if image is None else next(values), companion

    for item in items:
        pending.append(item)
        count += item[0] is not None
        if count == network.batch_size:
            begin(pending, network.batch_size)
            pending, count, any_full = [], 0, True
            if len(begun) > 1:
                yield from end()
    size = network.batch_size if any_full else network.small_batch_size
    while pending:
        part = _first(pending, size)
        begin(part, size)
        pending = pending[len(part) :]
        if len(begun) > 1:
            yield from end()
    while begun:
        yield from end()


def _first(items: list[tuple[np.ndarray | None, T]], num_images: int) -> list[tuple[np.ndarray | None, T]]:
    """Return the first items with at most so many images, and the companions without an image that follow."""
    count = 0
    for i, (image, _) in enumerate(items):
        count += image is not None
        if count > num_images:
            return items[:i]
    return items


class _Place(NamedTuple):
    """Position of a tile."""

    axes: tuple[Axis, Axis]
    row: int
    column: int


def blended(network: Network, images: Iterable[tuple[ImageRows, T]], tiling: Tiling) -> Iterator[Patch[T] | Failure[T]]:
    """Compute the logits of images of any size by tiles.

    In memory are a few batches of tiles, and of an image about the rows of one row of tiles.

    Args:
      network: network on its devices, which computes logits.
      images: images, each with a companion.
      tiling: size, overlap and weights of the tiles.

    Yields:
      Blended logits of rectangles that cover each image once. An image whose file cannot be read to its end ends with
      a `Failure`.
    """

    def tiles() -> Generator[tuple[np.ndarray | None, tuple[T, _Place | InputError]], None, None]:
        for image, companion in images:
            try:
                for tile, place in cut(image, tiling):
                    yield tile, (companion, place)
            except BadSampleError as error:
                yield None, (companion, error)

    blender = None
    prefetched = PrefetchIterator(tiles(), lambda tile: tile, count=2 * network.batch_size)
    with contextlib.closing(prefetched):
        for logits, (companion, place) in run_batches(network, prefetched):
            if isinstance(place, InputError):
                yield Failure(companion, place)
                continue
            assert logits is not None
            (rows, columns), row, column = place
            if blender is None or row == column == 0:
                blender = Blender(place.axes, logits.shape[-1])
            is_last = row + 1 == len(rows.starts) and column + 1 == len(columns.starts)
            yield Patch(companion, *blender.add(row, column, logits), is_last)


def cut(image: ImageRows, tiling: Tiling) -> Iterator[tuple[np.ndarray, _Place]]:
    """Cut an image into tiles `[h w c]`, row by row of tiles; beyond its end, at the bottom and right, it is mirrored.

    Args:
      image: image, of which only the rows of one row of tiles are in memory.
      tiling: size and overlap of the tiles.

    Yields:
      Tile and position.
    """
    rows, columns = axes = tiling.axes(image.height, image.width)
    end = rows.starts[-1] + rows.side
    x = _mirrored(columns.starts[-1] + columns.side, image.width)
    blocks = image.blocks()
    held, first = next(blocks), 0
    for row, start in enumerate(rows.starts):
        while first + len(held) < min(start + rows.side, image.height):
            held = np.concatenate([held, next(blocks)])
        y = _mirrored(end, image.height)[start : start + rows.side] - first
        window = held[y[0] : y[0] + rows.side] if y[-1] - y[0] == rows.side - 1 else held[y]
        if len(x) > image.width:
            window = window[:, x]
        for column, left in enumerate(columns.starts):
            yield window[:, left : left + columns.side], _Place(axes, row, column)
        if row + 1 < len(rows.starts):
            # Rows of the next tiles, and those that are mirrored at the bottom.
            needed = min(rows.starts[row + 1], max(0, 2 * image.height - end))
            held, first = held[needed - first :] if needed > first else held, max(needed, first)


def _mirrored(count: int, length: int) -> np.ndarray:
    """Return the positions, below `length`, of `count` positions of an axis that is mirrored at its end."""
    position = np.arange(count) % (2 * length)
    return np.where(position < length, position, 2 * length - 1 - position)
