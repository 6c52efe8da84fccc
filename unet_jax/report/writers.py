"""Functions of users that get each row of metrics.jsonl, such as those that send it to W&B."""

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from unet_jax._types import InputError

Writer = Callable[[dict[str, Any]], object]
"""Function that is called with a row: numbers by name, one of which is `step`."""


def load_writers(names: Sequence[str]) -> dict[str, Writer]:
    """Import functions that are named as 'module:function'.

    Raises:
      InputError: a module cannot be imported, or has no such function.
    """
    writers = {}
    for name in names:
        module, _, attribute = name.partition(":")
        try:
            writers[name] = getattr(importlib.import_module(module), attribute)
        except Exception as error:  # the module is the user's, and may do anything
            raise InputError(
                f"train.writers {name!r} cannot be imported: {type(error).__name__}: {error}. The module must be in "
                f"the current folder or in one of PYTHONPATH."
            ) from error
        if not callable(writers[name]):
            raise InputError(f"train.writers {name!r} is {type(writers[name]).__name__}, but must be a function.")
    return writers


def write_row(writers: Mapping[str, Writer], row: Mapping[str, Any]) -> Iterator[str]:
    """Call each writer with a copy of a row, and yield a warning for each one that fails."""
    for name, writer in writers.items():
        try:
            writer(dict(row))
        except Exception as error:  # no failure of a log is a reason to stop training
            yield f"WARNING: train.writers {name} failed at step {row['step']} ({type(error).__name__}: {error})"
