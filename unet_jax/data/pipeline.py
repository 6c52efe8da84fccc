"""From samples to batches with Grain: which sample comes when, and with which random numbers, are pure functions.

Sample i of epoch e is augmented with random numbers that depend on (seed, e, i) alone, and epoch e visits the samples
in an order that depends on (seed, e) alone. So a position in the data is one number, the count of batches so far;
threads and worker processes cannot change what comes out; and a process of many reads every n-th row of each global
batch.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import grain
import numpy as np

from unet_jax._types import Batch, InputError, Sample
from unet_jax.config import AugmentConfig, DataConfig
from unet_jax.data.augment import augment
from unet_jax.data.sources import Source
from unet_jax.data.threads import num_cores, one_thread_opencv

# Keys that keep the streams of random numbers of different purposes apart.
_ORDER_KEY, _AUGMENT_KEY = 0, 1


class Draw(NamedTuple):
    """Which sample, in which epoch."""

    epoch: int
    index: int


def steps_per_epoch(num_samples: int, batch_size: int) -> int:
    """Full batches in one pass."""
    return num_samples // batch_size


class TrainOrder:
    """The sequence of draws of a whole run: every epoch a new permutation, its incomplete last batch dropped."""

    def __init__(self, num_samples: int, batch_size: int, num_epochs: int, seed: int):
        if num_samples < batch_size:
            remedy = f"use --train.batch-size {num_samples} or less" if num_samples else "check --data.splits"
            raise InputError(
                f"the training split has {num_samples} images, fewer than train.batch_size {batch_size}: {remedy}."
            )
        self.num_samples, self.batch_size, self.num_epochs, self.seed = num_samples, batch_size, num_epochs, seed
        self.steps_per_epoch = steps_per_epoch(num_samples, batch_size)

    def __len__(self) -> int:
        return self.steps_per_epoch * self.num_epochs * self.batch_size

    def __getitem__(self, index: int) -> Draw:
        epoch, offset = divmod(index, self.steps_per_epoch * self.batch_size)
        return Draw(epoch, int(_permutation(self.seed, epoch, self.num_samples)[offset]))

    def batch(self, step: int) -> list[Draw]:
        """The draws of the batch that update number `step` (from 0) uses."""
        return [self[step * self.batch_size + i] for i in range(self.batch_size)]


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, num_samples: int) -> np.ndarray:
    return np.random.default_rng((seed, _ORDER_KEY, epoch)).permutation(num_samples)


def augment_rng(seed: int, draw: Draw) -> np.random.Generator:
    """The random numbers of one sample in one epoch."""
    return np.random.default_rng((seed, _AUGMENT_KEY, draw.epoch, draw.index))


class _MakeSample(grain.transforms.Map):
    """Reads and augments one draw; picklable, so that worker processes can run it."""

    def __init__(self, source: Source, seed: int, config: AugmentConfig, soft_masks: bool):
        self._source, self._seed, self._config, self._soft = source, seed, config, soft_masks

    def map(self, element: Draw) -> Sample:
        one_thread_opencv()
        rng = augment_rng(self._seed, element)
        return augment(rng, self._source[element.index], self._config, soft_masks=self._soft)


def _stack(samples: Sequence[Sample]) -> Batch:
    images, masks = (np.stack(arrays) for arrays in zip(*samples, strict=True))
    return Batch(images, masks, np.ones(len(samples), np.float32))


def train_batches(
    source: Source,
    order: TrainOrder,
    augment_config: AugmentConfig,
    data_config: DataConfig,
    *,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.DatasetIterator[Batch]:
    """This process's share of every batch from `start_step` to the end of the run; `close()` it to stop the threads.

    Args:
      source: samples of one size.
      order: which sample comes when.
      augment_config: what happens to each.
      data_config: number of threads and workers, which do not change the data.
      start_step: batches already used; continues exactly there.
      process_index, process_count: rows process_index, process_index + process_count, ... of each global batch.
    """
    _check_shares(order.batch_size, process_count)
    soft = data_config.mask_interpolation == "linear"
    make_sample = _MakeSample(source, order.seed, augment_config, soft)
    positions = grain.MapDataset.source(order)[start_step * order.batch_size :]
    dataset = (
        positions[process_index::process_count]
        .map(make_sample)
        .batch(order.batch_size // process_count, drop_remainder=True, batch_fn=_stack)
    )
    # Batches are the elements that threads prefetch: twice the threads are in flight at most.
    threads = data_config.num_threads or num_cores()
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    iterable = dataset.to_iter_dataset(options)
    if data_config.num_workers:
        _parse_absl_flags()
        workers = grain.MultiprocessingOptions(num_workers=data_config.num_workers, per_worker_buffer_size=2)
        iterable = iterable.mp_prefetch(workers)
    return iter(iterable)


def _check_shares(batch_size: int, process_count: int) -> None:
    if batch_size % process_count:
        raise InputError(f"train.batch_size is {batch_size}, but must be a multiple of the {process_count} processes.")


def _parse_absl_flags() -> None:
    """Grain's worker processes read absl flags, which nobody else parses here."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def eval_batches(source: Source, batch_size: int, *, process_index: int = 0, process_count: int = 1) -> Iterator[Batch]:
    """All samples once, in order, not augmented; the last batch is filled up with zeros of weight 0.

    With several processes, each gets the rows of the global batches that `train_batches` would give it.
    """
    _check_shares(batch_size, process_count)
    for start in range(0, len(source), batch_size):
        rows = range(start + process_index, start + batch_size, process_count)
        samples = [source[i] for i in rows if i < len(source)]
        first = samples[0] if samples else source[0]
        image = np.zeros((len(rows), *first.image.shape), np.uint8)
        label = np.zeros((len(rows), *first.mask.shape), np.uint8)
        weight = np.zeros(len(rows), np.float32)
        for row, sample in enumerate(samples):
            image[row], label[row], weight[row] = sample.image, sample.mask, 1.0
        yield Batch(image, label, weight)
