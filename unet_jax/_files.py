"""A folder that is either complete or not there, whoever writes it and whenever they are killed."""

import contextlib
import csv
import fcntl
import io
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from etils import epath

_LEFTOVER_AGE_S = 60.0  # a younger unfinished folder may belong to a process that is about to lock it


@contextlib.contextmanager
def unfinished_folder(folder: Path, *, replace: bool) -> Iterator[Path]:
    """A temporary folder that becomes `folder` at the end of the block, or nothing if the block fails.

    Args:
      folder: where it appears, complete.
      replace: put it in the place of a folder of that name; otherwise that one stays.

    Raises:
      OSError: the temporary folder cannot be made.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder)
    new = _temporary(folder)
    try:
        with open(new / "lock", "w") as lock:  # held while the process lives: what is not locked is a leftover
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield new
            (new / "lock").unlink()
            _publish(new, folder, replace)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _temporary(folder: Path) -> Path:
    return Path(tempfile.mkdtemp(prefix=f"{folder.name}.building-", dir=folder.parent))


def _publish(new: Path, folder: Path, replace: bool) -> None:
    old = None
    if replace and folder.exists():
        old = _temporary(folder)
        with contextlib.suppress(FileNotFoundError):  # another process moved it just now
            os.rename(folder, old)  # those who have its files open keep them
    try:
        os.rename(new, folder)
    except OSError:
        if not folder.exists():
            raise
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def _remove_leftovers(folder: Path) -> None:
    """Unfinished folders of builds that were killed."""
    for leftover in folder.parent.iterdir():
        if not leftover.name.startswith(f"{folder.name}.building-"):
            continue
        with contextlib.suppress(OSError):
            if time.time() - leftover.stat().st_mtime < _LEFTOVER_AGE_S:
                continue
            with contextlib.suppress(FileNotFoundError), open(leftover / "lock") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(leftover, ignore_errors=True)


def replace_text(path: epath.Path, text: str) -> None:
    """Writes a file in one rename: a kill leaves no half of it."""
    new = path.parent / (path.name + ".new")
    new.write_text(text)
    new.replace(path)


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table with a header, as CSV."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return file.getvalue()


def user_cache() -> Path:
    """Our folder in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unet_jax"
