"""`unet-jax plan`: parses, calls, prints."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import tyro
from etils import epath
from rich.console import Console

from unet_jax._files import user_cache
from unet_jax.cli.preset import preset_of
from unet_jax.config import Config
from unet_jax.config.dicts import replace
from unet_jax.config.presets import PRESETS, check_settings
from unet_jax.plan.estimate import LABEL, Estimate, estimate
from unet_jax.plan.show import show, show_sweep
from unet_jax.plan.sweep import overrides_of, recommend, sweep
from unet_jax.plan.targets import Target, local_target, tpu_target
from unet_jax.report.display import Display


@dataclasses.dataclass(frozen=True)
class _Plan:
    """Ask a device's compiler what a step would cost there; the device need not be here, and nothing is run."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    topology: str = "v5e:2x2"
    """TPU to compile for, as KIND:SHAPE: v5e:1x1, v5e:2x2, v5e:16x16, v4:2x2x1, v5p:4x4x4, v6e:2x2."""
    platform: Literal["tpu", "gpu", "cpu"] = "tpu"
    """gpu and cpu: the devices of this machine, by their own compiler."""
    program: Literal["train", "predict"] = "train"
    """The training step, or prediction."""
    num_classes: int = 2
    """Output channels."""
    images_per_device: int = 0
    """Sets train.batch_size to so many on each device; 0 leaves it."""
    sweep: bool = False
    """Compile the training step for combinations of the next three, and say which to use."""
    sweep_images: tuple[int, ...] = (4, 8, 16)
    """Images per device."""
    sweep_packings: tuple[str, ...] = ("none", "auto")
    """Values of model.packing."""
    sweep_remats: tuple[str, ...] = ("none", "conv", "block", "full")
    """Values of model.remat, the least computed again first; the next is tried where those before do not fit."""
    out: str | None = None
    """Write the estimate, or all of a sweep, to this JSON file."""
    cache: str = ""
    """Folder of finished estimates; by default unet_jax/plan in the user's cache folder."""


def plan(args: Sequence[str]) -> None:
    """Run `unet-jax plan`."""
    preset = preset_of("plan", args)
    if preset is None:
        return
    options = tyro.cli(
        _Plan,
        args=args[1:],
        default=_Plan(config=PRESETS[preset]()),
        prog=f"unet-jax plan {preset}",
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    config = options.config
    check_settings(config)
    target = _target(options)
    if options.images_per_device:
        config = replace(config, {"train.batch_size": options.images_per_device * len(target.devices)})
    cache = epath.Path(options.cache or user_cache() / "plan")
    console, display = Console(width=110), Display()
    display.line(f"compiling for {len(target.devices)} devices of {target.name}: minutes for a large network")
    if not options.sweep:
        result = estimate(config, options.num_classes, target, program=options.program, cache=cache)
        console.print(show(result))
        _finish(options.out, {"what": LABEL, **dataclasses.asdict(result)})
        return
    rows = sweep(
        config,
        options.num_classes,
        target,
        images_per_device=options.sweep_images,
        packings=options.sweep_packings,
        remats=options.sweep_remats,
        cache=cache,
        on_variant=lambda v: display.line("  " + ", ".join(f"{name} {value}" for name, value in v.items())),
    )
    console.print(show_sweep(rows))
    best = overrides_of(recommend(rows), len(target.devices))
    print("use: " + " ".join(f"--{name.replace('_', '-')} {value}" for name, value in best.items()))
    variants = [
        {**variant, "estimate": dataclasses.asdict(found) if isinstance(found, Estimate) else found}
        for variant, found in rows
    ]
    _finish(options.out, {"what": LABEL, "recommended": best, "variants": variants}, {"recommended": best})


def _target(options: _Plan) -> Target:
    if options.platform != "tpu":
        return local_target(options.platform)
    import jax

    jax.config.update("jax_platforms", "cpu")  # a TPU or GPU that is here has no part in this
    return tpu_target(options.topology)


def _finish(out: str | None, values: dict[str, Any], last_line: dict[str, Any] | None = None) -> None:
    if out:
        path = epath.Path(out)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values, indent=1) + "\n")
    print(json.dumps(last_line or values))
