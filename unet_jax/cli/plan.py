"""The command `unet-jax plan`: parse the options, estimate the cost of a step, print it."""

import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from etils import epath

from unet_jax._files import user_cache
from unet_jax.cli.flags import TERMS, config_and_flags
from unet_jax.cli.options import print_json
from unet_jax.cli.preset import preset_of
from unet_jax.config import Config, DataConfig
from unet_jax.config.dicts import replace
from unet_jax.config.presets import PRESETS, check_settings

if TYPE_CHECKING:
    from unet_jax.plan.targets import Target


@dataclasses.dataclass(frozen=True)
class _Plan:
    """Estimate the cost of a step on a device by compiling it for that device.

    Nothing runs, and neither a TPU nor a GPU is needed.
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    topology: str = "v5e:2x2"
    """Devices to compile for.
    A TPU as KIND:SHAPE, such as v5e:1x1, v5e:2x2, v5e:16x16, v4:2x2x1, v5p:4x4x4, v6e:2x2.
    GPUs of one host as KIND or KIND:COUNT, where KIND is a100, h100, h200 or b200, such as h100 or h100:8."""
    platform: Literal["topology", "tpu", "gpu", "cpu"] = "topology"
    """Devices of this machine to compile for instead: gpu or cpu. topology (or tpu): those of --topology."""
    program: Literal["train", "predict"] = "train"
    """Step to compile: the training step or the prediction step."""
    num_classes: int = 2
    """Number of classes, which is the number of output channels."""
    num_channels: int = 0
    """Channels of the images. 0: as many as data.image_patterns or data.channels names, else 3."""
    images_per_device: int = 0
    """Number of images on each device, from which train.batch_size is computed. 0 keeps train.batch_size."""
    sweep: bool = False
    """Compile the training step for combinations of the following three options, and recommend the best one."""
    sweep_images: tuple[int, ...] = (4, 8, 16)
    """Numbers of images per device to try."""
    sweep_packings: tuple[str, ...] = ("none", "auto")
    """Values of model.packing to try."""
    sweep_remats: tuple[str, ...] = ("none", "conv", "block", "full")
    """Values of model.remat to try, least recomputation first. Each is tried only if those before it do not fit."""
    out: str | None = None
    """JSON file to write, with the estimate or with all estimates of a sweep."""
    json: bool = False
    """Print the result as JSON, too, as the last line. Without it, that is done only if the output is no terminal."""
    cache: str = ""
    """Folder of finished estimates. By default unet_jax/plan in the user's cache folder."""


def plan(args: Sequence[str]) -> None:
    """Run `unet-jax plan`."""
    preset = preset_of("plan", args)
    if preset is None:
        return
    config, flags, _ = config_and_flags(PRESETS[preset](), args[1:])
    options = tyro.cli(
        _Plan,
        args=flags,
        default=_Plan(config=config),
        prog=f"unet-jax plan {preset}",
        config=(tyro.conf.FlagCreatePairsOff,),
        registry=TERMS,
    )
    config = options.config
    check_settings(config)
    num_channels = options.num_channels or _channels_named(config.data)
    # Imported here, because these modules import jax, and neither help nor a mistake need wait for it.
    from rich.console import Console

    from unet_jax.plan.estimate import LABEL, Estimate, estimate
    from unet_jax.plan.show import show, show_sweep
    from unet_jax.plan.sweep import overrides_of, recommend, sweep
    from unet_jax.report.display import Display

    target = _target(options)
    if options.images_per_device:
        config = replace(config, {"train.batch_size": options.images_per_device * len(target.devices)})
    cache = epath.Path(options.cache or user_cache() / "plan")
    console, display = Console(width=110), Display()
    count = len(target.devices)
    display.line(f"compiling for {count} {'device' if count == 1 else 'devices'} of {target.name}: minutes if large")
    if not options.sweep:
        result = estimate(
            config,
            options.num_classes,
            target,
            program=options.program,
            num_channels=num_channels,
            cache=cache,
        )
        console.print(show(result))
        _finish(options, {"what": LABEL, **dataclasses.asdict(result)})
        return
    rows = sweep(
        config,
        options.num_classes,
        target,
        images_per_device=options.sweep_images,
        packings=options.sweep_packings,
        remats=options.sweep_remats,
        num_channels=num_channels,
        cache=cache,
        on_variant=lambda v: display.line("  " + ", ".join(f"{name} {value}" for name, value in v.items())),
    )
    console.print(show_sweep(rows))
    best = overrides_of(recommend(rows), len(target.devices))
    print("use: " + " ".join(f"--{name.replace('_', '-')} {value}" for name, value in best.items()))
    variants = [
        {**variant, "estimate": dataclasses.asdict(result) if isinstance(result, Estimate) else result}
        for variant, result in rows
    ]
    _finish(options, {"what": LABEL, "recommended": best, "variants": variants}, {"recommended": best})


def _channels_named(data: DataConfig) -> int:
    """Return how many channels the settings name; 3 if they name none."""
    return len(data.image_patterns) or (len(data.channels.split(",")) if data.channels else 3)


def _target(options: _Plan) -> "Target":
    """Return the devices to compile for."""
    from unet_jax.plan.gpu_targets import gpu_target, is_gpu
    from unet_jax.plan.targets import local_target, tpu_target

    if options.platform in ("gpu", "cpu"):
        return local_target(options.platform)
    import jax

    jax.config.update("jax_platforms", "cpu")  # a TPU or GPU in this machine is not needed and stays free
    return gpu_target(options.topology) if is_gpu(options.topology) else tpu_target(options.topology)


def _finish(options: _Plan, values: dict[str, Any], last_line: dict[str, Any] | None = None) -> None:
    """Write the values to the JSON file of --out, and print them, or `last_line` instead, as `print_json` does."""
    if options.out:
        path = epath.Path(options.out)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values, indent=1) + "\n")
    print_json(last_line or values, wanted=options.json)
