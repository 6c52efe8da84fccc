"""The command `unet-jax evaluate`: parse the options, call the library, print the results."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Literal

import tyro
from etils import epath

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


@dataclasses.dataclass(frozen=True)
class _Evaluate:
    """Score a run's masks against mask files, at each image's own size. The last line printed is JSON."""

    run: RUN
    """Run directory."""
    data: DataOptions
    split: str | None = None
    """Split to score: train, val, test, or all (the whole data set). By default test, or val if there is no test."""
    checkpoint: Literal["best", "last"] = "best"
    """Checkpoint to score: best (the best on val) or last (the newest)."""
    calibrated: bool = False
    """Use the temperatures and thresholds that unet-jax calibrate has fitted."""
    csv: str | None = None
    """CSV file to write, with Dice and IoU of every image."""
    how: HOW = dataclasses.field(default_factory=PredictConfig)
    devices: ON_DEVICES = dataclasses.field(default_factory=DeviceOptions)


def evaluate(args: Sequence[str]) -> None:
    """Run `unet-jax evaluate`."""
    options = tyro.cli(_Evaluate, args=args, prog="unet-jax evaluate")
    check_run_and_root(options.run, options.data, options.devices.processes)
    from unet_jax.devices.processes import connected

    with connected(options.devices.processes):
        _evaluate(options)


def _evaluate(options: _Evaluate) -> None:
    """Score the run; only the first process writes and prints."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from unet_jax.devices.processes import is_first
    from unet_jax.inference.evaluate import copies_of_training, evaluate_run, summary, write_csv
    from unet_jax.inference.fits import way_of
    from unet_jax.report.audit_text import percent
    from unet_jax.report.display import make_display

    if options.csv:
        # Made first, so that a folder that cannot be made is an error before the work instead of after it.
        epath.Path(options.csv).parent.mkdir(parents=True, exist_ok=True)
    run = load(options.run, options.checkpoint, options.devices, calibrated=options.calibrated)
    split, layout, records = select(run, options.data, options.split)
    display = make_display()
    warnings = ScaleWarnings(run, way_of(run, options.how), display)
    with display.bar("evaluating", len(records), unit="images") as show:
        scores = evaluate_run(
            run,
            layout,
            records,
            soft_masks=run.config.data.soft_masks,
            how=options.how,
            on_open=warnings.look_at,
            on_progress=lambda done: show(done, ""),
        )
    warnings.summarise()
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
        display.line(f"WARNING: {len(seen)} of these images were used for training, the first is {min(seen)!r}.")
    copies = copies_of_training(run, scores)
    if copies:
        shown = ", ".join(f"{id_!r} (of {ids[0]!r})" for id_, ids in list(copies.items())[:10])
        more = f" and {len(copies) - 10} more" if len(copies) > 10 else ""
        display.line(
            f"WARNING: {len(copies)} of these images are copies of training images, pixel by pixel: {shown}{more}."
        )
    if copies is not None:
        result["copies_of_training_images"] = copies
    calibrated = ", calibrated" if run.calibration else ""
    table = Table(title=f"{split}: {len(scores.ids)} images, checkpoint {run.step}{calibrated}")
    columns = ("dice", "iou", "precision", "recall", "accuracy", "dice_pooled")
    annotated = ("annotated",) if scores.num_ignored is not None else ()
    for title in ("class", *columns, *annotated):
        table.add_column(title, justify="left" if title == "class" else "right")
    for name in run.class_names:
        mark = " (absent)" if name in scores.absent else ""
        if not scores.annotated[name]:
            mark = " (not annotated)"
        values = (result[column][name] for column in columns)
        shares = (percent(result[column][name]) for column in annotated)
        table.add_row(escape(name) + mark, *("" if v is None else f"{v:.4f}" for v in values), *shares)
    Console(width=110).print(table)
    print(f"({result['reduction']})")
    unknown = [f"{count} for {name}" for name, count in scores.num_unknown.items() if count]
    if unknown:
        print(f"(images without an annotated pixel: {', '.join(unknown)})")
    if any(scores.annotated[name] for name in scores.absent):
        print("(absent: no image has a true pixel of the class; its scores only tell whether it is predicted)")
    if options.csv:
        write_csv(epath.Path(options.csv), scores)
        print(f"per-image scores: {options.csv}")
    print(json.dumps(result))
