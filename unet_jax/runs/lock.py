"""One process at a time trains in a run directory."""

import contextlib
import os
import socket
from collections.abc import Iterator
from typing import IO

from etils import epath

from unet_jax._types import InputError
from unet_jax.devices.processes import is_first

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


@contextlib.contextmanager
def lock_run(out: epath.Path) -> Iterator[None]:
    """Makes the run directory and holds its lock in the block. The system lets go of it however the process ends.

    Buckets have no locks, nor have some network file systems: nothing is refused there. Of connected processes the
    first one holds the lock for all. A folder made here and left empty is removed again.

    Raises:
      InputError: another process holds the lock, or `out` names no folder.
    """
    if str(out) in ("", "."):
        raise InputError("--out is empty: name the folder that the run is written to.")
    if fcntl is None or "://" in str(out) or not is_first():
        yield
        return
    is_new = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    path = out / "lock"
    file = _locked(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()
        if is_new:
            with contextlib.suppress(OSError):  # there is something in it
                os.rmdir(out)


def _locked(path: epath.Path) -> IO[str]:
    """The open file, which is the lock; a file that its last holder removed meanwhile would lock nothing."""
    assert fcntl is not None
    while True:
        file = open(path, "a+")  # noqa: SIM115
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "just begun"
            file.close()
            raise InputError(
                f"{path.parent}: another process ({holder}) is training there. Wait for it, end it, or give another "
                f"--out."
            ) from None
        except OSError:  # a file system without locks
            return file
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
            file.truncate(0)
            file.write(f"{os.getpid()} on {socket.gethostname()}\n")
            file.flush()
            return file
        file.close()
