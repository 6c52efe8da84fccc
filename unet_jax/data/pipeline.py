"""Input pipeline: threads and worker processes of Grain read, augment, pack and batch the samples.

`order` decides which sample comes when, and with which random numbers. Therefore the number of threads and workers
cannot change the data. With several processes, each one reads its block of rows of every global batch.
"""

import functools
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import grain
import numpy as np

from unet_jax._types import Batch, InputError, Sample, Share
from unet_jax.config import AugmentConfig, DataConfig
from unet_jax.config.packing import UNPACKED, Packing
from unet_jax.data.augment_draws import Change, stack_changes
from unet_jax.data.crops import CropSource
from unet_jax.data.make_sample import MakeSample, SampleWithChange
from unet_jax.data.order import EpochSample, TrainOrder
from unet_jax.data.packing import pack_sample
from unet_jax.data.shared_memory import FOLDER as SHARED_MEMORY
from unet_jax.data.shared_memory import check_shared_memory, free_bytes
from unet_jax.data.sources import Source
from unet_jax.data.threads import num_cores
from unet_jax.data.worker_reads import InProgress

_MEASURE_S = 0.15  # seconds of measurement for each number of threads

_BUS_ERROR = f"exit code {-getattr(signal, 'SIGBUS', 7)}"

_ALL = Share()

BatchT = TypeVar("BatchT")


def _stack(samples: Sequence[Sample]) -> Batch:
    """Stack samples into a batch in which all weights are 1."""
    images, masks, valid = zip(*samples, strict=True)
    weight = np.ones(len(samples), np.float32)
    return Batch(np.stack(images), np.stack(masks), weight, None if valid[0] is None else np.stack(valid))


def _stack_with_changes(drawn: Sequence[tuple[Sample, Change]], num_points: int) -> tuple[Batch, dict[str, np.ndarray]]:
    samples, changes = zip(*drawn, strict=True)
    return _stack(samples), stack_changes(changes, num_points)


class Batches(Iterator[BatchT]):
    """Iterator over batches from Grain. Call `close()` to stop its threads and workers.

    Raises:
      InputError: a sample cannot be read; the message names the file.
      RuntimeError: reading failed in another way; the message names the sample, or those that a killed worker process
        was reading.
    """

    def __init__(self, make_sample: MakeSample, iterator: grain.DatasetIterator[BatchT]):
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
            if _BUS_ERROR in str(error):  # what it was reading has no part in it
                raise RuntimeError(
                    f"a worker process ended with a bus error: the shared memory in {SHARED_MEMORY} is full "
                    f"({free_bytes() / 2**20:.0f} MiB free), or a file that it had mapped was truncated. Continue the "
                    f"run with the command that started it, with fewer --data.num-workers or with 0."
                ) from error
            ids = [self._make_sample.id_of(index) for index in in_progress.of_dead()]
            during = f" while it read {', '.join(ids)}" if ids else ""
            raise RuntimeError(
                f"a worker process that reads samples failed{during}: {error} Continue the run with the command that "
                f"started it; if the machine ran out of memory, use fewer --data.num-workers."
            ) from error

    def close(self) -> None:
        """Stop reading."""
        self._iterator.close()
        if self._make_sample.in_progress is not None:
            self._make_sample.in_progress.close()


def train_batches(
    source: Source | CropSource,
    order: TrainOrder,
    augment_config: AugmentConfig,
    data_config: DataConfig,
    *,
    start_step: int = 0,
    packing: Packing = UNPACKED,
    share: Share = _ALL,
) -> Batches[Batch]:
    """Iterate over the training batches from `start_step` to the end of the run; `close()` them to stop the threads.

    Args:
      source: samples of one size, image `[h w c]` uint8 or uint16, mask `[h w k]` uint8; or their crops.
      order: order of the samples.
      augment_config: probabilities and limits of the changes of samples.
      data_config: mask interpolation, and the numbers of threads and workers, which do not change the data.
      start_step: number of batches already used; the data continue exactly there.
      packing: factors by which images and labels are packed, after everything else.
      share: rows of each global batch that this process reads.

    Returns:
      Batches of this process's rows, all of weight 1.

    Raises:
      InputError: the batch size is not a multiple of the number of processes.
    """
    linear = data_config.mask_interpolation == "linear"
    make_sample = MakeSample(source, order.seed, augment_config, linear, packing)
    return _iterate(make_sample, _stack, order, data_config, start_step, share)


def batches_with_changes(
    source: Source | CropSource,
    order: TrainOrder,
    augment_config: AugmentConfig,
    data_config: DataConfig,
    *,
    start_step: int = 0,
    share: Share = _ALL,
) -> Batches[tuple[Batch, dict[str, np.ndarray]]]:
    """Iterate as `train_batches` does, over unchanged pixels and the changes that the devices are to apply to them.

    Args:
      source: samples of one size, image `[h w c]` uint8 or uint16, mask `[h w k]` uint8; or their crops.
      order: order of the samples.
      augment_config: probabilities and limits of the changes of samples.
      data_config: mask interpolation, and the numbers of threads and workers, which do not change the data.
      start_step: number of batches already used; the data continue exactly there.
      share: rows of each global batch that this process reads.

    Returns:
      Pairs of a batch, unpacked, and the arrays of `stack_changes`.
    """
    linear = data_config.mask_interpolation == "linear"
    draw_sample = SampleWithChange(source, order.seed, augment_config, linear)
    stack = functools.partial(_stack_with_changes, num_points=augment_config.elastic_cells + 3)
    return _iterate(draw_sample, stack, order, data_config, start_step, share)


def _iterate(
    make_sample: MakeSample,
    stack: Callable[[Any], Any],
    order: TrainOrder,
    config: DataConfig,
    start_step: int,
    share: Share,
) -> Batches[Any]:
    """Start reading.

    Without workers, threads make samples, of which each thread has at most two in flight. With workers, each worker's
    threads make whole batches, and at most two finished batches of each worker wait in its queue.
    """
    batch_size, workers = _rows_of(share, order.batch_size), config.num_workers
    samples = grain.MapDataset.source(_ShareOfOrder(order, start_step, share)).map(make_sample)
    threads = config.num_threads or _measured_threads(make_sample, order, start_step, num_cores() // max(1, workers))
    if not workers:
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
        batches = samples.to_iter_dataset(options).batch(batch_size, drop_remainder=True, batch_fn=stack)
        return Batches(make_sample, iter(batches))
    check_shared_memory(_batch_bytes(make_sample, order[start_step * order.batch_size], batch_size), workers)
    _parse_absl_flags()
    make_sample.in_progress = InProgress()
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
    batches = samples.batch(batch_size, drop_remainder=True, batch_fn=stack).to_iter_dataset(options)
    several = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2))
    return Batches(make_sample, iter(several))


def _batch_bytes(make_sample: MakeSample, draw: EpochSample, batch_size: int) -> int:
    """Return the size of a batch in bytes; 0 if the sample cannot be read, which its batch will say."""
    try:
        sample, _ = make_sample.drawn(draw)
    except Exception:
        return 0
    num_bytes = sample.image.nbytes + sample.mask.nbytes
    if sample.valid is not None or make_sample.ignores_outside:
        num_bytes += sample.mask.nbytes
    return batch_size * num_bytes


def _measured_threads(make_sample: MakeSample, order: TrainOrder, start_step: int, most: int) -> int:
    """Return the smallest number of threads that reaches 90 % of the highest rate of samples per second.

    The numbers 1, 2, 4, ... up to `most` are tried on the samples that come next. A sample that cannot be read ends the
    search; it raises its error when its batch is read.
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
    """Return the number of samples of each global batch that belong to one share."""
    if batch_size % share.count:
        raise InputError(f"train.batch_size is {batch_size}, but must be a multiple of the {share.count} processes.")
    return batch_size // share.count


class _ShareOfOrder:
    """Sample visits of one share of every batch, from `start_step` on."""

    def __init__(self, order: TrainOrder, start_step: int, share: Share):
        self._order, self._start_step, self._index = order, start_step, share.index
        self._num_rows = _rows_of(share, order.batch_size)

    def __len__(self) -> int:
        return (len(self._order) // self._order.batch_size - self._start_step) * self._num_rows

    def __getitem__(self, index: int) -> EpochSample:
        step, row = divmod(index, self._num_rows)
        return self._order[(self._start_step + step) * self._order.batch_size + self._index * self._num_rows + row]


def _parse_absl_flags() -> None:
    """Mark absl's flags as parsed: Grain's worker processes read them, and nothing else here parses them."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def eval_batches(
    source: Source, batch_size: int, *, packing: Packing = UNPACKED, share: Share = _ALL
) -> Iterator[Batch]:
    """Iterate over all samples once, in order, packed but not augmented.

    The last batch is filled up with zeros of weight 0. Every share has the same number of batches.

    Args:
      source: samples of one size, image `[h w c]` uint8 or uint16, mask `[h w k]` uint8.
      batch_size: samples of a global batch.
      packing: factors by which images and labels are packed.
      share: rows of each global batch that this process reads, the same block as in `train_batches`.

    Raises:
      InputError: the batch size is not a multiple of the number of processes, or a sample cannot be read.
    """
    num_rows = _rows_of(share, batch_size)
    for start in range(share.index * num_rows, share.index * num_rows + len(source), batch_size):
        rows = range(start, start + num_rows)
        samples = [pack_sample(source[i], packing) for i in rows if i < len(source)]
        first = samples[0] if samples else pack_sample(source[0], packing)
        image = np.zeros((len(rows), *first.image.shape), first.image.dtype)
        label = np.zeros((len(rows), *first.mask.shape), np.uint8)
        weight = np.zeros(len(rows), np.float32)
        valid = None if first.valid is None else np.zeros_like(label)
        for row, sample in enumerate(samples):
            image[row], label[row], weight[row] = sample.image, sample.mask, 1.0
            if valid is not None and sample.valid is not None:
                valid[row] = sample.valid
        yield Batch(image, label, weight, valid)
