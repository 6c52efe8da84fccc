"""The HTML page of a run: one file that needs no other, with curves, pictures, data and settings."""

import base64
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from etils import epath

from unet_jax.config.dicts import flatten_config
from unet_jax.config.presets import nearest_preset
from unet_jax.data.images.format import describe_format
from unet_jax.report.audit_text import percent
from unet_jax.report.metrics_file import read_history
from unet_jax.report.pictures import class_color, hex_color
from unet_jax.runs.info import RunInfo, load_info
from unet_jax.runs.load import open_checkpoints
from unet_jax.runs.verdict import verdict
from unet_jax.training.goodput import read_goodput

_TEMPLATE = Path(__file__).with_name("report_page.html.jinja")
_LOSSES = {"train/loss": ("training", "#777777"), "eval/loss": ("validation", "#1f5fae")}
_MOST_POINTS = 400  # of a curve; more cannot be told apart


class _Line(NamedTuple):
    """A curve as the page shows it."""

    name: str
    color: str
    points: str  # of an SVG polyline, 0 to 100 by 0 to 100
    last: str  # its newest number


class _Chart(NamedTuple):
    """Curves with one pair of axes."""

    title: str
    low: str
    high: str
    first: str  # epoch
    last: str
    lines: list[_Line]


def make_page(path: epath.Path) -> str:
    """Return the page as HTML.

    Args:
      path: run directory. What it has not got yet, such as an evaluation or pictures, is left out.

    Raises:
      InputError: the folder is not a run, or its run.json or its checkpoints are damaged.
    """
    info = load_info(path)
    with open_checkpoints(path, info.config) as store:
        best, latest = store.best_step, store.latest_step
        scores = store.metrics(best) if best is not None else {}
    rows = read_history(path)
    preset, differing = nearest_preset(info.config)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(_TEMPLATE.read_text()).render(
        name=path.name,
        path=str(path),
        info=info,
        best=best,
        latest=latest,
        scores={name: f"{value:.4f}" for name, value in scores.items()},
        warnings=verdict(info, path, best, latest or 0) if best is not None else [],
        charts=_charts(rows, info.class_names),
        pictures=_pictures(path),
        classes=_classes(info, rows, best),
        rows=[_row(row, best) for row in rows],
        image_format=describe_format(info.image_format) if info.image_format else "",
        preset=preset,
        differing={name: _text(value) for name, value in differing.items()},
        settings={name: _text(value) for name, value in flatten_config(info.config).items()},
        goodput=_goodput(path),
        percent=percent,
    )


def _text(value: Any) -> str:
    """Return a setting as it is typed on the command line."""
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _classes(info: RunInfo, rows: Sequence[dict[str, Any]], best: int | None) -> list[dict[str, str]]:
    """Return for each class its share of the pixels, and Dice on val beside that of the best constant mask."""
    reached = next((row for row in rows if row["step"] == best), {})
    prevalence = info.audit.get("prevalence")
    constant = info.constant_dice
    return [
        {
            "name": name,
            "color": hex_color(class_color(k)),
            "prevalence": percent(prevalence[k]) if prevalence else "",
            "dice": _number(reached.get(f"eval/dice/{name}")),
            "constant": _number(constant.get(name)),
        }
        for k, name in enumerate(info.class_names)
    ]


def _row(row: dict[str, Any], best: int | None) -> dict[str, Any]:
    """Return an evaluation as the page shows it."""
    numbers = {name: _number(row.get(name)) for name in ("train/loss", "eval/loss", "eval/dice")}
    return {"step": row["step"], "epoch": f"{row['epoch']:.4g}", "is_best": row["step"] == best, **numbers}


def _number(value: Any) -> str:
    """Return a score with four digits, and nothing for one that is missing."""
    return "" if value is None else f"{float(value):.4f}"


def _charts(rows: Sequence[dict[str, Any]], class_names: Sequence[str]) -> list[_Chart]:
    """Return the losses and each class's Dice over epochs; nothing before the second evaluation."""
    if len(rows) < 2:
        return []
    dice = {f"eval/dice/{name}": (name, hex_color(class_color(k))) for k, name in enumerate(class_names)}
    losses = [float(row[name]) for row in rows for name in _LOSSES if name in row]
    top = max((loss for loss in losses if math.isfinite(loss)), default=1.0)
    low = min(0.0, *(loss for loss in losses if math.isfinite(loss)), 0.0)
    return [_chart("Loss", rows, _LOSSES, low, top), _chart("Dice on val, mean over images", rows, dice, 0.0, 1.0)]


def _chart(
    title: str, rows: Sequence[dict[str, Any]], names: dict[str, tuple[str, str]], low: float, high: float
) -> _Chart:
    """Scale curves to a square of 100."""
    shown = rows[:: -(-len(rows) // _MOST_POINTS)]
    first, last = float(rows[0]["epoch"]), float(rows[-1]["epoch"])

    def points(name: str) -> str:
        found = [(float(row["epoch"]), float(row[name])) for row in shown if row.get(name) is not None]
        return " ".join(
            f"{100 * (epoch - first) / ((last - first) or 1):.2f},{100 - 100 * (value - low) / ((high - low) or 1):.2f}"
            for epoch, value in found
            if math.isfinite(value)
        )

    lines = [_Line(label, color, points(name), _number(rows[-1].get(name))) for name, (label, color) in names.items()]
    return _Chart(title, f"{low:.3g}", f"{high:.3g}", f"{first:.4g}", f"{last:.4g}", lines)


def _pictures(path: epath.Path) -> list[tuple[str, str]]:
    """Return title and data URL of the pictures that the run has."""
    titles = {"validation.png": "Validation images: true mask, predicted mask, errors"}
    found = []
    for name, title in titles.items():
        file = path / "pictures" / name
        if file.exists():
            found.append((title, "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()))
    return found


def _goodput(path: epath.Path) -> dict[str, str]:
    """Return the seconds of training by phase; nothing if the file is missing or damaged, which `verify` says."""
    try:
        seconds = read_goodput(path / "goodput.json")["seconds"]
    except (OSError, ValueError):
        return {}
    return {name.replace("_", " "): f"{value:.1f}" for name, value in seconds.items()}
