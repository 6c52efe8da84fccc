"""Settings of training."""

import dataclasses
from typing import Literal

from unet_jax._types import InputError
from unet_jax.config.checks import check_types, require


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How long to train, and what to keep."""

    num_epochs: int = 25
    """Passes over the training images."""
    batch_size: int = 8
    """Images in a step, over all devices."""
    devices_per_image: int = 1
    """Devices that the rows of each image are divided over, for images that do not fit one (docs/scaling.md). Results
    do not depend on it."""
    accumulation: int = 1
    """Micro-batches that a step's images are divided into, one after the other, to need less memory."""
    accumulation_statistics: Literal["ghost", "exact"] = "ghost"
    """Batch statistics (and ratios that the loss takes over a batch) of a divided batch. ghost: every micro-batch's
    own, in a part of the memory. exact: the whole batch's; every layer then needs all images at once, so nothing is
    divided and --model.remat is full instead."""
    eval_every_epochs: int = 1
    """Epochs between evaluations on val; each saves a checkpoint."""
    checkpoint_every_steps: int = 0
    """Further checkpoints between evaluations, for long epochs; 0 saves at evaluations only."""
    keep_last: int = 1
    """Newest checkpoints to keep, besides the best."""
    monitor: Literal["dice", "loss"] = "dice"
    """What makes a checkpoint the best one: mean per-image Dice on val, or the loss on val."""
    early_stop_patience: int = 0
    """Stop after so many evaluations without a better validation loss; 0 never stops."""
    early_stop_min_delta: float = 1e-4
    """Smaller changes of the validation loss are no improvement."""
    on_non_finite: Literal["stop", "skip", "rollback"] = "stop"
    """When the loss or its gradient is not finite: stop; leave the step out (but stop after 10 in a row); or go back to
    the newest checkpoint and on from there with later images (but stop after 3 returns to the same one)."""
    threshold: float = 0.5
    """Probability above which a pixel belongs to a class."""
    num_pictures: int = 4
    """Validation images in the picture drawn after an evaluation; 0 draws none."""
    log_gradients_every_steps: int = 0
    """Write how the loss's terms and the classes pull at the parameters, and where they conflict (docs/losses.md), of
    every so-manieth step; 0 never does. Each time costs a backward pass per term and class."""
    tensorboard: bool = False
    """Write TensorBoard files as well (needs the package tensorboardX)."""

    def __post_init__(self) -> None:
        check_types(self, "train.")
        for name in ("num_epochs", "batch_size", "devices_per_image", "accumulation", "eval_every_epochs", "keep_last"):
            require(getattr(self, name) >= 1, f"train.{name}", getattr(self, name), "at least 1")
        if self.batch_size % self.accumulation:
            larger = -(-self.batch_size // self.accumulation) * self.accumulation
            raise InputError(
                f"train.accumulation is {self.accumulation}, but must divide train.batch_size, which is "
                f"{self.batch_size}: use --train.batch-size {larger}, or another --train.accumulation."
            )
        for name in (
            "checkpoint_every_steps",
            "log_gradients_every_steps",
            "early_stop_patience",
            "num_pictures",
            "early_stop_min_delta",
        ):
            require(getattr(self, name) >= 0, f"train.{name}", getattr(self, name), "at least 0")
        require(0.0 < self.threshold < 1.0, "train.threshold", self.threshold, "between 0 and 1")
