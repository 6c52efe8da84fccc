"""The progress of training, which is saved as JSON, with the memory of early stopping and of reduce-on-plateau.

Early stopping and reduce-on-plateau are pure functions of this memory. They decide as the callbacks of Keras 3, and as
those of Keras 2.1.6 and later, except that Keras 2 compares in float64. In Keras up to 2.0.8, early stopping came one
evaluation later; up to 2.1.5, the first reduction of the learning rate came one evaluation later.
"""

import dataclasses
import math
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Patience:
    """Memory of the best value of a quantity that should fall, and of the time since then.

    Example:
      >>> patience = Patience().seen(0.5, min_delta=0.01).seen(0.495, min_delta=0.01)
      >>> patience.best, patience.num_waits
      (0.5, 1)
    """

    best: float | None = None
    """Smallest value so far; None before the first value."""
    num_waits: int = 0
    """Number of evaluations since the last improvement."""

    def seen(self, value: float, *, min_delta: float) -> "Patience":
        """Return the memory after one more evaluation.

        The first value is the best so far, whatever it is. If it is NaN, no later value is ever better, as in Keras.

        Args:
          value: value of the quantity, such as the validation loss.
          min_delta: a value is an improvement only if it is smaller than the best one by more than this.
        """
        if self.best is None or _is_less(value + min_delta, self.best):
            return Patience(value, 0)
        return Patience(self.best, self.num_waits + 1)


def _is_less(a: float, b: float) -> bool:
    """Compare in float32, as Keras 3 does, so that 0.5 - 0.0001 is never a fall by more than 0.0001 from 0.5.

    In float64, this would depend on the rounding of the last digit.
    """
    return bool(np.float32(a) < np.float32(b))


@dataclasses.dataclass(frozen=True)
class Plateau:
    """Memory of reduce-on-plateau, which lowers the learning rate as Keras's ReduceLROnPlateau does.

    Example:
      >>> plateau = Plateau().seen(0.5, min_delta=0.01, max_waits=1, factor=0.1)
      >>> plateau.seen(0.5, min_delta=0.01, max_waits=1, factor=0.1).lr_scale
      0.1
    """

    patience: Patience = Patience()
    """Memory of the validation loss."""
    lr_scale: float = 1.0
    """Factor on the learning rate of the schedule."""

    def seen(self, value: float, *, min_delta: float, max_waits: int, factor: float) -> "Plateau":
        """Return the memory after one more evaluation.

        Args:
          value: validation loss.
          min_delta: smallest improvement, as in `Patience.seen`.
          max_waits: number of evaluations without improvement after which the scale is reduced, and the count starts
            again from 0.
          factor: factor that the scale is then multiplied by.
        """
        patience = self.patience.seen(value, min_delta=min_delta)
        if patience.num_waits >= max_waits:
            return Plateau(Patience(patience.best, 0), self.lr_scale * factor)
        return Plateau(patience, self.lr_scale)


def should_stop(patience: Patience, max_waits: int) -> bool:
    """Return whether early stopping ends the run, as Keras's EarlyStopping does; `max_waits` 0 never ends it.

    Example:
      >>> should_stop(Patience(best=0.5, num_waits=3), max_waits=3), should_stop(Patience(0.5, 3), max_waits=0)
      (True, False)
    """
    return 0 < max_waits <= patience.num_waits


@dataclasses.dataclass(frozen=True)
class Progress:
    """Progress of a run: everything except the arrays that must survive a kill. Each checkpoint holds it as JSON."""

    step: int = 0
    """Number of finished steps at the last evaluation or checkpoint."""
    loss_sum: float = 0.0
    """Sum of the losses of the steps since the last evaluation."""
    num_losses: int = 0
    """Number of these losses."""
    early_stop: Patience = Patience()
    """Memory of early stopping."""
    plateau: Plateau = Plateau()
    """Memory of the learning-rate plateau."""
    finished: bool = False
    """True once the run has ended, after its last step or by early stopping."""
    num_skipped: int = 0
    """Number of steps that were left out because they were not finite."""
    skips_in_a_row: int = 0
    """Number of the newest steps in a row that were left out."""
    num_rollbacks: int = 0
    """Number of times that training went back to a checkpoint."""
    data_offset: int = 0
    """Number of batches that rollbacks left out: step s uses batch s + `data_offset`."""

    @property
    def mean_loss(self) -> float:
        """Mean training loss since the last evaluation; NaN before the first step."""
        return self.loss_sum / self.num_losses if self.num_losses else math.nan

    def with_loss(self, loss: float) -> "Progress":
        """Return the progress after one more step with a finite loss."""
        sums = {"loss_sum": self.loss_sum + loss, "num_losses": self.num_losses + 1}
        return dataclasses.replace(self, **sums, skips_in_a_row=0)

    def with_skip(self) -> "Progress":
        """Return the progress after a step that was left out."""
        counts = {"num_skipped": self.num_skipped + 1, "skips_in_a_row": self.skips_in_a_row + 1}
        return dataclasses.replace(self, **counts)

    def rolled_back(self, failed_step: int, before: "Progress") -> "Progress":
        """Return the progress with which training goes on from this checkpoint after a rollback.

        The batches after the checkpoint, up to that of the failed step, are not used again.

        Args:
          failed_step: step whose loss or gradient was not finite.
          before: progress before the rollback.
        """
        return dataclasses.replace(
            self,
            num_rollbacks=before.num_rollbacks + 1,
            data_offset=before.data_offset + failed_step - self.step,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the progress as nested dictionaries of JSON values."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "Progress":
        """Make the progress from the dictionary of `to_dict`. Other keys in it are ignored."""
        plateau = values["plateau"]
        nested = {
            "early_stop": Patience(**values["early_stop"]),
            "plateau": Plateau(Patience(**plateau["patience"]), plateau["lr_scale"]),
        }
        names = {field.name for field in dataclasses.fields(Progress)}
        return Progress(**{**{name: value for name, value in values.items() if name in names}, **nested})
