"""The preset that a command line names."""

from collections.abc import Sequence

from unet_jax._types import InputError
from unet_jax.config.checks import did_you_mean
from unet_jax.config.presets import PRESETS


def preset_of(command: str, args: Sequence[str]) -> str | None:
    """Return the preset's name, or print the list of presets and return None if help was asked for."""
    if args and args[0] in PRESETS:
        return args[0]
    if args and args[0] in ("-h", "--help"):
        lines = [f"  {name:9}{(make.__doc__ or '').strip().splitlines()[0]}" for name, make in PRESETS.items()]
        print(f"usage: unet-jax {command} PRESET ...\n\npresets:\n" + "\n".join(lines))
        print(f"\n`unet-jax {command} PRESET --help` lists every setting with the preset's value.")
        return None
    raise InputError(unknown("preset", args[0] if args else "", list(PRESETS)))


def unknown(kind: str, given: str, known: Sequence[str]) -> str:
    """Return the message for a word that is missing, or that is not in the list."""
    return (
        f"{given!r} is not a {kind}; there are {', '.join(known)}.{did_you_mean(given, known)}"
        if given
        else f"{kind} is missing; there are {', '.join(known)}."
    )
