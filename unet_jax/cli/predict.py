"""The command `unet-jax predict`: parse the options, predict, print where the masks are."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Literal

import tyro
from etils import epath

from unet_jax.cli.options import ON_DEVICES, RUN, DeviceOptions, check_run, load


@dataclasses.dataclass(frozen=True)
class _Predict:
    """Write a mask for each class and an overlay for each image, at the image's own size."""

    run: RUN
    """Run directory."""
    inputs: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="IMAGE...")]
    """Image files, or folders that are searched for image files at any depth."""
    out: str
    """Folder to write to: masks CLASS/ID.png (0 or 255), and pictures overlay/ID.png."""
    checkpoint: Literal["best", "last"] = "best"
    """Checkpoint to use: best (the best on val) or last (the newest)."""
    calibrated: bool = False
    """Use the temperatures and thresholds that unet-jax calibrate has fitted."""
    devices: ON_DEVICES = dataclasses.field(default_factory=DeviceOptions)


def predict(args: Sequence[str]) -> None:
    """Run `unet-jax predict`."""
    options = tyro.cli(_Predict, args=args, prog="unet-jax predict")
    check_run(options.run, options.devices.processes)
    from unet_jax.devices.processes import connected

    with connected(options.devices.processes):
        _predict(options)


def _predict(options: _Predict) -> None:
    """Predict all files; only the first process writes and prints."""
    from unet_jax.devices.processes import is_first
    from unet_jax.inference.inputs import find_inputs, unread_inputs
    from unet_jax.inference.predict import predict_files
    from unet_jax.report.display import make_display
    from unet_jax.runs.info import load_info

    patterns = load_info(epath.Path(options.run)).config.data.image_patterns
    files, unread = find_inputs(options.inputs, patterns), unread_inputs(options.inputs, patterns)
    if unread:
        make_display().line(f"not read, {unread}")
    run = load(options.run, options.checkpoint, options.devices, calibrated=options.calibrated)
    out = epath.Path(options.out)
    with make_display().bar("predicting", len(files), unit="images") as show:
        for done, _ in enumerate(predict_files(run, files, out), start=1):
            show(done, "")
    folders = ", ".join(f"{name}/" for name in (*run.class_names, "overlay"))
    if is_first():
        print(f"{len(files)} images predicted: {out} has {folders}")
