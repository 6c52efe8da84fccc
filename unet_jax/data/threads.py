"""Number of cores, threads of OpenCV, and iteration ahead in a thread, for the code that reads and augments."""

import contextlib
import functools
import os
import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import cv2

T = TypeVar("T")
_CHECK_S = 0.2  # longest wait on a full queue before the thread looks whether somebody still asks


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


def ahead(items: Iterable[T], count: int) -> Iterator[T]:
    """Iterate over items that a background thread computes ahead.

    Args:
      items: items; an exception that they raise is raised in the place of the next one.
      count: number of items that may wait.

    Example:
      >>> list(ahead((2 * number for number in range(3)), 1))
      [0, 2, 4]
    """
    ready: queue.Queue[tuple[str, Any]] = queue.Queue(count)
    stop = threading.Event()

    def put(*entry: Any) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                return ready.put(entry, timeout=_CHECK_S)

    def work() -> None:
        try:
            for item in items:
                put("item", item)
                if stop.is_set():
                    return
            put("end", None)
        except BaseException as error:
            put("error", error)

    thread = threading.Thread(target=work, name="unet_jax-ahead", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
    finally:
        stop.set()
        thread.join()
