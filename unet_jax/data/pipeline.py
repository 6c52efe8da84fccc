"""From samples to batches with Grain: which sample comes when, and with which random numbers, are pure functions.

Sample i of epoch e is augmented with random numbers that depend on (seed, e, i) alone, and epoch e visits the samples
in an order that depends on (seed, e) alone. So a position in the data is one number, the count of batches so far;
threads and worker processes cannot change what comes out; and a process of many reads its block of
rows of each global batch.
"""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import grain
import numpy as np

from unet_jax._types import Batch, InputError, Sample, Share
from unet_jax.config import AugmentConfig, DataConfig
from unet_jax.config.packing import UNPACKED, Packing
from unet_jax.data.augment import apply_change
from unet_jax.data.augment_draws import Change, draw_change, stack_changes
from unet_jax.data.order import EpochSample, TrainOrder, augment_rng
from unet_jax.data.packing import pack_sample
from unet_jax.data.sources import Source
from unet_jax.data.threads import num_cores, one_thread_opencv
from unet_jax.data.worker_reads import InProgress

_MEASURE_S = 0.15  # for each number of threads

_ALL = Share()

BatchT = TypeVar("BatchT")


class _MakeSample(grain.transforms.Map):
    """Reads and augments one draw; picklable, so that worker processes can run it."""

    def __init__(
        self, source: Source, seed: int, config: AugmentConfig, linear_masks: bool, packing: Packing = UNPACKED
    ):
        self._source, self._seed, self._config, self._linear = source, seed, config, linear_masks
        self._packing = packing
        self.in_progress: InProgress | None = None  # where worker processes note what they read

    def map(self, element: EpochSample) -> Any:
        with self.in_progress.reading(element.index) if self.in_progress else contextlib.nullcontext():
            return self.make(element)

    def make(self, element: EpochSample) -> Any:
        sample, change = self.drawn(element)
        return pack_sample(apply_change(sample, change, self._config, linear_masks=self._linear), self._packing)

    def id_of(self, index: int) -> str:
        return self._source.ids[index]

    def drawn(self, element: EpochSample) -> tuple[Sample, Change]:
        one_thread_opencv()
        try:
            sample = self._source[element.index]
        except InputError:
            raise
        except Exception as error:
            raise RuntimeError(
                f"sample {self.id_of(element.index)!r} cannot be read: {type(error).__name__}: {error}"
            ) from error
        return sample, draw_change(
            augment_rng(self._seed, element), self._config, sample.mask, linear_masks=self._linear
        )


class _SampleWithChange(_MakeSample):
    """Reads a sample and only draws what happens to it."""

    def make(self, element: EpochSample) -> tuple[Sample, Change]:
        return self.drawn(element)


def _stack(samples: Sequence[Sample]) -> Batch:
    images, masks = (np.stack(arrays) for arrays in zip(*samples, strict=True))
    return Batch(images, masks, np.ones(len(samples), np.float32))


def _stack_with_changes(drawn: Sequence[tuple[Sample, Change]], num_points: int) -> tuple[Batch, dict[str, np.ndarray]]:
    samples, changes = zip(*drawn, strict=True)
    return _stack(samples), stack_changes(changes, num_points)


class Batches(Iterator[BatchT]):
    """Batches from Grain. `close()` stops its threads and workers; an error says what was being read."""

    def __init__(self, make_sample: _MakeSample, iterator: grain.DatasetIterator[BatchT]):
        self._make_sample, self._iterator = make_sample, iterator

    def __next__(self) -> BatchT:
        try:
            return next(self._iterator)
        except (StopIteration, InputError):
            raise
        except Exception as error:
            in_progress = self._make_sample.in_progress
            if in_progress is None:
                raise
            ids = [self._make_sample.id_of(index) for index in in_progress.of_dead()]
            during = f" while it read {', '.join(ids)}" if ids else ""
            raise RuntimeError(
                f"a worker process that reads samples failed{during}: {error} Continue the run with the command that "
                f"began it; if the machine ran out of memory, with fewer --data.num-workers."
            ) from error

    def close(self) -> None:
        """Stops reading."""
        self._iterator.close()
        if self._make_sample.in_progress is not None:
            self._make_sample.in_progress.close()


def train_batches(
    source: Source,
    order: TrainOrder,
    augment_config: AugmentConfig,
    data_config: DataConfig,
    *,
    start_step: int = 0,
    packing: Packing = UNPACKED,
    share: Share = _ALL,
) -> Batches[Batch]:
    """This process's share of every batch from `start_step` to the end of the run; `close()` it to stop the threads.

    Args:
      source: samples of one size.
      order: which sample comes when.
      augment_config: what happens to each.
      data_config: number of threads and workers, which do not change the data.
      start_step: batches already used; continues exactly there.
      packing: of images and labels, last of all.
      share: the rows of each global batch that are read here.
    """
    linear = data_config.mask_interpolation == "linear"
    make_sample = _MakeSample(source, order.seed, augment_config, linear, packing)
    return _iterate(make_sample, _stack, order, data_config, start_step, share)


def batches_with_changes(
    source: Source,
    order: TrainOrder,
    augment_config: AugmentConfig,
    data_config: DataConfig,
    *,
    start_step: int = 0,
    share: Share = _ALL,
) -> Batches[tuple[Batch, dict[str, np.ndarray]]]:
    """As `train_batches`, but pixels are as they were read, and what happens to them comes with them as numbers."""
    linear = data_config.mask_interpolation == "linear"
    draw_sample = _SampleWithChange(source, order.seed, augment_config, linear)
    stack = functools.partial(_stack_with_changes, num_points=augment_config.elastic_cells + 3)
    return _iterate(draw_sample, stack, order, data_config, start_step, share)


def _iterate(
    make_sample: _MakeSample,
    stack: Callable[[Any], Any],
    order: TrainOrder,
    config: DataConfig,
    start_step: int,
    share: Share,
) -> Batches[Any]:
    """Threads make samples, two each in flight at most; worker processes whole batches, with two more in a queue."""
    batch_size, workers = _rows_of(share, order.batch_size), config.num_workers
    samples = grain.MapDataset.source(_ShareOfOrder(order, start_step, share)).map(make_sample)
    threads = config.num_threads or _measured_threads(make_sample, order, start_step, num_cores() // max(1, workers))
    if not workers:
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
        batches = samples.to_iter_dataset(options).batch(batch_size, drop_remainder=True, batch_fn=stack)
        return Batches(make_sample, iter(batches))
    _parse_absl_flags()
    make_sample.in_progress = InProgress()
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
    batches = samples.batch(batch_size, drop_remainder=True, batch_fn=stack).to_iter_dataset(options)
    several = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2))
    return Batches(make_sample, iter(several))


def _measured_threads(make_sample: _MakeSample, order: TrainOrder, start_step: int, most: int) -> int:
    """The fewest threads that reach 9 tenths of the most samples per second, tried on the samples that come next.

    A sample that cannot be read ends the search: it becomes an error where its turn is.
    """
    counts = [2**i for i in range(max(1, most).bit_length()) if 2**i <= max(1, most)]
    rates, position = [], start_step * order.batch_size
    for count in counts:
        with ThreadPoolExecutor(count) as pool:
            start, done = time.perf_counter(), 0
            while done == 0 or time.perf_counter() - start < _MEASURE_S:
                draws = [order[(position + i) % len(order)] for i in range(count)]
                try:
                    list(pool.map(make_sample.map, draws))
                except Exception:
                    return most
                position, done = position + count, done + count
            rates.append(done / (time.perf_counter() - start))
    return next(count for count, rate in zip(counts, rates, strict=True) if rate >= 0.9 * max(rates))


def _rows_of(share: Share, batch_size: int) -> int:
    """Samples of each global batch that are a share."""
    if batch_size % share.count:
        raise InputError(f"train.batch_size is {batch_size}, but must be a multiple of the {share.count} processes.")
    return batch_size // share.count


class _ShareOfOrder:
    """A share's draws of each batch, from `start_step` on."""

    def __init__(self, order: TrainOrder, start_step: int, share: Share):
        self._order, self._start_step, self._index = order, start_step, share.index
        self._num_rows = _rows_of(share, order.batch_size)

    def __len__(self) -> int:
        return (len(self._order) // self._order.batch_size - self._start_step) * self._num_rows

    def __getitem__(self, index: int) -> EpochSample:
        step, row = divmod(index, self._num_rows)
        return self._order[(self._start_step + step) * self._order.batch_size + self._index * self._num_rows + row]


def _parse_absl_flags() -> None:
    """Grain's worker processes read absl flags, which nobody else parses here."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def eval_batches(
    source: Source, batch_size: int, *, packing: Packing = UNPACKED, share: Share = _ALL
) -> Iterator[Batch]:
    """All samples once, in order, packed but not augmented; the last batch is filled up with zeros of weight 0.

    A share has the rows of the global batches that `train_batches` would give it, and as many batches as any other.
    """
    num_rows = _rows_of(share, batch_size)
    for start in range(share.index * num_rows, share.index * num_rows + len(source), batch_size):
        rows = range(start, start + num_rows)
        samples = [pack_sample(source[i], packing) for i in rows if i < len(source)]
        first = samples[0] if samples else pack_sample(source[0], packing)
        image = np.zeros((len(rows), *first.image.shape), np.uint8)
        label = np.zeros((len(rows), *first.mask.shape), np.uint8)
        weight = np.zeros(len(rows), np.float32)
        for row, sample in enumerate(samples):
            image[row], label[row], weight[row] = sample.image, sample.mask, 1.0
        yield Batch(image, label, weight)
