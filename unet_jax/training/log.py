"""What a run leaves for people to look at: numbers over time, learning curves and validation pictures.

Of connected processes the first one writes it.
"""

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
from unet_jax.runs.progress import Progress
from unet_jax.training.goodput import Pace

_LOG_EVERY_STEPS = 10


class RunLog:
    """Of one run directory: metrics.jsonl, TensorBoard files where wanted, pictures, and a line per evaluation."""

    def __init__(self, out: epath.Path, config: TrainConfig, display: Display):
        self._out, self._config, self._display = out, config, display
        self._last_dice: float | None = None
        self._metrics_file = MetricsFile(out / "metrics.jsonl")
        self._tensorboard = TensorBoard(out / "tensorboard") if config.tensorboard and is_first() else None

    def rewind(self, step: int) -> None:
        """Drops what was written after a step, which a run that resumes from there writes again."""
        if is_first():
            self._metrics_file.rewind(step)

    def step(self, step: int, values: dict[str, float]) -> None:
        """A training step's metrics; every tenth is kept."""
        if step % _LOG_EVERY_STEPS == 0:
            self._write({"step": step, **{f"step/{name}": value for name, value in values.items()}})

    def gradients(self, step: int, values: dict[str, Any]) -> None:
        """Of `unet_jax.program.steps.make_term_gradients_step`, on the host."""
        self._write({"step": step, **{name: float(value) for name, value in values.items()}})

    def note(self, progress: Progress, pace: Pace) -> str:
        """A bar's text."""
        loss = f"loss {progress.mean_loss:.4f}  " if progress.num_losses else ""
        dice = f"val Dice {self._last_dice:.4f}  " if self._last_dice is not None else ""
        return f"{loss}{dice}{pace.images_per_s:.1f} images/s  {pace.wait_share:.0%} waiting for data"

    def evaluation(
        self, scores: Scores, progress: Progress, *, loss: float, lr: float, epoch: float, pace: Pace
    ) -> None:
        """Scores and `loss` of an evaluation on val, and how training stood before it."""
        step, train_loss = progress.step, progress.mean_loss
        counts = {"skip": {"skipped_steps": progress.num_skipped}, "rollback": {"rollbacks": progress.num_rollbacks}}
        faults = counts.get(self._config.on_non_finite, {})
        self._last_dice = scores.dice_mean
        dice = scores.per_image(metrics.dice)
        self._write(
            {
                "step": step,
                "epoch": epoch,
                "train/loss": train_loss,
                "eval/loss": loss,
                "eval/dice": scores.dice_mean,
                **{f"eval/dice/{name}": value for name, value in dice.items()},
                **{f"eval/iou/{name}": value for name, value in scores.per_image(metrics.iou).items()},
                "learning_rate": lr,
                **faults,
                "images_per_s": pace.images_per_s,
                "wait_share": pace.wait_share,
                "time": time.time(),
            }
        )
        by_class = ", ".join(f"{name} {value:.4f}" for name, value in dice.items())
        self._display.line(
            f"epoch {epoch:g}/{self._config.num_epochs}  step {step}  loss {train_loss:.4f}  val loss {loss:.4f}  "
            f"val Dice {scores.dice_mean:.4f} ({by_class})  lr {lr:.1e}  {pace.images_per_s:.1f} images/s  "
            f"{pace.wait_share:.0%} waiting for data"
            + "".join(f"  {count} {name.replace('_', ' ')}" for name, count in faults.items() if count)
        )

    def pictures(
        self,
        images: Sequence[UInt8[np.ndarray, "h w 3"]],
        truths: Sequence[Bool[np.ndarray, "h w k"]],
        predictions: Sequence[Bool[np.ndarray, "h w k"]],
        scores: Scores,
    ) -> None:
        """Curves so far, and the first images that `scores` is of with truth, prediction and error."""
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
            titles=[f"{scores.ids[i]}\nDice " + ", ".join(f"{d:.3f}" for d in dice[i]) for i in range(len(images))],
            class_names=scores.class_names,
        )

    def _write(self, row: dict[str, Any]) -> None:
        if not is_first():
            return
        self._metrics_file.write(row)
        if self._tensorboard is not None:
            self._tensorboard.write(row)
