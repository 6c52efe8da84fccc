"""Number of cores, and threads of OpenCV, for the code that reads and augments."""

import functools
import os

import cv2


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
