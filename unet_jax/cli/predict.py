"""The command `unet-jax predict`: parse the options, predict, print where the masks are."""

import dataclasses
import time
from collections.abc import Sequence
from typing import Annotated, Literal

import tyro
from etils import epath

from unet_jax._types import InputError
from unet_jax.cli.options import (
    HOW,
    ON_DEVICES,
    RUN,
    DeviceOptions,
    ScaleWarnings,
    check_runs,
    load_all,
    say_difference,
)
from unet_jax.config.placeholders import Dir
from unet_jax.config.predict import OutputConfig, PredictConfig


@dataclasses.dataclass(frozen=True)
class _Predict:
    """Write a mask for each class and an overlay for each image, at the image's own size (docs/large-images.md).

    The logits of several runs are averaged (docs/metrics.md).
    """

    run: RUN
    """Run directory."""
    inputs: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[RUN...] IMAGE...")]
    """Image files, or folders that are searched for image files at any depth.
    Folders with a run.json are further runs, which predict together with the first."""
    out: Dir
    """Folder to write to: masks CLASS/ID.png (0 or 255), and pictures overlay/ID.png."""
    checkpoint: Literal["best", "last"] = "best"
    """Checkpoint to use: best (the best on val) or last (the newest)."""
    calibrated: bool = False
    """Use the temperatures, thresholds and rules for objects that unet-jax calibrate has fitted."""
    how: HOW = dataclasses.field(default_factory=PredictConfig)
    outputs: Annotated[OutputConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=OutputConfig)
    devices: ON_DEVICES = dataclasses.field(default_factory=DeviceOptions)


def predict(args: Sequence[str]) -> None:
    """Run `unet-jax predict`."""
    options = tyro.cli(_Predict, args=args, prog="unet-jax predict")
    runs, inputs = _divided(options)
    check_runs(runs, options.devices.processes)
    from unet_jax.devices.processes import connected

    with connected(options.devices.processes):
        _predict(options, runs, inputs)


def _divided(options: _Predict) -> tuple[list[str], list[str]]:
    """Return the run directories and the images. A folder is a run if it has a run.json."""
    is_run = {path: (epath.Path(path) / "run.json").exists() for path in options.inputs}
    return [options.run, *(path for path in options.inputs if is_run[path])], [
        path for path in options.inputs if not is_run[path]
    ]


def _predict(options: _Predict, runs: list[str], inputs: list[str]) -> None:
    """Predict all files; only the first process writes and prints."""
    from unet_jax.data.records import remedies_once
    from unet_jax.devices.processes import is_first
    from unet_jax.inference.folder import predict_files
    from unet_jax.inference.inputs import find_inputs, unread_inputs
    from unet_jax.inference.way import way_of
    from unet_jax.report.display import make_display
    from unet_jax.runs.info import load_info

    patterns = load_info(epath.Path(runs[0])).config.data.image_patterns
    files, unread = find_inputs(inputs, patterns), unread_inputs(inputs, patterns)
    display = make_display()
    if unread:
        display.line(f"not read, {unread}")
    run = load_all(runs, options.checkpoint, options.devices, calibrated=options.calibrated)
    out, way = epath.Path(options.out), way_of(run, options.how)
    warnings = ScaleWarnings(run, way, display)
    say_difference(run, way, display)
    errors, done, kept = [], 0, 0
    start = time.perf_counter()

    def rate() -> str:
        return f"{done / max(time.perf_counter() - start, 1e-9):.3g} images/s"

    with display.bar("predicting", len(files), unit="images") as show:
        outcomes = predict_files(
            run,
            files,
            out,
            options.how,
            options.outputs,
            on_open=lambda id_, image: warnings.look_at(id_, image.height, image.width),
            on_rows=lambda p: show(done + kept, f"{p.id}: row {p.rows} of {p.height}"),
        )
        for outcome in outcomes:
            if outcome.error:
                errors.append(outcome.error)
            kept, done = kept + outcome.was_there, done + (not outcome.was_there and not outcome.error)
            show(done + kept + len(errors), rate())
    warnings.summarise()
    names = [f"{name}/" for name in run.class_names]
    names += ["overlay/"] if options.outputs.overlay else []
    names += ["probs/"] if options.outputs.probs != "none" else []
    names += ["images.csv", "objects.csv"] if options.outputs.csv else []
    if is_first() and (done or kept or not errors):
        there = f", {kept} were there already" if kept else ""
        print(f"{done} images predicted ({rate()}){there}: {out} has {', '.join(names)}")
    if errors:
        reasons = "\n  ".join(remedies_once(errors))
        raise InputError(f"{len(errors)} of {len(files)} images could not be predicted:\n  {reasons}")
