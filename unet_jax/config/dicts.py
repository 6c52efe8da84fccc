"""Configs as dictionaries: to and from JSON, by dotted name, and compared."""

import dataclasses
import json
import typing
from typing import Any

from unet_jax._types import InputError
from unet_jax.config import Config
from unet_jax.config.checks import did_you_mean
from unet_jax.config.settings import iterate_settings


def config_to_dict(config: Any) -> dict[str, Any]:
    """Return the config as nested dictionaries of JSON values."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def config_from_dict(values: dict[str, Any], cls: type = Config, prefix: str = "") -> Any:
    """Make a config from nested dictionaries: the inverse of `config_to_dict`.

    Raises:
      InputError: a field does not exist, or a value is refused.
    """
    hints = typing.get_type_hints(cls)
    kwargs = {}
    for name, value in values.items():
        if name not in hints:
            raise InputError(f"config field {prefix}{name} is not known to this version of unet_jax.")
        hint = hints[name]
        nested = next((t for t in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(t)), None)
        if nested is not None and isinstance(value, dict):
            value = config_from_dict(value, typing.cast(type, nested), f"{prefix}{name}.")
        elif isinstance(value, list):
            kind = next(iter(typing.get_args(hint)), None)
            value = tuple(_element(v, kind, f"{prefix}{name}.") for v in value)
        kwargs[name] = value
    return cls(**kwargs)


def _element(value: Any, kind: Any, prefix: str) -> Any:
    """Convert an element of a tuple to a config if it should be one."""
    is_config = dataclasses.is_dataclass(kind) and isinstance(value, dict)
    return config_from_dict(value, typing.cast(type, kind), prefix) if is_config else value


def flatten_config(config: Any) -> dict[str, Any]:
    """Return every setting by its dotted name: `{"data.image_size": 128, ...}`."""
    return {name: value for name, _, _, value in iterate_settings(config)}


def replace(config: Config, values: dict[str, Any]) -> Config:
    """Return a config with some settings changed, by dotted name.

    All changes are made together, so that values that fit each other are not refused one by one.

    Args:
      config: the config to begin with; it is not changed.
      values: new values by dotted name.

    Raises:
      InputError: a name does not exist, or a value is refused.

    Example:
      >>> from unet_jax import PRESETS, replace
      >>> config = replace(PRESETS["small"](), {"data.image_size": 64, "train.batch_size": 4})
      >>> config.data.image_size, config.train.batch_size
      (64, 4)
    """
    nested = config_to_dict(config)
    known = flatten_config(config)
    for name, value in values.items():
        if name not in known:
            raise InputError(f"config field {name!r} does not exist.{did_you_mean(name, known)}")
        *parents, last = name.split(".")
        level = nested
        for parent in parents:
            level = level[parent]
        level[last] = list(value) if isinstance(value, tuple) else value
    return config_from_dict(nested)


def config_differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """Return the settings that differ and would change a run's numbers, with both values by dotted name."""
    after = flatten_config(new)
    return {
        name: (value, after[name])
        for name, _, field, value in iterate_settings(old)
        if value != after[name] and not field.metadata.get("may_change")
    }


def changed_settings(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """Return all settings that differ, with both values by dotted name."""
    after = flatten_config(new)
    return {name: (value, after[name]) for name, value in flatten_config(old).items() if value != after[name]}


def check_same_run(path: object, old: Config, new: Config, remedy: str) -> None:
    """Raise `InputError` with the `config_differences` if the run in `path` has other settings."""
    differences = config_differences(old, new)
    if differences:
        shown = "\n  ".join(f"{name}: was {a!r}, now {b!r}" for name, (a, b) in differences.items())
        raise InputError(f"{path}: holds a run with other settings:\n  {shown}\n{remedy}")
