"""`unet-jax predict`: parse, call, print."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import tyro
from etils import epath

from unet_jax.cli.options import ON_DEVICES, DeviceOptions, load
from unet_jax.devices.processes import connected, is_first
from unet_jax.inference.predict import find_inputs, predict_files
from unet_jax.report.display import make_display


@dataclasses.dataclass(frozen=True)
class _Predict:
    """Write masks and overlays for images."""

    run: tyro.conf.Positional[str]
    """Run directory."""
    inputs: tyro.conf.Positional[tuple[str, ...]]
    """Image files, or folders of them."""
    out: str
    """Folder for CLASS/ID.png and overlay/ID.png."""
    checkpoint: Literal["best", "last"] = "best"
    calibrated: bool = False
    """With the temperatures and thresholds that unet-jax calibrate found."""
    devices: ON_DEVICES = dataclasses.field(default_factory=DeviceOptions)


def predict(args: Sequence[str]) -> None:
    """Run `unet-jax predict`."""
    options = tyro.cli(_Predict, args=args, prog="unet-jax predict")
    with connected(options.devices.processes):
        _predict(options)


def _predict(options: _Predict) -> None:
    files = find_inputs(options.inputs)
    run = load(options.run, options.checkpoint, options.devices, calibrated=options.calibrated)
    out = epath.Path(options.out)
    with make_display().bar("predicting", len(files), unit="images") as show:
        for done, _ in enumerate(predict_files(run, files, out), start=1):
            show(done, "")
    folders = ", ".join(f"{name}/" for name in (*run.class_names, "overlay"))
    if is_first():
        print(f"{len(files)} images predicted: {out} has {folders}")
