"""A preset named on the command line."""

from collections.abc import Sequence

from unet_jax._types import InputError
from unet_jax.config.checks import did_you_mean
from unet_jax.config.presets import PRESETS


def _preset(command: str, args: Sequence[str]) -> str | None:
    """The preset that a command is for, or None when it was asked for help."""
    if args and args[0] in PRESETS:
        return args[0]
    if args and args[0] in ("-h", "--help"):
        lines = [f"  {name:9}{(make.__doc__ or '').strip().splitlines()[0]}" for name, make in PRESETS.items()]
        print(f"usage: unet-jax {command} PRESET ...\n\npresets:\n" + "\n".join(lines))
        print(f"\n`unet-jax {command} PRESET --help` lists every setting with the preset's value.")
        return None
    raise InputError(_unknown("preset", args[0] if args else "", list(PRESETS)))


def _unknown(kind: str, given: str, known: Sequence[str]) -> str:
    return (
        f"{given!r} is not a {kind}; there are {', '.join(known)}.{did_you_mean(given, known)}"
        if given
        else f"{kind} is missing; there are {', '.join(known)}."
    )
