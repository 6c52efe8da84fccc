"""Number of cores, threads of OpenCV, and iteration ahead of time in a thread, for the code that reads and augments."""

import contextlib
import functools
import os
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, Generic, Protocol, TypeVar

import cv2

T = TypeVar("T")
_CHECK_S = 1.0  # longest wait on the queue before each side checks whether the other one has ended


def num_cores() -> int:
    """Return the number of cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not all systems have it
        return os.cpu_count() or 1


@functools.cache
def one_thread_opencv() -> None:
    """Switch OpenCV's own threads off: ours handle samples in parallel, and more would oversubscribe the cores."""
    cv2.setNumThreads(1)


class Closable(Protocol):
    """Iterator with a `close` method."""

    def __next__(self) -> Any: ...

    def close(self) -> None: ...


class PrefetchIterator(Iterator[T], Generic[T]):
    """Iterator over `prepare(batch)` for each batch, computed ahead of time in a background thread.

    Finished elements wait in a queue while the thread works on the next one. An exception in the thread is raised
    in the place of the element that it prevented. Call `close()` to stop the thread.

    Args:
      batches: iterator that the thread reads from.
      prepare: function that the thread applies to each batch.
      count: number of finished elements that may wait.

    Example:
      >>> doubled = PrefetchIterator((number for number in range(3)), lambda number: 2 * number)
      >>> list(doubled)
      [0, 2, 4]
      >>> doubled.close()
    """

    def __init__(self, batches: Closable, prepare: Callable[[Any], T], count: int = 1):
        self._batches, self._prepare = batches, prepare
        self._ready: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(maxsize=count)
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="unet_jax-feed", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        """Fill the queue until an exception or `close`; this is the thread."""
        error: BaseException | None = None
        while error is None and not self._stop.is_set():
            element = None
            try:
                element = self._prepare(next(self._batches))
            except BaseException as caught:  # also StopIteration, which ends the iteration in the other thread
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
                    raise RuntimeError(
                        "the thread that prefetches batches has ended: it was closed or killed."
                    ) from None
        if error is not None:
            self._error = error
            raise error
        return element  # type: ignore[return-value]

    def close(self) -> None:
        """Stop the thread, and close the iterator that it reads from."""
        self._stop.set()
        with contextlib.suppress(queue.Empty):
            self._ready.get_nowait()  # the thread may be waiting for room
        self._thread.join(timeout=30.0)  # the thread may be in the middle of a batch
        self._batches.close()
