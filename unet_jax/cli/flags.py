"""Settings from the command line that are not flags of their own: other programs' names of them, and a TOML file."""

import itertools
from collections.abc import Sequence
from typing import Any

import tyro

from unet_jax._types import InputError
from unet_jax.config import Config, LossTermConfig
from unet_jax.config.dicts import replace
from unet_jax.config.loss_terms import format_term, parse_term
from unet_jax.config.toml_file import read_settings

_SYNONYMS = {
    "--optim.learning-rate": ("lr", "learning-rate", "learning_rate"),
    "--train.num-epochs": ("epochs", "epoch", "num-epochs", "n-epochs", "max-epochs"),
    "--train.num-steps": ("steps", "iterations", "max-steps"),
    "--train.batch-size": ("batch", "batch-size", "batch_size", "bs", "b"),
    "--data.image-size": ("size", "image-size", "img-size", "imgsz", "scale", "resolution"),
    "--data.root": ("data", "root", "dataset", "data-dir", "data-root", "images"),
    "--data.classes": ("classes", "names"),
    "--data.splits": ("splits", "split"),
    "--data.num-workers": ("workers", "num-workers", "j"),
    "--optim.name": ("optimizer", "opt", "optim"),
    "--optim.weight-decay": ("weight-decay", "wd"),
    "--loss.terms, as in --loss.terms bce 'tversky(weight=0.5)' (docs/losses.md)": ("loss",),
    "--model.dtype bfloat16": ("amp", "fp16", "bf16", "half"),
    "--out": ("output", "out-dir", "output-dir", "save-dir", "name", "project"),
}
_MEANT = {f"--{name}": flag for flag, names in _SYNONYMS.items() for name in names}


TERMS = tyro.constructors.ConstructorRegistry()
"""Argument `registry` of `tyro.cli`: terms of a loss are text, as in `--loss.terms bce 'tversky(weight=0.5)'`."""


@TERMS.primitive_rule
def _term_rule(info: Any) -> Any:
    """Say how a term is read and shown; None for all other types."""
    if info.type is not LossTermConfig:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="TERM",
        instance_from_str=lambda words: parse_term(words[0]),
        is_instance=lambda value: isinstance(value, LossTermConfig),
        str_from_instance=lambda term: [format_term(term)],
    )


def _check_terms(words: Sequence[str]) -> None:
    """Raise `InputError` for the first word that is no term; tyro would only say that it could not be parsed."""
    for word in words:
        parse_term(word)


def config_and_flags(preset: Config, args: Sequence[str]) -> tuple[Config, list[str], list[str]]:
    """Return the preset with the settings of `--config FILE`, the arguments without it, and the settings as flags.

    Args:
      preset: settings to begin with.
      args: arguments of the command. `--config FILE` names a TOML file of settings; flags take precedence over it.

    Returns:
      The settings; the arguments that are left; and the names of the file's settings, each as `--NAME`.

    Raises:
      InputError: an argument is a name that other programs use for a setting, or the file cannot be used.
    """
    flags: list[str] = []
    from_file: list[str] = []
    config, rest = preset, list(args)
    while rest:
        arg = rest.pop(0)
        name, equals, value = arg.partition("=")
        if name in _MEANT:
            raise InputError(f"{name} is not an option. Use {_MEANT[name]}.")
        if name == "--loss.terms":
            _check_terms([value] if equals else list(itertools.takewhile(lambda word: not word.startswith("--"), rest)))
        if name != "--config":
            flags.append(arg)
            continue
        if not equals:
            if not rest:
                raise InputError("--config needs the name of a TOML file.")
            value = rest.pop(0)
        try:
            settings = read_settings(value)
            config = replace(config, settings)
            from_file += [f"--{setting}" for setting in settings]
        except InputError as error:
            raise InputError(str(error) if str(error).startswith(value) else f"{value}: {error}") from error
    return config, flags, from_file
