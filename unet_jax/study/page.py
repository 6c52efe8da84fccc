"""The HTML page of a study: one file that needs no other, for a browser, a colleague or a paper's supplement."""

import datetime
import json
import math
from collections.abc import Mapping, Sequence
from html import escape

from unet_jax.config.dicts import config_to_dict, flatten_config
from unet_jax.report.estimates_table import number, p_text
from unet_jax.study.compare import PRIMARY, Row, columns_of
from unet_jax.study.config import Study
from unet_jax.study.examples import example_positions
from unet_jax.study.page_parts import document, folded, listed, note, picture, table
from unet_jax.study.pairs import Pair
from unet_jax.study.results import Results
from unet_jax.study.scores import SCORES
from unet_jax.study.tuning_words import tuning_section
from unet_jax.study.words import (
    TITLES,
    caveats,
    conclusion,
    data_name,
    folds_words,
    kind,
    network,
    runs_words,
    scored_words,
    sizes_words,
    what_is_equal,
)


def make_page(
    study: Study,
    results: Results,
    pictures: Mapping[str, bytes],
    examples: Mapping[str, bytes] | None = None,
    command: str = "",
    pairs: Sequence[tuple[Pair, bytes]] = (),
) -> str:
    """Return the whole page as HTML.

    Args:
      study: the study, with its split resolved.
      results: its results.
      pictures: contents of the PNG files, by the names "differences", "ranking" and "curves".
      examples: pictures of predictions as PNG, by the name of the variant.
      command: command that made the study; empty if it was made from Python.
      pairs: pairs of variants with their picture as PNG; empty where there is none.
    """
    scores, units = results.scores, results.scores.units
    title = f"Study of {len(study.variants)} {kind(study)}"
    friedman = (
        ""
        if math.isnan(results.friedman_p)
        else f" The p-value of Friedman's test is {escape(p_text(results.friedman_p))}."
    )
    sections = [
        ("Limits", listed(caveats(study, results))),
        *([("Tuning", tuning_section(results.tuning))] if results.tuning else []),
        (
            "Differences to the baseline",
            picture(pictures["differences"], f"paired differences to {study.baseline}")
            + f'<p class="note">Thick lines are 95 % intervals over images. Thin lines are 95 % intervals over '
            f"{units}; they are cut off where they are wider than the picture. Gray lines belong to variants that "
            f"cannot be distinguished from the baseline.</p>",
        ),
        (
            "Ranks",
            picture(pictures["ranking"], "average ranks")
            + f'<p class="note">On each image, the variants are ranked by {TITLES[PRIMARY]} (mean of classes and '
            "seeds); 1 is the best. The picture shows the averages of these ranks over images. Bars join variants "
            f"whose average ranks differ by less than {results.critical_difference:.2f}, the critical difference of "
            f"Nemenyi's test at 5 %.{friedman}</p>",
        ),
        (
            "Learning curves",
            picture(pictures["curves"], "mean validation Dice by epoch")
            + f'<p class="note">Lines are means over {units}; bands are ranges over {units}.</p>',
        ),
        *([("Predictions", _examples(study, results, examples))] if examples else []),
        *([("Most different images", _most_different(study, pairs))] if pairs else []),
    ]
    for i, (score, more_is_better) in enumerate(SCORES.items()):
        tables = [
            _score_table(class_name, rows, len(study.units), units)
            for class_name in columns_of(scores.class_names)[::-1]
            if (rows := [row for row in results.rows if (row.score, row.class_name) == (score, class_name)])
        ]  # there are no rows where all images ignore the class
        direction = "higher" if more_is_better else "lower"
        sections.append((f"{TITLES[score]} ({direction} is better)", folded("tables", "".join(tables), is_open=i == 0)))
    sections += [("Training step", _costs(results)), ("Settings", folded("settings", _settings(study, results)))]
    return document(title, conclusion(study, results), _facts(study, results, command), sections)


def _facts(study: Study, results: Results, command: str) -> list[tuple[str, str]]:
    """Say what was compared on which data, with which versions, when and how."""
    versions = ", ".join(f"{name} {results.info.versions.get(name, '?')}" for name in ("unet_jax", "jax", "python"))
    return [
        ("data set", f"{data_name(study)}: {sizes_words(study, results)}"),
        ("classes", ", ".join(results.scores.class_names)),
        ("network", network(study)),
        ("runs", f"{runs_words(study)}. {what_is_equal(study)}"),
        *([("folds", folds_words(study))] if study.folds else []),
        ("scored", scored_words(study, results)),
        ("versions", versions),
        ("page written", datetime.date.today().isoformat()),
        ("command", command or "from Python: unet_jax.study.run_study"),
    ]


def _examples(study: Study, results: Results, examples: Mapping[str, bytes]) -> str:
    """Return the pictures of predictions, one strip for each variant."""
    ids, folds = results.scores.ids, results.scores.folds
    if folds is not None:  # the first run has scored the first fold
        ids = [id_ for id_, fold in zip(ids, folds[0], strict=True) if fold == 0]
    names = ", ".join(ids[i] for i in example_positions(len(ids)))
    run, where = ("run", "fold") if study.folds else ("seed", "split")
    said = note(
        f"Errors of the first {run} ({study.units[0].name.removeprefix('seed ')}) on images that are evenly spaced in "
        f"the {where}: {names}. False positives are red, false negatives cyan."
    )
    strips = [
        f"<figure><figcaption>{escape(name)}</figcaption>{picture(png, f'errors of {name}')}</figure>"
        for name, png in examples.items()
    ]
    return said + folded("pictures", "".join(strips), is_open=len(strips) <= 4)


def _most_different(study: Study, pairs: Sequence[tuple[Pair, bytes]]) -> str:
    """Return the images on which pairs of variants differ most, with pictures of both where there are any."""
    rows = [
        (f"{pair.first}, {pair.second}", id_, number(a), number(b), number(b - a, "+"), "")
        for pair, _ in pairs
        for id_, (a, b) in zip(pair.ids, pair.scores, strict=True)
    ]
    header = ("pair", "image", f"{TITLES[PRIMARY]} of the first", "of the second", "difference", "")
    figures = [
        f"<figure><figcaption>{escape(_caption(pair))}</figcaption>"
        f"{picture(png, f'errors of {pair.first} and {pair.second}')}</figure>"
        for pair, png in pairs
        if png
    ]
    drawn = (
        f" The pictures are of each pair's images, the first variant on the left of the second, with the errors of the "
        f"first seed ({study.seeds[0]}): false positives are red, false negatives cyan."
    )
    said = note(f"Scores are averaged over classes and seeds.{drawn if figures else ''}")
    return said + folded("table", table(header, rows)) + (folded("pictures", "".join(figures)) if figures else "")


def _caption(pair: Pair) -> str:
    return f"{pair.first} and {pair.second}: {', '.join(pair.ids)}"


def _score_table(class_name: str, rows: Sequence[Row], num_runs: int, units: str) -> str:
    header = (
        class_name,
        "mean",
        f"SD over {units}",
        "difference to baseline",
        "95 % interval over images",
        f"95 % interval over {units}",
        "p",
        "p (Holm)",
        f"{units} better",
        "verdict",
    )
    body = []
    for row in rows:
        c = row.comparison
        cells = [row.variant, number(row.mean), "" if math.isnan(row.std) else number(row.std)]
        if c is None:
            cells += [*("",) * 6, "baseline"]
        else:
            intervals = [
                f"{number(a, '+')} to {number(b, '+')}" if math.isfinite(a) else "unknown"
                for a, b in ((c.low, c.high), (c.seed_low, c.seed_high))
            ]
            better = f"{c.seeds_better} of {num_runs}"
            cells += [number(c.difference, "+"), *intervals, p_text(c.p_value), p_text(c.p_holm), better, c.verdict]
        body.append(cells)
    return table(header, body)


def _costs(results: Results) -> str:
    if not results.costs:
        return '<p class="note">It was not timed: there is no cost.csv.</p>'
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
    return table(header, rows) + note


def _settings(study: Study, results: Results) -> str:
    losses = [(variant.name, _loss(config_to_dict(variant.loss))) for variant in study.variants]
    varied = [
        (variant.name, ", ".join(f"{name} = {value}" for name, value in variant.settings.items()) or "none of its own")
        for variant in study.variants
    ]
    own = "<h3>Settings of variants</h3>" + table(("variant", "settings"), varied, left=True)
    hidden = ("seed", "data.root", "data.splits", "data.cache_dir")  # local folders, and seeds, which stand above
    flat = flatten_config(study.config)
    settings = [(k, str(v)) for k, v in flat.items() if k not in hidden and not k.startswith("loss.")]
    sizes = [(name, str(len(ids))) for name, ids in results.info.splits.items()]
    in_first = " in the first run" if study.folds else ""
    return (
        (own if kind(study) == "variants" else "")
        + "<h3>Losses</h3>"
        + table(("variant", "loss"), losses, left=True)
        + "<h3>Settings of all runs, but for those of variants</h3>"
        + table(("split", f"images{in_first}"), sizes, left=True)
        + table(("setting", "value"), settings, left=True)
        + table(("package", "version"), results.info.versions.items(), left=True)
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
