"""The command `unet-jax fold-scores`: each run of a cross-validation scores the images that were held out from it."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import tyro
from etils import epath

from unet_jax.cli.options import (
    HOW,
    ON_DEVICES,
    RUNS,
    DataOptions,
    DeviceOptions,
    check_run_and_root,
    check_runs,
    load,
    say_difference,
    select,
)
from unet_jax.config.placeholders import OptionalFile
from unet_jax.config.predict import PredictConfig


@dataclasses.dataclass(frozen=True)
class _FoldScores:
    """Score each fold of a cross-validation on the images that were held out from it (docs/data.md)."""

    runs: RUNS
    """Run directories, one for each fold."""
    data: DataOptions
    split: Literal["val", "test"] = "val"
    """Split of each run that holds its own images: val, as unet-jax folds writes it, or test."""
    checkpoint: Literal["best", "last"] = "best"
    """Checkpoint to score: best (the best on val) or last (the newest)."""
    calibrated: bool = False
    """Use the temperatures, thresholds and rules for objects that unet-jax calibrate has fitted."""
    csv: OptionalFile = None
    """CSV file to write, with the rows of the table."""
    how: HOW = dataclasses.field(default_factory=PredictConfig)
    devices: ON_DEVICES = dataclasses.field(default_factory=DeviceOptions)


def fold_scores(args: Sequence[str]) -> None:
    """Run `unet-jax fold-scores`."""
    options = tyro.cli(_FoldScores, args=args, prog="unet-jax fold-scores")
    check_runs(options.runs, options.devices.processes)
    check_run_and_root(options.runs[0], options.data, options.devices.processes)
    from unet_jax.devices.processes import connected

    with connected(options.devices.processes):
        _fold_scores(options)


def _fold_scores(options: _FoldScores) -> None:
    """Score all folds; only the first process writes and prints."""
    from rich.markup import escape
    from rich.table import Table

    from unet_jax._files import replace_text
    from unet_jax.devices.processes import is_first
    from unet_jax.inference.evaluate import evaluate_run
    from unet_jax.inference.fold_scores import check_folds, fold_rows, folds_csv
    from unet_jax.inference.way import way_of
    from unet_jax.report.display import make_display, print_table

    runs = [load(path, options.checkpoint, options.devices, calibrated=options.calibrated) for path in options.runs]
    check_folds(runs, options.split)
    display, parts = make_display(), []
    for path, run in zip(options.runs, runs, strict=True):
        say_difference(run, way_of(run, options.how), display)
        _, layout, records = select(run, options.data, options.split)
        with display.bar(f"evaluating {path}", len(records), unit="images") as show:
            soft = run.config.data.soft_masks
            parts.append(
                evaluate_run(
                    run, layout, records, soft_masks=soft, how=options.how, on_progress=lambda done: show(done, "")
                )
            )
    if not is_first():
        return
    rows = fold_rows(options.runs, parts)
    table = Table(title=f"{options.split} of {len(runs)} folds")
    for title in ("fold", "class", "images", "dice", "iou"):
        table.add_column(title, justify="left" if title in ("fold", "class") else "right")
    for row in rows:
        table.add_row(*map(escape, row))
    print_table(table)
    print("(the standard deviation is that of the folds, n - 1; all images: mean over the images of all folds)")
    if options.csv:
        path = epath.Path(options.csv)
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, folds_csv(rows))
        print(f"table: {options.csv}")
