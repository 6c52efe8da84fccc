"""Facts about a setting, kept beside its field: when it is used, and whether it may change when a run continues."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from unet_jax._types import InputError


def setting(
    default: Any,
    *,
    may_change: bool = False,
    adjustable: bool = False,
    only_if: dict[str, tuple[Any, ...]] | None = None,
    only_with: tuple[str, ...] = (),
    not_with: tuple[str, ...] = (),
) -> Any:
    """Return a dataclass field with its default and the facts about it.

    Args:
      default: the field's default value.
      may_change: True for a setting that says how or where a run is computed, not what it computes. A run that
        continues may have another value.
      adjustable: True for a setting that a run that continues may change from then on: earlier steps keep their
        numbers. The runs of a study may not, because they are compared with each other.
      only_if: the setting is used only if each of these fields of the same class has one of these values.
      only_with: the setting is used only if one of these fields of the same class is not 0 and not empty.
      not_with: the setting is used only if all of these fields of the same class are 0 or empty.
    """
    metadata = {"may_change": may_change, "adjustable": adjustable}
    metadata |= {"only_if": only_if or {}, "only_with": only_with, "not_with": not_with}
    return dataclasses.field(default=default, metadata=metadata)


def adjustable_settings(config: Any) -> set[str]:
    """Return the dotted names of the settings that a run that continues may change from then on."""
    return {name for name, _, field, _ in iterate_settings(config) if field.metadata.get("adjustable")}


def iterate_settings(config: Any, prefix: str = "") -> Iterator[tuple[str, Any, dataclasses.Field[Any], Any]]:
    """Yield dotted name, owning section, field and value of every setting of a config."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from iterate_settings(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, config, field, value


def check_used(config: Any, known_values: dict[str, list[Any]]) -> None:
    """Raise `InputError` for a setting that somebody gave and that the rest of the config does not use.

    Args:
      config: the whole config.
      known_values: values by dotted name that nobody needs to have given, such as those of the presets. The default
        of a field always counts as one.
    """
    for name, section, field, value in iterate_settings(config):
        if value == _default(field) or value in known_values.get(name, []):
            continue
        reason = _why_unused(section, field, name.removesuffix(field.name))
        if reason:
            raise InputError(f"{name} is {value!r}, but {reason}")


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default_factory() if field.default is dataclasses.MISSING else field.default  # type: ignore[misc]


def _why_unused(section: Any, field: dataclasses.Field[Any], prefix: str) -> str:
    """Return why a setting is not used and what to do, or an empty string if it is used."""
    facts = field.metadata

    def flag(name: str) -> str:
        return f"--{prefix}{name}".replace("_", "-")

    for other, values in facts.get("only_if", {}).items():
        if getattr(section, other) not in values:
            choices = " or ".join(str(value) for value in values)
            return (
                f"{prefix}{other} {getattr(section, other)!r} does not use it: leave {flag(field.name)} out, or use "
                f"{flag(other)} {choices}."
            )
    needed = facts.get("only_with", ())
    if needed and not any(getattr(section, other) for other in needed):
        nothing = "0" if all(isinstance(getattr(section, other), int | float) for other in needed) else "empty"
        verb = "is" if len(needed) == 1 else "are"
        are = " and ".join(f"{prefix}{other}" for other in needed) + f" {verb} {nothing}"
        return f"{are}, so it has no effect: leave {flag(field.name)} out, or give {flag(needed[0])} as well."
    for other in facts.get("not_with", ()):
        if getattr(section, other):
            return f"{prefix}{other} takes its place, so it has no effect: leave one of the two out."
    return ""
