"""The log of a run: metrics, curves and pictures. Only the first process writes them."""

import dataclasses
import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Bool, UInt8

from unet_jax import metrics
from unet_jax.config import TrainConfig
from unet_jax.devices.processes import is_first
from unet_jax.metrics.scores import Scores
from unet_jax.report.display import Display
from unet_jax.report.metrics_file import MetricsFile, TensorBoard
from unet_jax.report.pictures import save_curves, save_grid
from unet_jax.report.writers import load_writers, write_row
from unet_jax.runs.progress import Progress
from unet_jax.training.goodput import Pace

_LOG_EVERY_STEPS = 10


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Results of one evaluation on val, and the state of training at this point."""

    scores: Scores
    """Scores of the validation images."""
    loss: float
    """Validation loss."""
    learning_rate: float
    """Learning rate before the evaluation, which may lower it."""
    progress: Progress
    """Progress up to the evaluation."""
    epoch: float
    """Number of finished passes over the training images, a fraction in the middle of a pass."""
    pace: Pace
    """Speed of training since the last evaluation."""
    waits_before_stop: int | None
    """Number of evaluations without improvement if this evaluation ends the run early, otherwise None."""

    @property
    def metrics(self) -> dict[str, float]:
        """Scores that are stored with a checkpoint."""
        return stored_metrics(self.scores, self.loss)

    def fault_counts(self, on_non_finite: str) -> dict[str, int]:
        """Return the counts, by name, of the reactions to steps that were not finite.

        Args:
          on_non_finite: setting `train.on_non_finite`. Each value but "stop" has a count of its own.
        """
        counts = {
            "skip": {"skipped_steps": self.progress.num_skipped},
            "rollback": {"rollbacks": self.progress.num_rollbacks},
        }
        return counts.get(on_non_finite, {})


def stored_metrics(scores: Scores, loss: float) -> dict[str, float]:
    """Return what is kept of an evaluation beside the weights that it was made with."""
    return {"dice": float(scores.choosing_dice), "loss": float(loss)}


class RunLog:
    """Log of one run: metrics.jsonl, TensorBoard files if wanted, pictures, and a printed line per evaluation.

    Args:
      out: run directory.
      config: settings of training.
      display: place for printed lines.
      constant_dice: Dice on val of constant masks by class, which is printed beside the network's; may be empty.
    """

    def __init__(self, out: epath.Path, config: TrainConfig, display: Display, constant_dice: dict[str, float]):
        self._out, self._config, self._display = out, config, display
        constant = list(constant_dice.values())
        self._constant = f"; constant masks {np.mean(constant):.4f}" if constant else ""
        self._last_dice: float | None = None
        self._metrics_file = MetricsFile(out / "metrics.jsonl")
        self._tensorboard = TensorBoard(out / "tensorboard") if config.tensorboard and is_first() else None
        self._writers = load_writers(config.writers) if is_first() else {}

    def rewind(self, step: int) -> None:
        """Drop the metrics after a step, because a run that continues from there writes them again."""
        # Every tenth step has a row, but for steps that were left out, ten in a row at most.
        wanted = step // _LOG_EVERY_STEPS * _LOG_EVERY_STEPS
        wanted -= 2 * _LOG_EVERY_STEPS if self._config.on_non_finite == "skip" else 0
        if is_first() and (warning := self._metrics_file.rewind(step, wanted)):
            self._display.line(warning)

    def step(self, step: int, values: dict[str, float]) -> None:
        """Write the metrics of every tenth training step."""
        if step % _LOG_EVERY_STEPS == 0:
            row = {"step": step, **{f"step/{name}": value for name, value in values.items()}}
            self._write(row)
            self._write_tensorboard(row)

    def gradients(self, step: int, values: dict[str, Any]) -> None:
        """Write the metrics of a step from `unet_jax.program.steps.make_term_gradients_step`, already on the host."""
        row = {"step": step, **{name: float(value) for name, value in values.items()}}
        self._write(row)
        self._write_tensorboard(row)

    def note(self, progress: Progress, pace: Pace) -> str:
        """Return the text beside the progress bar."""
        loss = f"loss {progress.mean_loss:.4f}  " if progress.num_losses else ""
        dice = f"val Dice {self._last_dice:.4f}  " if self._last_dice is not None else ""
        return f"{loss}{dice}{pace.images_per_s:.1f} images/s  {pace.wait_share:.0%} waiting for data"

    def evaluation(self, evaluation: Evaluation) -> None:
        """Write the results of an evaluation to metrics.jsonl."""
        self._last_dice = evaluation.scores.choosing_dice
        self._write(self.row(evaluation))

    def show(self, evaluation: Evaluation) -> None:
        """Print the results of an evaluation, and write them to TensorBoard."""
        self._write_tensorboard(self.row(evaluation))
        scores, pace = evaluation.scores, evaluation.pace
        by_class = ", ".join(
            f"{name} unknown" if np.isnan(value) else f"{name} {value:.4f}" + " absent" * (name in scores.absent)
            for name, value in scores.per_image(metrics.dice).items()
        )
        faults = evaluation.fault_counts(self._config.on_non_finite)
        best = "best" if self._is_best(evaluation) else ""
        first = [
            f"{self._position(evaluation)}  loss {evaluation.progress.mean_loss:.4f}",
            f"val loss {evaluation.loss:.4f}",
            f"val Dice {scores.choosing_dice:.4f} {best:4}",
            *(f"{count} {name.replace('_', ' ')}" for name, count in faults.items() if count),
        ]
        more = [
            f"({by_class}{self._constant})",
            f"lr {evaluation.learning_rate:.1e}",
            f"{pace.images_per_s:.1f} images/s",
            f"{pace.wait_share:.0%} waiting for data",
        ]
        self._display.line(self._display.fitted(first, more))
        if evaluation.waits_before_stop is not None:
            self._display.line(
                f"stopped early: no better validation loss in {evaluation.waits_before_stop} evaluations"
            )

    @property
    def _monitored(self) -> tuple[str, float]:
        """Name of the score that `train.monitor` is about, and 1 if more is better, else -1."""
        return ("eval/dice", 1.0) if self._config.monitor == "dice" else ("eval/loss", -1.0)

    def best_evaluation(self) -> dict[str, Any]:
        """Return the row of the best evaluation so far by `train.monitor`, the newest of equally good ones."""
        name, sign = self._monitored
        rows = [row for row in self._metrics_file.read() if name in row]
        return max(rows, key=lambda row: (sign * x if math.isfinite(x := float(row[name])) else -math.inf, row["step"]))

    def _is_best(self, evaluation: Evaluation) -> bool:
        """Return whether no evaluation before was better, by `train.monitor`."""
        name, sign = self._monitored
        step, own = evaluation.progress.step, sign * self.row(evaluation)[name]
        before = [row[name] for row in self._metrics_file.read() if name in row and row["step"] < step]
        return math.isfinite(own) and all(own >= sign * value for value in before if not isinstance(value, str))

    def _position(self, evaluation: Evaluation) -> str:
        """Return where the run is, in the unit that its length is given in."""
        step, config = evaluation.progress.step, self._config
        if config.num_steps:
            return f"step {step}/{config.num_steps}  epoch {evaluation.epoch:.2f}"
        width = len(str(config.num_epochs))
        return f"epoch {evaluation.epoch:>{width}g}/{config.num_epochs}  step {step:>5}"

    def row(self, evaluation: Evaluation) -> dict[str, Any]:
        """Return the results of an evaluation by name, as metrics.jsonl has them."""
        scores = evaluation.scores
        return {
            "step": evaluation.progress.step,
            "epoch": evaluation.epoch,
            "train/loss": evaluation.progress.mean_loss,
            "eval/loss": evaluation.loss,
            "eval/dice": scores.choosing_dice,
            **{f"eval/dice/{name}": value for name, value in scores.per_image(metrics.dice).items()},
            **{f"eval/iou/{name}": value for name, value in scores.per_image(metrics.iou).items()},
            "learning_rate": evaluation.learning_rate,
            **evaluation.fault_counts(self._config.on_non_finite),
            "images_per_s": evaluation.pace.images_per_s,
            "wait_share": evaluation.pace.wait_share,
            "time": time.time(),
        }

    def pictures(
        self,
        images: Sequence[UInt8[np.ndarray, "h w 3"]],
        truths: Sequence[Bool[np.ndarray, "h w k"]],
        predictions: Sequence[Bool[np.ndarray, "h w k"]],
        scores: Scores,
        image_title: str = "image",
        ignored: Sequence[Bool[np.ndarray, "h w k"]] | None = None,
    ) -> None:
        """Draw the curves so far, and some images with true mask, predicted mask and error.

        Args:
          images: the first images of `scores`, `[h w 3]` uint8 RGB.
          truths: their true masks, `[h w k]` bool.
          predictions: their predicted masks, `[h w k]` bool.
          scores: scores of all validation images.
          image_title: text above the images.
          ignored: where classes are ignored, `[h w k]` bool; None: nowhere.
        """
        if not is_first():
            return
        folder = self._out / "pictures"
        save_curves(folder / "curves.png", self._metrics_file.read(), scores.class_names)
        dice = metrics.dice(scores.counts)
        save_grid(
            folder / "validation.png",
            images=images,
            truths=truths,
            predictions=predictions,
            image_title=image_title,
            titles=[f"{scores.ids[i]}\nDice " + ", ".join(f"{d:.3f}" for d in dice[i]) for i in range(len(images))],
            class_names=scores.class_names,
            ignored=ignored,
        )

    def _write(self, row: dict[str, Any]) -> None:
        if not is_first():
            return
        self._metrics_file.write(row)
        for warning in write_row(self._writers, row):
            self._display.line(warning)

    def _write_tensorboard(self, row: dict[str, Any]) -> None:
        if self._tensorboard is not None:
            self._tensorboard.write(row)
