"""The session: the parts of a training run that every step uses and no step replaces."""

import dataclasses
from collections.abc import Callable

from etils import epath
from jax.sharding import Mesh

from unet_jax._types import Batch
from unet_jax.config import Config
from unet_jax.config.dicts import config_to_dict
from unet_jax.data.cached_source import training_source
from unet_jax.data.order import TrainOrder
from unet_jax.data.records import Layout
from unet_jax.data.sources import Source
from unet_jax.data.threads import num_cores
from unet_jax.program.build import Program
from unet_jax.program.state import TrainState
from unet_jax.program.steps import TermGradientsStep
from unet_jax.report.display import Display
from unet_jax.runs.checkpoints import CheckpointStore
from unet_jax.runs.info import RunInfo
from unet_jax.runs.progress import Progress
from unet_jax.training.goodput import Ledger
from unet_jax.training.log import Evaluation, RunLog
from unet_jax.training.prefetch import MapIterator, PrefetchIterator, device_batches
from unet_jax.training.setup import split_source


@dataclasses.dataclass(frozen=True)
class Session:
    """Everything that one start of a run uses: its facts, its data, its program, and the places that it writes to."""

    info: RunInfo
    """Facts of the run that were fixed when it began."""
    out: epath.Path
    """Run directory."""
    store: CheckpointStore
    """Checkpoints of the run."""
    mesh: Mesh
    """Devices that train."""
    display: Display
    """Place for printed lines and progress bars."""
    log: RunLog
    """Metrics, curves and pictures."""
    ledger: Ledger
    """Clock of the run's phases."""
    train_source: Source
    """Training samples, at the network's size."""
    val_source: Source
    """Validation samples, at the network's size."""
    order: TrainOrder
    """Order of the training samples in the whole run."""
    program: Program
    """Network, optimizer and steps."""
    term_gradients_step: TermGradientsStep | None
    """Step for `train.log_gradients_every_steps`; None if that is 0."""
    stop_at: Callable[[int], bool] | None
    """Function from the number of a step to True if training should stop after it; None to watch signals."""

    @property
    def config(self) -> Config:
        """Settings of the run."""
        return self.info.config

    def batches(self, progress: Progress) -> PrefetchIterator[Batch] | MapIterator[Batch]:
        """Return an iterator over the training batches on the devices, from `progress` to the end of the run."""
        return device_batches(
            self.train_source,
            self.order.extended_by(progress.data_offset),
            self.config,
            self.mesh,
            start_step=progress.step + progress.data_offset,
            packing=self.program.packing,
        )

    def evaluates_at(self, step: int) -> bool:
        """Return whether a step is followed by an evaluation on val."""
        return step % self.info.eval_every_steps == 0 or step == self.info.num_steps

    def saves_at(self, step: int) -> bool:
        """Return whether a step is followed by a checkpoint even without an evaluation."""
        every = self.config.train.checkpoint_every_steps
        return every > 0 and step % every == 0

    def save(self, state: TrainState, progress: Progress, evaluation: Evaluation | None) -> None:
        """Start saving a checkpoint in the background, with the scores of the evaluation if there was one."""
        with self.ledger.phase("checkpoint"):
            # Classes and config are stored too, so that a checkpoint explains itself without its run directory.
            identity = {"class_names": list(self.info.class_names), "config": config_to_dict(self.config)}
            values = {**progress.to_dict(), **identity, "goodput": self.ledger.seconds}
            metrics = {"dice": evaluation.scores.choosing_dice, "loss": evaluation.loss} if evaluation else None
            self.store.save(progress.step, state, progress=values, metrics=metrics)
            self.ledger.mark_checkpoint()
            self.ledger.write(progress.step)

    def finish(self, step: int) -> None:
        """Wait until the last checkpoint is saved, and print how much time each phase took."""
        with self.ledger.phase("checkpoint"):
            self.store.wait()
        self.ledger.write(step)
        for line in self.ledger.table():
            self.display.line(line)


def cached_source(info: RunInfo, layout: Layout, split: str, display: Display) -> Source:
    """Return the samples of a split at the network's size, cached in the way that `data.cache` says."""
    config = info.config.data
    files = split_source(layout, info.splits[split], config, info.image_format)
    with display.bar(f"caching {split}", len(files), unit="images") as show:
        return training_source(
            files,
            config,
            num_threads=config.num_threads or num_cores(),
            on_progress=lambda done, _: show(done, ""),
        )
