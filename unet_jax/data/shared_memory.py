"""Check of the shared memory through which worker processes hand over their batches.

Linux gives a process that writes more than fits a bus error, which kills it without a message. So it is measured first.
"""

import math
import os
import shutil
import sys
from pathlib import Path

from unet_jax._types import InputError

FOLDER = Path("/dev/shm")
"""Folder that holds the shared memory of all processes, on Linux."""
# Batches held at once: Grain's queues hold 6 for each worker (measured with 1, 2 and 4 workers), and 3 are on their way
# to the devices.
_PER_WORKER, _BESIDES = 6, 3


def check_shared_memory(batch_bytes: int, num_workers: int, folder: Path = FOLDER) -> None:
    """Raise `InputError` if the batches of the workers do not fit into shared memory. Other systems are not checked.

    Args:
      batch_bytes: size of one batch in bytes.
      num_workers: value of data.num_workers.
      folder: folder of the shared memory.
    """
    if sys.platform != "linux":
        return
    remedy = "use --data.num-workers 0 (threads in this process)"
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InputError(
            f"data.num_workers is {num_workers}, but worker processes need shared memory, and {folder} is not there or "
            f"cannot be written to: {remedy}, or mount it (docker: --shm-size 1g)."
        )
    needed, free = batch_bytes * (num_workers * _PER_WORKER + _BESIDES), free_bytes(folder)
    if needed > free:
        raise InputError(
            f"data.num_workers is {num_workers}, but the batches need up to {needed / 2**20:.0f} MiB of shared memory, "
            f"and {folder} has {free / 2**20:.0f} MiB free: {remedy} or fewer workers, or make it larger (docker: "
            f"--shm-size {math.ceil(needed / 2**30)}g)."
        )


def free_bytes(folder: Path = FOLDER) -> int:
    """Return the free shared memory in bytes; 0 if there is none."""
    return shutil.disk_usage(folder).free if folder.is_dir() else 0
