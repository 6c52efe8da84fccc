"""Settings of the optimizer."""

import dataclasses
from typing import Literal

from unet_jax.config.checks import check_types, require


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """The optimizer and how its learning rate moves."""

    name: Literal["rmsprop", "adamw", "sgd"] = "adamw"
    """rmsprop has Keras's semantics (see rmsprop_variant); sgd has Nesterov momentum."""
    learning_rate: float = 2e-3
    """The schedule's highest value."""
    schedule: Literal["constant", "cosine", "polynomial", "plateau"] = "cosine"
    """cosine and polynomial fall to 0 over the run; plateau is divided when validation stops improving."""
    warmup_fraction: float = 0.0
    """Part of the run in which the learning rate rises linearly from a 25th of its highest value."""
    polynomial_power: float = 0.9
    """Exponent of the polynomial schedule."""
    rmsprop_variant: Literal["keras2.0", "keras2.1", "keras3"] = "keras2.0"
    """Size and place of RMSprop's epsilon, which differ between versions of Keras."""
    momentum: float = 0.9
    """Of sgd."""
    weight_decay: float = 1e-4
    """Of adamw (decoupled), on kernels only."""
    clip_norm: float = 0.0
    """Scale gradients down to this global norm; 0 leaves them."""
    plateau_factor: float = 0.1
    """The learning rate's factor at a plateau."""
    plateau_patience: int = 4
    """Evaluations without improvement before a plateau is called."""
    plateau_min_delta: float = 1e-4
    """Smaller changes of the validation loss are no improvement."""

    def __post_init__(self) -> None:
        check_types(self, "optim.")
        require(self.learning_rate > 0.0, "optim.learning_rate", self.learning_rate, "positive")
        require(0.0 <= self.warmup_fraction < 1.0, "optim.warmup_fraction", self.warmup_fraction, "from 0 to below 1")
        for name in ("weight_decay", "clip_norm", "polynomial_power", "plateau_min_delta"):
            require(getattr(self, name) >= 0.0, f"optim.{name}", getattr(self, name), "at least 0")
        require(0.0 <= self.momentum < 1.0, "optim.momentum", self.momentum, "from 0 to below 1")
        require(0.0 < self.plateau_factor < 1.0, "optim.plateau_factor", self.plateau_factor, "between 0 and 1")
        require(self.plateau_patience >= 1, "optim.plateau_patience", self.plateau_patience, "at least 1")
