"""The session: the parts of a training run that every step uses and no step replaces."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

from etils import epath
from jax.sharding import Mesh

from unet_jax._types import Batch
from unet_jax.config import Config
from unet_jax.config.dicts import config_to_dict
from unet_jax.data.cached_source import training_source, whole_images
from unet_jax.data.crops import CropSource, GridSource, WholeImages
from unet_jax.data.order import TrainOrder
from unet_jax.data.records import Layout
from unet_jax.data.sources import Source
from unet_jax.data.threads import PrefetchIterator, num_cores
from unet_jax.program.build import Program
from unet_jax.program.own import OURS, Own
from unet_jax.program.state import TrainState, averaged
from unet_jax.program.steps import TermGradientsStep
from unet_jax.report.display import Display
from unet_jax.runs.checkpoints import CheckpointStore
from unet_jax.runs.info import RunInfo
from unet_jax.runs.load import Run
from unet_jax.runs.progress import Progress
from unet_jax.training.goodput import Ledger, Throttle
from unet_jax.training.log import Evaluation, RunLog
from unet_jax.training.prefetch import MapIterator, device_batches
from unet_jax.training.setup import split_source

EvaluationCallback = Callable[[Run, dict[str, Any]], object]
"""Function that is called after each evaluation with the run as it is now and the record of the evaluation."""


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
    layout: Layout
    """Files of the data set."""
    train_source: Source | CropSource
    """Training samples, at the network's size, or their random crops."""
    val_source: Source
    """Validation samples, at the network's size; with crops, the parts that cover them."""
    order: TrainOrder
    """Order of the training samples in the whole run."""
    program: Program
    """Network, optimizer and steps."""
    term_gradients_step: TermGradientsStep | None
    """Step for `train.log_gradients_every_steps`; None if that is 0."""
    callbacks: Sequence[EvaluationCallback]
    """Functions to call after each evaluation."""
    stop_at: Callable[[int], bool] | None
    """Function from the number of a step to True if training should stop after it; None to watch signals."""

    own: Own = OURS
    """Network and optimizer that were given in the place of the library's."""
    throttle: Throttle = dataclasses.field(default_factory=lambda: Throttle(share=0.02))
    """Clock of the pictures and the page, between the first and the last ones."""

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

    def run_now(self, state: TrainState, step: int, metrics: dict[str, float]) -> Run:
        """Return the run as `load_run` would return it after this step. Its state can be used until the next step."""
        info, own = self.info, OURS if self.own.network is None else self.own
        values = info.config, info.class_names, info, metrics, self.mesh
        return Run(self.out, step, averaged(state), *values, own=own)

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
            self.store.save(progress.step, state, progress=values, metrics=evaluation.metrics if evaluation else None)
            self.ledger.mark_checkpoint()
            self.ledger.write(progress.step)

    def finish(self, step: int) -> None:
        """Wait until the last checkpoint is saved, and print how much time each phase took."""
        with self.ledger.phase("checkpoint"):
            self.store.wait()
        self.ledger.write(step)
        for line in self.ledger.table():
            self.display.line(line)


def train_source(info: RunInfo, layout: Layout, display: Display) -> Source | CropSource:
    """Return the training samples at the network's size, or their random crops."""
    if info.config.data.fit != "crop":
        return _cached(info, layout, "train", display, training_source)
    images = _whole(info, layout, "train", display)
    return CropSource(images, info.fitted_sizes("train"), info.config.data.height_and_width)


def val_source(info: RunInfo, layout: Layout, display: Display) -> Source:
    """Return the validation samples at the network's size; with crops, the parts that cover them."""
    if info.config.data.fit != "crop":
        return _cached(info, layout, "val", display, training_source)
    images = _whole(info, layout, "val", display)
    return GridSource(images, info.fitted_sizes("val"), info.config.data.height_and_width)


def _whole(info: RunInfo, layout: Layout, split: str, display: Display) -> WholeImages:
    """Return the whole images of a split, cached in the way that `data.cache` says."""
    return _cached(info, layout, split, display, functools.partial(whole_images, sizes=info.fitted_sizes(split)))


def _cached(info: RunInfo, layout: Layout, split: str, display: Display, cached: Callable[..., Any]) -> Any:
    """Return the samples of a split, cached in the way that `data.cache` says."""
    config = info.config.data
    files = split_source(layout, info.splits[split], config, info.image_format)
    with display.bar(f"caching {split}", len(files), unit="images") as show:
        return cached(
            files,
            config,
            num_threads=config.num_threads or num_cores(),
            on_progress=lambda done, _: show(done, ""),
        )
