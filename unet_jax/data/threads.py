"""How many threads read and augment."""

import functools
import os

import cv2


def num_cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


@functools.cache
def one_thread_opencv() -> None:
    """Our threads are the parallelism: OpenCV's own would oversubscribe the cores."""
    cv2.setNumThreads(1)
