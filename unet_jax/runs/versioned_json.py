"""Reading and writing of a run's JSON files that name their own format, with a digest of their values.

Storage and copies change bytes without a word, and a file of JSON with another digit is still a file of JSON. The
digest stands in a line of its own, below the format: somebody who edits a file on purpose deletes that line.
"""

import hashlib
import json
from collections.abc import Callable, Collection
from typing import Any, TypeVar

from etils import epath

from unet_jax._files import read_json
from unet_jax._types import InputError

T = TypeVar("T")


class DamagedError(ValueError):
    """Error for a value that no version of this library would have written; the message is all that is to be said."""


class _OtherFormatError(InputError):
    """Error for a file of another format."""


def digest_of(values: dict[str, Any]) -> str:
    """Return a digest of what a file of JSON holds, besides its own digest. Spaces and lines do not count.

    Example:
      >>> digest_of({"a": (1, 0.5), "b": None}) == digest_of({"digest": "x", "b": None, "a": [1, 0.5]})
      True
    """
    values = {name: value for name, value in values.items() if name != "digest"}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:32]


def versioned_text(version: int, values: dict[str, Any]) -> str:
    """Return the text of a file for `read_versioned`.

    Args:
      version: format of the file.
      values: JSON values by name.
    """
    values = json.loads(json.dumps({"format": version, **values}))  # as a reader will see them
    return json.dumps({"format": version, "digest": digest_of(values), **values}, indent=1) + "\n"


def check_digest(values: dict[str, Any]) -> None:
    """Raise `DamagedError` if a file's values are not those that were written. Files without a digest are not checked.

    Args:
      values: all that the file holds.
    """
    if "digest" in values and values["digest"] != digest_of(values):
        raise DamagedError(
            'its values are not those that were written. If you changed them on purpose, delete the entry "digest" '
            "and its line"
        )


def read_versioned(
    path: epath.Path,
    version: int,
    names: Collection[str],
    parse: Callable[[Any], T],
    remedy: str,
    *,
    older: Collection[int] = (),
) -> T:
    """Read a file of JSON that names its format, and parse what it holds.

    Args:
      path: the file.
      version: format that is read.
      names: names of the values that it may hold, besides "format" and "digest".
      parse: function of the file's content. It raises ValueError, KeyError, TypeError or AttributeError for content
        that no version of this library would have written.
      remedy: end of the error message about a damaged file.
      older: earlier formats, whose files are read in the same way.

    Returns:
      The result of `parse`.

    Raises:
      InputError: the file has another format, or is damaged.
    """
    try:
        values = read_json(path)
        if not isinstance(values, dict):
            raise DamagedError(f"it is not an object, but {type(values).__name__}")
        found = values.get("format")
        if found not in (version, *older):
            raise _OtherFormatError(f"{path}: has format {found!r}; this version of unet_jax reads {version}.")
        parsed = parse(values)  # first, because its errors say what is wrong
        unknown = sorted(set(values) - {"format", "digest", *names})
        if unknown:
            raise DamagedError(f"it holds {unknown[0]!r}, which this version of unet_jax does not know")
        check_digest(values)
        return parsed
    except DamagedError as error:
        raise InputError(f"{path}: is damaged ({error}). {remedy}") from error
    except _OtherFormatError:
        raise
    except InputError as error:
        raise InputError(f"{path}: {error} {remedy}") from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise InputError(f"{path}: is damaged ({type(error).__name__}: {error}). {remedy}") from error
