"""Pictures of a run's predictions on a few of the scored images, which are the same for all runs of a study."""

from collections.abc import Sequence

import cv2
import numpy as np
from etils import epath
from jaxtyping import Bool, Float, UInt8

from unet_jax._files import replace_bytes
from unet_jax.data.records import Layout, Record
from unet_jax.data.sources import FileSource
from unet_jax.report.pictures import render_errors, to_rgb
from unet_jax.runs.load import Run

NUM_EXAMPLES = 4
_SIZE = 200
_GAP = 6


def example_positions(num_images: int) -> list[int]:
    """Return the positions of the images that are drawn: evenly spaced, so that nobody has chosen them.

    Example:
      >>> example_positions(13), example_positions(2)
      ([0, 4, 8, 12], [0, 1])
    """
    return sorted({round(i) for i in np.linspace(0, num_images - 1, min(NUM_EXAMPLES, num_images))})


def draw_example(
    run: Run,
    layout: Layout,
    record: Record,
    probs: Float[np.ndarray, "h w k"],
    truth: Bool[np.ndarray, "h w k"],
    valid: Bool[np.ndarray, "h w k"] | None,
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Draw the errors of a prediction on its image, at a size of 200 pixels along the longer side."""
    source = FileSource(layout, [record], soft_masks=run.config.data.soft_masks, image_format=run.info.image_format)
    ignored = None if valid is None else ~valid
    errors = render_errors(to_rgb(source[0].image), truth, probs > run.threshold, ignored)
    scale = _SIZE / max(errors.shape[:2])
    size = (max(1, round(errors.shape[1] * scale)), max(1, round(errors.shape[0] * scale)))
    how = cv2.INTER_AREA if scale < 1.0 else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(errors, size, interpolation=how), np.uint8)


def save_examples(path: epath.Path, drawn: Sequence[UInt8[np.ndarray, "h w 3"]]) -> None:
    """Write pictures side by side as one PNG file."""
    height = max(picture.shape[0] for picture in drawn)
    width = sum(picture.shape[1] + _GAP for picture in drawn) - _GAP
    canvas = np.full((height, width, 3), 255, np.uint8)
    left = 0
    for picture in drawn:
        canvas[: picture.shape[0], left : left + picture.shape[1]] = picture
        left += picture.shape[1] + _GAP
    replace_bytes(path, cv2.imencode(".png", cv2.cvtColor(canvas, cv2.COLOR_RGB2BGR))[1].tobytes())
