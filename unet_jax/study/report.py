"""`write_results`, which writes the tables, pictures and HTML page of a finished study; and a table for a terminal.

OUT/results.csv      all scores of every image, class, variant and seed; results.parquet too, with pyarrow
OUT/table.csv        means, standard deviations over seeds (or over all runs: folds and seeds), comparisons
OUT/table.md, .tex   the main table for a page or a paper, as Markdown and as LaTeX (booktabs)
OUT/tuning.csv       trials of a tuned study
OUT/methods.md       methods and results in prose, for a paper
OUT/reproduce.sh     script that trains and scores the study again, with its study.toml and splits.csv
OUT/pictures/        learning curves, differences, ranking
OUT/study.html       means, comparisons and pictures in one file that needs no other
"""

import math
from collections.abc import Sequence
from typing import Any

from etils import epath
from rich.markup import escape
from rich.table import Table

from unet_jax._files import csv_text, replace_text
from unet_jax.report.estimates_table import p_text
from unet_jax.study import plots
from unet_jax.study.compare import PRIMARY, Row
from unet_jax.study.config import Study
from unet_jax.study.image_tables import write_image_tables
from unet_jax.study.methods import methods_text
from unet_jax.study.page import make_page
from unet_jax.study.pairs import find_pairs
from unet_jax.study.plots import Curves
from unet_jax.study.reproduce import write_reproduction
from unet_jax.study.results import Results, read_results
from unet_jax.study.run import evaluations, examples_path, with_split
from unet_jax.study.scores import ScoreTable
from unet_jax.study.tables import class_cells, class_columns, latex_table, markdown_table
from unet_jax.study.tuning import with_tuning
from unet_jax.study.tuning_words import TUNING_COLUMNS, tuning_rows


def write_results(study: Study, command: str = "") -> Results:
    """Write the tables, pictures and HTML page of a finished study into its folder.

    The files are listed above. The docstring of `unet_jax.study` has an example.

    Args:
      study: a study whose runs are all done, which `run_study` ensures.
      command: command that made it, which the page names; empty: it was made from Python.

    Returns:
      The results that were written.

    Raises:
      InputError: a run is not done yet.
    """
    as_given = with_split(study)
    study = with_tuning(as_given)
    results, out = read_results(study), epath.Path(study.out)
    write_image_tables(out, results.names, study.seeds, results.scores)
    replace_text(out / "table.csv", csv_text(table_columns(results.scores), [_table_row(row) for row in results.rows]))
    replace_text(out / "table.md", markdown_table(results))
    replace_text(out / "table.tex", latex_table(results))
    replace_text(out / "methods.md", methods_text(study, results))
    write_reproduction(as_given, results)
    if results.tuning:
        replace_text(out / "tuning.csv", csv_text(TUNING_COLUMNS, tuning_rows(results.tuning)))
    folder = out / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"{name}.png" for name in ("differences", "ranking", "curves")}
    plots.save_differences(paths["differences"], results.ranked_rows(), study.baseline)
    plots.save_ranking(paths["ranking"], results.names, results.ranks, results.critical_difference)
    plots.save_learning_curves(paths["curves"], _curves(study), "mean per-image validation Dice")
    drawn = {variant.name: examples_path(study, variant, *study.units[0]) for variant in study.variants}
    examples = {name: path.read_bytes() for name, path in drawn.items() if path.exists()}
    pictures = {name: path.read_bytes() for name, path in paths.items()}
    pairs = find_pairs(results.names, results.scores, study.baseline)
    drawn_pairs = [(pair, pair.path(out).read_bytes() if pair.path(out).exists() else b"") for pair in pairs]
    page = make_page(study, results, pictures, examples, command, drawn_pairs)
    replace_text(out / "study.html", page)
    return results


def show(results: Results) -> Table:
    """Make a table of the primary score for a terminal, the best variant first."""
    title = f"{PRIMARY}, mean of {len(results.scores.ids)} images"
    table = Table(title=title, title_justify="left")
    table.add_column("variant", no_wrap=True)
    columns = ("mean", "SD", "difference, 95 %", f"over {results.scores.units}", "p (Holm)", "verdict")
    for column in (*columns, *class_columns(results), "time", "MB"):
        table.add_column(escape(column), justify="right", no_wrap=True)
    for row in results.ranked_rows():
        c, cost = row.comparison, results.costs.get(row.variant)
        compared = ("baseline", "", "", "")
        if c is not None:
            interval = f"{c.difference:+.4f} [{c.low:+.4f}, {c.high:+.4f}]"
            over_seeds = f"[{c.seed_low:+.4f}, {c.seed_high:+.4f}]"
            compared = (interval, over_seeds, p_text(c.p_holm), c.verdict)
        table.add_row(
            escape(row.variant),
            f"{row.mean:.4f}",
            "" if math.isnan(row.std) else f"{row.std:.4f}",
            *compared,
            *class_cells(results, row.variant),
            f"{cost.relative_time:.2f}x" if cost else "",
            f"{cost.step_bytes / 1e6:.0f}" if cost and cost.step_bytes else "",
        )
    return table


def table_columns(scores: ScoreTable) -> tuple[str, ...]:
    """Return the names of the columns of table.csv; those over seeds are over runs (folds and seeds) with folds."""
    seed, seeds = ("seed", "seeds") if scores.folds is None else ("run", "runs")
    return (
        *("variant", "score", "class", "mean", f"std_over_{seeds}", "difference", "low", "high", f"{seed}_low"),
        *(f"{seed}_high", "p_value", "p_holm", f"{seeds}_better", "verdict"),
    )


def _table_row(row: Row) -> Sequence[Any]:
    """Return a row of table.csv; the baseline has no comparison."""
    c, std = row.comparison, "" if math.isnan(row.std) else f"{row.std:.6f}"
    first = (row.variant, row.score, row.class_name, f"{row.mean:.6f}", std)
    if c is None:
        return (*first, *("",) * 8, "baseline")
    numbers = (c.difference, c.low, c.high, c.seed_low, c.seed_high, c.p_value, c.p_holm)
    return (*first, *(f"{number:.6f}" for number in numbers), c.seeds_better, c.verdict)


def _curves(study: Study) -> dict[str, Curves]:
    """Read the validation Dice of each epoch, by name of the variant."""
    curves: dict[str, Curves] = {}
    for variant in study.variants:
        lines = [evaluations(study, variant, unit) for unit in study.units]
        curves[variant.name] = [([row["epoch"] for row in x], [float(row["eval/dice"]) for row in x]) for x in lines]
    return curves
