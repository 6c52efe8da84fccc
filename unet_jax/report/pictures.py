"""Pictures: grids of predictions and learning curves as PNG, and overlays."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from etils import epath
from jaxtyping import Bool, UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from unet_jax.data.pixels import write_png

# Distinguishable without red-green vision (Okabe and Ito, 2008), as RGB.
_COLORS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))
_FALSE_POSITIVE, _FALSE_NEGATIVE = (220, 20, 20), (0, 230, 230)
_DPI = 110


def class_color(k: int) -> tuple[int, int, int]:
    """The colour of class k in every picture, RGB."""
    return _COLORS[k % len(_COLORS)]


def _unit(color: tuple[int, int, int]) -> tuple[float, float, float]:
    """As matplotlib takes it."""
    red, green, blue = color
    return red / 255, green / 255, blue / 255


def render_overlay(image: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w k"]) -> UInt8[np.ndarray, "h w 3"]:
    """The image with each class tinted and outlined in its colour; overlapping classes mix."""
    canvas = image.astype(np.float32)
    for k in range(mask.shape[-1]):
        inside = mask[..., k]
        canvas[inside] = 0.65 * canvas[inside] + 0.35 * np.array(class_color(k), np.float32)
    canvas = np.round(canvas).astype(np.uint8)
    thickness = max(1, round(max(image.shape[:2]) / 400))
    for k in range(mask.shape[-1]):
        plane = np.ascontiguousarray(mask[..., k]).astype(np.uint8)
        contours, _ = cv2.findContours(plane, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(canvas, contours, -1, class_color(k), thickness)
    return canvas


def render_errors(
    image: UInt8[np.ndarray, "h w 3"], truth: Bool[np.ndarray, "h w k"], predicted: Bool[np.ndarray, "h w k"]
) -> UInt8[np.ndarray, "h w 3"]:
    """Gray image; red where a class was predicted and is not, cyan where it was missed."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    canvas = np.repeat((gray // 2 + 64)[..., None], 3, axis=-1)
    canvas[(predicted & ~truth).any(axis=-1)] = _FALSE_POSITIVE
    canvas[(~predicted & truth).any(axis=-1)] = _FALSE_NEGATIVE
    return canvas


def save_grid(
    path: epath.Path,
    *,
    images: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    predictions: Sequence[np.ndarray],
    titles: Sequence[str],
    class_names: Sequence[str],
) -> None:
    """One row per image: image, truth, prediction, error. Masks are `[h w k]` bool."""
    rows = len(images)
    figure = Figure(figsize=(10.0, 2.6 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, 4, squeeze=False)
    for row, (image, truth, predicted) in enumerate(zip(images, truths, predictions, strict=True)):
        panels = (
            image,
            render_overlay(image, truth),
            render_overlay(image, predicted),
            render_errors(image, truth, predicted),
        )
        for axis, panel in zip(axes[row], panels, strict=True):
            axis.imshow(panel)
            axis.set_xticks([])
            axis.set_yticks([])
        axes[row][0].set_ylabel(titles[row], fontsize=8)
    for axis, name in zip(axes[0], ("image", "truth", "prediction", "error"), strict=True):
        axis.set_title(name, fontsize=9)
    patches = [Patch(color=_unit(class_color(k)), label=name) for k, name in enumerate(class_names)]
    patches.append(Patch(color=_unit(_FALSE_POSITIVE), label="error: too much"))
    patches.append(Patch(color=_unit(_FALSE_NEGATIVE), label="error: missed"))
    figure.legend(handles=patches, loc="outside lower center", ncols=min(6, len(patches)), fontsize=8, frameon=False)
    save_figure(figure, path)


def save_curves(path: epath.Path, rows: Sequence[dict[str, Any]], class_names: Sequence[str]) -> None:
    """Loss and learning rate, and Dice per class, over epochs, from the evaluation lines of `metrics.jsonl`."""
    evaluations = [row for row in rows if "eval/loss" in row]
    epochs = [row["epoch"] for row in evaluations]
    figure = Figure(figsize=(10.0, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, label in (("train/loss", "train"), ("eval/loss", "val")):
        left.plot(epochs, [_number(row.get(name)) for row in evaluations], marker=".", label=label)
    left.set(xlabel="epoch", ylabel="loss")
    left.legend(frameon=False)
    for k, name in enumerate(class_names):
        values = [_number(row.get(f"eval/dice/{name}")) for row in evaluations]
        right.plot(epochs, values, marker=".", label=name, color=_unit(class_color(k)))
    right.set(xlabel="epoch", ylabel="mean per-image Dice on val", ylim=(0.0, 1.0))
    right.legend(frameon=False)
    for axis in (left, right):
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
    save_figure(figure, path)


def _number(value: Any) -> float:
    """Values that were not finite are stored as text."""
    return float("nan") if value is None else float(value)


def save_figure(figure: Figure, path: epath.Path) -> None:
    """Through the Agg canvas, which needs no display, and our writer, which knows buckets."""
    figure.set_dpi(_DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    write_png(path, np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3]))
