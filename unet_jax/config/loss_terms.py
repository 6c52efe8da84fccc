"""Terms of a loss as text for a command line: `bce`, `tversky(weight=0.5, fn_weight=0.8)`."""

import ast
import dataclasses
import re
from typing import Any

from unet_jax._types import InputError
from unet_jax.config.loss import LossTermConfig, RampConfig

_FIELDS = tuple(field.name for field in dataclasses.fields(LossTermConfig) if field.name not in ("name", "options"))
_FORM = "NAME or NAME(option=number, ...), as in 'tversky(weight=0.5, fn_weight=0.8)'"


def parse_term(text: str) -> LossTermConfig:
    """Read a term of a loss from text.

    Args:
      text: name of a loss, or of a function of your own ('package.module:function'); then, in parentheses, values by
        name: the fields of `LossTermConfig`, and the options of the loss. Values are numbers, texts in quotation marks,
        lists, and for `ramp` a table such as {'stop': 0.5}. Nothing is computed or called.

    Raises:
      InputError: the text has another form, or the loss or one of the names does not exist.

    Example:
      >>> term = parse_term("tversky(weight=0.5, fn_weight=0.8)")
      >>> term.name, term.weight, term.options
      ('tversky', 0.5, {'fn_weight': 0.8})
    """
    match = re.fullmatch(r"\s*([\w.:]+)\s*(\(.*\))?\s*", text, flags=re.S)
    if match is None:
        raise InputError(f"loss.terms has {text!r}, which is not {_FORM}.")
    name, values = match[1], _keywords(text, match[2] or "()")
    fields = {key: values.pop(key) for key in _FIELDS if key in values}
    try:
        if "ramp" in fields:
            fields["ramp"] = _ramp(fields["ramp"])
        if isinstance(fields.get("class_weight"), list):
            fields["class_weight"] = tuple(fields["class_weight"])
        return LossTermConfig(name, options=values, **fields)
    except (InputError, TypeError, ValueError) as error:
        more = f" Besides the options of a loss, every term has {', '.join(_FIELDS)}." if values else ""
        raise InputError(f"loss.terms has {text!r}: {error}{more}") from error


def _keywords(text: str, arguments: str) -> dict[str, Any]:
    """Return the values in parentheses by name; they may only be literals."""
    try:
        call = ast.parse(f"_{arguments}", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or not isinstance(call.func, ast.Name):
            raise ValueError("every value needs a name")
        values: dict[str, Any] = {}
        for keyword in call.keywords:
            if keyword.arg is None:
                raise ValueError("** is not a name")
            if keyword.arg in values:
                raise ValueError(f"{keyword.arg} is repeated")
            values[keyword.arg] = ast.literal_eval(keyword.value)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
        why = error.msg if isinstance(error, SyntaxError) else str(error).partition(" on line")[0].partition(":")[0]
        raise InputError(f"loss.terms has {text!r}, which is not {_FORM} ({why}).") from error
    return values


def _ramp(value: Any) -> RampConfig:
    """Return a ramp from a table of its fields."""
    known = [field.name for field in dataclasses.fields(RampConfig)]
    if not isinstance(value, dict) or not set(value) <= set(known):
        raise InputError(f"ramp is {value!r}, but must be a table of {', '.join(known)}, as in {{'stop': 0.5}}.")
    return RampConfig(**value)


def format_term(term: LossTermConfig) -> str:
    """Return a term as text that `parse_term` reads.

    Example:
      >>> format_term(LossTermConfig("tversky", 0.5, {"fn_weight": 0.8}))
      'tversky(weight=0.5, fn_weight=0.8)'
      >>> format_term(LossTermConfig("bce"))
      'bce'
    """
    plain = LossTermConfig("bce")
    values = {name: getattr(term, name) for name in _FIELDS if getattr(term, name) != getattr(plain, name)}
    values |= term.options
    ramp = values.get("ramp")
    if ramp is not None:
        values["ramp"] = dataclasses.asdict(ramp)
    inside = ", ".join(f"{name}={value!r}" for name, value in values.items())
    return f"{term.name}({inside})" if inside else term.name
