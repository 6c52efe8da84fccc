"""The command `unet-jax export`: parse the options, export, print what was written and what the check found."""

import dataclasses
import importlib
from collections.abc import Sequence
from typing import Any, Literal

import tyro

from unet_jax._types import InputError
from unet_jax.cli.options import DeviceOptions, check_run, load


@dataclasses.dataclass(frozen=True)
class _Export:
    """Write the network of a run as a file that other programs open (docs/export.md)."""

    run: tyro.conf.Positional[str]
    """Run directory."""
    to: Literal["onnx", "stablehlo"]
    """Kind of file: onnx (most other programs), stablehlo (jax without this run)."""
    out: str
    """File to write."""
    images: tuple[str, ...] = ()
    """Image files or folders to check the export with. By default the run's validation images."""
    data_root: str = ""
    """Folder of the data set with the validation images. By default the one that the run was trained on."""
    num_images: int = 50
    """Largest number of images to check with; 0 = all."""
    checkpoint: Literal["best", "last"] = "best"
    """Checkpoint to export: best (the best on val) or last (the newest)."""
    calibrated: bool = False
    """Export with the temperatures and thresholds that unet-jax calibrate has fitted."""
    heads: bool = False
    """onnx: one output per class and float32 input of one size, as QGIS Deepness wants it."""
    platforms: tuple[Literal["cpu", "cuda", "rocm", "tpu"], ...] = ()
    """stablehlo: kinds of devices to export for. By default cpu, cuda and tpu."""
    license: str = ""
    """Licence of the weights for the metadata, as an SPDX identifier such as CC-BY-4.0."""
    authors: tuple[str, ...] = ()
    """Names of the authors for the metadata."""
    description: str = ""
    """A sentence for the metadata on what the network is for."""


_USED_BY = {"heads": ("onnx",), "platforms": ("stablehlo",)}
"""Kinds of files that an option has an effect on."""


def export(args: Sequence[str]) -> None:
    """Run `unet-jax export`."""
    options = tyro.cli(_Export, args=args, prog="unet-jax export")
    for name, kinds in _USED_BY.items():
        if getattr(options, name) and options.to not in kinds:
            raise InputError(f"--{name} has no effect on --to {options.to}, only on {', '.join(kinds)}. Leave it out.")
    check_run(options.run)
    from unet_jax.export.check import given_images, validation_images
    from unet_jax.export.contract import About
    from unet_jax.report.display import make_display

    write = _writer(options)
    run = load(options.run, options.checkpoint, DeviceOptions(), calibrated=options.calibrated)
    if options.images:
        images = given_images(run, options.images, options.num_images)
    else:
        images = validation_images(run, options.data_root or run.config.data.root, options.num_images)
    about = About(options.license, options.authors, options.description)
    with make_display().bar("checking", len(images), unit="images") as show:
        agreement = write(run, options.out, images, about=about, on_progress=lambda done: show(done, ""))
    print(f"{options.out}: {agreement.describe()}")


def _writer(options: _Export) -> Any:
    """Return the function that exports, with the options that only it knows."""
    match options.to:
        case "onnx":
            needs("onnx", "onnx", "onnxruntime")
            from unet_jax.export.onnx_model import export_heads, export_onnx

            return export_heads if options.heads else export_onnx
        case "stablehlo":
            from unet_jax.export.stablehlo import PLATFORMS, export_stablehlo

            platforms = options.platforms or PLATFORMS
            return lambda *args, **more: export_stablehlo(*args, **more, platforms=platforms)


def needs(extra: str, *modules: str) -> None:
    """Raise `InputError` if a package of an extra is not installed."""
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise InputError(
                f"this export needs the package {module}, which cannot be imported ({error}): pip install "
                f"'unet_jax[{extra}]'."
            ) from error
