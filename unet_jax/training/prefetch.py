"""Prefetching: batches are on the devices before the training step needs them."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import jax
from jax.sharding import Mesh

from unet_jax._types import Batch
from unet_jax.config import Config
from unet_jax.config.packing import UNPACKED, Packing
from unet_jax.data.crops import CropSource, has_valid
from unet_jax.data.order import TrainOrder
from unet_jax.data.pipeline import batches_with_changes, train_batches
from unet_jax.data.sources import Source
from unet_jax.data.threads import Closable, PrefetchIterator
from unet_jax.devices.mesh import batch_shardings, process_share, put_batch, put_rows
from unet_jax.model.packing import pack
from unet_jax.program.augment_step import make_augment_step

T = TypeVar("T")


class MapIterator(Iterator[T], Generic[T]):
    """Iterator over `prepare(batch)` for each batch, computed in the thread that asks for the element.

    Args:
      batches: iterator to read from.
      prepare: function that is applied to each batch.
    """

    def __init__(self, batches: Closable, prepare: Callable[[Any], T]):
        self._batches, self._prepare = batches, prepare

    def __next__(self) -> T:
        return self._prepare(next(self._batches))

    def close(self) -> None:
        """Close the iterator of batches."""
        self._batches.close()


def device_batches(
    source: Source | CropSource,
    order: TrainOrder,
    config: Config,
    mesh: Mesh,
    *,
    start_step: int,
    packing: Packing = UNPACKED,
) -> PrefetchIterator[Batch] | MapIterator[Batch]:
    """Iterate over the augmented and packed training batches, which are on the devices.

    The setting `augment.where` decides whether the host or the devices augment and pack them.

    Args:
      source: training samples.
      order: order of the samples in the run.
      config: settings of the run.
      mesh: mesh of devices.
      start_step: number of batches to leave out at the beginning.
      packing: factors that images and labels are packed by.

    Returns:
      An iterator to the end of `order`, which must be closed.
    """
    share = process_share(mesh)
    if config.augment.where == "host":
        batches = train_batches(
            source, order, config.augment, config.data, start_step=start_step, packing=packing, share=share
        )
        return PrefetchIterator(batches, lambda batch: put_batch(batch, mesh))
    drawn = batches_with_changes(source, order, config.augment, config.data, start_step=start_step, share=share)
    linear = config.data.mask_interpolation == "linear"
    shardings = batch_shardings(mesh, has_valid=has_valid(source, config.augment))
    augment_step = make_augment_step(config.augment, linear_masks=linear, sharding=shardings)

    @functools.partial(jax.jit, out_shardings=shardings)
    def pack_batch(batch: Batch) -> Batch:
        valid = None if batch.valid is None else pack(batch.valid, packing.label)
        return Batch(pack(batch.image, packing.image), pack(batch.label, packing.label), batch.weight, valid)

    def prepare(pair: Any) -> Batch:
        # A row of the changed image may come from any row of the original. So each device that shares an image gets all
        # of its bytes, and keeps its own rows only after augmentation.
        batch = augment_step(*put_rows(pair, mesh))
        return batch if packing == UNPACKED else pack_batch(batch)

    # All connected processes must start programs in the same order, which two threads could not guarantee. So
    # augmentation runs in the thread that trains, and only reading and drawing are prefetched.
    if jax.process_count() > 1:
        return MapIterator(PrefetchIterator(drawn, lambda pair: pair), prepare)
    return PrefetchIterator(drawn, prepare)
