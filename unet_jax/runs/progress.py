"""Early stopping and reduce-on-plateau as pure functions of a JSON-able memory; and all that such memory is.

They decide as the callbacks of Keras 3 (and of Keras 2.1.6 and later), except that Keras 2 compares in float64. Up to
2.0.8 early stopping came one evaluation later, and up to 2.1.5 the first reduction of the learning rate.
"""

import dataclasses
import math
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Patience:
    """How long a falling quantity has not fallen."""

    best: float | None = None  # nothing seen yet
    num_waits: int = 0

    def seen(self, value: float, *, min_delta: float) -> "Patience":
        """The memory after one more evaluation; only a fall by more than `min_delta` is an improvement.

        The first value is the best one so far whatever it is. When it is NaN, nothing will ever be better, as in Keras.
        """
        if self.best is None or _is_less(value + min_delta, self.best):
            return Patience(value, 0)
        return Patience(self.best, self.num_waits + 1)


def _is_less(a: float, b: float) -> bool:
    """In float32, in which Keras 3 compares: 0.5 - 0.0001 is no fall by more than 0.0001, whatever its last digit."""
    return bool(np.float32(a) < np.float32(b))


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


@dataclasses.dataclass(frozen=True)
class Progress:
    """What must survive a kill besides the arrays: saved as JSON in each checkpoint."""

    step: int = 0
    loss_sum: float = 0.0  # of the steps since the last evaluation
    num_losses: int = 0
    early_stop: Patience = Patience()
    plateau: Plateau = Plateau()
    finished: bool = False
    num_skipped: int = 0  # steps left out because they were not finite
    skips_in_a_row: int = 0
    num_rollbacks: int = 0
    data_offset: int = 0  # batches that rollbacks left out: step s uses batch s + data_offset

    @property
    def mean_loss(self) -> float:
        """Since the last evaluation; NaN before the first step."""
        return self.loss_sum / self.num_losses if self.num_losses else math.nan

    def with_loss(self, loss: float) -> "Progress":
        """After one more step."""
        sums = {"loss_sum": self.loss_sum + loss, "num_losses": self.num_losses + 1}
        return dataclasses.replace(self, **sums, skips_in_a_row=0)

    def with_skip(self) -> "Progress":
        """After a step that was left out."""
        counts = {"num_skipped": self.num_skipped + 1, "skips_in_a_row": self.skips_in_a_row + 1}
        return dataclasses.replace(self, **counts)

    def rolled_back(self, failed_step: int, before: "Progress") -> "Progress":
        """This is a checkpoint's; `before` had gone on to a step that failed, whose batches will not be used again."""
        return dataclasses.replace(
            self,
            num_rollbacks=before.num_rollbacks + 1,
            data_offset=before.data_offset + failed_step - self.step,
        )

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "Progress":
        plateau = values["plateau"]
        nested = {
            "early_stop": Patience(**values["early_stop"]),
            "plateau": Plateau(Patience(**plateau["patience"]), plateau["lr_scale"]),
        }
        names = {field.name for field in dataclasses.fields(Progress)}
        return Progress(**{**{name: value for name, value in values.items() if name in names}, **nested})
