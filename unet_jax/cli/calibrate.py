"""The command `unet-jax calibrate`: parse the options, call the library, print the results."""

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from unet_jax.cli.options import (
    HOW,
    ON_DEVICES,
    RUN,
    DataOptions,
    DeviceOptions,
    ScaleWarnings,
    check_run_and_root,
    load,
    select,
)
from unet_jax.config.predict import PredictConfig

if TYPE_CHECKING:
    from unet_jax.metrics.calibration import Fit


@dataclasses.dataclass(frozen=True)
class _Calibrate:
    """Fit a temperature and a threshold for each class, and keep them in the run (docs/metrics.md)."""

    run: RUN
    """Run directory."""
    data: DataOptions
    split: str = "val"
    """Split to fit them to: train, val, test or all. Choose other images than those that you will score."""
    checkpoint: Literal["best", "last"] = "best"
    """Checkpoint to calibrate: best (the best on val) or last (the newest)."""
    how: HOW = dataclasses.field(default_factory=PredictConfig)
    devices: ON_DEVICES = dataclasses.field(default_factory=DeviceOptions)


def calibrate(args: Sequence[str]) -> None:
    """Run `unet-jax calibrate`."""
    options = tyro.cli(_Calibrate, args=args, prog="unet-jax calibrate")
    check_run_and_root(options.run, options.data, options.devices.processes)
    from unet_jax.devices.processes import connected

    with connected(options.devices.processes):
        _calibrate(options)


def _calibrate(options: _Calibrate) -> None:
    """Calibrate the run; only the first process saves and prints."""
    from unet_jax.devices.processes import is_first
    from unet_jax.inference.calibrate import calibrate_run, calibration_path, save_calibration
    from unet_jax.inference.fits import way_of
    from unet_jax.report.display import make_display

    run = load(options.run, options.checkpoint, options.devices, calibrated=False)
    split, layout, records = select(run, options.data, options.split)
    display = make_display()
    warnings = ScaleWarnings(run, way_of(run, options.how), display)
    with display.bar("calibrating", len(records), unit="images") as show:
        fit = calibrate_run(
            run,
            layout,
            records,
            how=options.how,
            on_open=warnings.look_at,
            on_progress=lambda done: show(done, ""),
        )
    warnings.summarise()
    if not is_first():
        return
    save_calibration(run, fit, split=split, num_images=len(records))
    if split == "train":
        display.line("WARNING: the network was trained on these images, and is more certain of them than of others.")
    Console(width=110).print(_fit_table(fit, run.class_names, f"{split}: {len(records)} images, checkpoint {run.step}"))
    print(f"kept in {calibration_path(run.path)}; evaluate and predict use it with --calibrated")


def _fit_table(fit: "Fit", class_names: Sequence[str], title: str) -> Table:
    """Return a table with one row per class: the calibration, and scores before and after it."""
    table = Table(title=title)
    for column in ("class", "temperature", "threshold", "cross entropy", "calibration error", "dice"):
        table.add_column(column, justify="left" if column == "class" else "right")
    for k, name in enumerate(class_names):
        pairs = ((before[k], after[k]) for before, after in (fit.nll, fit.ece, fit.dice))
        changes = ("" if math.isnan(before) else f"{before:.4f} -> {after:.4f}" for before, after in pairs)
        calibration = fit.calibration
        table.add_row(escape(name), f"{calibration.temperature[k]:.3f}", f"{calibration.threshold[k]:.3f}", *changes)
    return table
