"""Scores with intervals as a table for a terminal, as values for JSON, and the rules that they follow."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from unet_jax.metrics.estimates import FEW_UNITS, Estimate, Estimates
from unet_jax.metrics.score_sums import SCORES
from unet_jax.metrics.statistics import NUM_RESAMPLES


def estimates_table(title: str, estimates: Sequence[Estimates], marks: Mapping[str, str] | None = None) -> Table:
    """Return a table of means over images beside pooled scores, each with its 95 % interval.

    Args:
      title: title of the table.
      estimates: results of `estimate_scores`.
      marks: words to write behind the names of classes, by name.
    """
    table = Table(title=title)
    for column in ("class", "score", "mean of images", "95 % interval", "pooled", "95 % interval"):
        table.add_column(column, justify="left" if column in ("class", "score") else "right")
    last = None
    for row in estimates:
        name = "" if row.class_name == last else escape(row.class_name) + (marks or {}).get(row.class_name, "")
        if name and last is not None:
            table.add_section()
        last = row.class_name
        pooled = ("", "") if row.pooled is None else (number(row.pooled.value), interval(row.pooled))
        table.add_row(name, row.score, number(row.mean.value), interval(row.mean), *pooled)
    return table


def number(value: float, sign: str = "") -> str:
    """Format a score with four decimals, or with two from 10 on, as distances in pixels may be large; NaN is empty."""
    if math.isnan(value):
        return ""
    return f"{value:{sign}.4f}" if abs(value) < 10 else f"{value:{sign}.2f}"


def interval(estimate: Estimate, sign: str = "") -> str:
    """Format an interval; one that is not known is empty, or "unknown" beside a number that is.

    Example:
      >>> interval(Estimate(0.5, 0.25, 0.75)), interval(Estimate(0.5, -math.inf, math.inf))
      ('[0.2500, 0.7500]', 'unknown')
    """
    if math.isnan(estimate.value):
        return ""
    known = math.isfinite(estimate.low) and math.isfinite(estimate.high)
    return f"[{number(estimate.low, sign)}, {number(estimate.high, sign)}]" if known else "unknown"


def p_text(value: float) -> str:
    """Format a p-value; NaN is empty.

    Example:
      >>> p_text(0.0004), p_text(0.0312)
      ('< 0.001', '0.031')
    """
    if math.isnan(value):
        return ""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def p_equals(value: float) -> str:
    """Format a p-value as part of a sentence.

    Example:
      >>> p_equals(0.0004), p_equals(0.0312)
      ('p < 0.001', 'p = 0.031')
    """
    text = p_text(value)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def estimates_json(estimates: Sequence[Estimates]) -> dict[str, dict[str, dict[str, float | None]]]:
    """Return the numbers by score and class, as JSON that has no NaN and no infinity."""
    result: dict[str, dict[str, dict[str, float | None]]] = {}
    for row in estimates:
        numbers: dict[str, Any] = dict(zip(("mean", "low", "high"), row.mean, strict=True))
        if row.pooled is not None:
            numbers |= dict(zip(("pooled", "pooled_low", "pooled_high"), row.pooled, strict=True))
        kept = {key: value if math.isfinite(value) else None for key, value in numbers.items()}
        result.setdefault(row.score, {})[row.class_name] = kept
    return result


def explanation(names: Sequence[str], num_images: int, num_groups: int | None) -> list[str]:
    """Return lines that say what the intervals are of, and what each score is where a mask is empty.

    Args:
      names: names of scores.
      num_images: number of images.
      num_groups: number of groups that were resampled; None if images were.
    """
    units = f"{num_images} images" if num_groups is None else f"{num_groups} groups of {num_images} images"
    lines = [
        f"(intervals: 95 %, BCa bootstrap, {NUM_RESAMPLES} resamples of the {units}; they say what to expect of this "
        f"network on other images like these, and nothing of other seeds)"
    ]
    num_units, what = (num_images, "images") if num_groups is None else (num_groups, "groups")
    if num_units < FEW_UNITS:
        lines.append(f"(WARNING: {num_units} {what} are few for a bootstrap: the intervals are too narrow)")
    rules: dict[str, list[str]] = {}
    for name in names:
        rules.setdefault(SCORES[name].rule, []).append(name)
    ruled = "; ".join(f"{', '.join(of_rule)}: {rule}" for rule, of_rule in rules.items())
    meaning = "mean of images: of the per-image score; pooled: of all images' pixels or objects together"
    return [*lines, f"({meaning}. {ruled})"]
