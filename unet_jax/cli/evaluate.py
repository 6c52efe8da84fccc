"""`unet-jax evaluate`, `calibrate`, `predict` and `info`, which take a run: parse, call, print."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Annotated, Literal

import tyro
from etils import epath
from rich.console import Console
from rich.table import Table

from unet_jax._types import Processes
from unet_jax.config.dicts import flatten_config
from unet_jax.data.layout import Layout, Record
from unet_jax.devices.compilation import keep_compiled
from unet_jax.devices.mesh import make_mesh
from unet_jax.devices.processes import connected, is_first
from unet_jax.inference.calibrate import calibrate_run, calibration_path, save_calibration, with_calibration
from unet_jax.inference.evaluate import evaluate_run, select_records, summary, write_csv
from unet_jax.inference.predict import find_inputs, predict_files
from unet_jax.metrics.calibration import Fit
from unet_jax.program.state import num_parameters
from unet_jax.report.display import first_display
from unet_jax.runs import Run, abstract_state, load_info, load_run, open_checkpoints


@dataclasses.dataclass(frozen=True)
class _Data:
    root: str
    """The data set's folder."""
    splits: str | None = None
    """CSV file with the columns id,split; by default the split that the run recorded."""


@dataclasses.dataclass(frozen=True)
class _Devices:
    """Where a run's network is computed."""

    devices_per_image: int = 1
    """Devices that the rows of each image are divided over, for images that do not fit one (docs/scaling.md)."""
    processes: Annotated[Processes, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Processes)


_ON_DEVICES = Annotated[_Devices, tyro.conf.arg(name="")]


@dataclasses.dataclass(frozen=True)
class _Evaluate:
    """Score a run's masks at each image's own size."""

    run: tyro.conf.Positional[str]
    """Run directory."""
    data: _Data
    split: str | None = None
    """train, val, test, or all (every sample below the root). By default test, or val where there is no test."""
    checkpoint: Literal["best", "last"] = "best"
    calibrated: bool = False
    """With the temperatures and thresholds that unet-jax calibrate found."""
    csv: str | None = None
    """Write Dice and IoU of every image here."""
    devices: _ON_DEVICES = dataclasses.field(default_factory=_Devices)


@dataclasses.dataclass(frozen=True)
class _Calibrate:
    """Fit a temperature and a threshold per class, and keep them in the run (docs/metrics.md)."""

    run: tyro.conf.Positional[str]
    """Run directory."""
    data: _Data
    split: str = "val"
    """Images to fit them to; not those that are scored afterwards."""
    checkpoint: Literal["best", "last"] = "best"
    devices: _ON_DEVICES = dataclasses.field(default_factory=_Devices)


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
    devices: _ON_DEVICES = dataclasses.field(default_factory=_Devices)


@dataclasses.dataclass(frozen=True)
class _Info:
    """Say what is in a run."""

    run: tyro.conf.Positional[str]
    """Run directory."""


def evaluate(args: Sequence[str]) -> None:
    """Runs `evaluate`."""
    options = tyro.cli(_Evaluate, args=args, prog="unet-jax evaluate")
    with connected(options.devices.processes):
        _evaluate(options)


def _evaluate(options: _Evaluate) -> None:
    if options.csv:
        epath.Path(options.csv).parent.mkdir(parents=True, exist_ok=True)  # or an error, before the work
    run = _load(options.run, options.checkpoint, options.devices, calibrated=options.calibrated)
    split, layout, records = _select(run, options.data, options.split)
    display = first_display()
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


def calibrate(args: Sequence[str]) -> None:
    """Runs `calibrate`."""
    options = tyro.cli(_Calibrate, args=args, prog="unet-jax calibrate")
    with connected(options.devices.processes):
        _calibrate(options)


def _calibrate(options: _Calibrate) -> None:
    run = _load(options.run, options.checkpoint, options.devices, calibrated=False)
    split, layout, records = _select(run, options.data, options.split)
    display = first_display()
    with display.bar("calibrating", len(records), unit="images") as show:
        fit = calibrate_run(run, layout, records, on_progress=lambda done: show(done, ""))
    if not is_first():
        return
    save_calibration(run, fit, split=split, num_images=len(records))
    if split == "train":
        display.line("WARNING: the network was trained on these images and is surer of them than of others.")
    Console(width=110).print(_fit_table(fit, run.class_names, f"{split}: {len(records)} images, checkpoint {run.step}"))
    print(f"kept in {calibration_path(run.path)}; evaluate and predict use it with --calibrated")


def _fit_table(fit: Fit, class_names: Sequence[str], title: str) -> Table:
    table = Table(title=title)
    for column in ("class", "temperature", "threshold", "cross entropy", "calibration error", "dice"):
        table.add_column(column, justify="left" if column == "class" else "right")
    for k, name in enumerate(class_names):
        changes = (f"{before[k]:.4f} -> {after[k]:.4f}" for before, after in (fit.nll, fit.ece, fit.dice))
        calibration = fit.calibration
        table.add_row(name, f"{calibration.temperature[k]:.3f}", f"{calibration.threshold[k]:.3f}", *changes)
    return table


def predict(args: Sequence[str]) -> None:
    """Runs `predict`."""
    options = tyro.cli(_Predict, args=args, prog="unet-jax predict")
    with connected(options.devices.processes):
        _predict(options)


def _predict(options: _Predict) -> None:
    files = find_inputs(options.inputs)
    run = _load(options.run, options.checkpoint, options.devices, calibrated=options.calibrated)
    out = epath.Path(options.out)
    with first_display().bar("predicting", len(files), unit="images") as show:
        for done, _ in enumerate(predict_files(run, files, out), start=1):
            show(done, "")
    folders = ", ".join(f"{name}/" for name in (*run.class_names, "overlay"))
    if is_first():
        print(f"{len(files)} images predicted: {out} has {folders}")


def info(args: Sequence[str]) -> None:
    """Runs `info`."""
    options = tyro.cli(_Info, args=args, prog="unet-jax info")
    path = epath.Path(options.run)
    found = load_info(path)
    print(f"run: {path}")
    prevalence = found.audit.get("prevalence")  # an imported run has seen no data
    for k, name in enumerate(found.class_names):
        print(f"  channel {k} = {name}" + (f": {prevalence[k]:.1%} of the pixels" if prevalence else ""))
    if "imported_from" in found.audit:
        print(f"imported from {found.audit['imported_from']} ({found.audit['channels']})")
    print("images: " + ", ".join(f"{len(ids)} {name}" for name, ids in found.splits.items()))
    print(f"parameters: {num_parameters(abstract_state(found).params):,}")
    with open_checkpoints(path, found.config) as store:
        best = store.best_step
        for step in store.steps:
            scores = ", ".join(f"{name} {value:.4f}" for name, value in store.metrics(step).items())
            marked = " (best)" if step == best else ""
            print(f"checkpoint {step} of {found.num_steps}{marked}: {scores or 'not evaluated'}")
    print("versions: " + ", ".join(f"{name} {version}" for name, version in found.versions.items()))
    for name, value in flatten_config(found.config).items():
        print(f"  {name} = {value!r}")


def _load(path: str, checkpoint: Literal["best", "last"], devices: _Devices, *, calibrated: bool) -> Run:
    keep_compiled()
    run = load_run(path, checkpoint, mesh=make_mesh(space=devices.devices_per_image))
    return with_calibration(run) if calibrated else run


def _select(run: Run, given: _Data, split: str | None) -> tuple[str, Layout, list[Record]]:
    """A split of the data that was named, read in the run's own way."""
    data = dataclasses.replace(run.config.data, root=given.root, splits=given.splits, classes=run.class_names)
    return select_records(run, data, split)
