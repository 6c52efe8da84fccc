"""The command `unet-jax train`: parse the options, train, print the result."""

import dataclasses
import shlex
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from unet_jax.cli.auto import TrainAuto, config_and_choices
from unet_jax.cli.flags import TERMS, config_and_flags
from unet_jax.cli.options import check_root
from unet_jax.cli.preset import preset_of
from unet_jax.cli.short_help import short_help
from unet_jax.config import Config
from unet_jax.config.presets import PRESETS, auto
from unet_jax.config.processes import Processes


@dataclasses.dataclass(frozen=True)
class _Train:
    """Train a run, or continue the one in --out from its newest checkpoint.

    Settings may also stand in a TOML file, --config FILE, by the names below; flags take precedence over it.
    """

    out: Annotated[str, tyro.conf.arg(metavar="RUN")]
    """Run directory, local or in a bucket. The same command continues a run that was stopped."""
    processes: Annotated[Processes, tyro.conf.arg(name="")]
    config: Annotated[Config, tyro.conf.arg(name="")]


def train(args: Sequence[str]) -> None:
    """Run `unet-jax train`."""
    presets = {"auto": auto, **PRESETS}
    preset = preset_of("train", args, presets)
    if preset is None:
        return
    config, flags, from_file = config_and_flags(presets[preset](), args[1:])
    if "-h" in flags or "--help" in flags:
        print(short_help(preset, config, {"--minutes 10": "budget of time"} if preset == "auto" else {}))
        return
    flags = ["--help" if flag == "--help-all" else flag for flag in flags]
    kind: Any = TrainAuto if preset == "auto" else _Train
    default = kind(out=tyro.MISSING, processes=Processes(), config=config)
    options = tyro.cli(kind, args=flags, default=default, prog=f"unet-jax train {preset}", registry=TERMS)
    check_root(options.config.data.root, options.processes)
    # Imported here, because these modules import jax, and neither help nor a mistake need wait for it.
    from unet_jax.devices.processes import connected, is_first
    from unet_jax.training.loop import train as train_run

    with connected(options.processes):
        config, choices = (
            config_and_choices(options, [*flags, *from_file]) if preset == "auto" else (options.config, [])
        )
        result = train_run(config, options.out, choices=choices)
    if not is_first():
        return
    scores = ", ".join(f"{name} {value:.4f}" for name, value in result.best_metrics.items())
    print(f"finished at step {result.step}; best checkpoint {result.best_step} (on val: {scores})")
    if (page := result.path / "report.html").exists():
        print(f"page: {page}")
    run = shlex.quote(str(result.path))
    print(f"next:\n  unet-jax evaluate {run}\n  unet-jax predict {run} IMAGES --out MASKS\n  unet-jax info {run}")
