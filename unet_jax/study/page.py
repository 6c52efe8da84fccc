"""A study as one HTML file that needs nothing else: for a browser, a colleague, or a paper's supplement."""

import base64
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from unet_jax.config.dicts import config_to_dict, flatten_config
from unet_jax.metrics.image_scores import NUM_BINS, SURFACE_TOLERANCE
from unet_jax.study.compare import PRIMARY, RULE, Row, columns_of
from unet_jax.study.config import Study
from unet_jax.study.results import Results
from unet_jax.study.scores import SCORES
from unet_jax.study.statistics import NUM_RESAMPLES

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px; margin: .5rem 0 1rem; }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }
th:first-child, td:first-child, .left { text-align: left; }
.verdict { background: #eef3f8; border-left: 4px solid #0072b2; padding: .7rem 1rem; font-size: 16px; }
.better { color: #0072b2; font-weight: 600; } .worse { color: #b34700; } .unclear { color: #666; }
img { max-width: 100%; } .note { color: #555; font-size: 13px; } code { font-size: 12px; white-space: pre-wrap; }
.wide { overflow-x: auto; }
"""
_TITLES = {
    "dice": "Dice",
    "iou": "IoU",
    "surface_dice": f"Surface Dice at {SURFACE_TOLERANCE:g} px",
    "hd95": "HD95 in pixels",
    "brier": "Brier score",
    "ece": f"Expected calibration error, {NUM_BINS} bins",
}


def conclusion(study: Study, results: Results) -> str:
    """What may be said: a winner only where the rule allows one."""
    winner, score = results.winner, _TITLES[PRIMARY]
    compared = [row for row in results.primary_rows() if row.comparison is not None]
    better, worse = (
        [row.variant for row in compared if row.comparison and row.comparison.verdict == verdict]
        for verdict in ("better", "worse")
    )
    if winner.name is not None:
        first = f"{winner.name} has the best {score}, and is better than every other variant."
    else:
        rivals = ", ".join(winner.rivals)
        first = f"No winner. {winner.leader} has the highest mean {score}, but is not told apart from: {rivals}."
        if not SCORES[PRIMARY]:
            first = first.replace("highest", "lowest")
    second = f"Better than {study.baseline}: {', '.join(better) or 'none'}. Worse: {', '.join(worse) or 'none'}."
    return f"{first} {second}"


def make_page(study: Study, results: Results, pictures: Mapping[str, bytes]) -> str:
    """The whole page. `pictures` are PNG files called differences, ranking and curves."""
    scores = results.scores
    num_runs = len(study.variants) * len(study.seeds)
    seeds = ", ".join(map(str, study.seeds))
    friedman = "" if math.isnan(results.friedman_p) else f" Friedman's test: p = {_p(results.friedman_p)}."
    parts = [
        f"<h1>Study of {len(study.variants)} losses</h1>",
        f"<p>{num_runs} runs: {len(study.variants)} variants, seeds {seeds}; scored on {len(scores.ids)} images of "
        f"{escape(study.split)}, classes {escape(', '.join(scores.class_names))}. All variants of a seed began with "
        f"the same weights and saw the same batches, augmented alike.</p>",
        f'<p class="verdict">{escape(conclusion(study, results))}</p>',
        _caveats(study, results),
        "<h2>Differences to the baseline</h2>",
        _picture(pictures["differences"], f"paired differences to {study.baseline}"),
        '<p class="note">Thick: 95 % interval over images. Thin: over seeds; cut off where it is wider than the '
        "picture. Gray: not told apart.</p>",
        "<h2>Ranks</h2>",
        _picture(pictures["ranking"], "average ranks"),
        f'<p class="note">Average over images of the rank in {PRIMARY} (mean of classes and seeds); 1 is the best. '
        f"Bars join variants whose ranks differ by less than {results.critical_difference:.2f} (Nemenyi, 5 %)."
        f"{friedman}</p>",
        "<h2>Learning curves</h2>",
        _picture(pictures["curves"], "Dice on val by epoch"),
        '<p class="note">Mean over seeds; the band is the range over seeds.</p>',
    ]
    for score, more_is_better in SCORES.items():
        parts.append(f"<h2>{_TITLES[score]} ({'more' if more_is_better else 'less'} is better)</h2>")
        for class_name in columns_of(scores.class_names)[::-1]:
            rows = [row for row in results.rows if (row.score, row.class_name) == (score, class_name)]
            parts.append(_score_table(class_name, rows, len(study.seeds)))
    parts += [_costs(results), _settings(study, results)]
    head = f'<meta charset="utf-8"><title>Study of {len(study.variants)} losses</title><style>{_STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n' + "\n".join(parts) + "\n</body></html>\n"


def _caveats(study: Study, results: Results) -> str:
    lines = [
        f"A variant is called {RULE}.",
        f"Intervals: BCa bootstrap, {NUM_RESAMPLES} resamples of the images. p: sign-flip permutation test over "
        "images. Holm's correction is over the variants, in each score and class by itself: among the many scores and "
        "classes below, some differences look significant by chance.",
        "Intervals over images speak of other images like these for these trained networks, those over seeds of other "
        "seeds on these images; none of other data sets.",
    ]
    if len(study.seeds) < 3:
        lines.append(f"With {len(study.seeds)} seed(s) hardly any difference can be told from chance: give at least 3.")
    if len(results.scores.ids) < 20:
        lines.append(f"{len(results.scores.ids)} images are few for a bootstrap: its intervals are too narrow.")
    if study.split != "test":
        lines.append(f"These images ({study.split}) were not held out: they chose the checkpoints or were trained on.")
    return '<ul class="note">' + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _picture(png: bytes, alt: str) -> str:
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def _score_table(class_name: str, rows: Sequence[Row], num_seeds: int) -> str:
    header = (
        class_name,
        "mean",
        "sd over seeds",
        "difference",
        "95 % over images",
        "95 % over seeds",
        "p",
        "p (Holm)",
        "seeds better",
        "",
    )
    body = []
    for row in rows:
        c = row.comparison
        cells = [row.variant, _number(row.mean), "" if math.isnan(row.std) else _number(row.std)]
        if c is None:
            cells += [*("",) * 6, "baseline"]
        else:
            intervals = [
                f"{_number(a, '+')} to {_number(b, '+')}" if math.isfinite(a) else "unknown"
                for a, b in ((c.low, c.high), (c.seed_low, c.seed_high))
            ]
            better = f"{c.seeds_better} of {num_seeds}"
            cells += [_number(c.difference, "+"), *intervals, _p(c.p_value), _p(c.p_holm), better, c.verdict]
        body.append(cells)
    return _table(header, body)


def _costs(results: Results) -> str:
    rows = []
    for name, cost in results.costs.items():
        memory = f"{cost.step_bytes / 1e6:.1f}" if cost.step_bytes else ""
        rows.append((name, f"{cost.relative_time:.2f}", f"{cost.step_ms:.1f}", memory, ""))
    note = (
        '<p class="note">Steps of all variants in turn, medians over rounds; relative: to the baseline\'s step of the '
        "same round, which holds on a busy machine too. Memory: arguments and temporaries of the step on a device, by "
        "its compiler.</p>"
    )
    return "<h2>Training step</h2>" + _table(("variant", "relative time", "ms", "MB", ""), rows) + note


def _settings(study: Study, results: Results) -> str:
    losses = [(variant.name, _loss(config_to_dict(variant.loss))) for variant in study.variants]
    hidden = ("seed", "data.root", "data.splits", "data.cache_dir")  # folders of the machine, or said above
    flat = flatten_config(study.config)
    settings = [(k, str(v)) for k, v in flat.items() if k not in hidden and not k.startswith("loss.")]
    sizes = [(name, str(len(ids))) for name, ids in results.info.splits.items()]
    return (
        "<h2>Losses</h2>"
        + _table(("variant", "loss"), losses, left=True)
        + "<h2>Settings of all runs</h2>"
        + _table(("images", ""), sizes, left=True)
        + _table(("setting", ""), settings, left=True)
        + _table(("version of", ""), results.info.versions.items(), left=True)
    )


def _loss(values: dict) -> str:
    terms = values.pop("terms")
    if not terms:
        return json.dumps(values)
    empty = ({}, [], "", None)
    return json.dumps(
        [{k: v for k, v in term.items() if v not in empty and (k, v) != ("over", "image")} for term in terms]
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], left: bool = False) -> str:
    kind = ' class="left"' if left else ""
    lines = ["<tr>" + "".join(f"<th{kind}>{escape(cell)}</th>" for cell in header) + "</tr>"]
    for row in rows:
        *cells, last = (escape(str(cell)) for cell in row)
        last_kind = kind or (f' class="{last}"' if last in ("better", "worse", "unclear") else "")
        cells = [f"<td{kind}>{cell}</td>" for cell in cells]
        lines.append("<tr>" + "".join(cells) + f"<td{last_kind}>{f'<code>{last}</code>' if left else last}</td></tr>")
    return '<div class="wide"><table>' + "\n".join(lines) + "</table></div>"


def _number(value: float, sign: str = "") -> str:
    """Four digits behind the point; distances in pixels may be large."""
    return f"{value:{sign}.4f}" if abs(value) < 10 else f"{value:{sign}.2f}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
