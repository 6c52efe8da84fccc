"""Settings of the loss, which `unet_jax.config` has as its own."""

import dataclasses
import math
from typing import Literal

from unet_jax.config.checks import check_types, require
from unet_jax.config.loss_catalogue import check_loss


@dataclasses.dataclass(frozen=True)
class RampConfig:
    """A term's weight over the run: `first` times it until `start`, in a straight line to `last` times it at `stop`."""

    start: float = 0.0
    """Where it begins to change, as a part of the run's steps."""
    stop: float = 1.0
    """Where it ends to."""
    first: float = 0.0
    """Factor before."""
    last: float = 1.0
    """Factor after, and in the validation loss at all times."""

    def __post_init__(self) -> None:
        field = "loss.terms.ramp"
        check_types(self, f"{field}.")
        require(0.0 <= self.start < self.stop <= 1.0, f"{field}.start, stop", (self.start, self.stop), _IN_ORDER)
        for name in ("first", "last"):
            value = getattr(self, name)
            require(0.0 <= value < math.inf, f"{field}.{name}", value, "a finite number of at least 0")


_IN_ORDER = "parts of the run, 0 <= start < stop <= 1"


@dataclasses.dataclass(frozen=True)
class LossTermConfig:
    """One term of a loss that is put together (docs/losses.md)."""

    name: str
    """A loss of the catalogue, or 'package.module:function' of one's own."""
    weight: float = 1.0
    """Its factor in the sum."""
    options: dict[str, int | float | tuple[float, ...]] = dataclasses.field(default_factory=dict, hash=False)
    """The loss's own options by name."""
    class_weight: tuple[float, ...] = ()
    """One factor per class in the mean over classes; empty: all the same."""
    over: Literal["image", "batch"] = "image"
    """One ratio or ranking per image and class, or per class over the batch."""
    ramp: RampConfig | None = None
    """How its weight changes over the run; by default it does not."""
    label: str = ""
    """Name of the term among the metrics; the loss's name if empty."""

    def __post_init__(self) -> None:
        field = "loss.terms"
        check_types(self, f"{field}.")
        require(self.weight >= 0.0, f"{field}.weight", self.weight, "at least 0")
        require(isinstance(self.options, dict), f"{field}.options", self.options, "a table of options by name")
        check_loss(self.name, self.options, self.over, bool(self.class_weight), f"{field}.name")
        options = {name: tuple(v) if isinstance(v, list) else v for name, v in self.options.items()}
        for name, value in options.items():
            numbers = value if isinstance(value, tuple) else (value,)
            ok = all(type(v) in (int, float) and math.isfinite(v) for v in numbers)
            require(ok, f"{field}.options.{name}", value, "a finite number, or a list of them")
        object.__setattr__(self, "options", options)
        ok = all(v >= 0.0 for v in self.class_weight) and (not self.class_weight or sum(self.class_weight) > 0.0)
        require(ok, f"{field}.class_weight", self.class_weight, "numbers of at least 0, not all 0")
        taken = self.metric in ("loss", "grad_norm")
        require(not taken, f"{field}.label", self.metric, "another name: this metric exists already")

    @property
    def metric(self) -> str:
        """What the term's value is called."""
        return self.label or self.name.rpartition(":")[2]


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """bce_weight * BCE + dice_weight * Dice loss, both on sigmoid outputs of independent class channels."""

    bce_weight: float = 1.0
    """Factor of the mean binary cross entropy."""
    dice_weight: float = 1.0
    """Factor of the mean soft Dice loss."""
    dice_reduction: Literal["batch", "class", "image"] = "batch"
    """One Dice over batch and classes together; one per class over the batch; or one per image and class."""
    dice_smooth: float = 1.0
    """Added to both sides of the Dice ratio."""
    terms: tuple[LossTermConfig, ...] = ()
    """A weighted sum of losses of the catalogue, instead of BCE and Dice: the fields above are not used then."""

    def __post_init__(self) -> None:
        check_types(self, "loss.")
        metrics = [term.metric for term in self.terms]
        repeated = sorted({name for name in metrics if metrics.count(name) > 1})
        require(not repeated, "loss.terms", repeated, "free of repeated names: give one of them another label")
        require(self.bce_weight >= 0.0, "loss.bce_weight", self.bce_weight, "at least 0")
        require(self.dice_weight >= 0.0, "loss.dice_weight", self.dice_weight, "at least 0")
        total = self.bce_weight + self.dice_weight
        require(total > 0.0, "loss.bce_weight + loss.dice_weight", total, "positive")
        require(self.dice_smooth >= 0.0, "loss.dice_smooth", self.dice_smooth, "at least 0")
