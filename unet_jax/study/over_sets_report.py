"""`write_over_sets`, which writes what holds over several data sets, and the results of each of them.

OUT/sets/NAME/              everything that `write_results` writes for one data set
OUT/study.html              what holds over data sets, in one file that needs no other
OUT/sets.csv                means on each data set, average ranks, and comparisons over data sets
OUT/table.md, table.tex     the main table over data sets
OUT/methods.md              methods and results over data sets in prose
OUT/reproduce.sh            script that trains and scores everything again, with its study.toml
OUT/pictures/               average ranks over data sets, and differences on each of them
"""

import dataclasses
import datetime
import math
from collections.abc import Iterable, Sequence
from typing import Any

from etils import epath
from rich.markup import escape
from rich.table import Table

from unet_jax._files import csv_text, replace_text
from unet_jax.report.estimates_table import number, p_text
from unet_jax.study import plots
from unet_jax.study.compare import PRIMARY
from unet_jax.study.config import Study
from unet_jax.study.over_sets import ResultsOverSets, combine
from unet_jax.study.over_sets_words import (
    caveats_over_sets,
    cells_over_sets,
    conclusion_over_sets,
    friedman_words,
    methods_over_sets,
)
from unet_jax.study.page_parts import document, folded, listed, note, picture, table
from unet_jax.study.report import write_results
from unet_jax.study.reproduce import write_reproduction_of_sets
from unet_jax.study.run import with_split
from unet_jax.study.scores import SCORES
from unet_jax.study.tables import latex_lines, markdown_lines
from unet_jax.study.words import TITLES, runs_words, sizes_words


def write_over_sets(studies: Sequence[Study], command: str = "") -> ResultsOverSets:
    """Write the results of each data set into its folder, and what holds over all of them into the folder above.

    Args:
      studies: studies from `load_studies`, on two data sets or more, whose runs are all done.
      command: command that made them, which the pages name; empty: they were made from Python.

    Returns:
      The results that were written.

    Raises:
      InputError: a run is not done yet, or there is only one data set.
    """
    parts = [write_results(study, command) for study in studies]
    studies = [with_split(study) for study in studies]
    results, out = combine(studies, parts), epath.Path(studies[0].out).parent.parent
    replace_text(out / "sets.csv", csv_text(_COLUMNS, _rows(results)))
    header, cells = cells_over_sets(results)
    replace_text(out / "table.md", markdown_lines(header, cells))
    replace_text(out / "table.tex", latex_lines(header, cells))
    replace_text(out / "methods.md", methods_over_sets(studies, results))
    write_reproduction_of_sets(out, studies, results.parts[0].info.versions)
    folder = out / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"{name}.png" for name in ("differences", "ranking")}
    rows = [
        dataclasses.replace(row, variant=f"{name}, {dataset}")
        for name in results.names
        for dataset, row in zip(results.datasets, results.rows_of(name), strict=True)
    ]
    plots.save_differences(paths["differences"], rows, studies[0].baseline)
    plots.save_ranking(paths["ranking"], results.names, results.scores[PRIMARY].ranks, results.critical_difference)
    pictures = {name: path.read_bytes() for name, path in paths.items()}
    replace_text(out / "study.html", make_page_over_sets(studies, results, pictures, command))
    return results


def make_page_over_sets(
    studies: Sequence[Study], results: ResultsOverSets, pictures: dict[str, bytes], command: str = ""
) -> str:
    """Return the page over data sets as HTML.

    Args:
      studies: the studies, with their splits resolved.
      results: their results.
      pictures: contents of the PNG files, by the names "differences" and "ranking".
      command: command that made the studies; empty if they were made from Python.
    """
    base, units = studies[0].baseline, results.parts[0].scores.units
    friedman = f" {friedman_words(results)}".rstrip()
    links = "".join(
        f'<li><a href="sets/{name}/study.html">{name}</a></li>' for name in results.datasets
    )  # names of data sets are letters, digits and . _ + -
    sections = [
        ("Limits", listed(caveats_over_sets(studies, results))),
        (
            f"{TITLES[PRIMARY]} on each data set",
            table(*cells_over_sets(results))
            + note(
                f"Means over classes, images and seeds. + and -: better or worse than {base} on that data set, by the "
                f"rule of its own page."
            )
            + f"<ul>{links}</ul>",
        ),
        (
            "Ranks over data sets",
            picture(pictures["ranking"], "average ranks over data sets")
            + note(
                f"Bars join variants whose average ranks differ by less than {results.critical_difference:.2f}, the "
                f"critical difference of Nemenyi's test at 5 %.{friedman}"
            ),
        ),
        (
            "Differences on each data set",
            picture(pictures["differences"], f"paired differences to {base} on each data set")
            + note(f"Thick lines are 95 % intervals over images, thin lines 95 % intervals over {units}."),
        ),
    ]
    for name, values in results.scores.items():
        header = (
            "variant",
            "average rank",
            "median difference",
            "sets better",
            "sets worse",
            "p",
            "p (Holm)",
            "over sets",
        )
        rows = []
        for v, (variant, c) in enumerate(zip(results.names, values.comparisons, strict=True)):
            cells = ["", "", "", "", "", "baseline"]
            if c is not None:
                counts = (str(c.num_better), str(c.num_worse))
                p_values = (p_text(c.p_value), p_text(c.p_holm))
                cells = [number(c.median_difference, "+"), *counts, *p_values, c.verdict]
            rows.append((variant, f"{values.ranks[v]:.2f}", *cells))
        direction = "higher" if SCORES[name] else "lower"
        title = f"{TITLES[name]} over data sets ({direction} is better)"
        sections.append((title, folded("table", table(header, rows), is_open=name == PRIMARY)))
    versions = results.parts[0].info.versions
    facts = [
        *((study.dataset, sizes_words(study, part)) for study, part in zip(studies, results.parts, strict=True)),
        ("runs", f"{runs_words(studies[0])} on {len(studies)} data sets"),
        ("versions", ", ".join(f"{name} {versions.get(name, '?')}" for name in ("unet_jax", "jax", "python"))),
        ("page written", datetime.date.today().isoformat()),
        ("command", command or "from Python: unet_jax.study.run_studies"),
    ]
    title = f"Study of {len(results.names)} variants on {len(results.datasets)} data sets"
    return document(title, conclusion_over_sets(studies[0], results), facts, sections)


def show_over_sets(results: ResultsOverSets) -> Table:
    """Make a table over data sets for a terminal, the best average rank first."""
    header, rows = cells_over_sets(results)
    shown = Table(title=f"{PRIMARY} on {len(results.datasets)} data sets", title_justify="left")
    for column in header:
        shown.add_column(escape(column), justify="left" if column == "variant" else "right", no_wrap=True)
    for row in rows:
        shown.add_row(*map(escape, row))
    return shown


_COLUMNS = (
    *("score", "variant", "dataset", "mean", "std_over_seeds", "verdict", "average_rank", "median_difference"),
    *("p_value", "p_holm", "verdict_over_sets"),
)


def _rows(results: ResultsOverSets) -> Iterable[Sequence[Any]]:
    """Yield the rows of sets.csv: of each score and variant, one for each data set and one over them."""
    for score, values in results.scores.items():
        for v, name in enumerate(results.names):
            for dataset, part, mean in zip(results.datasets, results.parts, values.means[:, v], strict=True):
                (row,) = (row for row in part.mean_rows(score) if row.variant == name)
                std = "" if math.isnan(row.std) else f"{row.std:.6f}"
                verdict = row.comparison.verdict if row.comparison else "baseline"
                yield (score, name, dataset, f"{mean:.6f}", std, verdict, "", "", "", "", "")
            c, rank = values.comparisons[v], f"{values.ranks[v]:.4f}"
            over = (
                ("", "", "", "baseline")
                if c is None
                else (
                    *(f"{x:.6f}" for x in (c.median_difference, c.p_value, c.p_holm)),
                    c.verdict,
                )
            )
            yield (score, name, "over data sets", "", "", "", rank, *over)
