"""Settings of the loss."""

import dataclasses
import math
from typing import Literal

from unet_jax.config.checks import check_types, require
from unet_jax.config.loss_catalogue import check_loss, name_of_function
from unet_jax.config.settings import setting


@dataclasses.dataclass(frozen=True)
class RampConfig:
    """Change of a term's weight over the run: a factor of `first` until `start`, then linear to `last` at `stop`."""

    start: float = 0.0
    """Begin of the change, as a fraction of the run's steps."""
    stop: float = 1.0
    """End of the change, as a fraction of the run's steps."""
    first: float = 0.0
    """Factor on the weight before the change."""
    last: float = 1.0
    """Factor on the weight after the change, and in the validation loss at all times."""

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
    """One term of a weighted sum of losses (docs/losses.md)."""

    name: str
    """Name of a loss of the catalogue, or 'package.module:function' for a function of your own.
    In Python, the function itself may be given."""
    weight: float = 1.0
    """Factor of the term in the sum."""
    options: dict[str, int | float | tuple[float, ...]] = dataclasses.field(default_factory=dict, hash=False)
    """Options of the loss, by name."""
    class_weight: tuple[float, ...] = ()
    """One factor per class in the mean over classes. Empty: all classes count the same."""
    over: Literal["image", "batch"] = "image"
    """Pixels that one ratio or ranking is taken over: those of one image and class, or of one class over the batch."""
    ramp: RampConfig | None = None
    """Change of the weight over the run. None: the weight stays."""
    label: str = ""
    """Name of the term among the metrics. Empty: the name of the loss."""

    def __post_init__(self) -> None:
        field = "loss.terms"
        if callable(self.name):
            object.__setattr__(self, "name", name_of_function(self.name))
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
        """Name of the term among the metrics."""
        return self.label or self.name.rpartition(":")[2]


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """bce_weight * BCE + dice_weight * Dice loss, both on sigmoid outputs of independent class channels; or `terms`."""

    bce_weight: float = setting(1.0, not_with=("terms",))
    """Factor of the mean binary cross entropy."""
    dice_weight: float = setting(1.0, not_with=("terms",))
    """Factor of the mean soft Dice loss."""
    dice_reduction: Literal["batch", "class", "image"] = setting(
        "batch", not_with=("terms",), only_with=("dice_weight",)
    )
    """Pixels of one Dice ratio: batch and classes together, one class over the batch, or one image and class."""
    dice_smooth: float = setting(1.0, not_with=("terms",), only_with=("dice_weight",))
    """Number added to numerator and denominator of the Dice ratio."""
    terms: tuple[LossTermConfig, ...] = ()
    """Weighted sum of losses of the catalogue, in the place of BCE and Dice and of the fields above."""

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
