"""The command `unet-jax calibrate`: parse the options, call the library, print the results."""

import contextlib
import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import tyro
from rich.markup import escape
from rich.table import Table

from unet_jax._types import InputError
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
    from unet_jax.metrics.object_rules import Tried


@dataclasses.dataclass(frozen=True)
class _Calibrate:
    """Fit a temperature and a threshold for each class, and keep them in the run (docs/metrics.md)."""

    run: RUN
    """Run directory."""
    data: DataOptions
    split: str = "val"
    """Split to fit them to: train, val, test or all. Choose other images than those that you will score."""
    objects: bool = False
    """Also fit rules for the objects of each class: small holes filled, small objects removed, only the largest kept.
    Each is kept if its gain of Dice on these images is certain (docs/metrics.md). Images are predicted twice."""
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
    from unet_jax.inference.calibrate import calibrate_run, fit_objects
    from unet_jax.inference.calibration_file import calibration_path, read_calibration, save_calibration
    from unet_jax.inference.way import way_of
    from unet_jax.metrics.object_rules import FEWEST_IMAGES
    from unet_jax.report.display import make_display, print_table

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
    tried: list[list[Tried]] = []
    if options.objects:
        with display.bar("fitting rules for objects", len(records), unit="images") as show:
            calibrated = dataclasses.replace(run, calibration=fit.calibration)
            calibration, tried = fit_objects(
                calibrated, layout, records, how=options.how, on_progress=lambda done: show(done, "")
            )
            fit = dataclasses.replace(fit, calibration=calibration)
    warnings.summarise()
    if not is_first():
        return
    path = calibration_path(run.path)
    with contextlib.suppress(InputError):  # of a damaged file, which is replaced
        if not options.objects and path.exists() and read_calibration(path, run.class_names).calibration.rules:
            display.line(f"{path}: had rules for objects, which are removed. To fit them again: --objects")
    save_calibration(run, fit, split=split, num_images=len(records), how=options.how, tried=tried)
    if split == "train":
        display.line("WARNING: the network was trained on these images, and is more certain of them than of others.")
    title = f"{split}: {len(records)} images, checkpoint {run.step}"
    print_table(_fit_table(fit, run.class_names, title))
    if tried:
        print_table(_rules_table(tried, run.class_names, f"{title}: rules for objects"))
        print("(areas in pixels as the network sees the image; a rule is kept if the 95 % bootstrap interval of its")
        print(f"gain, paired by image, lies above 0, and there are at least {FEWEST_IMAGES} images)")
    print(f"kept in {path}; evaluate and predict use it with --calibrated")


_RULE_TITLES = {
    "smallest_hole": "fill holes smaller than {}",
    "smallest_object": "remove objects smaller than {}",
    "largest_only": "keep only the largest object",
}


def _rules_table(tried: "Sequence[Sequence[Tried]]", class_names: Sequence[str], title: str) -> Table:
    """Return a table with one row per class and rule: the gain of Dice, its interval, and whether the rule is kept."""
    table = Table(title=title)
    for column in ("class", "rule", "dice", "gain", "95 % interval", "kept"):
        table.add_column(column, justify="left" if column in ("class", "rule", "kept") else "right")
    for name, of_class in zip(class_names, tried, strict=True):
        for one in of_class:
            (before, after), (low, high) = one.dice, one.interval
            known = one.value and not math.isnan(before)
            change = (f"{before:.4f} -> {after:.4f}", f"{after - before:+.4f}", f"{low:+.4f} to {high:+.4f}")
            rule = _RULE_TITLES[one.rule].format(one.value) if one.value else f"{one.rule.replace('_', ' ')}: no gain"
            table.add_row(escape(name), rule, *(change if known else ("", "", "")), "yes" if one.is_kept else "no")
    return table


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
