"""The main table of a study for papers and pages: as Markdown, and as LaTeX for the package booktabs."""

import math
import re
from collections.abc import Sequence

from unet_jax.report.estimates_table import p_text
from unet_jax.study.compare import PRIMARY
from unet_jax.study.results import Results

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: "\\" + character for character in "&%$#_{}"},
}


def markdown_table(results: Results) -> str:
    """Return the table of the primary score as Markdown, the best variant first.

    Args:
      results: results of a finished study, from `read_results` or `write_results`.

    Returns:
      Lines of a pipe table, which ends in a newline.
    """
    return markdown_lines(*_cells(results))


def markdown_lines(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of text as Markdown; the first column is on the left."""
    lines = [header, ["---", *("---:",) * (len(header) - 1)], *rows]
    escaped = ([cell.replace("|", r"\|") for cell in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in escaped)


def latex_table(results: Results) -> str:
    """Return the table of the primary score as a LaTeX `tabular` with the rules of booktabs, the best variant first.

    Args:
      results: results of a finished study, from `read_results` or `write_results`.

    Returns:
      The environment, without a float around it: `\\begin{table} \\input{table} \\end{table}` makes one.
    """
    return latex_lines(*_cells(results))


def latex_lines(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of text as a LaTeX `tabular`; the first column is on the left."""
    lines = [" & ".join(map(_escape, line)) + r" \\" for line in (header, *rows)]
    columns = "l" + "r" * (len(header) - 1)
    body = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"]
    return "\n".join([*body, r"\end{tabular}", ""])


def class_columns(results: Results) -> tuple[str, ...]:
    """Return the names of the classes, each of which has a column if there are several."""
    return results.scores.class_names if len(results.scores.class_names) > 1 else ()


def class_cells(results: Results, variant: str) -> list[str]:
    """Return the mean of the primary score in each of `class_columns`; empty where all images ignore the class."""
    of_variant = (row for row in results.rows if (row.score, row.variant) == (PRIMARY, variant))
    means = {row.class_name: f"{row.mean:.4f}" for row in of_variant}
    return [means.get(name, "") for name in class_columns(results)]


def _cells(results: Results) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of the table as text."""
    units = results.scores.units
    header = [
        "variant",
        PRIMARY,
        f"SD over {units}",
        "difference",
        "95 % over images",
        f"95 % over {units}",
        "p (Holm)",
    ]
    rows = []
    for row in results.ranked_rows():
        cells = [row.variant, f"{row.mean:.4f}", "" if math.isnan(row.std) else f"{row.std:.4f}"]
        c = row.comparison
        if c is None:
            cells += ["baseline", "", "", ""]
        else:
            intervals = (_interval(c.low, c.high), _interval(c.seed_low, c.seed_high))
            cells += [f"{c.difference:+.4f}", *intervals, p_text(c.p_holm)]
        rows.append([*cells, *class_cells(results, row.variant)])
    return [*header, *class_columns(results)], rows


def _interval(low: float, high: float) -> str:
    """Return an interval as text; an unbounded one, of a single seed, is empty."""
    return f"[{low:+.4f}, {high:+.4f}]" if math.isfinite(low) and math.isfinite(high) else ""


def _escape(text: str) -> str:
    """Return text in which LaTeX's special characters stand for themselves."""
    return re.sub(r"[\\~^&%$#_{}]", lambda match: _LATEX[match.group()], text)
