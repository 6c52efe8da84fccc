"""Reading of a run's JSON files that name their own format."""

from collections.abc import Callable
from typing import Any, TypeVar

from etils import epath

from unet_jax._files import read_json
from unet_jax._types import InputError

T = TypeVar("T")


def read_versioned(path: epath.Path, version: int, parse: Callable[[Any], T], remedy: str) -> T:
    """Read a file of JSON that names its format, and parse what it holds.

    Args:
      path: the file.
      version: format that is read.
      parse: function of the file's content. It raises ValueError, KeyError, TypeError or AttributeError for content
        that no version of this library would have written.
      remedy: end of the error message about a damaged file.

    Returns:
      The result of `parse`.

    Raises:
      InputError: the file has another format, or is damaged.
    """
    try:
        values = read_json(path)
        if values["format"] != version:
            raise InputError(f"{path}: has format {values['format']!r}; this version of unet_jax reads {version}.")
        return parse(values)
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: is damaged ({type(error).__name__}: {error}). {remedy}") from error
