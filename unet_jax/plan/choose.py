"""The rules of preset `auto`: size, network, batch and number of updates from facts about the data and the machine.

Every rule is a function of facts to a `Choice`, the value with its reason. Nothing is read, compiled or timed here.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from unet_jax.config.choices import Choice
from unet_jax.data.object_sizes import ObjectSizes

PIXELS_ACROSS = 4.0
"""Pixels that the thinnest structures keep across, if the images are large enough."""
SMALLEST_SIDE, LARGEST_SIDE = 256, 1024
"""Longer side of images below which none is reduced, and above which all are."""
NUM_UPDATES = 1000
"""Updates that small data sets need, too."""
NUM_PASSES = 25
"""Passes over the images that large data sets need."""
MOST_PASSES = 400
"""Passes after which more time brings nothing."""
FEW_UPDATES = 300
"""Updates below which a budget of time is better spent on smaller batches and images."""
_RESERVE = 0.85
"""Share of the time left that is planned for. The rest is for input on busy cores and for saving."""
_NUM_EVALUATIONS = 20


class StepCost(NamedTuple):
    """Measured cost of a config's steps on this machine (`unet_jax.plan.step_cost`)."""

    compile_s: float
    """Seconds to compile the training step."""
    step_s: float
    """Seconds of a training step."""
    eval_s: float
    """Seconds of an evaluation step."""
    num_bytes: int
    """Bytes that a training step needs, by the compiler's analysis."""


def choose_depth_and_widths(
    sizes: Sequence[ObjectSizes], scale: float, sides: Sequence[int], kind: str
) -> list[Choice]:
    """Choose the number of poolings, so that the centre sees the largest objects whole, and the channels.

    Args:
      sizes: objects of the training images.
      scale: factor from the images' own size to the network's.
      sides: height and width that the network sees, in pixels; they must be multiples of 2 to the number of poolings.
      kind: kind of device: cpu, gpu or tpu.

    Returns:
      Choices of `model.widths` and `model.center_width`.
    """
    extents = [extent for of_image in sizes for extent in of_image.extent if not math.isnan(extent)]
    extent = scale * float(np.percentile(extents, 90)) if extents else 0.0
    depth = 4 if max(sides) > 64 else 3
    if receptive_field(depth) < extent and max(sides) >= 256:
        depth += 1
    while depth > 1 and any(side % 2**depth for side in sides):
        depth -= 1
    width = 16 if kind == "cpu" else 32
    widths = [min(width * 2**level, 16 * width) for level in range(depth + 1)]
    seen = f"the centre sees {receptive_field(depth)} pixels; nine tenths of the objects extend up to {extent:.0f}"
    channels = f"{width} channels at full resolution on a {kind}"
    return [
        Choice("model.widths", tuple(widths[:-1]), f"{depth} poolings: {seen}"),
        Choice("model.center_width", widths[-1], f"{channels}, doubled at each pooling up to {16 * width}"),
    ]


def receptive_field(num_poolings: int) -> int:
    """Return the number of pixels across that a pixel of the centre depends on, with two convolutions per stage.

    Example:
      >>> receptive_field(0), receptive_field(1)  # 3x3 twice; then pooled, and twice 3x3 at half the resolution
      (5, 14)
    """
    return 1 + sum(4 * 2**level for level in range(num_poolings + 1)) + sum(2**level for level in range(num_poolings))


def choose_image_size(
    sizes: Sequence[ObjectSizes], shrink: float = 1.0, multiple: int = 1, *, square: bool = False
) -> tuple[Choice, float]:
    """Choose the size at which the network sees the images.

    Args:
      sizes: sizes of the training images and of their objects.
      shrink: further factor on the sides, for a budget of time that the chosen size does not fit.
      multiple: number that must divide the sides, because the number of poolings is given.
      square: choose a square, whatever shape the images have.

    Returns:
      The choice of `data.image_size`, a multiple of 32 (or of 16 or 8 for small images), and the factor from the
      images' own size to it.
    """
    height, width = (float(np.median([getattr(s, side) for s in sizes])) for side in ("height", "width"))
    aspects = [s.width / s.height for s in sizes]
    same_shape = max(aspects) <= 1.1 * min(aspects)
    if square or not same_shape or max(height, width) < 1.1 * min(height, width):
        height = width = float(np.median([math.sqrt(s.height * s.width) for s in sizes]))
    longer = max(height, width)
    thin = thinnest(sizes)
    scale = min(1.0, max(PIXELS_ACROSS / thin, SMALLEST_SIDE / longer))
    reason = f"the images' own size, {width:.0f}x{height:.0f}"
    if scale < 1.0:
        reason = f"structures of {thin:.1f} pixels keep {scale * thin:.1f} across"
    if scale * longer > LARGEST_SIDE:
        scale = LARGEST_SIDE / longer
        reason = f"no side above {LARGEST_SIDE}; structures of {thin:.1f} pixels keep {scale * thin:.1f} across"
    if shrink < 1.0:
        scale *= shrink
        reason = f"smaller, for enough updates in the time; structures of {thin:.1f} pixels keep {scale * thin:.1f}"
    if not same_shape:
        reason += "; square, because the images have different shapes"
    unit = max(multiple, 32 if scale * longer >= 192 else 16 if scale * longer > 64 else 8)
    sides = [max(unit, math.ceil(round(scale * side / unit, 3)) * unit) for side in (height, width)]
    value = sides[0] if sides[0] == sides[1] else tuple(sides)
    return Choice("data.image_size", value, reason), max(sides) / longer


def thinnest(sizes: Sequence[ObjectSizes]) -> float:
    """Return the lower quartile over images of the mean thickness of the thinnest class, in the images' own pixels."""
    by_class = np.array([s.thickness for s in sizes], np.float64)
    present = [column[~np.isnan(column)] for column in by_class.T]
    return min((float(np.percentile(column, 25)) for column in present if len(column)), default=PIXELS_ACROSS)


def choose_batch_size(num_images: int, num_devices: int, kind: str) -> Choice:
    """Choose the number of images in a step from the size of the training set and the devices.

    Example:
      >>> [choose_batch_size(n, num_devices=1, kind="cpu").value for n in (3, 11, 20, 1000)]
      [1, 2, 4, 8]
    """
    most = 8 if kind == "cpu" else 16
    fourth = max(1, num_images // 4)
    value = min(most, 2 ** int(math.log2(fourth)))
    reason = f"at most {most} on a {kind}" if value == most else f"at least 4 steps in a pass over {num_images} images"
    if value % num_devices:
        value = min(-(-value // num_devices) * num_devices, num_images // num_devices * num_devices) or num_devices
        reason = f"a multiple of the {num_devices} devices"
    return Choice("train.batch_size", value, reason)


def choose_learning_rate(batch_size: int) -> Choice:
    """Choose the highest learning rate: 2e-3 for 8 images, and proportional to the root of their number."""
    value = float(f"{2e-3 * math.sqrt(batch_size / 8):.2g}")
    return Choice("optim.learning_rate", value, f"2e-3 for 8 images, times the root of {batch_size}/8")


def choose_num_steps(num_images: int, batch_size: int) -> list[Choice]:
    """Choose the number of updates, and of those between evaluations, from the size of the training set."""
    passes = -(-NUM_PASSES * num_images // batch_size)
    steps = max(NUM_UPDATES, passes)
    reason = f"{NUM_PASSES} passes over {num_images} images" if steps == passes else "as many as small sets need"
    return [
        Choice("train.num_steps", steps, reason),
        Choice("train.eval_every_steps", -(-steps // _NUM_EVALUATIONS), f"{_NUM_EVALUATIONS} evaluations"),
    ]


def choose_num_steps_in_time(
    seconds: float, cost: StepCost, *, num_images: int, num_val: int, batch_size: int
) -> list[Choice]:
    """Choose the number of updates, and of those between evaluations, that a time is enough for.

    Args:
      seconds: time from now on, with the compilation of the training step.
      cost: measured cost of the steps.
      num_images: training images.
      num_val: validation images.
      batch_size: images in a step.

    Returns:
      Choices of `train.num_steps` and `train.eval_every_steps`. With too little time, the number of steps is 1.
    """
    one_evaluation = cost.eval_s * -(-num_val // batch_size) + 2.0  # pictures and the checkpoint take a second or two
    usable = max(0.0, _RESERVE * (seconds - cost.compile_s))
    num_evaluations = max(4, min(_NUM_EVALUATIONS, int(0.2 * usable / one_evaluation)))
    steps = int((usable - num_evaluations * one_evaluation) / cost.step_s)
    most = MOST_PASSES * num_images // batch_size
    reason = f"{cost.step_s:.3g} s a step as measured, {num_evaluations} evaluations of {one_evaluation:.1f} s"
    if steps > max(3 * NUM_UPDATES, most):
        steps = max(3 * NUM_UPDATES, most)
        reason = f"{steps * batch_size / num_images:.0f} passes; more time would bring nothing"
    if steps < FEW_UPDATES:
        reason += "; few: more minutes would help"
    steps = max(1, steps)
    return [
        Choice("train.num_steps", steps, reason),
        Choice("train.eval_every_steps", -(-steps // num_evaluations), f"{num_evaluations} evaluations"),
    ]


def smaller(num_steps: int, batch_size: int, num_devices: int) -> tuple[int, float]:
    """Return the batch size and the factor on the sides of images with which a time is enough for `FEW_UPDATES`.

    The batch becomes smaller first, down to 4 images, then the images, at most by half a side.

    Args:
      num_steps: updates that the time is enough for as it is.
      batch_size: images in a step as it is.
      num_devices: number that must divide the batch size.

    Example:
      >>> smaller(150, 8, 1), smaller(100, 8, 1)
      ((4, 1.0), (4, 0.8164965809277261))
    """
    missing = FEW_UPDATES / num_steps
    while missing > 1.0 and batch_size >= 8 and batch_size // 2 % num_devices == 0:
        batch_size, missing = batch_size // 2, missing / 2
    return batch_size, max(0.5, 1.0 / math.sqrt(missing)) if missing > 1.0 else 1.0
