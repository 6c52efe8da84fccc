"""Settings of the optimizer."""

import dataclasses
from typing import Annotated, Literal

import tyro

from unet_jax.config.checks import check_types, require
from unet_jax.config.settings import setting

_FALLING = {"schedule": ("cosine", "polynomial")}
_PLATEAU = {"schedule": ("plateau",)}


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """The optimizer, and the learning rate over the run."""

    name: Literal["rmsprop", "adamw", "sgd"] = "adamw"
    """Optimizer: rmsprop as in Keras (see rmsprop_variant), adamw, or sgd with Nesterov momentum."""
    learning_rate: float = 2e-3
    """Highest learning rate of the schedule."""
    schedule: Literal["constant", "cosine", "polynomial", "plateau"] = "cosine"
    """Learning rate over the run: cosine and polynomial fall to 0; plateau falls when validation stops improving."""
    warmup_fraction: float = 0.0
    """Share of the run in which the learning rate rises linearly, from a 25th of its highest value."""
    when_longer: Literal["refuse", "stretch", "restart"] = setting("refuse", may_change=True, only_if=_FALLING)
    """Learning rate where a run that continues becomes longer, for schedules that fall to 0 at the end of the run.
    stretch: go on as in a run that had this length from the start. restart: begin anew, warm-up too, from there on."""
    schedule_span: Annotated[tuple[int, ...], tyro.conf.Suppress] = setting((), may_change=True)
    """First step and number of steps of the schedule. Empty: the whole run. Set where a run becomes longer."""
    polynomial_power: float = setting(0.9, only_if={"schedule": ("polynomial",)})
    """Exponent of the polynomial schedule."""
    rmsprop_variant: Literal["keras2.0", "keras2.1", "keras3"] = setting("keras2.0", only_if={"name": ("rmsprop",)})
    """Version of Keras whose RMSprop is computed. They differ in the size and place of epsilon."""
    momentum: float = setting(0.9, only_if={"name": ("sgd",)})
    """Nesterov momentum of sgd."""
    weight_decay: float = setting(1e-4, only_if={"name": ("adamw",)})
    """Decoupled weight decay of adamw, on kernels only."""
    clip_norm: float = 0.0
    """Largest global norm of the gradients, which are scaled down to it. 0 leaves them as they are."""
    encoder_factor: float = 1.0
    """Factor on the learning rate of the encoder and the centre, such as 0.1 for a pretrained encoder."""
    freeze_encoder_steps: int = 0
    """Number of first updates that leave the encoder and the centre as they are, running statistics too."""
    plateau_factor: float = setting(0.1, only_if=_PLATEAU)
    """Factor on the learning rate at a plateau."""
    plateau_patience: int = setting(4, only_if=_PLATEAU)
    """Evaluations without improvement after which the validation loss is at a plateau."""
    plateau_min_delta: float = setting(1e-4, only_if=_PLATEAU)
    """Smallest fall of the validation loss that counts as an improvement."""

    def __post_init__(self) -> None:
        check_types(self, "optim.")
        require(self.learning_rate > 0.0, "optim.learning_rate", self.learning_rate, "positive")
        require(0.0 <= self.warmup_fraction < 1.0, "optim.warmup_fraction", self.warmup_fraction, "from 0 to below 1")
        ok = not self.schedule_span or (len(self.schedule_span) == 2 and min(self.schedule_span) >= 0)
        require(ok, "optim.schedule_span", self.schedule_span, "empty, or a first step and a number of steps")
        for name in ("weight_decay", "clip_norm", "polynomial_power", "plateau_min_delta"):
            require(getattr(self, name) >= 0.0, f"optim.{name}", getattr(self, name), "at least 0")
        require(self.encoder_factor > 0.0, "optim.encoder_factor", self.encoder_factor, "positive")
        steps = self.freeze_encoder_steps
        require(steps >= 0, "optim.freeze_encoder_steps", steps, "at least 0")
        require(0.0 <= self.momentum < 1.0, "optim.momentum", self.momentum, "from 0 to below 1")
        require(0.0 < self.plateau_factor < 1.0, "optim.plateau_factor", self.plateau_factor, "between 0 and 1")
        require(self.plateau_patience >= 1, "optim.plateau_patience", self.plateau_patience, "at least 1")
