"""The rules of preset `auto`: network, batch and number of updates from facts about the data and the machine.

Every rule is a function of facts to a `Choice`, the value with its reason. Nothing is read, compiled or timed here.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from unet_jax.config.choices import Choice
from unet_jax.data.object_sizes import ObjectSizes
from unet_jax.plan.choose_size import largest_extent

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
    extent = scale * largest_extent(sizes)
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


def too_few_updates(num_steps: int, cost: StepCost, *, minutes: float, used_s: float) -> str:
    """Say that a budget of time is enough for few updates only, and which one would do; empty if it is enough.

    Args:
      num_steps: updates that the budget is enough for.
      cost: measured cost of the steps.
      minutes: the budget.
      used_s: seconds of it that the choice has taken, and that reading the data will.

    Example:
      >>> too_few_updates(1, StepCost(30.0, 0.5, 0.2, 0), minutes=3.0, used_s=150.0)
      'WARNING: 3 minutes are enough for 1 update here, too few to learn from: use --minutes 7 or more.'
    """
    if num_steps >= FEW_UPDATES:
        return ""
    needed = used_s + (cost.compile_s + FEW_UPDATES * cost.step_s / _RESERVE) + 4 * (2.0 + 4 * cost.eval_s)
    updates = "1 update" if num_steps == 1 else f"{num_steps} updates"
    return (
        f"WARNING: {minutes:g} minutes are enough for {updates} here, too few to learn from: "
        f"use --minutes {max(math.ceil(needed / 60), math.ceil(minutes) + 1)} or more."
    )


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
