"""The command `unet-jax export`: parse the options, export, print what was written and what the check found."""

import dataclasses
import functools
import importlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import tyro

from unet_jax._types import InputError
from unet_jax.cli.options import HOW, RUN, DeviceOptions, check_run, load, say_difference
from unet_jax.config.placeholders import Dir, File, Files, Names
from unet_jax.config.predict import PredictConfig

if TYPE_CHECKING:
    from unet_jax.runs.load import Run


@dataclasses.dataclass(frozen=True)
class _Export:
    """Write the network of a run as a file that other programs open (docs/export.md)."""

    run: RUN
    """Run directory."""
    to: Literal["onnx", "stablehlo", "tflite", "safetensors", "bioimageio"]
    """Kind of file: onnx (most other programs), stablehlo (jax without this run), tflite (phones and small devices),
    safetensors (the weights only), bioimageio (a package for Fiji and others)."""
    out: File
    """File to write."""
    images: Files = ()
    """Image files or folders to check the export with. By default the run's validation images."""
    data_root: Dir = ""
    """Folder of the data set with the validation images. By default the one that the run was trained on."""
    num_images: int = 50
    """Largest number of images to check with, and to quantize with; 0 = all."""
    checkpoint: Literal["best", "last"] = "best"
    """Checkpoint to export: best (the best on val) or last (the newest)."""
    calibrated: bool = False
    """Export with the temperatures, thresholds and rules for objects that unet-jax calibrate has fitted."""
    quantize: Literal["none", "float16", "bfloat16", "int8"] = "none"
    """Smaller numbers than float32: float16 (onnx, safetensors), bfloat16 (stablehlo) or int8 (onnx; its ranges are
    measured on training images). The differences are printed, and not bounded."""
    heads: bool = False
    """onnx: one output per class and float32 input of one size, as QGIS Deepness wants it."""
    platforms: tuple[Literal["cpu", "cuda", "rocm", "tpu"], ...] = ()
    """stablehlo: kinds of devices to export for. By default cpu, cuda and tpu."""
    license: str = ""
    """Licence of the weights for the metadata, as an SPDX identifier such as CC-BY-4.0."""
    authors: Names = ()
    """Names of the authors for the metadata."""
    description: str = ""
    """A sentence for the metadata on what the network is for."""
    how: HOW = dataclasses.field(default_factory=PredictConfig)


_ENDINGS = {
    "onnx": ".onnx",
    "stablehlo": ".stablehlo",
    "tflite": ".tflite",
    "safetensors": ".safetensors",
    "bioimageio": ".zip",
}
_QUANTIZED = {"float16": ("onnx", "safetensors"), "bfloat16": ("stablehlo",), "int8": ("onnx",)}
"""Kinds of files that numbers of a type can be exported to."""


def export(args: Sequence[str]) -> None:
    """Run `unet-jax export`."""
    options = tyro.cli(_Export, args=args, prog="unet-jax export")
    _check(options)
    check_run(options.run)
    from unet_jax.export.check import given_images, split_images
    from unet_jax.export.contract import About
    from unet_jax.inference.way import way_of
    from unet_jax.report.display import make_display

    prepare = _writer(options)
    run = load(options.run, options.checkpoint, DeviceOptions(), calibrated=options.calibrated)
    root = options.data_root or run.config.data.root
    if options.images:
        images = given_images(run, options.images, options.num_images)
    else:
        images = split_images(run, root, "val", options.num_images)
    about = About(options.license, options.authors, options.description)
    write = prepare(run, root)
    display = make_display()
    say_difference(run, way_of(run, options.how), display)
    with display.bar("checking", len(images), unit="images") as show:
        agreement = write(run, options.out, images, about=about, on_progress=lambda done: show(done, ""))
    print(f"{options.out}: {agreement.describe()}")


def _check(options: _Export) -> None:
    """Raise `InputError` for options that have no effect on the kind of file."""
    kinds = {
        "--heads": ("onnx",) if options.heads else None,
        "--platforms": ("stablehlo",) if options.platforms else None,
    }
    kinds[f"--quantize {options.quantize}"] = _QUANTIZED.get(options.quantize)
    for name, possible in kinds.items():
        if possible is not None and options.to not in possible:
            raise InputError(f"{name} is for --to {' or '.join(possible)}, not for {options.to}. Leave it out.")
    if not options.out.endswith(_ENDINGS[options.to]):
        raise InputError(f"{options.out}: does not end in {_ENDINGS[options.to]}, as --to {options.to} writes files.")
    changed = [f.name for f in dataclasses.fields(PredictConfig) if getattr(options.how, f.name) != f.default]
    if changed and (options.to not in ("onnx", "stablehlo") or options.heads):
        what = "--heads" if options.heads else f"--to {options.to}"
        raise InputError(
            f"--{changed[0]} has no effect with {what}: whoever uses that file brings images to the network. Leave it "
            f"out."
        )
    if options.heads and options.quantize != "none":
        raise InputError("--quantize is not for --heads, which QGIS Deepness reads in float32. Leave one of them out.")


def _writer(options: _Export) -> Callable[["Run", str], Callable[..., Any]]:
    """Return a function of the run and the folder of its data that returns the function that exports."""
    dtype: Any = "float32" if options.quantize == "none" else options.quantize
    match options.to:
        case "onnx":
            needs("onnx", "onnx", "onnxruntime")
            from unet_jax.export.check import split_images
            from unet_jax.export.onnx_model import export_heads, export_onnx

            def prepare(run: "Run", root: str) -> Callable[..., Any]:
                if options.heads:
                    return export_heads
                typical = split_images(run, root, "train", options.num_images) if dtype == "int8" else ()
                return functools.partial(export_onnx, dtype=dtype, calibration_images=typical, how=options.how)

            return prepare
        case "stablehlo":
            from unet_jax.export.stablehlo import PLATFORMS, export_stablehlo

            platforms = options.platforms or PLATFORMS
            return lambda run, root: functools.partial(
                export_stablehlo, platforms=platforms, dtype=dtype, how=options.how
            )
        case "tflite":
            needs("tflite", "litert_converter", "ai_edge_litert")
            from unet_jax.export.tflite import export_tflite

            return lambda run, root: export_tflite
        case "safetensors":
            needs("safetensors", "safetensors")
            from unet_jax.export.safetensors_file import export_safetensors

            return lambda run, root: functools.partial(export_safetensors, dtype=dtype)
        case "bioimageio":
            needs("bioimageio", "bioimageio.spec", "onnx", "onnxruntime")
            from unet_jax.export.bioimageio import export_bioimageio

            return lambda run, root: export_bioimageio


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
