"""The command `unet-jax auto`, and `unet-jax train auto`: settings chosen for a data set and this machine."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any

import tyro
from etils import epath

from unet_jax._types import InputError
from unet_jax.cli.flags import TERMS, config_and_flags
from unet_jax.cli.options import check_root
from unet_jax.config import Config
from unet_jax.config.choices import Choice
from unet_jax.config.dicts import flatten_config, replace
from unet_jax.config.placeholders import File
from unet_jax.config.presets import auto as auto_preset
from unet_jax.config.processes import Processes
from unet_jax.report.choices_table import choices_table, flags_of, settings_of
from unet_jax.report.display import print_table


@dataclasses.dataclass(frozen=True)
class _Auto:
    """Choose image size, network, batch size and number of updates for a data set and this machine, without training.

    A setting that is given stays as it is, and the others are chosen to fit it.
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    minutes: float = 0.0
    """Time for the whole run in minutes: this choice, compilation, training and evaluations. 0: no limit."""


def auto(args: Sequence[str]) -> None:
    """Run `unet-jax auto`."""
    config, flags, from_file = config_and_flags(auto_preset(), args)
    options = tyro.cli(_Auto, args=flags, default=_Auto(config=config), prog="unet-jax auto", registry=TERMS)
    check_root(options.config.data.root)
    given = given_settings([*flags, *from_file], options.config)
    _, choices = _choose(given, options.minutes)
    print(f"to train so: unet-jax train auto --out RUN {flags_of({**given, **settings_of(choices)})}")


@dataclasses.dataclass(frozen=True)
class TrainAuto:
    """Train a run with settings that are chosen for the data set and this machine, or continue the one in --out.

    A setting that is given stays as it is, and the others are chosen to fit it. A run that continues has the settings
    that were chosen when it began.
    """

    out: File
    """Run directory, local or in a bucket. The same command continues a run that was stopped."""
    processes: Annotated[Processes, tyro.conf.arg(name="")]
    config: Annotated[Config, tyro.conf.arg(name="")]
    minutes: float = 0.0
    """Time for the whole run in minutes: the choice of settings, compilation, training and evaluations. 0: no limit."""


def config_and_choices(options: TrainAuto, args: Sequence[str]) -> tuple[Config, list[Choice]]:
    """Return the settings of `unet-jax train auto`: those of the run in --out, or newly chosen ones with their table.

    Args:
      options: parsed options.
      args: arguments that they were parsed from, which tell a given setting from one of the preset.

    Raises:
      InputError: several processes are connected, each of which would choose for itself.
    """
    import jax

    from unet_jax.runs.info import info_path, load_info

    given = given_settings(args, options.config)
    out = epath.Path(options.out)
    if info_path(out).exists():
        print(f"{out}: has its settings already, and is continued with them")
        return replace(load_info(out).config, given), []
    if jax.process_count() > 1:
        raise InputError(
            "auto chooses settings in one process. Run `unet-jax auto` with the same options on one machine, and start "
            "all processes with the command that it prints and another preset: unet-jax train default ..."
        )
    return _choose(given, options.minutes)


def _choose(given: dict[str, Any], minutes: float) -> tuple[Config, list[Choice]]:
    """Choose the settings, and print their table."""
    from unet_jax.training.auto import choose_config

    config, choices = choose_config(given, minutes=minutes)
    print_table(choices_table(choices), 120)
    return config, choices


def given_settings(args: Sequence[str], config: Config) -> dict[str, Any]:
    """Return the settings that the arguments name, with their parsed values, also where they equal the preset's.

    Args:
      args: arguments of the command line.
      config: config that they were parsed to.

    Example:
      >>> from unet_jax.config.dicts import replace
      >>> config = replace(Config(), {"data.image_size": 128, "augment.circular_hue": False})
      >>> given_settings(["--data.image_size=128", "--augment.no-circular-hue"], config)
      {'data.image_size': 128, 'augment.circular_hue': False}
    """
    flags = {arg.partition("=")[0].lstrip("-").replace("-", "_") for arg in args if arg.startswith("--")}
    flags = {flag.replace(".no_", ".") for flag in flags} | flags
    return {name: value for name, value in flatten_config(config).items() if name in flags}
