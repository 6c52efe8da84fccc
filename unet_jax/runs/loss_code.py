"""The code of users' own losses as a part of what a run is: a digest of each function and of what it uses."""

import ast
import hashlib
import importlib
import inspect
from collections.abc import Mapping

from unet_jax._types import InputError
from unet_jax.config import LossConfig
from unet_jax.config.loss_catalogue import is_user_loss


def loss_code(config: LossConfig) -> dict[str, str]:
    """Return a digest of the code of each loss 'module:function', by its name. The modules are imported.

    The digest is of the function's syntax, so comments and line breaks do not count, and of everything at the top of
    its module that it uses, directly or not. Code of other modules does not count.

    Raises:
      InputError: a module cannot be imported.
    """
    return {term.name: code_digest(term.name) for term in config.terms if is_user_loss(term.name)}


def check_loss_code(path: object, stored: Mapping[str, str], config: LossConfig, remedy: str) -> None:
    """Raise `InputError` if a loss has other code than it had when the run in `path` began.

    Args:
      path: run directory.
      stored: digests by name, as `loss_code` returned them when the run began.
      config: the loss of the run.
      remedy: sentence that says what to do.
    """
    for name, digest in loss_code(config).items():
        before = stored.get(name)
        if before and digest and digest != before:
            raise InputError(
                f"{path}: the loss {name!r} has other code now than when the run began. Restore its code. {remedy}"
            )


def code_digest(name: str) -> str:
    """Return the digest of the code of one function or class 'module:name'; empty if its module has no source."""
    module_name, _, attribute = name.partition(":")
    try:
        source = inspect.getsource(importlib.import_module(module_name))
    except ImportError as error:
        raise InputError(f"loss {name!r} cannot be imported: {error}.") from error
    except (OSError, TypeError):  # typed in by hand, or compiled
        return ""
    by_name: dict[str, list[ast.stmt]] = {}
    for statement in ast.parse(source).body:
        for defined in _names_defined(statement):
            by_name.setdefault(defined, []).append(statement)
    used, waiting = set(), [attribute]
    while waiting:
        current = waiting.pop()
        if current in used:
            continue
        used.add(current)
        for statement in by_name.get(current, []):
            waiting += [node.id for node in ast.walk(statement) if isinstance(node, ast.Name)]
    text = "\n".join(f"{x}: {ast.dump(s)}" for x in sorted(used) for s in by_name.get(x, []))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _names_defined(statement: ast.stmt) -> list[str]:
    """Return the names that a statement at the top of a module gives a value to."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return [(alias.asname or alias.name).partition(".")[0] for alias in statement.names]
    stored = (node for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))
    return [node.id for node in stored]
