"""The HTML page of a study: one file that needs no other, for a browser, a colleague or a paper's supplement."""

import base64
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape

import numpy as np

from unet_jax.config.dicts import config_to_dict, flatten_config
from unet_jax.metrics.image_scores import NUM_BINS, SURFACE_TOLERANCE
from unet_jax.metrics.statistics import NUM_RESAMPLES
from unet_jax.study.compare import PRIMARY, RULE, Row, columns_of
from unet_jax.study.config import Study
from unet_jax.study.results import Results
from unet_jax.study.scores import SCORES

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
_MIN_SEEDS = 3
"""Number of seeds from which on Student's interval over seeds is narrow enough to exclude anything."""
_TITLES = {
    "dice": "Dice",
    "iou": "IoU",
    "surface_dice": f"Surface Dice at a tolerance of {SURFACE_TOLERANCE:g} pixels",
    "hd95": "95 % Hausdorff distance (HD95) in pixels",
    "brier": "Brier score",
    "ece": f"Expected calibration error with {NUM_BINS} bins",
}


def conclusion(study: Study, results: Results) -> str:
    """Say whether there is a winner, and which variants are better or worse than the baseline.

    With fewer than three seeds, the first sentence says why there can be none.
    """
    winner, score = results.winner, _TITLES[PRIMARY]
    compared = [row for row in results.primary_rows() if row.comparison is not None]
    better, worse = (
        [row.variant for row in compared if row.comparison and row.comparison.verdict == verdict]
        for verdict in ("better", "worse")
    )
    if winner.name is not None:
        first = f"{winner.name} has the best {score} and is better than every other variant."
    else:
        rivals = ", ".join(winner.rivals)
        first = f"No winner. {winner.leader} has the highest mean {score}, but cannot be told apart from {rivals}."
        if not SCORES[PRIMARY]:
            first = first.replace("highest", "lowest")
    base, better_names, worse_names = study.baseline, ", ".join(better) or "none", ", ".join(worse) or "none"
    if winner.name is None and len(study.seeds) < _MIN_SEEDS:
        number = "1 seed" if len(study.seeds) == 1 else f"{len(study.seeds)} seeds"
        first = f"With {number}, hardly any difference can be told from chance: give at least {_MIN_SEEDS}. {first}"
    return f"{first} Better than {base}: {better_names}. Worse than {base}: {worse_names}."


def make_page(study: Study, results: Results, pictures: Mapping[str, bytes]) -> str:
    """Return the whole page as HTML.

    Args:
      study: the study.
      results: its results.
      pictures: contents of the PNG files, by the names "differences", "ranking" and "curves".
    """
    scores = results.scores
    num_runs = len(study.variants) * len(study.seeds)
    seeds = ", ".join(map(str, study.seeds))
    friedman = (
        ""
        if math.isnan(results.friedman_p)
        else f" The p-value of Friedman's test is {escape(_p(results.friedman_p))}."
    )
    parts = [
        f"<h1>Study of {len(study.variants)} {_kind(study)}</h1>",
        f"<p>The study has {num_runs} runs: {len(study.variants)} variants, each trained with {len(study.seeds)} "
        f"seed(s): {seeds}. The runs were scored on {len(scores.ids)} images of the split {escape(study.split)}. "
        f"The classes are {escape(', '.join(scores.class_names))}. {_what_is_equal(study)}</p>",
        f'<p class="verdict">{escape(conclusion(study, results))}</p>',
        _caveats(study, results),
        "<h2>Differences to the baseline</h2>",
        _picture(pictures["differences"], f"paired differences to {study.baseline}"),
        '<p class="note">Thick lines are 95 % intervals over images. Thin lines are 95 % intervals over seeds; they '
        "are cut off where they are wider than the picture. Gray lines belong to variants that cannot be told apart "
        "from the baseline.</p>",
        "<h2>Ranks</h2>",
        _picture(pictures["ranking"], "average ranks"),
        f'<p class="note">On each image, the variants are ranked by {_TITLES[PRIMARY]} (mean of classes and seeds); 1 '
        "is the best. The picture shows the averages of these ranks over images. Bars join variants whose average "
        f"ranks differ by less than {results.critical_difference:.2f}, the critical difference of Nemenyi's test at "
        f"5 %.{friedman}</p>",
        "<h2>Learning curves</h2>",
        _picture(pictures["curves"], "mean validation Dice by epoch"),
        '<p class="note">Lines are means over seeds; bands are ranges over seeds.</p>',
    ]
    for score, more_is_better in SCORES.items():
        parts.append(f"<h2>{_TITLES[score]} ({'higher' if more_is_better else 'lower'} is better)</h2>")
        for class_name in columns_of(scores.class_names)[::-1]:
            rows = [row for row in results.rows if (row.score, row.class_name) == (score, class_name)]
            if rows:  # there are none where all images ignore the class
                parts.append(_score_table(class_name, rows, len(study.seeds)))
    parts += [_costs(results), _settings(study, results)]
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    head = f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
    head += f"<title>Study of {len(study.variants)} {_kind(study)}</title><style>{_STYLE}</style>"
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n' + "\n".join(parts) + "\n</body></html>\n"


def _kind(study: Study) -> str:
    """Return what the study compares."""
    return "variants" if any(variant.settings for variant in study.variants) else "losses"


def _what_is_equal(study: Study) -> str:
    """Say what the runs of one seed have in common."""
    names = {name for variant in study.variants for name in variant.settings}
    weights, batches = "began with the same weights", "saw the same batches with the same augmentation"
    equal = [] if any(name.startswith(("model.", "init_from", "data.channels")) for name in names) else [weights]
    if not any(name.startswith(("data.", "augment.", "train.")) for name in names):
        equal.append(batches)
    said = f"All runs of one seed {' and '.join(equal)}." if equal else "Runs of one seed have the same images."
    return said + (" What differs is listed at the end." if names else "")


def _caveats(study: Study, results: Results) -> str:
    """Return the rule of verdicts and the limits of the study, as an HTML list."""
    lines = [
        RULE,
        f"Intervals over images are from the BCa bootstrap with {NUM_RESAMPLES} resamples of the images. The p-values "
        "are from the sign-flip permutation test over images. Holm's correction is for the number of variants, "
        "separately in each score and class. There are many scores and classes below, so some differences look "
        "significant by chance.",
        "Intervals over images say what to expect of these trained networks on other images like these. Intervals over "
        "seeds say what to expect of other seeds on these images. Neither says anything about other data sets.",
    ]
    if len(results.scores.ids) < 20:
        lines.append(f"{len(results.scores.ids)} images are few for a bootstrap: the intervals are too narrow.")
    num_unknown = np.isnan(results.scores.values[PRIMARY][0, 0]).sum(axis=0)
    unknown = [
        f"{count} for {name}" for count, name in zip(num_unknown, results.scores.class_names, strict=True) if count
    ]
    if unknown:
        lines.append(
            f"Ignored pixels are not scored. Images that ignore a class everywhere have no part in its scores: "
            f"{', '.join(unknown)}."
        )
    if study.split != "test":
        lines.append(
            f"The images of the split {study.split} were not held out: the networks were trained on them, or the best "
            "checkpoints were chosen by them."
        )
    return '<ul class="note">' + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _picture(png: bytes, alt: str) -> str:
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def _score_table(class_name: str, rows: Sequence[Row], num_seeds: int) -> str:
    header = (
        class_name,
        "mean",
        "SD over seeds",
        "difference to baseline",
        "95 % interval over images",
        "95 % interval over seeds",
        "p",
        "p (Holm)",
        "seeds better",
        "verdict",
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
    if not results.costs:
        return '<h2>Training step</h2><p class="note">It was not timed: there is no cost.csv.</p>'
    rows = []
    for name, cost in results.costs.items():
        memory = f"{cost.step_bytes / 1e6:.1f}" if cost.step_bytes else ""
        rows.append((name, f"{cost.relative_time:.2f}", f"{cost.step_ms:.1f}", memory, ""))
    note = (
        '<p class="note">The steps of all variants were timed in turn; the table shows medians over rounds. The '
        "relative time is the time per image divided by the baseline's in the same round, which holds on a busy "
        "machine too. The memory is that of the step's arguments and temporaries on one device, as reported by the "
        "compiler.</p>"
    )
    header = ("variant", "relative time", "time in ms", "memory in MB", "")
    return "<h2>Training step</h2>" + _table(header, rows) + note


def _settings(study: Study, results: Results) -> str:
    losses = [(variant.name, _loss(config_to_dict(variant.loss))) for variant in study.variants]
    varied = [
        (variant.name, ", ".join(f"{name} = {value}" for name, value in variant.settings.items()) or "none of its own")
        for variant in study.variants
    ]
    own = "<h2>Settings of variants</h2>" + _table(("variant", "settings"), varied, left=True)
    hidden = ("seed", "data.root", "data.splits", "data.cache_dir")  # local folders, and seeds, which stand above
    flat = flatten_config(study.config)
    settings = [(k, str(v)) for k, v in flat.items() if k not in hidden and not k.startswith("loss.")]
    sizes = [(name, str(len(ids))) for name, ids in results.info.splits.items()]
    return (
        (own if _kind(study) == "variants" else "")
        + "<h2>Losses</h2>"
        + _table(("variant", "loss"), losses, left=True)
        + "<h2>Settings of all runs, but for those of variants</h2>"
        + _table(("split", "images"), sizes, left=True)
        + _table(("setting", "value"), settings, left=True)
        + _table(("package", "version"), results.info.versions.items(), left=True)
    )


def _loss(values: dict) -> str:
    """Return a loss as JSON text: its terms without empty fields, or BCE and Dice if it has no terms."""
    terms = values.pop("terms")
    if not terms:
        return json.dumps(values)
    empty = ({}, [], "", None)
    return json.dumps(
        [{k: v for k, v in term.items() if v not in empty and (k, v) != ("over", "image")} for term in terms]
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], left: bool = False) -> str:
    """Return an HTML table; a verdict in the last column gets its colour."""
    kind = ' class="left"' if left else ""
    lines = ["<tr>" + "".join(f"<th{kind}>{escape(cell)}</th>" for cell in header) + "</tr>"]
    for row in rows:
        *cells, last = (escape(str(cell)) for cell in row)
        last_kind = kind or (f' class="{last}"' if last in ("better", "worse", "unclear") else "")
        cells = [f"<td{kind}>{cell}</td>" for cell in cells]
        lines.append("<tr>" + "".join(cells) + f"<td{last_kind}>{f'<code>{last}</code>' if left else last}</td></tr>")
    return '<div class="wide"><table>' + "\n".join(lines) + "</table></div>"


def _number(value: float, sign: str = "") -> str:
    """Format a score with four decimals, or with two from 10 on, as distances in pixels may be large."""
    return f"{value:{sign}.4f}" if abs(value) < 10 else f"{value:{sign}.2f}"


def _p(value: float) -> str:
    """Format a p-value."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
