"""Files and folders that are whole or not there; CSV; our cache folder.

`unfinished_folder` publishes a complete folder by one rename; `replace_bytes` and `replace_text` do the same for a
file. So a process that is killed leaves nothing half-written under the final name, and processes that write the same
folder at once do not mix their files. `csv_text` formats tables, `read_json` reads JSON of any origin, and `user_cache`
names the folder that holds our caches.
"""

import contextlib
import csv
import io
import json
import os
import secrets
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

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
_LEFTOVER_AGE_S = 60.0  # a younger unfinished folder without a lock may belong to a process that is about to make it


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
def scratch_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty hidden folder in `folder` for files that are not finished; remove it at the end of the block.

    Those that killed processes left there are removed first. A file that is complete is renamed out of it.

    Args:
      folder: local folder, which is made if there is none.

    Raises:
      OSError: the folder cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder / ".unfinished")
    new = _temporary(folder / ".unfinished")
    try:
        with _locked(new / "lock"):
            yield new
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
    new = path.with_name(f"{path.name}.new")
    with open(new, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        os.rename(new, path)  # so that a lock of this name is held, or its process has died
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
            try:
                with open(leftover / "lock") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except FileNotFoundError:
                if time.time() - leftover.stat().st_mtime < _LEFTOVER_AGE_S:
                    continue
            shutil.rmtree(leftover, ignore_errors=True)


def replace_bytes(path: epath.Path, content: bytes) -> None:
    """Write a file by one rename, so that a kill or a full disk never leaves half of it.

    If `path` is a symbolic link, the file takes its place: what it points to stays as it is.
    """
    # A name that nobody can know keeps apart processes that write the same file at once.
    new = path.parent / f"{path.name}.{secrets.token_hex(8)}.new"
    try:
        if "://" in str(path):
            new.write_bytes(content)
        else:
            # The file is made here and now: a link that somebody placed under this name is an error.
            with open(new, "xb") as file:
                file.write(content)
        new.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise named_error(error, path) from error
        raise


def named_error(error: OSError, path: object) -> OSError:
    """Return the error with the path of a file: that of a full disk does not name one."""
    return error if error.filename or error.errno is None else OSError(error.errno, error.strerror, str(path))


def replace_text(path: epath.Path, text: str) -> None:
    """Write a text file in UTF-8 by one rename, as `replace_bytes` does."""
    replace_bytes(path, text.encode())


def read_json(path: epath.Path) -> Any:
    """Read a file of JSON.

    Raises:
      OSError: the file cannot be read.
      ValueError: it holds no JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    r"""Format a table as CSV: a header line, then one line per row, each ending in "\n".

    A text that a spreadsheet would take for a formula, such as the id "=1+1", gets an apostrophe before it.
    """
    return csv_rows([columns]) + csv_rows(rows)


def csv_rows(rows: Iterable[Sequence[Any]]) -> str:
    r"""Format rows of a table as CSV, as in `csv_text`.

    Example:
      >>> print(csv_rows([("=1+1", -2), ("a,b", None)]), end="")
      '=1+1,-2
      "a,b",
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerows([_no_formula(cell) for cell in row] for row in rows)
    return file.getvalue()


def plain_cell(text: str) -> str:
    """Return the text of a cell without the apostrophe that `csv_text` put before it.

    Example:
      >>> plain_cell("'=1+1"), plain_cell("'a")
      ('=1+1', "'a")
    """
    return text[1:] if text[:1] == "'" and text.lstrip("'").startswith(_FORMULA_STARTS) else text


def _no_formula(cell: Any) -> Any:
    # A text with apostrophes before what looks like a formula gets one too: `plain_cell` must tell them apart.
    is_formula = isinstance(cell, str) and cell.lstrip("'").startswith(_FORMULA_STARTS) and not _is_number(cell)
    return f"'{cell}" if is_formula else cell


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


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
