"""The lock of a run directory, which lets only one process at a time train there."""

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
    """Make the run directory, and hold its lock during the block.

    The system releases the lock however the process ends. Buckets and some network file systems have no locks: there,
    this function refuses nothing. Among connected processes, the first one holds the lock for all of them. A folder
    that this function made is removed if it is empty at the end.

    Args:
      out: run directory, local or in a bucket.

    Raises:
      InputError: another process holds the lock, or `out` is empty or ".".
    """
    if str(out) in ("", "."):
        raise InputError("--out is empty: name the folder that the run is written to.")
    if fcntl is None or "://" in str(out) or not is_first():
        yield
        return
    is_new = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    check_no_links(out)
    path = out / "lock"
    file = _locked(path)
    if isinstance(file, str):
        raise InputError(
            f"{out}: another process ({file}) is training there. Wait for it, end it, or give another --out."
        )
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()
        if is_new:
            with contextlib.suppress(OSError):  # the folder is not empty
                os.rmdir(out)


@contextlib.contextmanager
def try_lock(path: epath.Path) -> Iterator[str | None]:
    """Hold a lock during the block if nobody else does; never wait.

    The system releases the lock however the process ends. Where there are no locks (buckets, some network file
    systems), every process gets it.

    Args:
      path: lock file, which is made, and removed at the end; its folder must exist.

    Yields:
      None if this process holds the lock, otherwise who does: process number and host.
    """
    if fcntl is None or "://" in str(path):
        yield None
        return
    file = _locked(path)
    if isinstance(file, str):
        yield file
        return
    try:
        yield None
    finally:
        path.unlink(missing_ok=True)
        file.close()


def check_no_links(out: epath.Path) -> None:
    """Raise `InputError` if a file or folder of a run is a symbolic link.

    Runs may come from other people. What is written to such a name would change a file outside of the run.

    Args:
      out: run directory on a local disk; it may be a link itself.
    """
    for folder in (out, out / "pictures", out / "checkpoints", out / "tensorboard"):
        for entry in folder.iterdir() if folder.is_dir() else ():
            if os.path.islink(entry):
                raise InputError(
                    f"{entry}: is a symbolic link to {os.readlink(entry)}, and would be written to. Put the file or "
                    f"folder itself there; the run directory as a whole may be a link."
                )


def _locked(path: epath.Path) -> IO[str] | str:
    """Return the open and locked file, into which the process number and the host name are written.

    If another process holds the lock, its number and host are returned instead.
    """
    # The last holder may remove the file after this process opened it and before it got the lock. Such a lock would
    # exclude nobody, so the loop tries again unless the locked file is still the one with that name.
    assert fcntl is not None
    while True:
        # A link is an error, because the file it points to would be emptied. Systems without the flag have no `fcntl`.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        file = open(descriptor, "r+")  # noqa: SIM115
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "just begun"
            file.close()
            return holder
        except OSError:  # a file system without locks
            return file
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
            file.truncate(0)
            file.write(f"{os.getpid()} on {socket.gethostname()}\n")
            file.flush()
            return file
        file.close()
