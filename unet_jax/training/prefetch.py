"""Batches on the devices before the step asks for them."""

import functools
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, Generic, Protocol, TypeVar

import jax
from jax.sharding import Mesh

from unet_jax._types import Batch
from unet_jax.config import Config
from unet_jax.config.packing import UNPACKED, Packing
from unet_jax.data.order import TrainOrder
from unet_jax.data.pipeline import batches_with_changes, train_batches
from unet_jax.data.sources import Source
from unet_jax.devices.mesh import batch_shardings, process_share, put_batch, put_rows
from unet_jax.model.packing import pack
from unet_jax.program.augment_step import make_augment_step

T = TypeVar("T")
_CHECK_S = 1.0


class Closable(Protocol):
    def __next__(self) -> Any: ...

    def close(self) -> None: ...


class PrefetchIterator(Iterator[T], Generic[T]):
    """`prepare(next(batches))`, one ahead, in a thread of its own; at most one more is finished and waiting.

    An error in the thread is raised where its element would have come. `close()` it to stop the thread.
    """

    def __init__(self, batches: Closable, prepare: Callable[[Any], T]):
        self._batches, self._prepare = batches, prepare
        self._ready: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(maxsize=1)
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="unet_jax-feed", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        error: BaseException | None = None
        while error is None and not self._stop.is_set():
            element = None
            try:
                element = self._prepare(next(self._batches))
            except BaseException as caught:  # StopIteration too
                error = caught
            while not self._stop.is_set():
                try:
                    self._ready.put((element, error), timeout=_CHECK_S)
                    break
                except queue.Full:
                    continue

    def __next__(self) -> T:
        if self._error is not None:
            raise self._error
        while True:
            try:
                element, error = self._ready.get(timeout=_CHECK_S)
                break
            except queue.Empty:
                if not self._thread.is_alive() and self._ready.empty():
                    raise RuntimeError("the thread that reads ahead ended: it was closed, or killed.") from None
        if error is not None:
            self._error = error
            raise error
        return element  # type: ignore[return-value]

    def close(self) -> None:
        """Stops the thread and what it reads from."""
        self._stop.set()
        self._thread.join(timeout=30.0)  # it may be in the middle of a batch
        self._batches.close()


class MapIterator(Iterator[T], Generic[T]):
    """`prepare(next(batches))`, by whoever asks and when they ask."""

    def __init__(self, batches: Closable, prepare: Callable[[Any], T]):
        self._batches, self._prepare = batches, prepare

    def __next__(self) -> T:
        return self._prepare(next(self._batches))

    def close(self) -> None:
        self._batches.close()


def device_batches(
    source: Source, order: TrainOrder, config: Config, mesh: Mesh, *, start_step: int, packing: Packing = UNPACKED
) -> PrefetchIterator[Batch] | MapIterator[Batch]:
    """Augmented batches on the devices, from `start_step` to the end of the run, packed as the step wants them.

    `augment.where` says who changes pixels; who does packs them.
    """
    share = process_share(mesh)
    if config.augment.where == "host":
        batches = train_batches(
            source, order, config.augment, config.data, start_step=start_step, packing=packing, share=share
        )
        return PrefetchIterator(batches, lambda batch: put_batch(batch, mesh))
    drawn = batches_with_changes(source, order, config.augment, config.data, start_step=start_step, share=share)
    linear = config.data.mask_interpolation == "linear"
    shardings = batch_shardings(mesh)
    augment_step = make_augment_step(config.augment, linear_masks=linear, sharding=shardings)

    @functools.partial(jax.jit, out_shardings=shardings)
    def pack_batch(batch: Batch) -> Batch:
        return Batch(pack(batch.image, packing.image), pack(batch.label, packing.label), batch.weight)

    def prepare(pair: Any) -> Batch:
        # A changed row may come from any row: all devices of an image get its bytes, and keep their own rows after.
        batch = augment_step(*put_rows(pair, mesh))
        return batch if packing == UNPACKED else pack_batch(batch)

    if jax.process_count() > 1:  # all processes must start programs in one order, which two threads would not keep
        return MapIterator(PrefetchIterator(drawn, lambda pair: pair), prepare)
    return PrefetchIterator(drawn, prepare)
