"""Submission of the runs of a study to a cluster: one job for each run or trial, through submitit (extra `slurm`).

Every job takes the lock of its run, as local workers do. So jobs that are submitted twice, for example by a command
that was killed and started again, do no run twice. Logs are in OUT/slurm.
"""

import collections
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from unet_jax._types import InputError, Preempted
from unet_jax.devices.compilation import enable_compilation_cache
from unet_jax.devices.mesh import make_mesh
from unet_jax.runs.lock import try_lock
from unet_jax.study.config import Study
from unet_jax.study.display import GridDisplay
from unet_jax.study.jobs import Job
from unet_jax.study.workers import Workers, is_finished

_POLL_S = 10.0
_MOST_STOPS = 20
"""Number of times that a run may be stopped by the cluster and submitted again."""


class Outcome(NamedTuple):
    """End of a job on the cluster."""

    kind: str
    """done, diverged, elsewhere (another process has the lock), stopped (the cluster wants its node) or refused."""
    text: str = ""
    """Reason, for people."""


@dataclasses.dataclass(frozen=True)
class OnNode:
    """Function that a job of the cluster calls on its node, with the devices that it finds there."""

    study: Study
    """Study of the job, for its number of devices."""
    job: Job
    """Run or trial to do."""

    def __call__(self) -> Outcome:
        """Do the job unless it is done, or another process is doing it."""
        try:
            enable_compilation_cache()
            display = GridDisplay()
            crew = Workers(self.study, make_mesh(), display)
            worker = crew.workers[0]
            with display.grid([(self.job.row, self.job.column)], epath.Path(self.study.out) / "log.txt"):
                if not worker.do(self.job):
                    return Outcome("elsewhere")
            return Outcome("diverged", worker.diverged[0]) if worker.diverged else Outcome("done")
        except InputError as error:
            return Outcome("refused", str(error))
        except Preempted as error:
            return Outcome("stopped", str(error))

    def checkpoint(self) -> Any:
        """Return the submission with which submitit goes on after the time of the job ended."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


@dataclasses.dataclass(frozen=True)
class _Costs:
    """Function that times the training steps of a study on a node of the cluster."""

    study: Study

    def __call__(self) -> Outcome:
        enable_compilation_cache()
        Workers(self.study, make_mesh(), GridDisplay()).finish(self.study)
        return Outcome("done")


class Cluster:
    """Crew of a study whose jobs are submitted to a cluster."""

    def __init__(self, study: Study, display: GridDisplay, parameters: Mapping[str, Any], *, cluster: str = "slurm"):
        self._study, self._display = study, display
        self._executor = _executor(epath.Path(study.out) / "slurm", parameters, cluster)

    def work_through(self, jobs: Sequence[Job], after: Callable[[Job], None]) -> list[str]:
        """Submit all jobs that are not done, and wait for them.

        Args:
          jobs: the jobs.
          after: function that is called when a job is done.

        Returns:
          Reasons of the jobs that diverged.

        Raises:
          InputError: a job was refused, failed or was stopped again and again. The others are finished first.
        """
        waiting = [job for job in jobs if not job.result.exists()]
        for job in jobs:
            if job.result.exists():
                self._finish(job, after)
        failed, diverged = [], []
        stops: collections.Counter[str] = collections.Counter()
        while waiting:
            free = [job for job in waiting if self._is_free(job)]
            outcomes = self._submit([OnNode(self._study, job) for job in free]) if free else []
            for job, outcome in zip(free, outcomes, strict=True):
                stops[job.name] += outcome.kind == "stopped"
                is_done = outcome.kind == "done" or job.result.exists()
                if is_done:
                    self._finish(job, after)
                elif outcome.kind == "diverged":
                    diverged.append(outcome.text)
                    self._display.finish(job.row, job.column, "diverged")
                elif outcome.kind == "refused" or stops[job.name] == _MOST_STOPS:
                    failed.append(f"{job.name}: {outcome.text}")
                else:
                    continue  # it is tried again
                waiting.remove(job)
            for job in [job for job in waiting if job.result.exists()]:  # another process has finished it
                self._finish(job, after)
                waiting.remove(job)
            if waiting:
                time.sleep(_POLL_S)
        if failed:
            raise InputError("\n  ".join([f"{len(failed)} jobs of {self._study.out} are not done:", *failed]))
        return diverged

    def _is_free(self, job: Job) -> bool:
        """Return whether nobody is doing a job."""
        job.path.parent.mkdir(parents=True, exist_ok=True)
        with try_lock(job.lock) as holder:
            if holder is not None:
                self._display.elsewhere(job.row, job.column, holder)
            return holder is None

    def finish(self, study: Study) -> None:
        """Time the training steps and draw pictures in a job of the cluster, unless that is done."""
        if is_finished(study):
            return
        (outcome,) = self._submit([_Costs(study)])
        if outcome.kind != "done":
            raise InputError(f"{study.out}: the training steps were not timed: {outcome.text}")

    def _submit(self, functions: Sequence[Callable[[], Outcome]]) -> list[Outcome]:
        """Submit functions as one array of jobs, and return their outcomes when all have ended."""
        with self._executor.batch():
            handles = [self._executor.submit(function) for function in functions]
        self._display.line(f"{len(handles)} jobs submitted; their logs: {self._study.out}/slurm")
        outcomes: dict[int, Outcome] = {}
        while len(outcomes) < len(handles):
            for i, handle in enumerate(handles):
                if i not in outcomes and handle.done():
                    outcomes[i] = _outcome(handle)
            if len(outcomes) < len(handles):
                time.sleep(_POLL_S)
        return [outcomes[i] for i in range(len(handles))]

    def _finish(self, job: Job, after: Callable[[Job], None]) -> None:
        self._display.finish(job.row, job.column, job.describe(job.result))
        after(job)


def _outcome(handle: Any) -> Outcome:
    """Return the outcome of a job that has ended; one that failed is refused, with the place of its log."""
    error = handle.exception()
    if error is None:
        return handle.result()
    # submitit puts the traceback between lines of dashes, and names its files below.
    trace = str(error).split("\n----------")
    lines = [line for line in trace[min(1, len(trace) - 1)].splitlines() if line.strip()]
    return Outcome("refused", f"{lines[-1] if lines else repr(error)} (log: {handle.paths.stderr})")


def _executor(folder: epath.Path, parameters: Mapping[str, Any], cluster: str) -> Any:
    """Make submitit's executor.

    Raises:
      InputError: submitit is not installed, there is no such cluster here, or a parameter does not exist.
    """
    try:
        import submitit
    except ImportError as error:
        raise InputError("--launcher slurm needs submitit: pip install 'unet_jax[slurm]'") from error
    try:
        executor = submitit.AutoExecutor(folder=str(folder), cluster=cluster)
    except RuntimeError as error:
        raise InputError(f"--launcher slurm cannot be used here: {error}") from error
    try:
        executor.update_parameters(name="unet-jax", **parameters)
    except (NameError, TypeError, AssertionError) as error:
        raise InputError(f"--slurm: {error}") from error
    return executor
