"""`unet-jax evaluate`, `calibrate`, `predict` and `info`, which take a run: parse, call, print."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Literal

import tyro
from etils import epath
from rich.console import Console
from rich.table import Table

from unet_jax.cli.options import ON_DEVICES, DataOptions, DeviceOptions, load, select
from unet_jax.devices.processes import connected, is_first
from unet_jax.inference.evaluate import evaluate_run, summary, write_csv
from unet_jax.report.display import make_display


@dataclasses.dataclass(frozen=True)
class _Evaluate:
    """Score a run's masks at each image's own size."""

    run: tyro.conf.Positional[str]
    """Run directory."""
    data: DataOptions
    split: str | None = None
    """train, val, test, or all (every sample below the root). By default test, or val where there is no test."""
    checkpoint: Literal["best", "last"] = "best"
    calibrated: bool = False
    """With the temperatures and thresholds that unet-jax calibrate found."""
    csv: str | None = None
    """Write Dice and IoU of every image here."""
    devices: ON_DEVICES = dataclasses.field(default_factory=DeviceOptions)


def evaluate(args: Sequence[str]) -> None:
    """Run `unet-jax evaluate`."""
    options = tyro.cli(_Evaluate, args=args, prog="unet-jax evaluate")
    with connected(options.devices.processes):
        _evaluate(options)


def _evaluate(options: _Evaluate) -> None:
    if options.csv:
        epath.Path(options.csv).parent.mkdir(parents=True, exist_ok=True)  # or an error, before the work
    run = load(options.run, options.checkpoint, options.devices, calibrated=options.calibrated)
    split, layout, records = select(run, options.data, options.split)
    display = make_display()
    with display.bar("evaluating", len(records), unit="images") as show:
        scores = evaluate_run(
            run, layout, records, soft_masks=run.config.data.soft_masks, on_progress=lambda done: show(done, "")
        )
    if not is_first():
        return
    threshold = (
        dict(zip(run.class_names, run.calibration.threshold, strict=True))
        if run.calibration
        else run.config.train.threshold
    )
    result = summary(scores, split=split, threshold=threshold)
    seen = set(run.info.splits["train"]) & set(scores.ids)
    if split != "train" and seen:
        display.line(f"WARNING: {len(seen)} of these ids were trained on, the first is {min(seen)!r}.")
    calibrated = ", calibrated" if run.calibration else ""
    table = Table(title=f"{split}: {len(scores.ids)} images, checkpoint {run.step}{calibrated}")
    columns = ("dice", "iou", "precision", "recall", "accuracy", "dice_pooled")
    for title in ("class", *columns):
        table.add_column(title, justify="left" if title == "class" else "right")
    for name in run.class_names:
        table.add_row(name, *(f"{result[column][name]:.4f}" for column in columns))
    Console(width=110).print(table)
    print(f"({result['reduction']})")
    if options.csv:
        write_csv(epath.Path(options.csv), scores)
        print(f"per-image scores: {options.csv}")
    print(json.dumps(result))
