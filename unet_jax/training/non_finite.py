"""Reactions to a loss or gradient that is not finite: to stop, to leave the step out, or to go back to a checkpoint."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax

from unet_jax._types import InputError
from unet_jax.runs.progress import Progress
from unet_jax.training.session import Session

MAX_SKIPS = 10
"""Largest number of steps in a row that are left out. The next one that is not finite stops the run."""
MAX_ROLLBACKS = 3
"""Largest number of returns to one checkpoint. The next step that is not finite stops the run."""


class NonFiniteLossError(InputError):
    """Error for a loss or gradient that is not finite.

    Args:
      message: text that names the step, its metrics and its images, and the remedy.
      step: number of the step whose metrics were not finite; 0 in an error about several runs.

    Example:
      >>> NonFiniteLossError("step 7: loss is nan.", 7).step
      7
    """

    def __init__(self, message: str, step: int = 0):
        super().__init__(message)
        self.step = step


def read_metrics(session: Session, progress: Progress, unread: tuple[int, dict[str, jax.Array]] | None) -> Progress:
    """Fetch the metrics of a step from the devices, log them, and return the progress with its loss.

    Args:
      session: session of the run.
      progress: progress before the step.
      unread: number of the step and its metrics; None leaves the progress as it is.

    Raises:
      NonFiniteLossError: a metric is not finite, unless `train.on_non_finite` is skip and may leave the step out.
    """
    if unread is None:
        return progress
    step, on_devices = unread
    values = {name: float(value) for name, value in jax.device_get(on_devices).items()}
    if all(math.isfinite(value) for value in values.values()):
        session.log.step(step, values)
        return progress.with_loss(values["loss"])
    positions = session.order.batch(step - 1 + progress.data_offset)
    message = _describe(step, values, [session.train_source.ids[position.index] for position in positions])
    if session.config.train.on_non_finite == "skip" and progress.skips_in_a_row < MAX_SKIPS:
        session.display.line(f"{message} Left out: {progress.num_skipped + 1} steps so far.")
        return progress.with_skip()
    session.store.wait()
    last_good = session.store.latest_step
    kept = f" The last good checkpoint is {session.out}/checkpoints/{last_good}." if last_good else ""
    raise NonFiniteLossError(f"{message}{kept} Try a lower --optim.learning-rate or --optim.clip-norm 1.", step)


def _describe(step: int, metrics: dict[str, float], ids: Sequence[str]) -> str:
    """Return text that says which metrics of a step on these images are not finite."""
    values = ", ".join(f"{name} is {value}" for name, value in metrics.items() if not math.isfinite(value))
    return f"step {step}: {values} (images {', '.join(ids)})."


class Returns(NamedTuple):
    """Number of times that training returned to one checkpoint."""

    checkpoint: int
    """Step of the checkpoint."""
    count: int
    """Number of returns to it."""


def count_return(session: Session, error: NonFiniteLossError, returns: Returns) -> Returns:
    """Count one more return to the newest checkpoint and print it.

    Args:
      session: session of the run.
      error: error of the step that was not finite.
      returns: returns so far.

    Raises:
      NonFiniteLossError: `error` itself, if `train.on_non_finite` is not rollback or there were too many returns.
    """
    newest = session.store.latest_step or 0
    count = returns.count + 1 if newest == returns.checkpoint else 1
    if session.config.train.on_non_finite != "rollback" or count > MAX_ROLLBACKS:
        raise error
    session.display.line(
        f"{error}\nback to step {newest}: training continues with the batches after that of step {error.step}"
    )
    return Returns(newest, count)
