"""Record of the samples that worker processes are reading, so that an error can name those of a killed worker.

The record is kept in small files, which outlive the process that wrote them.
"""

import contextlib
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path


class InProgress:
    """Record with one file for each thread of each process that is reading; pickled as its folder's path."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="unet_jax-reading-"))

    @contextlib.contextmanager
    def reading(self, index: int) -> Iterator[None]:
        """Record during the block that this thread is reading sample `index`."""
        path = self._folder / f"{os.getpid()}-{threading.get_ident()}"
        path.write_text(str(index))
        yield
        path.unlink(missing_ok=True)

    def of_dead(self) -> list[int]:
        """Return the sorted indices of the samples that were being read by processes that no longer exist."""
        dead = []
        for path in self._folder.iterdir():
            try:
                os.kill(int(path.name.split("-")[0]), 0)
            except ProcessLookupError:
                dead.append(int(path.read_text() or -1))
            except PermissionError:  # the number now belongs to a process of another user
                continue
        return sorted(index for index in dead if index >= 0)

    def close(self) -> None:
        """Remove the files."""
        shutil.rmtree(self._folder, ignore_errors=True)
