"""`Job`, one training of a study with what follows it: a run of a variant and a seed, or a trial of its tuning."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol

from etils import epath
from jax.sharding import Mesh

from unet_jax.config import Config
from unet_jax.config.dicts import check_same_run
from unet_jax.report.display import Display
from unet_jax.runs.info import info_path, load_info
from unet_jax.runs.loss_code import check_loss_code
from unet_jax.study.config import Study
from unet_jax.training.loop import TrainResult


@dataclasses.dataclass(frozen=True)
class Job:
    """A run that is trained and then scored. It is done if the file `result` exists, which is written last."""

    row: str
    """Name of the variant."""
    column: str
    """Name of the run among those of the variant, such as "seed 0"."""
    config: Config
    """Settings of the run."""
    path: epath.Path
    """Run directory."""
    result: epath.Path
    """File with the scores."""
    score: Callable[["Job", TrainResult, Mesh, Display], None]
    """Function that scores the trained run and writes `result`."""
    describe: Callable[[epath.Path], str]
    """Function from `result` to a few words about it."""
    on_divergence: Callable[["Job"], None] | None = None
    """Function that writes `result` for a run whose loss is not finite; None: the run stays without a result."""

    @property
    def name(self) -> str:
        """Variant and seed or trial, for people."""
        return f"{self.row} {self.column}"

    @property
    def lock(self) -> epath.Path:
        """Path of the lock of the process that does the job."""
        return self.path.parent / f"{self.path.name}.lock"


class Crew(Protocol):
    """Whatever does the jobs of a study: workers in this process, or the jobs of a cluster."""

    def work_through(self, jobs: Sequence[Job], after: Callable[[Job], None]) -> list[str]:
        """Do all jobs that are not done yet, call `after` for each, and return the reasons of those that diverged."""
        ...

    def finish(self, study: Study) -> None:
        """Do what follows when all runs are done: time the training steps of all variants."""
        ...


def check_jobs(jobs: Sequence[Job], remedy: str) -> None:
    """Raise `InputError`, with a remedy, if a run exists that was begun with other settings or loss functions."""
    for job in jobs:
        if info_path(job.path).exists():
            info = load_info(job.path)
            check_same_run(job.path, info.config, job.config, remedy)
            check_loss_code(job.path, info.loss_code, job.config.loss, remedy)
