"""A network and an optimizer that were given from Python, as parts of what a run is: their names, values and code."""

import ast
import functools
import hashlib
import inspect
import re
import sys
import textwrap
from collections.abc import Mapping
from typing import Any

from unet_jax._types import InputError
from unet_jax.program.own import Own
from unet_jax.runs.loss_code import code_digest

Facts = Mapping[str, Mapping[str, str]]
"""Facts about the parts of a run that are somebody's own, by "network" and "optimizer"; empty without one."""

_MOST_SHOWN = 200
_ARTICLES = {"network": "a network", "optimizer": "an optimizer"}
_HOW = {"network": "network=MODULE", "optimizer": "optimizer=FUNCTION"}


def own_facts(own: Own) -> dict[str, dict[str, str]]:
    """Return what run.json keeps of a network and an optimizer that were given: name, values, and a digest of code.

    Values are the fields of a Flax module, or the arguments of a `functools.partial`. The digest is that of
    `unet_jax.runs.loss_code`. It is empty for code of installed packages, and for code whose source Python has not got.
    """
    parts = {"network": own.network, "optimizer": own.optimizer}
    return {name: _facts(part) for name, part in parts.items() if part is not None}


def check_own_parts(path: object, stored: Facts, own: Own, remedy: str) -> None:
    """Raise `InputError` if a run that continues began with another network or optimizer than those that are given.

    Args:
      path: run directory.
      stored: facts about the parts that the run began with.
      own: parts that are given now.
      remedy: sentence that says how to use the parts that are given now.
    """
    given = own_facts(own)
    for name, how in _HOW.items():
        before, now = stored.get(name), given.get(name)
        if before == now:
            continue
        if now is None and before is not None:
            raise missing_part(path, name, before, "unet_jax.train or unet_jax.fit")
        if before is None:
            raise InputError(f"{path}: began with the library's {name}: leave {how} out. {remedy}")
        assert now is not None
        same_text = describe_part(before) == describe_part(now)
        what = "the same name and values, but other code" if same_text else describe_part(now)
        raise InputError(f"{path}: began with the {name} {describe_part(before)}, but now it has {what}. {remedy}")


def check_network(path: object, stored: Facts, own: Own) -> None:
    """Raise `InputError` if a run cannot be loaded with this network, or without one."""
    before, now = stored.get("network"), own_facts(own).get("network")
    if before is not None and now is None:
        raise missing_part(path, "network", before, "unet_jax.load_run")
    if before is None and now is not None:
        raise InputError(f"{path}: has the library's network: load it without network.")
    if before is not None and now is not None and (before["name"], before["values"]) != (now["name"], now["values"]):
        raise InputError(
            f"{path}: has the network {describe_part(before)}, but {describe_part(now)} is given. Give the module that "
            f"it was trained with."
        )


def check_exportable(path: object, stored: Facts) -> None:
    """Raise `InputError` if the network of a run is somebody's own, which no export knows how to write."""
    if "network" in stored:
        raise InputError(
            f"{path}: has a network of its own, {describe_part(stored['network'])}, and only those of the library can "
            f"be exported. Its parameters are run.state.params and run.state.batch_stats."
        )


def missing_part(path: object, name: str, facts: Mapping[str, str], function: str) -> InputError:
    """Return the exception for a part that a run has and that must be given again."""
    return InputError(
        f"{path}: has {_ARTICLES[name]} of its own, {describe_part(facts)}, which only Python can give again: "
        f"{_HOW[name]} in {function} (docs/python.md)."
    )


def describe_part(facts: Mapping[str, str]) -> str:
    """Return a network or an optimizer in a few words.

    Example:
      >>> describe_part({"name": "my_module:Tiny", "values": "width = 8", "code": ""})
      'my_module:Tiny (width = 8)'
    """
    values = facts["values"] if len(facts["values"]) <= _MOST_SHOWN else facts["values"][:_MOST_SHOWN] + "..."
    return f"{facts['name']} ({values})" if values else facts["name"]


def _facts(part: Any) -> dict[str, str]:
    """Return the facts about a module, a function or a `functools.partial`."""
    values, owner = "", part
    while isinstance(owner, functools.partial):
        given = [*map(_text, owner.args), *(f"{name}={_text(value)}" for name, value in owner.keywords.items())]
        values, owner = ", ".join([*given, *([values] if values else [])]), owner.func
    if not inspect.isroutine(owner):
        owner, own_values = type(owner), _text(owner)
        values = re.sub(rf"^{re.escape(owner.__name__)}\((?:# attributes)?(.*)\)$", r"\1", own_values).strip()
    name = f"{getattr(owner, '__module__', '?')}:{getattr(owner, '__qualname__', '?')}"
    return {"name": name, "values": values, "code": _code(owner)}


def _text(value: Any) -> str:
    """Return a value as text on one line, without addresses in memory."""
    return " ".join(re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value)).split()).replace("( ", "(").replace(" )", ")")


def _code(owner: Any) -> str:
    """Return the digest of the code of a class or function; empty if it is not the user's, or has no source."""
    module, name = getattr(owner, "__module__", ""), getattr(owner, "__qualname__", "")
    file = getattr(sys.modules.get(module), "__file__", None) or ""
    if "site-packages" in file or "dist-packages" in file:
        return ""
    if getattr(sys.modules.get(module), name, None) is owner:
        return code_digest(f"{module}:{name}")
    try:
        source = textwrap.dedent(inspect.getsource(owner))
    except (OSError, TypeError):  # typed in by hand, or compiled
        return ""
    try:
        source = ast.dump(ast.parse(source))
    except SyntaxError:  # a lambda in the middle of an expression
        source = " ".join(source.split())
    return hashlib.sha256(source.encode()).hexdigest()[:32]
