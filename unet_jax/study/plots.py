"""PNG pictures of a study: learning curves, differences with their intervals, and average ranks."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from unet_jax.report.pictures import class_color, save_figure
from unet_jax.study.compare import Row

Curves = Sequence[tuple[Sequence[float], Sequence[float]]]
"""Pairs (epochs, values), one for each seed."""

_STYLES, _MARKERS = ("-", "--", ":", "-.", "-", "--"), "osD^vX"
_MOST_TOGETHER, _PANELS_IN_A_ROW = 6, 4
_GOOD, _BAD, _NEUTRAL = "#0072b2", "#d55e00", "#777777"  # blue and vermilion differ without red-green vision


def save_learning_curves(path: epath.Path, curves: dict[str, Curves], label: str) -> None:
    """Draw the learning curve of each variant: the mean over seeds as a line, the range over seeds as a band.

    More than six variants have a panel each, because so many lines cannot be told apart in one.

    Args:
      path: PNG file to write.
      curves: curves by name of the variant.
      label: label of the vertical axis.
    """
    lines: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name, seeds in curves.items():
        length = min(len(values) for _, values in seeds)  # early stopping may end them at different epochs
        lines[name] = np.asarray(seeds[0][0][:length]), np.array([values[:length] for _, values in seeds])
    if len(lines) > _MOST_TOGETHER:
        _draw_panels(path, lines, label)
        return
    figure = Figure(figsize=(9.0, 4.8), layout="constrained")
    axis = figure.subplots()
    for i, (name, (epochs, values)) in enumerate(lines.items()):
        color = tuple(c / 255 for c in class_color(i))
        axis.plot(epochs, values.mean(axis=0), _STYLES[i], color=color, label=name, marker=_MARKERS[i], markersize=4)
        axis.fill_between(epochs, values.min(axis=0), values.max(axis=0), color=color, alpha=0.12, linewidth=0)
    axis.set(xlabel="epoch", ylabel=label)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    save_figure(figure, path)


def _draw_panels(path: epath.Path, lines: dict[str, tuple[np.ndarray, np.ndarray]], label: str) -> None:
    """Draw one panel for each variant, in which it is coloured and all others are gray; all have the same axes."""
    rows = -(-len(lines) // _PANELS_IN_A_ROW)
    figure = Figure(figsize=(9.0, 1.9 * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, _PANELS_IN_A_ROW, sharex=True, sharey=True, squeeze=False).ravel()
    for axis, (name, (epochs, values)) in zip(axes, lines.items(), strict=False):
        for other, (x, y) in lines.items():
            if other != name:
                axis.plot(x, y.mean(axis=0), color="#bbbbbb", linewidth=0.6)
        axis.fill_between(epochs, values.min(axis=0), values.max(axis=0), color=_GOOD, alpha=0.2, linewidth=0)
        axis.plot(epochs, values.mean(axis=0), color=_GOOD, linewidth=1.6)
        axis.set_title(name, fontsize=9)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))
        axis.grid(alpha=0.3)
    for axis in axes[len(lines) :]:
        axis.set_axis_off()
    for axis in axes[max(0, len(lines) - _PANELS_IN_A_ROW) : len(lines)]:  # the lowest of each column
        axis.tick_params(labelbottom=True)
    figure.supxlabel("epoch", fontsize=9)
    figure.supylabel(label, fontsize=9)
    save_figure(figure, path)


def save_differences(path: epath.Path, rows: Sequence[Row], baseline: str) -> None:
    """Draw the difference of each variant to the baseline with its intervals over images (thick) and seeds (thin).

    Args:
      path: PNG file to write.
      rows: results of one score and class, in the order to draw. Rows without a comparison are left out.
      baseline: name of the baseline.
    """
    rows = [row for row in rows if row.comparison is not None]
    figure = Figure(figsize=(8.0, 0.32 * len(rows) + 1.2), layout="constrained")
    axis = figure.subplots()
    for y, row in enumerate(rows):
        c = row.comparison
        assert c is not None
        color = {"better": _GOOD, "worse": _BAD, "unclear": _NEUTRAL}[c.verdict]
        axis.plot([c.low, c.high], [y, y], color=color, linewidth=3.5, alpha=0.6)
        if np.isfinite(c.seed_low):
            axis.plot([c.seed_low, c.seed_high], [y, y], color=color, linewidth=0.8)
        axis.plot([c.difference], [y], "o" if c.verdict != "unclear" else "|", color=color, markersize=7)
    axis.axvline(0.0, color="black", linewidth=0.8)
    ends = [0.0, *(end for row in rows if row.comparison for end in (row.comparison.low, row.comparison.high))]
    margin = 0.05 * (max(ends) - min(ends)) or 1e-3
    # The limits fit the intervals over images only, because those over two seeds are far wider. For a single image
    # all intervals are infinite.
    if np.isfinite(margin):
        axis.set_xlim(min(ends) - margin, max(ends) + margin)
    axis.set_yticks(range(len(rows)), [row.variant for row in rows])
    axis.set_ylim(len(rows) - 0.5, -0.5)
    score = rows[0].score if rows else ""
    axis.set_xlabel(f"difference in {score} to {baseline} (gray: unclear)")
    axis.grid(axis="x", alpha=0.3)
    save_figure(figure, path)


def groups_within(ranks: Float[np.ndarray, " v"], difference: float) -> list[tuple[float, float]]:
    """Find the groups of two or more variants whose ranks all lie within `difference`.

    Args:
      ranks: average ranks, `[v]`.
      difference: largest distance between the ranks of a group.

    Returns:
      The first and the last rank of each group that is not part of a larger one.

    Example:
      >>> groups_within(np.array([1.0, 1.8, 2.5]), 1.0)
      [(1.0, 1.8), (1.8, 2.5)]
    """
    values, groups = np.sort(ranks), []
    for i, first in enumerate(values):
        last = int(np.searchsorted(values, first + difference, side="right")) - 1
        if last > i and (not groups or values[last] > groups[-1][1]):
            groups.append((float(first), float(values[last])))
    return groups


def save_ranking(path: epath.Path, names: Sequence[str], ranks: Float[np.ndarray, " v"], difference: float) -> None:
    """Draw a critical-difference diagram, in which bars join variants that Nemenyi's test cannot tell apart.

    Args:
      path: PNG file to write.
      names: names of the v variants.
      ranks: average ranks, `[v]`.
      difference: critical difference of average ranks.
    """
    count, order = len(names), np.argsort(ranks, kind="stable")
    groups = groups_within(ranks, difference)
    rows = (count + 1) // 2
    top = 0.35 * (len(groups) + 1)  # space for the bars, below the axis
    figure = Figure(figsize=(9.0, 1.3 + 0.3 * rows + 0.3 * top), layout="constrained")
    axis = figure.subplots()
    axis.set_axis_off()
    margin = 0.35 * (count - 1) + 0.2
    axis.set_xlim(1 - margin, count + margin)
    axis.set_ylim(-top - rows - 0.3, 2.0)
    line: dict[str, Any] = {"color": "black", "linewidth": 1.0}
    axis.plot([1, count], [0, 0], **line)
    for rank in range(1, count + 1):
        axis.plot([rank, rank], [0, 0.15], **line)
        axis.text(rank, 0.25, str(rank), ha="center", va="bottom", fontsize=8)
    shown = min(difference, count - 1.0)
    axis.plot([1, 1 + shown], [1.3, 1.3], **line)
    axis.text(1, 1.4, f"critical difference {difference:.2f}", ha="left", va="bottom", fontsize=8)
    for i, v in enumerate(order):
        is_left = i < rows
        y = -top - (i if is_left else count - 1 - i) - 0.3
        end = 1 - 0.1 * margin if is_left else count + 0.1 * margin
        rank = float(ranks[v])
        axis.plot([rank, rank, end], [0, y, y], color="black", linewidth=0.8)
        text = f"{names[v]}  {rank:.2f}" if is_left else f"{rank:.2f}  {names[v]}"
        axis.text(end, y, f" {text} ", ha="right" if is_left else "left", va="center", fontsize=9)
    for (first, last), level in zip(groups, itertools.count(1), strict=False):
        axis.plot([first - 0.03, last + 0.03], [-0.35 * level] * 2, color=_GOOD, linewidth=3.5, solid_capstyle="round")
    save_figure(figure, path)
