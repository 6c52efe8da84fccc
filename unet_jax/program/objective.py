"""The objective of a config: its loss as a function of logits and labels, at one resolution or at several."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from jaxtyping import Array

from unet_jax.config import LossConfig, LossTermConfig
from unet_jax.config.loss_catalogue import LOSSES
from unet_jax.config.packing import Factor, num_subpixels
from unet_jax.losses import Term, bce_dice_loss, deep_supervision, make_objective, ramp_factor
from unet_jax.model.packing import unpack
from unet_jax.program.steps import LossFn


def loss_numbers(config: LossConfig) -> dict[str, Any]:
    """Return the numbers of a loss that may be traced: other values of them need no new compilation.

    Returns:
      A tree whose leaves are Python numbers.
    """
    if not config.terms:
        return {name: getattr(config, name) for name in ("bce_weight", "dice_weight", "dice_smooth")}

    def numbers(term: LossTermConfig) -> dict[str, Any]:
        traceable = LOSSES[term.name].numbers if term.name in LOSSES else ()
        options = {name: value for name, value in term.options.items() if name in traceable}
        ramp = dataclasses.astuple(term.ramp) if term.ramp else ()
        return {"weight": term.weight, "options": options, "class_weight": term.class_weight, "ramp": ramp}

    return {"terms": [numbers(term) for term in config.terms]}


def make_loss(
    config: LossConfig, factor: Factor = (1, 1), num_steps: int = 1, numbers: dict[str, Any] | None = None
) -> LossFn:
    """Make the objective of a config: its terms, or BCE and Dice if it has none.

    Losses that do not depend on where a pixel lies take packed logits and labels as they are. For other losses, logits
    and labels are unpacked first.

    Args:
      config: settings of the loss.
      factor: rows and columns of the blocks that logits and labels are packed in; (1, 1) = not packed.
      num_steps: number of updates in the run. Ramps begin and end at fractions of it.
      numbers: values in the place of the config's own numbers, in a tree like that of `loss_numbers`; they may be
        traced. By default the config's own.

    Returns:
      A function `(logits, labels, weight, step) -> (scalar, terms)`.
    """
    numbers = numbers or loss_numbers(config)
    if not config.terms:
        options = {"dice_reduction": config.dice_reduction, **numbers}
        return functools.partial(bce_dice_loss, **options, num_subpixels=num_subpixels(factor))

    def term(t: LossTermConfig, own: dict[str, Any]) -> Term:
        class_weight = own["class_weight"] if t.class_weight else None
        schedule = (lambda step: ramp_factor(step / num_steps, *own["ramp"])) if t.ramp else None
        options = {**t.options, **own["options"]}
        return Term(t.name, own["weight"], options, class_weight, schedule, over=t.over, label=t.label)

    objective = make_objective([term(t, own) for t, own in zip(config.terms, numbers["terms"], strict=True)])
    if all(t.name in LOSSES and LOSSES[t.name].accepts_packed for t in config.terms):
        return functools.partial(objective, num_subpixels=num_subpixels(factor))
    return lambda logits, labels, weight, step=None: objective(
        unpack(logits, factor), unpack(labels, factor), unpack(weight, factor) if weight.ndim > 1 else weight, step
    )


def make_supervised_loss(
    config: LossConfig,
    num_lower: int,
    factor: Factor = (1, 1),
    num_steps: int = 1,
    numbers: dict[str, Any] | None = None,
) -> LossFn:
    """Make the objective of deep supervision: the weighted mean of that of `make_loss` over several resolutions.

    Each resolution counts half of the one above it, as in nnU-Net. Terms at the full resolution keep their names, and
    those of lower ones are named NAME/1, NAME/2, and so on.

    Args:
      config, factor, num_steps, numbers: the same as in `make_loss`.
      num_lower: number of lower resolutions, each half of the one before.

    Returns:
      A function `(logits, labels, weight, step) -> (scalar, terms)`. Its logits are those of `UNet.supervised`. Only
      the first of them are packed, as are labels and weight.
    """
    objective = make_loss(config, (1, 1), num_steps, numbers)
    supervised = deep_supervision(objective, [0.5**level for level in range(num_lower + 1)])

    def loss_fn(logits: Sequence[Array], labels: Array, weight: Array, step: Any = None) -> tuple[Array, Any]:
        labels = unpack(labels, factor)
        weight = unpack(weight, factor) if weight.ndim > 1 else weight
        total, terms = supervised([unpack(logits[0], factor), *logits[1:]], labels, weight, step)
        return total, {name.removesuffix("/0"): value for name, value in terms.items()}

    return loss_fn
