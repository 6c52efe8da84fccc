"""Settings of training."""

import dataclasses
import re
from typing import Literal

from unet_jax._types import InputError
from unet_jax.config.checks import check_types, require
from unet_jax.config.placeholders import Functions
from unet_jax.config.settings import setting

_NUM_EVALUATIONS = 20
"""Evaluations of a run that is counted in updates, if nothing else is said."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The length of training, and what is kept of it."""

    num_epochs: int = setting(25, adjustable=True, not_with=("num_steps",))
    """Passes over the training images. A run that continues may have more; see also optim.when_longer."""
    num_steps: int = setting(0, adjustable=True)
    """Updates in the whole run, in the place of num_epochs: small data sets need as many as large ones.
    0: num_epochs decides."""
    batch_size: int = 8
    """Images in a step, over all devices."""
    devices_per_image: int = setting(1, may_change=True)
    """Number of devices that share the rows of one image, for images too large for one device (docs/scaling.md).
    Results do not depend on it."""
    accumulation: int = 1
    """Number of micro-batches that the images of a step are divided into.
    They run one after the other and need less memory.
    Each is normalised by its own statistics (ghost batch normalisation)."""
    accumulation_statistics: Literal["ghost", "exact"] = "ghost"
    """Batch statistics of a divided batch. ghost: those of every micro-batch.
    exact: those of the whole batch, which cannot be divided.
    It is refused: use --model.remat full (docs/memory.md)."""
    eval_every_epochs: int = setting(1, adjustable=True, not_with=("eval_every_steps", "num_steps"))
    """Epochs between evaluations on val. Each evaluation saves a checkpoint."""
    eval_every_steps: int = setting(0, adjustable=True)
    """Updates between evaluations on val. 0: eval_every_epochs decides, or with num_steps a 20th of the run."""
    checkpoint_every_steps: int = setting(0, may_change=True)
    """Steps between further checkpoints, for long epochs. 0 saves at evaluations only."""
    keep_last: int = setting(1, may_change=True)
    """Newest checkpoints to keep, besides the best."""
    monitor: Literal["dice", "loss"] = setting("dice", adjustable=True)
    """Score that makes a checkpoint the best one: mean per-image Dice on val, or the loss on val."""
    early_stop_patience: int = setting(0, adjustable=True)
    """Evaluations without a better validation loss after which training stops. 0 never stops early."""
    early_stop_min_delta: float = setting(1e-4, adjustable=True, only_with=("early_stop_patience",))
    """Smallest fall of the validation loss that counts as an improvement."""
    on_non_finite: Literal["stop", "skip", "rollback"] = setting("stop", may_change=True)
    """Reaction to a loss or gradient that is not finite. stop: end the run.
    skip: leave the step out, but stop after more than 10 in a row.
    rollback: go back to the newest checkpoint and on with later images, but stop after more than 3 returns to it."""
    ema: float = 0.0
    """Decay of a running mean of the weights, such as 0.99. 0: none.
    Evaluation, the best checkpoint and predictions use the mean."""
    recalibrate: bool = setting(False, adjustable=True)
    """At the end, compute the statistics of batch normalisation of the best checkpoint again, over training images.
    They are used if its score on val becomes better with them (docs/auto.md)."""
    threshold: float = setting(0.5, adjustable=True)
    """Probability above which a pixel belongs to a class."""
    num_pictures: int = setting(4, may_change=True)
    """Validation images in the picture that evaluations draw, besides report.html. 0 draws no picture and no page."""
    log_gradients_every_steps: int = setting(0, may_change=True)
    """Every this many steps, log how strongly each term of the loss and each class pulls at the parameters.
    0 never does. See docs/losses.md. It costs one backward pass per term and class."""
    tensorboard: bool = setting(False, may_change=True)
    """Write TensorBoard files as well. Needs the package tensorboardX."""
    writers: Functions = setting((), may_change=True)
    """Functions of your own, as 'module:function', that are called with each row of metrics.jsonl, a dictionary.
    See docs/python.md for W&B, MLflow and trackio. What they raise is a warning and does not end the run."""

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
        if self.accumulation_statistics == "exact" and self.accumulation > 1:
            raise InputError(
                f"train.accumulation_statistics is 'exact', but then every layer needs all images at once, and "
                f"train.accumulation {self.accumulation} would divide nothing: leave both out, and save memory with "
                f"--model.remat full (docs/memory.md)."
            )
        for name in (
            "num_steps",
            "eval_every_steps",
            "checkpoint_every_steps",
            "log_gradients_every_steps",
            "early_stop_patience",
            "num_pictures",
            "early_stop_min_delta",
        ):
            require(getattr(self, name) >= 0, f"train.{name}", getattr(self, name), "at least 0")
        for name in self.writers:
            ok = re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", name) is not None
            require(ok, "train.writers", name, "a function written as 'package.module:function'")
        require(0.0 <= self.ema < 1.0, "train.ema", self.ema, "from 0 to below 1")
        require(0.0 < self.threshold < 1.0, "train.threshold", self.threshold, "between 0 and 1")

    def total_steps(self, steps_per_epoch: int) -> int:
        """Return the number of updates in the whole run, from the number in one pass over the training images."""
        return self.num_steps or self.num_epochs * steps_per_epoch

    def steps_between_evaluations(self, steps_per_epoch: int) -> int:
        """Return the number of updates between evaluations, from the number in one pass over the training images."""
        if self.eval_every_steps:
            return self.eval_every_steps
        if self.num_steps:
            return -(-self.num_steps // _NUM_EVALUATIONS)
        return self.eval_every_epochs * steps_per_epoch
