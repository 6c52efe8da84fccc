"""The table of settings that were chosen for a data set and a machine, and the flags that mean the same."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from unet_jax.config.choices import Choice


def choices_table(choices: Sequence[Choice]) -> Table:
    """Return a table of settings, values and reasons."""
    table = Table()
    for title in ("setting", "value", "reason"):
        table.add_column(title, no_wrap=title == "setting")
    for choice in choices:
        table.add_row(*(escape(text) for text in (choice.name, value_text(choice.value), choice.reason)))
    return table


def value_text(value: Any) -> str:
    """Return a value as its flag takes it: the parts of a tuple with spaces between them.

    Example:
      >>> value_text((16, 32)), value_text(0.5), value_text(True)
      ('16 32', '0.5', 'True')
    """
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def settings_of(choices: Sequence[Choice]) -> dict[str, Any]:
    """Return the settings among the choices by dotted name, without the facts.

    Example:
      >>> settings_of([Choice("images", "9 train", ""), Choice("model.widths", (8, 16), "")])
      {'model.widths': (8, 16)}
    """
    return {choice.name: choice.value for choice in choices if "." in choice.name}


def flags_of(settings: Mapping[str, Any]) -> str:
    """Return settings as flags of `unet-jax train`.

    Example:
      >>> flags_of({"model.widths": (8, 16), "data.splits": "my splits.csv", "augment.circular_hue": False})
      "--model.widths 8 16 --data.splits 'my splits.csv' --augment.no-circular-hue"
    """
    return " ".join(_flag(name, value) for name, value in settings.items())


def _flag(name: str, value: Any) -> str:
    flag = "--" + name.replace("_", "-")
    if isinstance(value, bool):
        return flag if value else f"--{name.rpartition('.')[0]}.no-{name.rpartition('.')[2]}".replace("_", "-")
    return f"{flag} {shlex.join(map(str, value) if isinstance(value, tuple) else [str(value)])}"
