"""Settings in a TOML file, by table or by dotted name."""

import json
import tomllib
from collections.abc import Mapping
from typing import Any

from etils import epath

from unet_jax._types import InputError

_PATHS = ("data.root", "data.splits", "data.cache_dir")


def read_toml(path: epath.Path, what: str) -> dict[str, Any]:
    """Read a TOML file.

    Args:
      path: the file.
      what: what the file should be, for the message.

    Raises:
      InputError: the file cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error}). Give {what}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is not TOML ({error}).") from error


def read_settings(file: str | epath.Path) -> dict[str, Any]:
    """Read settings by dotted name from a TOML file, for `unet_jax.replace`.

    Relative paths in the file (`data.root`, `data.splits`, `data.cache_dir`) start at the file's folder.

    Raises:
      InputError: the file cannot be read, or is not TOML.

    Example:
      >>> import pathlib, tempfile
      >>> path = pathlib.Path(tempfile.mkdtemp()) / "my.toml"
      >>> _ = path.write_text('''
      ... train.num_epochs = 50
      ... [data]
      ... image_size = [128, 256]
      ... ''')
      >>> read_settings(path)
      {'train.num_epochs': 50, 'data.image_size': (128, 256)}
    """
    path = epath.Path(file)
    return in_folder(flatten_tables(read_toml(path, "a TOML file of settings")), path.parent)


def flatten_tables(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return all settings by dotted name; the tables may be nested or have quoted dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= flatten_tables(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = tuple(value) if isinstance(value, list) else value
    return flat


def in_folder(settings: dict[str, Any], folder: epath.Path) -> dict[str, Any]:
    """Return the settings with relative paths that start at a folder."""
    paths = {name: settings[name] for name in _PATHS if settings.get(name) and isinstance(settings[name], str)}
    return settings | {name: str(folder / value) for name, value in paths.items()}


def format_toml(tables: Mapping[str, Mapping[str, Any]]) -> str:
    """Return tables of settings as TOML, tables inside of them as tables of their own; None is left out.

    Example:
      >>> print(format_toml({"config": {"seed": 1, "data": {"root": "a b", "image_size": (64, 96)}}}), end="")
      [config]
      seed = 1
      <BLANKLINE>
      [config.data]
      root = "a b"
      image_size = [64, 96]
      <BLANKLINE>
    """
    parts = []
    for name, values in tables.items():
        nested = {f"{name}.{key}": value for key, value in values.items() if isinstance(value, Mapping)}
        lines = [
            f"{key} = {format_value(value)}"
            for key, value in values.items()
            if value is not None and not isinstance(value, Mapping)
        ]
        parts.append("\n".join([f"[{name}]", *lines, "", ""]) if lines or not nested else "")
        parts.append(format_toml(nested))
    return "".join(parts)


def format_value(value: Any) -> str:
    """Return a value as TOML: text, a number, a truth value, a list, or a table in one line.

    Example:
      >>> format_value([{"name": "bce", "class_weight": (1.0, 2)}, True])
      '[{name = "bce", class_weight = [1.0, 2]}, true]'
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        inside = (f"{key} = {format_value(item)}" for key, item in value.items() if item is not None)
        return "{" + ", ".join(inside) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(format_value, value)) + "]"
    return repr(value)
