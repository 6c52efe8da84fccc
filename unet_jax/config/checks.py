"""Value checks of configs; each error names the field, the value and the requirement."""

import difflib
import math
import typing
import unicodedata
from collections.abc import Iterable
from typing import Literal

from unet_jax._types import InputError


def require(ok: bool, field: str, value: object, requirement: str) -> None:
    """Raise `InputError` unless a requirement is met."""
    if not ok:
        raise InputError(f"{field} is {value!r}, but must be {requirement}.")


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Return " Did you mean ...?" with the closest known name, or an empty string if none is close."""
    close = difflib.get_close_matches(given, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


_LINE_ENDS = "\u2028\u2029"  # not control characters by category, but they break lines too


def control_character(text: str) -> str:
    """Return the first character that is a control character, ends a line or is not UTF-8; an empty text if none is."""
    return next((c for c in text if unicodedata.category(c) in ("Cc", "Cs") or c in _LINE_ENDS), "")


def is_plain_name(name: str) -> bool:
    """Return whether a folder can have this name: one part of a path, without control characters."""
    return bool(name) and "/" not in name and name not in (".", "..") and not control_character(name)


def check_types(config: object, prefix: str) -> None:
    """Raise `InputError` for a value of another type than its field's. Python itself would accept it."""
    for name, hint in typing.get_type_hints(type(config)).items():
        value, arguments = getattr(config, name), typing.get_args(hint)
        origin = typing.get_origin(hint)
        if origin is Literal:
            require(value in arguments, prefix + name, value, "one of " + ", ".join(map(repr, arguments)))
        elif origin is tuple:
            kind = arguments[0]
            kinds = (int, float) if kind is float else (kind,)
            ok = isinstance(value, tuple) and all(type(v) in kinds for v in value)
            require(ok, prefix + name, value, f"a tuple of {kind.__name__}")
        elif hint is float:
            ok = type(value) in (int, float) and math.isfinite(value)
            require(ok, prefix + name, value, "a finite number")
        elif hint in (int, bool, str):
            require(type(value) is hint, prefix + name, value, f"of type {hint.__name__}")


def require_fraction(field: str, value: float) -> None:
    """Raise `InputError` unless the value is from 0 to 1."""
    require(0.0 <= value <= 1.0, field, value, "between 0 and 1")
