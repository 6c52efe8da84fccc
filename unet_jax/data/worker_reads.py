"""What worker processes are reading, kept in small files, so that it is known of one that was killed."""

import contextlib
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path


class InProgress:
    """One file for each thread of each process that is reading; pickled as its folder."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="unet_jax-reading-"))

    @contextlib.contextmanager
    def reading(self, index: int) -> Iterator[None]:
        """Sample `index` is being read during the block."""
        path = self._folder / f"{os.getpid()}-{threading.get_ident()}"
        path.write_text(str(index))
        yield
        path.unlink(missing_ok=True)

    def of_dead(self) -> list[int]:
        """Samples that processes were reading which do not exist any more."""
        dead = []
        for path in self._folder.iterdir():
            try:
                os.kill(int(path.name.split("-")[0]), 0)
            except ProcessLookupError:
                dead.append(int(path.read_text() or -1))
            except PermissionError:  # somebody else's process has the number now
                continue
        return sorted(index for index in dead if index >= 0)

    def close(self) -> None:
        """Removes the files."""
        shutil.rmtree(self._folder, ignore_errors=True)
