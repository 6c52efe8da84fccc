"""The HTML page of a run: one file that needs no other, with curves, pictures, data and settings."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from etils import epath
from markupsafe import Markup

from unet_jax.config.dicts import flatten_config
from unet_jax.config.presets import nearest_preset
from unet_jax.data.images.format import describe_format
from unet_jax.report.audit_text import percent
from unet_jax.report.charts import Chart, make_chart
from unet_jax.report.inline import data_url, script_hash
from unet_jax.report.metrics_file import read_history
from unet_jax.report.pictures import class_color, hex_color
from unet_jax.report.val_pictures import read_shown
from unet_jax.runs.info import RunInfo, load_info
from unet_jax.runs.load import metrics_of, open_checkpoints
from unet_jax.runs.own_parts import describe_part
from unet_jax.runs.verdict import verdict
from unet_jax.training.goodput import PHASES, read_goodput

_TEMPLATE = Path(__file__).with_name("report_page.html.jinja")
_SCRIPT = Path(__file__).with_name("report_page.js")
_LOSSES = {"train/loss": ("training", "#888888"), "eval/loss": ("validation", "#3a7bd5")}
_MOST_ROWS = 500  # of the table of evaluations
_MOST_BYTES = 1_500_000  # of validation.png, which is shown where there are no pictures of the best and worst images


class Standing(NamedTuple):
    """Progress of a run, as its checkpoints or the evaluation that has just ended say."""

    best: int | None  # step of the best checkpoint
    latest: int | None  # step of the newest one
    scores: dict[str, float]  # of the best checkpoint
    warnings: tuple[str, ...]


def make_page(path: epath.Path, standing: Standing | None = None) -> str:
    """Return the page as HTML.

    Args:
      path: run directory. What it has not got yet, such as an evaluation or pictures, is left out.
      standing: where the run stands; by default as its checkpoints say.

    Raises:
      InputError: the folder is not a run, or its run.json or its checkpoints are damaged.
    """
    info = load_info(path)
    standing = standing or _standing(path, info)
    rows = read_history(path)
    shown = read_shown(path / "pictures" / "evaluation.json", info.class_names)
    preset, differing = nearest_preset(info.config)
    script = _SCRIPT.read_text()
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(_TEMPLATE.read_text()).render(
        name=path.name,
        path=str(path),
        info=info,
        standing=standing,
        script=Markup(script),
        script_hash=script_hash(script),
        scores={name: f"{value:.4f}" for name, value in standing.scores.items()},
        charts=_charts(rows, info.class_names),
        diagrams=_diagrams(shown, info.class_names),
        shown=shown,
        picture="" if shown else _picture(path),
        colors={name: hex_color(class_color(k)) for k, name in enumerate(info.class_names)},
        classes=_classes(info, rows, standing.best),
        splits=_splits(info),
        rows=[_row(row, standing.best) for row in rows[-_MOST_ROWS:]],
        num_rows=len(rows),
        image_format=describe_format(info.image_format) if info.image_format else "",
        own={name: describe_part(facts) for name, facts in info.own.items()},
        preset=preset,
        differing={name: _text(value) for name, value in differing.items()},
        settings={name: _text(value) for name, value in flatten_config(info.config).items()},
        goodput=_goodput(path),
        percent=percent,
    )


def _standing(path: epath.Path, info: RunInfo) -> Standing:
    """Return where a run stands by its checkpoints."""
    with open_checkpoints(path, info.config) as store:
        best, latest = store.best_step, store.latest_step
        scores = metrics_of(store, path, best) if best is not None else {}
    warnings = verdict(info, path, best, latest or 0) if best is not None else []
    return Standing(best, latest, scores, tuple(warnings))


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
            "prevalence": percent(prevalence[k]) if prevalence else "",
            "dice": _number(reached.get(f"eval/dice/{name}")),
            "constant": _number(constant.get(name)),
        }
        for k, name in enumerate(info.class_names)
    ]


def _splits(info: RunInfo) -> list[dict[str, Any]]:
    """Return for each split its images, and for each class how many have it and how many objects there are."""
    splits = []
    for name, ids in info.splits.items():
        facts = info.audit.get("splits", {}).get(name, {})
        by_class = [
            {"num_with": _of_class(facts, "num_with", k), "num_objects": _of_class(facts, "num_objects", k)}
            for k in range(len(info.class_names))
        ]
        splits.append({"name": name, "num_images": len(ids), "classes": by_class})
    return splits


def _of_class(facts: Any, name: str, k: int) -> str:
    """Return a number of the audit for class k; nothing if the run does not have it."""
    values = facts.get(name, ())
    return str(values[k]) if k < len(values) else ""


def _row(row: dict[str, Any], best: int | None) -> dict[str, Any]:
    """Return an evaluation as the page shows it."""
    numbers = {name: _number(row.get(name)) for name in ("train/loss", "eval/loss", "eval/dice")}
    return {"step": row["step"], "epoch": f"{row['epoch']:.4g}", "is_best": row["step"] == best, **numbers}


def _number(value: Any) -> str:
    """Return a score with four digits, and nothing for one that is missing."""
    return "" if value is None else f"{float(value):.4f}"


def _charts(rows: Sequence[dict[str, Any]], class_names: Sequence[str]) -> list[Chart]:
    """Return the losses and each class's Dice over epochs; nothing before the second evaluation."""
    if len(rows) < 2:
        return []

    def points(name: str) -> list[tuple[float, float]]:
        return [(float(row["epoch"]), float(row[name])) for row in rows if row.get(name) is not None]

    losses = {label: (color, points(name)) for name, (label, color) in _LOSSES.items()}
    dice = {name: (hex_color(class_color(k)), points(f"eval/dice/{name}")) for k, name in enumerate(class_names)}
    title = "Dice on val, mean over images"
    return [make_chart("Loss", "epoch", losses), make_chart(title, "epoch", dice, y=(0.0, 1.0))]


def _diagrams(shown: dict[str, Any], class_names: Sequence[str]) -> list[Chart]:
    """Return Dice over thresholds, and shares inside over probabilities, of the images that `shown` has them for."""
    if not shown:
        return []
    nan = math.nan
    curves, shares = {}, {}
    for k, name in enumerate(class_names):
        color, dice = hex_color(class_color(k)), shown["dice"][name]
        values = [nan if value is None else value for value in dice]
        curves[name] = (color, list(zip(shown["thresholds"], values, strict=False)))
        bins = [(p, share) for p, share, count in shown["reliability"][name] if count and None not in (p, share)]
        shares[name] = (color, bins)
    unit, title = (0.0, 1.0), "Share of pixels inside the class"
    return [
        make_chart("Dice, mean over images", "threshold", curves, x=unit, y=unit, mark=shown["threshold"]),
        make_chart(title, "predicted probability", shares, x=unit, y=unit, has_diagonal=True),
    ]


def _picture(path: epath.Path) -> str:
    """Return validation.png as a data URL; nothing if it is not there or large."""
    file = path / "pictures" / "validation.png"
    if not file.exists() or len(content := file.read_bytes()) > _MOST_BYTES:
        return ""
    return data_url("image/png", content)


def _goodput(path: epath.Path) -> list[dict[str, str]]:
    """Return time and share of each phase; nothing if the file is missing or damaged, which `verify` says."""
    try:
        seconds = read_goodput(path / "goodput.json")["seconds"]
    except (OSError, ValueError):
        return []
    total = sum(seconds.values()) or 1.0
    return [
        {
            "phase": str(PHASES.get(name, name)),
            "seconds": f"{value:.1f}",
            "share": f"{100 * value / total:.1f}",
        }
        for name, value in seconds.items()
    ]
