"""Configs as dictionaries: as JSON, by dotted name, and compared."""

import dataclasses
import json
import typing
from typing import Any

from unet_jax._types import InputError
from unet_jax.config import Config
from unet_jax.config.checks import did_you_mean

# Fields that say how or where a run is computed, not what it computes: a resumed run may change them.
_FREE_FIELDS = frozenset(
    {
        "data.root",
        "data.splits",
        "data.cache",
        "data.cache_dir",
        "data.rebuild_cache",
        "data.num_threads",
        "data.num_workers",
        "model.packing",
        "model.remat",
        "train.devices_per_image",
        "train.on_non_finite",
        "train.log_gradients_every_steps",
        "train.tensorboard",
    }
)


def config_to_dict(config: Any) -> dict[str, Any]:
    """The config as nested dictionaries of JSON values."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def config_from_dict(values: dict[str, Any], cls: type = Config, prefix: str = "") -> Any:
    """The inverse of `config_to_dict`; raises `InputError` on a field that does not exist."""
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
    """An element of a tuple: a config where the tuple is one of configs."""
    is_config = dataclasses.is_dataclass(kind) and isinstance(value, dict)
    return config_from_dict(value, typing.cast(type, kind), prefix) if is_config else value


def flatten_config(config: Any, prefix: str = "") -> dict[str, Any]:
    """`{"data.image_size": 128, ...}`: every setting by its dotted name."""
    flat: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            flat.update(flatten_config(value, f"{prefix}{field.name}."))
        else:
            flat[prefix + field.name] = value
    return flat


def replace(config: Config, values: dict[str, Any]) -> Config:
    """A config with some settings changed, by dotted name: `replace(config, {"data.image_size": 128})`.

    All changes are made together, so that values that fit each other are not refused one by one.
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
    """Settings that would change a run's numbers, with both values."""
    before, after = flatten_config(old), flatten_config(new)
    return {k: (before[k], after[k]) for k in before if k not in _FREE_FIELDS and before[k] != after[k]}


def check_same_run(path: object, old: Config, new: Config, remedy: str) -> None:
    """Raises `InputError` with the `config_differences` if the run in `path` has other settings."""
    differences = config_differences(old, new)
    if differences:
        shown = "\n  ".join(f"{name}: was {a!r}, now {b!r}" for name, (a, b) in differences.items())
        raise InputError(f"{path}: holds a run with other settings:\n  {shown}\n{remedy}")
