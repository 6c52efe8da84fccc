"""`run_study`, which trains and scores the runs of a study, one after the other or side by side.

A study may be killed at any moment: the same command continues it. Files in the study's folder OUT:

OUT/runs/VARIANT/seedN/           run directory like that of any other run
OUT/runs/VARIANT/seedN/SPLIT.csv  scores of the run's best checkpoint, per image and class; written last, so a run that
                                  has this file is done
OUT/runs/VARIANT/seedN.lock       lock of the process that does the run
OUT/runs/VARIANT/seedN/SPLIT.png  errors of its predictions on some of the images
OUT/log.txt                       lines that the runs printed
OUT/cost.csv                      time and memory of a training step; written when all runs are done
"""

import collections
import dataclasses
import itertools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from etils import epath
from jax.sharding import Mesh

from unet_jax._types import InputError, Preempted
from unet_jax.config.dicts import check_same_run
from unet_jax.config.presets import check_settings
from unet_jax.data.layout import find_layout
from unet_jax.data.records import Layout
from unet_jax.data.splits import assign_splits
from unet_jax.devices.mesh import make_mesh
from unet_jax.inference.evaluate import select_records
from unet_jax.metrics.scores import mean_score
from unet_jax.program.build import check_divisible, make_loss
from unet_jax.report.display import Display
from unet_jax.report.metrics_file import MetricsFile
from unet_jax.runs.info import info_path, load_info
from unet_jax.runs.load import load_run
from unet_jax.runs.lock import try_lock
from unet_jax.runs.loss_code import check_loss_code
from unet_jax.study.compare import MIN_SEEDS, few_seeds
from unet_jax.study.config import Study, Variant
from unet_jax.study.cost import measure_costs
from unet_jax.study.display import GridDisplay
from unet_jax.study.examples import draw_example, example_positions, save_examples
from unet_jax.study.scores import read_scores, score_run, write_scores
from unet_jax.study.shared_program import SharedPrograms
from unet_jax.training.loop import train
from unet_jax.training.non_finite import NonFiniteLossError
from unet_jax.training.preemption import stop_requests

_POLL_S = 10.0
"""Time between looks at runs that other processes do."""


def scores_path(study: Study, variant: Variant, seed: int) -> epath.Path:
    """Return the path of a run's scores; a run is done if this file exists."""
    return study.run_path(variant, seed) / f"{study.split}.csv"


def examples_path(study: Study, variant: Variant, seed: int) -> epath.Path:
    """Return the path of the picture of some of a run's predictions."""
    return study.run_path(variant, seed) / f"{study.split}.png"


def with_split(study: Study) -> Study:
    """Return the study with the split that is scored: where the study leaves it open, test, or val if there is none.

    The first run says which splits there are, or, before it has begun, the data set.
    """
    if study.split != "auto":
        return study
    first = study.run_path(study.variants[0], study.seeds[0])
    data = study.config.data
    splits = load_info(first).splits if info_path(first).exists() else assign_splits(find_layout(data), data)
    return dataclasses.replace(study, split="test" if splits.get("test") else "val")


def run_study(study: Study, *, display: GridDisplay | None = None, mesh: Mesh | None = None) -> None:
    """Train and score all runs that are not done yet: all variants with the first seed, then with the next seed.

    If there are more devices than `study.devices_per_run`, as many runs as fit are computed at once. Each of them has
    its own thread and devices, and has the same result as if it were alone. Other processes, also on other hosts, may
    call this function with the same study and folder: each run is done by one of them. When all runs are done, the
    training steps of all variants are timed. The docstring of `unet_jax.study` has an example.

    Args:
      study: the study, from `load_study` or made in Python.
      display: where progress is shown; by default on standard error.
      mesh: devices to use, from `make_mesh`; by default all.

    Raises:
      InputError: the data set, a loss or the devices cannot be used, or `study.out` holds runs with other settings.
      NonFiniteLossError: some runs diverged. It is raised when all other runs are done.
      Preempted: SIGTERM or Ctrl-C came during training. The runs that were being trained are saved.
    """
    mesh = mesh or make_mesh()
    meshes = _meshes(study, mesh)
    is_open, study = study.split == "auto", with_split(study)
    layout = _check_data(study)
    _check_runs(study)
    cells = [(variant, seed) for seed in study.seeds for variant in study.variants]
    display = display or GridDisplay()
    out = epath.Path(study.out)
    out.mkdir(parents=True, exist_ok=True)
    if len(study.seeds) < MIN_SEEDS:
        display.line(f"WARNING: {few_seeds(len(study.seeds))}")
    if is_open and study.split == "val":
        display.line(
            "WARNING: the data set has no test split: the images of val are scored, by which the best checkpoints are "
            "chosen too."
        )
    workers = [_Worker(study, layout, own, display) for own in meshes[: len(cells)]]
    with display.grid([v.name for v in study.variants], study.seeds, out / "log.txt"):
        waiting = collections.deque(cells)
        if len(workers) == 1:  # stay in the main thread, where `train` can watch signals itself
            _work(workers[0], waiting, threading.Event())
        else:
            _side_by_side(workers, waiting)
    diverged = [reason for worker in workers for reason in worker.diverged]
    if diverged:
        raise NonFiniteLossError(
            "\n  ".join([f"{len(diverged)} of {len(cells)} runs diverged, and the others are done:", *diverged]) + "\n"
            "Remove their variants from the study to compare the others, or start a new study with other settings."
        )
    measure_costs(study, workers[0].programs, meshes[0], display)


def _meshes(study: Study, mesh: Mesh) -> list[Mesh]:
    """Divide the devices into meshes of `study.devices_per_run`, one for each run that is computed at the same time."""
    size = study.devices_per_run
    if size > mesh.size:
        raise InputError(f"study.devices_per_run is {size}, but there are {mesh.size} devices: use at most that many.")
    devices = list(mesh.devices.flat)
    space, starts = study.config.train.devices_per_image, range(0, len(devices) - size + 1, size)
    meshes = [make_mesh(devices[i : i + size], space=space) for i in starts]
    for variant in study.variants:
        check_divisible(study.run_config(variant, study.seeds[0]), meshes[0])
    return meshes


def _work(
    worker: "_Worker",
    waiting: collections.deque[tuple[Variant, int]],
    failed: threading.Event,
    stop_at: Callable[[int], bool] | None = None,
) -> None:
    """Do runs until none is left. One that another process does is looked at again after the others."""
    num_taken = 0
    while not failed.is_set():
        try:
            cell = waiting.popleft()
        except IndexError:
            return
        if worker.do(*cell, stop_at=stop_at):
            num_taken = 0
            continue
        waiting.append(cell)
        num_taken += 1
        if num_taken >= len(waiting):  # nothing is left but the runs of other processes
            if stop_at is not None and stop_at(0):
                raise KeyboardInterrupt  # nothing of this process is left to save
            failed.wait(_POLL_S)
            num_taken = 0


def _side_by_side(workers: Sequence["_Worker"], waiting: collections.deque[tuple[Variant, int]]) -> None:
    """Let each worker take the next run when it has finished one.

    An error in one worker makes the others stop after their current step. The error is raised when all have stopped.
    """
    failed = threading.Event()
    with stop_requests() as stop_at, ThreadPoolExecutor(len(workers)) as pool:

        def work(worker: _Worker) -> None:
            try:
                _work(worker, waiting, failed, lambda step: failed.is_set() or stop_at(step))
            except BaseException:
                failed.set()
                raise

        futures = [pool.submit(work, worker) for worker in workers]
        errors = [error for error in (future.exception() for future in futures) if error is not None]
    # The workers that were stopped by another one's error end with Preempted: raise that error rather than theirs.
    for error in sorted(errors, key=lambda error: isinstance(error, Preempted)):
        raise error


class _Worker:
    """Worker that trains and scores runs on one mesh, one after the other."""

    def __init__(self, study: Study, layout: Layout, mesh: Mesh, display: GridDisplay):
        self._study, self._layout, self._mesh, self._display = study, layout, mesh, display
        self.programs = SharedPrograms(mesh)
        self.diverged: list[str] = []

    def do(self, variant: Variant, seed: int, stop_at: Callable[[int], bool] | None = None) -> bool:
        """Train and score a run unless it is done; note it in `diverged` if its loss is not finite.

        Returns:
          False if another process, perhaps on another host, is doing it. Its lock is released however it ends.
        """
        scores, path = scores_path(self._study, variant, seed), self._study.run_path(variant, seed)
        try:
            if not scores.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                with try_lock(path.parent / f"{path.name}.lock") as holder:
                    if holder is not None:
                        self._display.elsewhere(variant.name, seed, holder)
                        return False
                    if not scores.exists():  # another process may have finished it just now
                        self._train_and_score(variant, seed, self._display.cell(variant.name, seed), stop_at)
            self._display.finish(variant.name, seed, f"Dice {mean_score(read_scores(scores).values['dice']):.4f}")
        except NonFiniteLossError as error:
            self.diverged.append(f"{variant.name}, seed {seed}: {error}")
            self._display.finish(variant.name, seed, "diverged")
        _check_paired(self._study, path)
        return True

    def _train_and_score(
        self, variant: Variant, seed: int, display: Display, stop_at: Callable[[int], bool] | None
    ) -> None:
        """Train a run to its end, score its best checkpoint on the study's split, and write the scores."""
        study, path = self._study, self._study.run_path(variant, seed)
        config = study.run_config(variant, seed)
        train(config, path, display=display, mesh=self._mesh, make_program=self.programs, stop_at=stop_at)
        run = load_run(path, mesh=self._mesh)
        _, _, records = select_records(run, study.config.data, study.split)
        drawn, positions = [], example_positions(len(records))

        def draw(i: int, probs: np.ndarray, truth: np.ndarray, valid: np.ndarray | None) -> None:
            if i in positions:
                drawn.append(draw_example(run, self._layout, records[i], probs, truth, valid))

        with display.bar(f"scoring {study.split}", len(records), unit="images") as show:
            table = score_run(run, self._layout, records, on_image=draw, on_progress=lambda done: show(done, ""))
        save_examples(examples_path(study, variant, seed), drawn)
        write_scores(scores_path(study, variant, seed), table)


def _check_data(study: Study) -> Layout:
    """Check the scored split, the class weights and the users' own losses, and return the data set's layout.

    Mistakes in these would otherwise stop the study only after hours of training.
    """
    layout = find_layout(study.config.data)
    splits = assign_splits(layout, study.config.data)
    if not splits[study.split]:
        raise InputError(
            f"{study.config.data.root}: the split {study.split!r}, which the study scores, is empty. Name its images "
            f"in data.splits (a CSV file with the columns id,split), or set study.split to 'val' (the images by which "
            f"the best checkpoints were chosen)."
        )
    for variant in study.variants:
        try:
            check_settings(study.run_config(variant, study.seeds[0]))
        except InputError as error:
            raise InputError(f"variant {variant.name!r}: {error}") from error
        for term in variant.loss.terms:
            if term.class_weight and len(term.class_weight) != len(layout.class_names):
                raise InputError(
                    f"variant {variant.name!r}: class_weight of {term.name!r} has {len(term.class_weight)} values, but "
                    f"the data set has {len(layout.class_names)} classes: {', '.join(layout.class_names)}."
                )
        make_loss(variant.loss)  # imports the user's own losses, which may fail
    return layout


def _check_runs(study: Study) -> None:
    """Raise `InputError` if an existing run was begun with other settings than the study's."""
    for variant in study.variants:
        for seed in study.seeds:
            path = study.run_path(variant, seed)
            if not info_path(path).exists():
                continue
            remedy = "Give the variant another name, remove the folder, or choose another study.out."
            info, config = load_info(path), study.run_config(variant, seed)
            check_same_run(path, info.config, config, remedy)
            check_loss_code(path, info.loss_code, config.loss, remedy)


def _check_paired(study: Study, path: epath.Path) -> None:
    """Raise `InputError` if the run in `path` has other images, splits or classes than the other runs."""
    mine = load_info(path)
    for variant, seed in itertools.product(study.variants, study.seeds):
        other = study.run_path(variant, seed)
        if other == path or not info_path(other).exists():
            continue
        theirs = load_info(other)
        if (mine.splits, mine.class_names) != (theirs.splits, theirs.class_names):
            raise InputError(
                f"{path} and {other}: these runs were begun with different images or classes, so they cannot be "
                f"compared. Restore the data set and remove one of the runs, or start a new study with another "
                f"study.out."
            )
        return


def evaluations(study: Study, variant: Variant, seed: int) -> list[dict]:
    """Return the rows of a run's metrics.jsonl that hold an evaluation on the validation split."""
    rows = MetricsFile(study.run_path(variant, seed) / "metrics.jsonl").read()
    return [row for row in rows if "eval/loss" in row]
