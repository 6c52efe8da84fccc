"""Pictures: overlays of masks on images, and PNG files with grids of predictions and with learning curves."""

import functools
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from etils import epath, epy
from jaxtyping import Bool, UInt, UInt8

from unet_jax.data.images.format import ImageFormat
from unet_jax.data.pixels import write_png

with epy.lazy_imports():  # imported when it is used, because importing it takes long
    from matplotlib import figure as mpl_figure
    from matplotlib import font_manager, ticker
    from matplotlib import patches as mpl_patches
    from matplotlib import text as mpl_text
    from matplotlib.backends import backend_agg

# RGB colours that can be distinguished without red-green vision (Okabe and Ito, 2008).
_COLORS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))
_FALSE_POSITIVE, _FALSE_NEGATIVE = (220, 20, 20), (0, 230, 230)
_IGNORED = (150, 150, 150)
_DPI = 110
_FONT = "DejaVu Sans"  # that comes with matplotlib
_FALLBACKS = (
    *(f"Noto Sans CJK {region}" for region in ("JP", "SC", "TC", "KR")),
    *("Droid Sans Fallback", "WenQuanYi Zen Hei", "Hiragino Sans", "PingFang SC", "Yu Gothic", "Microsoft YaHei"),
    *("Malgun Gothic", "Apple SD Gothic Neo", "Arial Unicode MS", "Noto Sans", "Unifont"),
)
_BOX = "\N{WHITE SQUARE}"


def class_color(k: int) -> tuple[int, int, int]:
    """Return the RGB colour, 0 to 255, that class k has in every picture; colours repeat after seven classes.

    Example:
      >>> class_color(0)
      (230, 159, 0)
    """
    return _COLORS[k % len(_COLORS)]


def hex_color(color: tuple[int, int, int]) -> str:
    """Return an RGB colour, 0 to 255, as pages write it.

    Example:
      >>> hex_color((230, 159, 0))
      '#e69f00'
    """
    return "#{:02x}{:02x}{:02x}".format(*color)


def _unit(color: tuple[int, int, int]) -> tuple[float, float, float]:
    """Convert a colour from 0 to 255 to matplotlib's range, 0 to 1."""
    red, green, blue = color
    return red / 255, green / 255, blue / 255


def to_rgb(image: UInt[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w 3"]:
    """Turn an image as the network sees it into 8-bit RGB to look at.

    One channel is shown as gray, two as red and green, and of more than three the first three.

    Args:
      image: `[h w c]` uint8 or uint16.
    """
    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    channels = image.shape[-1]
    if channels == 1:
        return np.repeat(image, 3, axis=-1)
    if channels == 2:
        return np.concatenate([image, np.zeros_like(image[..., :1])], axis=-1)
    return np.ascontiguousarray(image[..., :3])


def image_title(image_format: ImageFormat | None) -> str:
    """Return what to call pictures of images: which channels are red, green and blue, unless that is as in any picture.

    Example:
      >>> image_title(None), image_title(ImageFormat((0, 1), 2, names=("dapi", "gfp")))
      ('image', 'image (red dapi, green gfp)')
    """
    if image_format is None or image_format.is_plain:
        return "image"
    labels = [image_format.label(channel) for channel in range(image_format.num_channels)]
    if len(labels) == 1:
        return f"image ({labels[0]})"
    return (
        "image (" + ", ".join(f"{c} {label}" for c, label in zip(("red", "green", "blue"), labels, strict=False)) + ")"
    )


def render_overlay(
    image: UInt8[np.ndarray, "h w 3"],
    mask: Bool[np.ndarray, "h w k"],
    ignored: Bool[np.ndarray, "h w k"] | None = None,
) -> UInt8[np.ndarray, "h w 3"]:
    """Tint and outline each class of a mask in its colour on the image; colours of overlapping classes mix.

    Ignored pixels have stripes: gray where all classes are ignored, otherwise in the colour of the ignored class.

    Args:
      image: RGB image, `[h w 3]`, 0 to 255.
      mask: True inside each of the k classes, `[h w k]`.
      ignored: True where a class is ignored, `[h w k]`; None: nowhere.

    Returns:
      RGB image, `[h w 3]`, 0 to 255.

    Example:
      >>> image, mask = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 1), bool)
      >>> mask[2:6, 2:6] = True
      >>> overlay = render_overlay(image, mask)
      >>> overlay[0, 0].tolist(), overlay[2, 2].tolist(), overlay[3, 3].tolist()  # outside, outline, inside
      ([0, 0, 0], [230, 159, 0], [80, 56, 0])
    """
    canvas = image.astype(np.float32)
    for k in range(mask.shape[-1]):
        inside = mask[..., k]
        canvas[inside] = 0.65 * canvas[inside] + 0.35 * np.array(class_color(k), np.float32)
    canvas = np.round(canvas).astype(np.uint8)
    thickness = max(1, round(max(image.shape[:2]) / 400))
    if ignored is not None:
        _draw_stripes(canvas, ignored, 2 * thickness)
    for k in range(mask.shape[-1]):
        plane = np.ascontiguousarray(mask[..., k]).astype(np.uint8)
        contours, _ = cv2.findContours(plane, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(canvas, contours, -1, class_color(k), thickness)
    return canvas


def _draw_stripes(canvas: UInt8[np.ndarray, "h w 3"], ignored: Bool[np.ndarray, "h w k"], width: int) -> None:
    """Draw diagonal stripes, `width` pixels wide, with gaps twice as wide, where classes are ignored."""
    rows, columns = np.ogrid[: ignored.shape[0], : ignored.shape[1]]
    stripe, everywhere = (rows + columns) // width % 3 == 0, ignored.all(axis=-1)
    for k in range(ignored.shape[-1]):
        canvas[ignored[..., k] & ~everywhere & stripe] = class_color(k)
    canvas[everywhere & stripe] = _IGNORED


def render_errors(
    image: UInt8[np.ndarray, "h w 3"],
    truth: Bool[np.ndarray, "h w k"],
    predicted: Bool[np.ndarray, "h w k"],
    ignored: Bool[np.ndarray, "h w k"] | None = None,
) -> UInt8[np.ndarray, "h w 3"]:
    """Show the errors of all classes on the image in gray: false positives in red, false negatives in cyan.

    Args:
      image: RGB image, `[h w 3]`, 0 to 255.
      truth: true masks of the k classes, `[h w k]`.
      predicted: predicted masks, `[h w k]`.
      ignored: True where a class is ignored, `[h w k]`, so that nothing is an error; None: nowhere.

    Returns:
      RGB image, `[h w 3]`, 0 to 255. A pixel that is a false positive in one class and a false negative in another
      is cyan.
    """
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    canvas = np.repeat((gray // 2 + 64)[..., None], 3, axis=-1)
    counted = True if ignored is None else ~ignored
    canvas[(predicted & ~truth & counted).any(axis=-1)] = _FALSE_POSITIVE
    canvas[(~predicted & truth & counted).any(axis=-1)] = _FALSE_NEGATIVE
    return canvas


def render_class(
    image: UInt8[np.ndarray, "h w 3"],
    truth: Bool[np.ndarray, "h w"],
    predicted: Bool[np.ndarray, "h w"],
    color: tuple[int, int, int],
    ignored: Bool[np.ndarray, "h w"] | None = None,
) -> UInt8[np.ndarray, "h w 3"]:
    """Show one class on the image in gray: right pixels in its colour, false positives red, false negatives cyan."""
    canvas = render_errors(
        image, truth[..., None], predicted[..., None], None if ignored is None else ignored[..., None]
    )
    right = truth & predicted
    canvas[right] = np.round(0.4 * canvas[right] + 0.6 * np.array(color)).astype(np.uint8)
    return canvas


def save_grid(
    path: epath.Path,
    *,
    images: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    predictions: Sequence[np.ndarray],
    titles: Sequence[str],
    class_names: Sequence[str],
    image_title: str = "image",
    ignored: Sequence[np.ndarray] | None = None,
) -> None:
    """Write a PNG picture with one row for each image: image, truth, prediction, errors.

    Args:
      path: PNG file to write.
      images: RGB images, `[h w 3]` uint8; sizes may differ.
      truths: true masks, `[h w k]` bool.
      predictions: predicted masks, `[h w k]` bool.
      titles: text to the left of each row.
      class_names: names of the k classes, for the legend.
      image_title: text above the images.
      ignored: where classes are ignored, `[h w k]` bool; None: nowhere.
    """
    rows = len(images)
    figure = mpl_figure.Figure(figsize=(10.0, 2.6 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, 4, squeeze=False)
    unknown = ignored or [None] * rows
    for row, (image, truth, predicted, hidden) in enumerate(zip(images, truths, predictions, unknown, strict=True)):
        panels = (
            image,
            render_overlay(image, truth, hidden),
            render_overlay(image, predicted),
            render_errors(image, truth, predicted, hidden),
        )
        for axis, panel in zip(axes[row], panels, strict=True):
            axis.imshow(panel)
            axis.set_xticks([])
            axis.set_yticks([])
        axes[row][0].set_ylabel(titles[row], fontsize=8)
    for axis, name in zip(axes[0], (image_title, "truth", "prediction", "error"), strict=True):
        axis.set_title(name, fontsize=9)
    patches = [mpl_patches.Patch(color=_unit(class_color(k)), label=name) for k, name in enumerate(class_names)]
    patches.append(mpl_patches.Patch(color=_unit(_FALSE_POSITIVE), label="error: false positive"))
    patches.append(mpl_patches.Patch(color=_unit(_FALSE_NEGATIVE), label="error: false negative"))
    if ignored:
        patches.append(mpl_patches.Patch(facecolor="white", edgecolor=_unit(_IGNORED), hatch="////", label="ignored"))
    figure.legend(handles=patches, loc="outside lower center", ncols=min(6, len(patches)), fontsize=8, frameon=False)
    save_figure(figure, path)


def save_curves(path: epath.Path, rows: Sequence[dict[str, Any]], class_names: Sequence[str]) -> None:
    """Write a PNG picture with the losses in training and validation and each class's validation Dice over epochs.

    Args:
      path: PNG file to write.
      rows: rows of `metrics.jsonl`; those without an evaluation are left out.
      class_names: names of the classes.
    """
    evaluations = [row for row in rows if "eval/loss" in row]
    epochs = [row["epoch"] for row in evaluations]
    figure = mpl_figure.Figure(figsize=(10.0, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, label in (("train/loss", "training"), ("eval/loss", "validation")):
        left.plot(epochs, [_number(row.get(name)) for row in evaluations], marker=".", label=label)
    left.set(xlabel="epoch", ylabel="loss")
    left.legend(frameon=False)
    for k, name in enumerate(class_names):
        values = [_number(row.get(f"eval/dice/{name}")) for row in evaluations]
        right.plot(epochs, values, marker=".", label=name, color=_unit(class_color(k)))
    right.set(xlabel="epoch", ylabel="mean per-image validation Dice", ylim=(0.0, 1.0))
    right.legend(frameon=False)
    for axis in (left, right):
        axis.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
    save_figure(figure, path)


def _number(value: Any) -> float:
    """Convert a value of `metrics.jsonl` to float; missing ones become nan, and "nan" or "inf" were stored as text."""
    return float("nan") if value is None else float(value)


def _choose_font(text: "mpl_text.Text") -> None:
    """Let a text fall back on an installed font for characters that matplotlib's own lacks, or show them as boxes."""
    missing = set(text.get_text()) - _characters(font_manager.findfont(_FONT)) - {"\n"}
    if not missing:
        return
    for name in _FALLBACKS:
        try:
            if missing <= _characters(font_manager.findfont(name, fallback_to_default=False)):
                text.set_fontfamily([_FONT, name])
                return
        except ValueError:  # not installed
            continue
    text.set_text("".join(_BOX if character in missing else character for character in text.get_text()))


@functools.lru_cache(maxsize=16)
def _characters(path: str) -> set[str]:
    """Return the characters that a font file has."""
    return {chr(code) for code in font_manager.get_font(path).get_charmap()}


def save_figure(figure: "mpl_figure.Figure", path: epath.Path) -> None:
    """Write a figure as PNG: drawn on the Agg canvas, which needs no display, and written by `write_png`.

    `write_png` can write to buckets, which matplotlib cannot. A "$" in an id or in a class's name is no formula.
    """
    for text in figure.findobj(mpl_text.Text):
        text.set_parse_math(False)  # type: ignore[attr-defined]
        _choose_font(text)  # type: ignore[arg-type]
    figure.set_dpi(_DPI)
    canvas = backend_agg.FigureCanvasAgg(figure)
    canvas.draw()
    write_png(path, np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3]))
