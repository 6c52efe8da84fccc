"""Workers that do the jobs of a study, one after the other or side by side, together with other processes."""

import collections
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from jax.sharding import Mesh

from unet_jax._types import InputError, Preempted
from unet_jax.devices.mesh import make_mesh
from unet_jax.program.batch_shapes import check_divisible
from unet_jax.runs.lock import try_lock
from unet_jax.study.config import Study
from unet_jax.study.cost import is_measured, measure_costs
from unet_jax.study.display import GridDisplay
from unet_jax.study.jobs import Job
from unet_jax.study.pairs import Pair, are_drawn, draw_pairs, find_pairs
from unet_jax.study.scores import read_table
from unet_jax.study.shared_program import SharedPrograms
from unet_jax.training.loop import train
from unet_jax.training.non_finite import NonFiniteLossError
from unet_jax.training.preemption import stop_requests

_POLL_S = 10.0
"""Time between looks at jobs that other processes do."""


class Worker:
    """Worker that does jobs on one mesh, one after the other, and shares compiled steps among them."""

    def __init__(self, mesh: Mesh, display: GridDisplay):
        self.mesh, self._display = mesh, display
        self.programs = SharedPrograms(mesh)
        self.diverged: list[str] = []

    def do(self, job: Job, stop_at: Callable[[int], bool] | None = None) -> bool:
        """Train and score a run unless it is done; note it in `diverged` if its loss is not finite.

        Returns:
          False if another process, perhaps on another host, is doing it. Its lock is released however it ends.
        """
        try:
            if not job.result.exists():
                job.path.parent.mkdir(parents=True, exist_ok=True)
                with try_lock(job.lock) as holder:
                    if holder is not None:
                        self._display.elsewhere(job.row, job.column, holder)
                        return False
                    if not job.result.exists():  # another process may have finished it just now
                        self._train_and_score(job, stop_at)
            self._display.finish(job.row, job.column, job.describe(job.result))
        except NonFiniteLossError as error:
            self.diverged.append(f"{job.row}, {job.column}: {error}")
            self._display.finish(job.row, job.column, "diverged")
        return True

    def _train_and_score(self, job: Job, stop_at: Callable[[int], bool] | None) -> None:
        display = self._display.cell(job.row, job.column)
        try:
            trained = train(
                job.config, job.path, display=display, mesh=self.mesh, make_program=self.programs, stop_at=stop_at
            )
        except NonFiniteLossError:
            if job.on_divergence is None:
                raise
            job.on_divergence(job)
            return
        job.score(job, trained, self.mesh, display)


class Workers:
    """Crew of a study that does its jobs in this process, on the devices that it has."""

    def __init__(self, study: Study, mesh: Mesh, display: GridDisplay):
        """Make a worker for each part of `study.devices_per_run` devices.

        Raises:
          InputError: there are too few devices, or batches cannot be divided over those of a run.
        """
        size, most = study.devices_per_run, mesh.size
        if size > most:
            raise InputError(f"study.devices_per_run is {size}, but there are {most} devices: use at most that many.")
        devices = list(mesh.devices.flat)
        space, starts = study.config.train.devices_per_image, range(0, len(devices) - size + 1, size)
        meshes = [make_mesh(devices[i : i + size], space=space) for i in starts]
        for variant in study.variants:
            for values in study.draws(variant) if study.tune is not None else ({},):
                check_divisible(study.run_config(variant.with_values(values), study.seeds[0]), meshes[0])
        self.workers = [Worker(own, display) for own in meshes]
        self._display = display

    def work_through(self, jobs: Sequence[Job], after: Callable[[Job], None]) -> list[str]:
        """Do all jobs that are not done yet, each worker the next one when it has finished one.

        Args:
          jobs: the jobs, in the order in which they are begun.
          after: function that is called when a job is done.

        Returns:
          Reasons of the jobs that diverged; all others are done.

        Raises:
          Preempted: SIGTERM or Ctrl-C came during training. The runs that were being trained are saved.
        """
        waiting = collections.deque(jobs)
        for worker in self.workers:
            worker.diverged = []
        if len(self.workers) == 1 or len(jobs) == 1:  # stay in the main thread, where `train` can watch signals itself
            _work(self.workers[0], waiting, after, threading.Event())
        else:
            _side_by_side(self.workers[: len(jobs)], waiting, after)
        return [reason for worker in self.workers for reason in worker.diverged]

    def finish(self, study: Study) -> None:
        """Time the training steps of all variants, and draw the most different images, unless that is done."""
        first = self.workers[0]
        measure_costs(study, first.programs, first.mesh, self._display)
        draw_pairs(study, _pairs(study), first.mesh, self._display)


def is_finished(study: Study) -> bool:
    """Return whether what `Workers.finish` does is done already."""
    return is_measured(study) and are_drawn(study, _pairs(study))


def _pairs(study: Study) -> list[Pair]:
    return find_pairs([variant.name for variant in study.variants], read_table(study), study.baseline)


def _work(
    worker: Worker,
    waiting: collections.deque[Job],
    after: Callable[[Job], None],
    failed: threading.Event,
    stop_at: Callable[[int], bool] | None = None,
) -> None:
    """Do jobs until none is left. One that another process does is looked at again after the others."""
    num_taken = 0
    while not failed.is_set():
        try:
            job = waiting.popleft()
        except IndexError:
            return
        if worker.do(job, stop_at=stop_at):
            after(job)
            num_taken = 0
            continue
        waiting.append(job)
        num_taken += 1
        if num_taken >= len(waiting):  # nothing is left but the jobs of other processes
            if stop_at is not None and stop_at(0):
                raise KeyboardInterrupt  # nothing of this process is left to save
            failed.wait(_POLL_S)
            num_taken = 0


def _side_by_side(workers: Sequence[Worker], waiting: collections.deque[Job], after: Callable[[Job], None]) -> None:
    """Let each worker take the next job when it has finished one.

    An error in one worker makes the others stop after their current step. The error is raised when all have stopped.
    """
    failed = threading.Event()
    with stop_requests() as stop_at, ThreadPoolExecutor(len(workers)) as pool:

        def work(worker: Worker) -> None:
            try:
                _work(worker, waiting, after, failed, lambda step: failed.is_set() or stop_at(step))
            except BaseException:
                failed.set()
                raise

        futures = [pool.submit(work, worker) for worker in workers]
        errors = [error for error in (future.exception() for future in futures) if error is not None]
    # The workers that were stopped by another one's error end with Preempted: raise that error rather than theirs.
    for error in sorted(errors, key=lambda error: isinstance(error, Preempted)):
        raise error
