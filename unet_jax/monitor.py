"""Early stopping and reduce-on-plateau as pure functions of a JSON-able memory, with Keras's comparisons."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Patience:
    """How long a falling quantity has not fallen."""

    best: float = math.inf
    num_waits: int = 0

    def seen(self, value: float, *, min_delta: float) -> "Patience":
        """The memory after one more evaluation; only a fall by more than `min_delta` is an improvement."""
        if value < self.best - min_delta:
            return Patience(value, 0)
        return Patience(self.best, self.num_waits + 1)


@dataclasses.dataclass(frozen=True)
class Plateau:
    """The memory of reduce-on-plateau, and the factor it puts on the learning rate (Keras's ReduceLROnPlateau)."""

    patience: Patience = Patience()
    lr_scale: float = 1.0

    def seen(self, value: float, *, min_delta: float, max_waits: int, factor: float) -> "Plateau":
        """After `max_waits` evaluations without improvement the scale is multiplied and the waiting starts anew."""
        patience = self.patience.seen(value, min_delta=min_delta)
        if patience.num_waits >= max_waits:
            return Plateau(Patience(patience.best, 0), self.lr_scale * factor)
        return Plateau(patience, self.lr_scale)


def should_stop(patience: Patience, max_waits: int) -> bool:
    """Whether early stopping ends the run (Keras's EarlyStopping); 0 never does."""
    return 0 < max_waits <= patience.num_waits
