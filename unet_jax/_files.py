"""Files and folders that are whole or not there; CSV; our cache folder.

`unfinished_folder` publishes a complete folder by one rename; `replace_bytes` and `replace_text` do the same for a
file. So a process that is killed leaves nothing half-written under the final name, and processes that write the same
folder at once do not mix their files. `csv_text` formats tables. `user_cache` names the folder that holds our caches.
"""

import contextlib
import csv
import io
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from etils import epath

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_LEFTOVER_AGE_S = 60.0  # a younger unfinished folder may belong to a process that is about to lock it


@contextlib.contextmanager
def unfinished_folder(folder: Path, *, replace: bool) -> Iterator[Path]:
    """Yield a temporary folder that is renamed to `folder` at the end of the block, or removed if the block fails.

    Unfinished folders that killed processes left beside `folder` are removed first.

    Args:
      folder: path at which the complete folder appears.
      replace: if True, replace an existing folder of that name; if False, the existing one stays.

    Raises:
      OSError: the temporary folder cannot be made.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder)
    new = _temporary(folder)
    try:
        with _locked(new / "lock"):
            yield new
            (new / "lock").unlink(missing_ok=True)
            _publish(new, folder, replace)
    finally:
        shutil.rmtree(new, ignore_errors=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Make the file and hold a lock on it during the block; do nothing on systems without `fcntl`.

    The system releases the lock when the process dies, so an unfinished folder without a lock is a leftover.
    """
    if fcntl is None:
        yield
        return
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _temporary(folder: Path) -> Path:
    """Make an empty folder beside `folder`, so that a rename stays within one file system."""
    return Path(tempfile.mkdtemp(prefix=f"{folder.name}.building-", dir=folder.parent))


def _publish(new: Path, folder: Path, replace: bool) -> None:
    """Rename `new` to `folder`; if another process was first and `replace` is off, keep that one's folder."""
    old = None
    if replace and folder.exists():
        old = _temporary(folder)
        with contextlib.suppress(FileNotFoundError):  # another process moved it just now
            os.rename(folder, old)  # processes that have its files open keep them
    try:
        os.rename(new, folder)
    except OSError:
        if not folder.exists():
            raise
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def _remove_leftovers(folder: Path) -> None:
    """Remove unfinished folders of builds that were killed."""
    if fcntl is None:  # without locks, a leftover looks like the folder of a build that still runs
        return
    for leftover in folder.parent.iterdir():
        if not leftover.name.startswith(f"{folder.name}.building-"):
            continue
        with contextlib.suppress(OSError):
            if time.time() - leftover.stat().st_mtime < _LEFTOVER_AGE_S:
                continue
            with contextlib.suppress(FileNotFoundError), open(leftover / "lock") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(leftover, ignore_errors=True)


def replace_bytes(path: epath.Path, content: bytes) -> None:
    """Write a file by one rename, so that a kill never leaves half of it."""
    new = _new_version(path)
    new.write_bytes(content)
    new.replace(path)


def replace_text(path: epath.Path, text: str) -> None:
    """Write a text file by one rename, so that a kill never leaves half of it."""
    new = _new_version(path)
    new.write_text(text)
    new.replace(path)


def _new_version(path: epath.Path) -> epath.Path:
    # The number of the process keeps apart two that write the same file at once.
    return path.parent / f"{path.name}.{os.getpid()}.new"


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    r"""Format a table as CSV: a header line, then one line per row, each ending in "\n"."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return file.getvalue()


def user_cache() -> Path:
    """Return our folder in the user's cache folder: `unet_jax` in $XDG_CACHE_HOME, else in ~/.cache.

    Raises:
      OSError: there is no XDG_CACHE_HOME, and the user has no home folder, as in some containers.
    """
    given = os.environ.get("XDG_CACHE_HOME")
    if given:
        return Path(given) / "unet_jax"
    try:
        return Path.home() / ".cache" / "unet_jax"
    except RuntimeError as error:
        raise OSError(
            "there is no home folder to keep caches in (HOME is not set, and the password file does not know this "
            "user). Set XDG_CACHE_HOME to a folder that can be written to."
        ) from error
