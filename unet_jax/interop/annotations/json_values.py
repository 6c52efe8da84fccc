"""Access to values in parsed JSON that other programs wrote, with errors that name the place and the value."""

from typing import Any, TypeVar

import numpy as np

from unet_jax._types import InputError

T = TypeVar("T")

_WORDS = {dict: "an object", list: "a list", str: "a text", float: "a number", int: "a whole number"}
_NEEDED: Any = object()


def member(mapping: Any, key: str, kind: type[T], where: str, default: Any = _NEEDED) -> T:
    """Return a member of an object if it has the right type.

    Args:
      mapping: parsed JSON, which should be an object.
      key: name of the member.
      kind: dict, list, str, int, or float, which means any finite number.
      where: file and place in it, with which the message begins.
      default: value for a member that is missing or null; without it, that is an error.

    Raises:
      InputError: `mapping` is no object, the member is missing, or it has another type.

    Example:
      >>> member({"width": 4}, "width", int, "a.json: images[0]")
      4
    """
    check(mapping, dict, where)
    if mapping.get(key) is None:
        if default is _NEEDED:
            raise InputError(f"{where}: has no {key!r}, but {_WORDS[kind]} is expected there.")
        return default
    return check(mapping[key], kind, f"{where}: {key!r}")


def check(value: Any, kind: type[T], where: str) -> T:
    """Return the value if it has the right type; raise `InputError` if not."""
    if kind is float and _is_number(value):
        return value
    if kind is int and _is_number(value) and value == int(value):  # some programs write 640.0
        return int(value)  # type: ignore[return-value]
    if kind not in (int, float) and isinstance(value, kind):
        return value
    raise InputError(f"{where}: is {shown(value)}, but must be {_WORDS[kind]}.")


def _is_number(value: Any) -> bool:
    """Return whether a value is a number that float64 can hold, neither NaN nor infinite."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def shown(value: Any) -> str:
    """Return a value for a message, cut off if it is long."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def points_of(value: Any, where: str) -> np.ndarray:
    """Return a list of [x, y] as `[n 2]` float64; z is dropped.

    Raises:
      InputError: the value is not a list of points with finite coordinates.
    """
    pairs = check(value, list, where)
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) not in (2, 3):
            raise InputError(f"{where}: has the point {shown(pair)}, but a point is [x, y].")
    return numbers_of([number for pair in pairs for number in pair[:2]], where).reshape(-1, 2)


def numbers_of(value: Any, where: str) -> np.ndarray:
    """Return a list of finite numbers as `[n]` float64; raise `InputError` if it is something else."""
    numbers = check(value, list, where)
    for number in numbers:
        if not _is_number(number):
            raise InputError(f"{where}: has {shown(number)} among its coordinates, but they must be numbers.")
    return np.array(numbers, np.float64)
