"""The HTML page of an audit: one file that needs no other."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import jinja2
import numpy as np
from markupsafe import Markup, escape

from unet_jax._types import InputError, Sample
from unet_jax.data.images.format import ImageFormat
from unet_jax.data.listing import describe_endings
from unet_jax.data.pixels import resize_mask
from unet_jax.data.sample_facts import NUM_BINS
from unet_jax.data.splits import shared_groups
from unet_jax.report.audit_text import WARNING, overview, percent, split_of_ids
from unet_jax.report.findings import Findings
from unet_jax.report.inline import data_url
from unet_jax.report.pictures import class_color, hex_color, image_title, render_overlay, to_rgb

_TEMPLATE = Path(__file__).with_name("audit_page.html.jinja")
_PER_SPLIT = 4  # pictures of each split, besides those that show a class which the others do not
_SIDE = 480  # longest side of a picture in pixels
_QUARTER = 64  # a pixel of a shrunk mask is shown from a quarter of 255 on, so that thin structures stay visible
_GRAY, _RGB = ("#777",), ("#c0392b", "#1e8449", "#2471a3")  # colours of curves


class _Picture(NamedTuple):
    """A sample as the page shows it."""

    id: str
    split: str
    size: tuple[int, int]  # height, width
    classes: list[str]
    image: str  # data URL
    overlay: str  # data URL


class _Curve(NamedTuple):
    """Histogram of one channel as the page shows it."""

    name: str
    color: str
    points: str  # of an SVG polygon, 0 to 256 by 0 to 100, logarithmic
    black: float  # share of the pixels in the first bin
    white: float  # share of the pixels in the last bin


def make_page(findings: Findings) -> str:
    """Return the page as HTML.

    Args:
      findings: findings of `look_through`.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["flags"] = _flags
    audit, split_of = findings.audit, split_of_ids(findings.splits)
    copies = [[(id_, split_of.get(id_, "")) for id_ in group] for group in audit.duplicates]
    return environment.from_string(_TEMPLATE.read_text()).render(
        audit=audit,
        config=findings.config,
        percent=percent,
        overview=overview(audit, findings.splits)[0].removeprefix("data: "),
        problems=[problem.split("\n") for problem in findings.problems],
        warnings=[_sentence(r.removeprefix(f"{WARNING}: ")) for r in findings.remarks if r.startswith(WARNING)],
        notes=[remark for remark in findings.remarks if not remark.startswith(WARNING)],
        colors=[hex_color(class_color(k)) for k in range(len(audit.class_names))],
        pictures=_pictures(findings),
        shown=image_title(findings.source.image_format).removeprefix("image"),
        curves=_curves(findings.histogram, findings.source.image_format),
        limits=_limits(findings),
        sizes=findings.sizes,
        copies=sorted(copies, key=lambda group: len({split for _, split in group}), reverse=True),
        groups=shared_groups(findings.splits, findings.config),
        refused=findings.refused,
        unread=describe_endings(findings.layout.unread),
    )


def _flags(text: str) -> Markup:
    """Escape a text, and mark the flags in it, so that browsers do not break their lines within one."""
    return Markup(re.sub(r"--[a-z][a-z.-]*[a-z]", r"<code>\g<0></code>", str(escape(text))))


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _pictures(findings: Findings) -> list[_Picture]:
    """Return pictures of samples spread over each split, and one of each class that these do not show."""
    chosen: dict[str, str] = {}
    for split, ids in findings.splits.items():
        for i in np.linspace(0, len(ids) - 1, min(_PER_SPLIT, len(ids))).round().astype(int):
            chosen.setdefault(ids[i], split)
    split_of = split_of_ids(findings.splits)
    for k in range(len(findings.audit.class_names)):
        if not any(findings.facts[id_].num_objects[k] for id_ in chosen):
            shown = next((id_ for id_ in split_of if findings.facts[id_].num_objects[k]), None)
            if shown is not None:
                chosen[shown] = split_of[shown]
    index = {id_: i for i, id_ in enumerate(findings.source.ids)}
    pictures = []
    for id_, split in chosen.items():
        try:
            pictures.append(_picture(id_, split, findings.source[index[id_]], findings.audit.class_names))
        except InputError:  # a file that was removed meanwhile
            continue
    return pictures


def _picture(id_: str, split: str, sample: Sample, class_names: Sequence[str]) -> _Picture:
    """Draw a sample, and its masks on it, at most `_SIDE` pixels high and wide."""
    height, width = sample.image.shape[:2]
    scale = min(1.0, _SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    image = cv2.resize(to_rgb(sample.image), size, interpolation=cv2.INTER_AREA)
    planes = [
        cv2.resize(np.ascontiguousarray(sample.mask[..., k]), size, interpolation=cv2.INTER_AREA)
        for k in range(sample.mask.shape[-1])
    ]
    mask = np.stack(planes, axis=-1) >= (_QUARTER if scale < 1 else 128)
    classes = [name for k, name in enumerate(class_names) if (sample.mask[..., k] >= 128).any()]
    ignored = None
    if sample.valid is not None:
        ignored = resize_mask(sample.valid, size[1], size[0]) == 0
    overlay = render_overlay(image, mask, ignored)
    return _Picture(id_, split, (height, width), classes, _data_url(image), _data_url(overlay))


def _data_url(image: np.ndarray) -> str:
    """Encode an RGB image as JPEG inside a URL."""
    ok, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88])
    assert ok
    return data_url("image/jpeg", data.tobytes())


def _curves(histogram: np.ndarray, image_format: ImageFormat | None) -> list[_Curve]:
    """Return a curve per channel; the height is the logarithm of the number of pixels."""
    num_channels = len(histogram)
    is_rgb = num_channels == 3 and (image_format is None or image_format.is_plain)
    names: Sequence[str] = ("red", "green", "blue")
    if image_format and not is_rgb:
        names = [image_format.label(channel) for channel in range(num_channels)]
    top = np.log1p(histogram.max()) if histogram.size and histogram.max() else 1.0
    curves = []
    for channel, counts in enumerate(histogram):
        heights = 100.0 - 100.0 * np.log1p(counts) / top
        steps = [f"{x + dx},{y:.1f}" for x, y in enumerate(heights) for dx in (0, 1)]
        colors = (
            _RGB if is_rgb else _GRAY if num_channels == 1 else [hex_color(class_color(c)) for c in range(num_channels)]
        )
        total = max(1, int(counts.sum()))
        curves.append(
            _Curve(
                name=names[channel],
                color=colors[channel],
                points=" ".join(("0,100", *steps, f"{NUM_BINS},100")),
                black=int(counts[0]) / total,
                white=int(counts[-1]) / total,
            )
        )
    return curves


def _limits(findings: Findings) -> list[tuple[Any, Any]]:
    """Return the numbers in the files that are black and white, for each channel."""
    image_format, channels = findings.source.image_format, len(findings.histogram)
    if image_format is None or image_format.bits == 8:
        return [(0, 255)] * channels
    if image_format.low and image_format.high:
        return [(f"{low:g}", f"{high:g}") for low, high in zip(image_format.low, image_format.high, strict=True)]
    return [("black", "white")] * channels
