"""A study's runs, one after the other or side by side; killed at any moment, the same command continues.

OUT/runs/VARIANT/seedN/          an ordinary run, and
OUT/runs/VARIANT/seedN/SPLIT.csv its best checkpoint's scores per image and class: written last, so a run that has them
                                 is done
OUT/log.txt                      what the runs had to say
OUT/cost.csv                     time and memory of a training step, once all runs are done
"""

import collections
import itertools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from etils import epath
from jax.sharding import Mesh

from unet_jax._types import InputError, Preempted
from unet_jax.config.dicts import check_same_run
from unet_jax.data.layout import Layout, find_layout
from unet_jax.data.splits import assign_splits
from unet_jax.devices.mesh import check_batch_size, check_rows, make_mesh
from unet_jax.inference.evaluate import select_records
from unet_jax.program.build import make_loss
from unet_jax.report.display import Display
from unet_jax.report.metrics_file import MetricsFile
from unet_jax.runs.info import info_path, load_info
from unet_jax.runs.load import load_run
from unet_jax.study.config import Study, Variant
from unet_jax.study.cost import measure_costs
from unet_jax.study.display import GridDisplay
from unet_jax.study.scores import read_scores, score_run, write_scores
from unet_jax.study.shared_program import SharedPrograms
from unet_jax.training.loop import NonFiniteLossError, train
from unet_jax.training.preemption import stop_requests


def scores_path(study: Study, variant: Variant, seed: int) -> epath.Path:
    """The file whose presence makes a run done."""
    return study.run_path(variant, seed) / f"{study.split}.csv"


def run_study(study: Study, *, display: GridDisplay | None = None, mesh: Mesh | None = None) -> None:
    """Trains and scores what is not done yet: all variants of the first seed, then of the next.

    With more devices than `study.devices_per_run`, as many runs as fit are under way at once, each in a thread and on
    devices of its own; every run is the same as if it were alone there.

    Raises:
      InputError: the data set, a loss or the devices cannot be used, or `out` holds runs of another study.
      NonFiniteLossError: runs diverged; said when all others are done.
      Preempted: told to stop; what was under way is saved.
    """
    mesh = mesh or make_mesh()
    meshes = _meshes(study, mesh)
    layout = _check_data(study)
    _check_runs(study)
    cells = [(variant, seed) for seed in study.seeds for variant in study.variants]
    display = display or GridDisplay()
    out = epath.Path(study.out)
    out.mkdir(parents=True, exist_ok=True)
    workers = [_Worker(study, layout, own, display) for own in meshes[: len(cells)]]
    with display.grid([v.name for v in study.variants], study.seeds, out / "log.txt"):
        if len(workers) == 1:  # in this thread, which signals reach
            for cell in cells:
                workers[0].do(*cell)
        else:
            _side_by_side(workers, cells)
    diverged = [reason for worker in workers for reason in worker.diverged]
    if diverged:
        raise NonFiniteLossError(
            f"{len(diverged)} runs diverged, and the others are done:\n  " + "\n  ".join(diverged) + "\n"
            "Take their variants out of the study to compare the others, or begin anew with other settings."
        )
    measure_costs(study, workers[0].programs, meshes[0], display)


def _meshes(study: Study, mesh: Mesh) -> list[Mesh]:
    """Devices of the runs that are under way at once."""
    size = study.devices_per_run
    if size > mesh.size:
        raise InputError(f"study.devices_per_run is {size}, but there are {mesh.size} devices: give that at most.")
    devices = list(mesh.devices.flat)
    config, starts = study.config, range(0, len(devices) - size + 1, size)
    meshes = [make_mesh(devices[i : i + size], space=config.train.devices_per_image) for i in starts]
    check_batch_size(config.train.batch_size, meshes[0])
    check_rows(config.data.image_size, config.model.size_multiple, meshes[0])
    return meshes


def _side_by_side(workers: Sequence["_Worker"], cells: Sequence[tuple[Variant, int]]) -> None:
    """Each worker takes the next run when it has done one. An error in one stops the others after their step."""
    waiting, failed = collections.deque(cells), threading.Event()
    with stop_requests() as stop_at, ThreadPoolExecutor(len(workers)) as pool:

        def work(worker: _Worker) -> None:
            try:
                while waiting and not failed.is_set():
                    worker.do(*waiting.popleft(), stop_at=lambda step: failed.is_set() or stop_at(step))
            except BaseException:
                failed.set()
                raise

        futures = [pool.submit(work, worker) for worker in workers]
        errors = [error for error in (future.exception() for future in futures) if error is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, Preempted)):  # what stopped the others comes first
        raise error


class _Worker:
    """Does runs on some devices, one after the other."""

    def __init__(self, study: Study, layout: Layout, mesh: Mesh, display: GridDisplay):
        self._study, self._layout, self._mesh, self._display = study, layout, mesh, display
        self.programs = SharedPrograms(mesh)
        self.diverged: list[str] = []

    def do(self, variant: Variant, seed: int, stop_at: Callable[[int], bool] | None = None) -> None:
        """Trains and scores a run unless it is done."""
        scores, display = scores_path(self._study, variant, seed), self._display.cell(variant.name, seed)
        try:
            if not scores.exists():
                self._train_and_score(variant, seed, display, stop_at)
            display.finish(f"Dice {read_scores(scores).values['dice'].mean():.4f}")
        except NonFiniteLossError as error:
            self.diverged.append(f"{variant.name}, seed {seed}: {error}")
            display.finish("diverged")
        _check_paired(self._study, self._study.run_path(variant, seed))

    def _train_and_score(
        self, variant: Variant, seed: int, display: Display, stop_at: Callable[[int], bool] | None
    ) -> None:
        study, path = self._study, self._study.run_path(variant, seed)
        config = study.run_config(variant, seed)
        train(config, path, display=display, mesh=self._mesh, make_program=self.programs, stop_at=stop_at)
        run = load_run(path, mesh=self._mesh)
        _, _, records = select_records(run, study.config.data, study.split)
        with display.bar(f"scoring {study.split}", len(records), unit="images") as show:
            table = score_run(run, self._layout, records, on_progress=lambda done: show(done, ""))
        write_scores(scores_path(study, variant, seed), table)


def _check_data(study: Study) -> Layout:
    """What would otherwise fail after hours: the split that is scored, classes and the users' own losses."""
    layout = find_layout(study.config.data)
    splits = assign_splits(layout, study.config.data)
    if not splits[study.split]:
        raise InputError(
            f"{study.config.data.root}: the split {study.split!r}, which the study scores, is empty. Name its images "
            f"in data.splits (a CSV file with the columns id,split), or set study.split to 'val' (the images that "
            f"chose the checkpoints)."
        )
    for variant in study.variants:
        for term in variant.loss.terms:
            if term.class_weight and len(term.class_weight) != len(layout.class_names):
                raise InputError(
                    f"variant {variant.name!r}: class_weight of {term.name!r} has {len(term.class_weight)} values, but "
                    f"the data set has {len(layout.class_names)} classes: {', '.join(layout.class_names)}."
                )
        make_loss(variant.loss)  # imports what is the user's own
    return layout


def _check_runs(study: Study) -> None:
    """Runs that are there must be this study's."""
    for variant in study.variants:
        for seed in study.seeds:
            path = study.run_path(variant, seed)
            if not info_path(path).exists():
                continue
            remedy = "Give the variant another name, remove the folder, or choose another study.out."
            check_same_run(path, load_info(path).config, study.run_config(variant, seed), remedy)


def _check_paired(study: Study, path: epath.Path) -> None:
    """All runs must have had the same images in the same splits."""
    mine = load_info(path)
    for variant, seed in itertools.product(study.variants, study.seeds):
        other = study.run_path(variant, seed)
        if other == path or not info_path(other).exists():
            continue
        theirs = load_info(other)
        if (mine.splits, mine.class_names) != (theirs.splits, theirs.class_names):
            raise InputError(
                f"{path} and {other}: were begun with different images or classes, so they cannot be compared. Restore "
                f"the data set and remove one of them, or start anew with another study.out."
            )
        return


def evaluations(study: Study, variant: Variant, seed: int) -> list[dict]:
    """The lines of a run's metrics that belong to evaluations on val."""
    rows = MetricsFile(study.run_path(variant, seed) / "metrics.jsonl").read()
    return [row for row in rows if "eval/loss" in row]
