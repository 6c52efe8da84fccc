"""The name of a preset, which is the first argument of some commands."""

from collections.abc import Callable, Mapping, Sequence

from unet_jax._types import InputError
from unet_jax.config import Config
from unet_jax.config.checks import did_you_mean
from unet_jax.config.presets import PRESETS


def preset_of(command: str, args: Sequence[str], presets: Mapping[str, Callable[[], Config]] = PRESETS) -> str | None:
    """Return the name of the preset. If help was asked for, print the list of presets and return None.

    Args:
      command: name of the command, for the help text.
      args: arguments of the command.
      presets: presets that the command knows, by name.

    Raises:
      InputError: the preset is missing or unknown.
    """
    if args and args[0] in presets:
        return args[0]
    if args and args[0] in ("-h", "--help"):
        lines = [f"  {name:9}{(make.__doc__ or '').strip().splitlines()[0]}" for name, make in presets.items()]
        print(f"usage: unet-jax {command} PRESET ...\n\npresets:\n" + "\n".join(lines))
        print(f"\n`unet-jax {command} PRESET --help` lists settings with the preset's values.")
        return None
    raise InputError(unknown("preset", args[0] if args else "", list(presets)))


def unknown(kind: str, given: str, known: Sequence[str]) -> str:
    """Return the error message for a word that is missing (empty) or not in the list.

    Example:
      >>> unknown("preset", "smal", ["default", "small"])
      "'smal' is not a preset; choose one of default, small. Did you mean 'small'?"
    """
    return (
        f"{given!r} is not a {kind}; choose one of {', '.join(known)}.{did_you_mean(given, known)}"
        if given
        else f"the {kind} is missing; choose one of {', '.join(known)}."
    )
