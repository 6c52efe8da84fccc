"""`run_study`, which trains and scores the runs of a study, one after the other or side by side.

A study may be killed at any moment: the same command continues it. Files in the study's folder OUT:

OUT/runs/VARIANT/seedN/           run directory like that of any other run
OUT/runs/VARIANT/seedN/SPLIT.csv  scores of the run's best checkpoint, per image and class; written last, so a run that
                                  has this file is done
OUT/runs/VARIANT/seedN.lock       lock of the process that does the run
OUT/runs/VARIANT/seedN-foldM/     the same for each fold, if the study has folds; OUT/folds has their splits
OUT/runs/VARIANT/seedN/SPLIT.png  errors of its predictions on some of the images
OUT/log.txt                       lines that the runs printed
OUT/cost.csv                      time and memory of a training step; written when all runs are done
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence

import numpy as np
from etils import epath
from jax.sharding import Mesh

from unet_jax._types import InputError
from unet_jax.config.presets import check_settings
from unet_jax.data.layout import find_layout
from unet_jax.data.splits import assign_splits
from unet_jax.devices.mesh import make_mesh
from unet_jax.inference.evaluate import select_records
from unet_jax.metrics.scores import mean_score
from unet_jax.program.objective import make_loss
from unet_jax.report.display import Display
from unet_jax.report.metrics_file import MetricsFile
from unet_jax.runs.info import info_path, load_info
from unet_jax.runs.load import load_run
from unet_jax.study.compare import few_seeds
from unet_jax.study.config import Study, Unit, Variant
from unet_jax.study.display import GridDisplay
from unet_jax.study.examples import draw_example, example_positions, save_examples
from unet_jax.study.folds import plan_folds, write_folds
from unet_jax.study.jobs import Crew, Job, check_jobs
from unet_jax.study.scores import read_scores, score_run, scores_path, write_scores
from unet_jax.study.tuning import check_trials, tune_study, with_tuning
from unet_jax.study.workers import Workers
from unet_jax.training.loop import TrainResult
from unet_jax.training.non_finite import NonFiniteLossError

_REMEDY = "Give the variant another name, remove the folder, or choose another study.out."


def examples_path(study: Study, variant: Variant, seed: int, fold: int | None = None) -> epath.Path:
    """Return the path of the picture of some of a run's predictions."""
    return study.run_path(variant, seed, fold) / f"{study.split}.png"


def with_split(study: Study) -> Study:
    """Return the study with the split that is scored: where the study leaves it open, test, or val if there is none.

    The first run says which splits there are, or, before it has begun, the data set. A fold is the test split of the
    run that it is held out from.
    """
    if study.split != "auto":
        return study
    if study.folds:
        return dataclasses.replace(study, split="test")
    first = study.run_path(study.variants[0], study.seeds[0])
    data = study.config.data
    splits = load_info(first).splits if info_path(first).exists() else assign_splits(find_layout(data), data)
    return dataclasses.replace(study, split="test" if splits.get("test") else "val")


def run_study(study: Study, *, display: GridDisplay | None = None, mesh: Mesh | None = None) -> None:
    """Train and score all runs that are not done yet: all variants with the first seed (and fold), then with the next.

    If there are more devices than `study.devices_per_run`, as many runs as fit are computed at once. Each of them has
    its own devices, and has the same result as if it were alone. Other processes, also on other hosts, may call this
    function with the same study and folder: each run is done by one of them. When all runs are done, the training
    steps of all variants are timed. The docstring of `unet_jax.study` has an example.

    Args:
      study: the study, from `load_study` or made in Python.
      display: where progress is shown; by default on standard error.
      mesh: devices to use, from `make_mesh`; by default all.

    Raises:
      InputError: the data set, a loss or the devices cannot be used, or `study.out` holds runs with other settings.
      NonFiniteLossError: some runs diverged. It is raised when all other runs are done.
      Preempted: SIGTERM or Ctrl-C came during training. The runs that were being trained are saved.
    """
    run_studies((study,), display=display, mesh=mesh)


def run_studies(
    studies: Sequence[Study],
    *,
    display: GridDisplay | None = None,
    mesh: Mesh | None = None,
    make_crew: Callable[[Study, GridDisplay], Crew] | None = None,
) -> None:
    """Do what `run_study` does, for the studies of several data sets, one after the other.

    All of them are checked before the first run begins. Runs that diverge on one data set do not stop the others.

    Args:
      studies: studies from `load_studies`.
      display, mesh: the same as in `run_study`.
      make_crew: function that makes what does the jobs of a study, such as `unet_jax.study.launch.Cluster`; by default
        workers in this process, with the devices of `mesh`.

    Raises:
      InputError, NonFiniteLossError, Preempted: the same as in `run_study`.
    """
    display = display or GridDisplay()
    if make_crew is None:
        make_crew = functools.partial(_workers, mesh or make_mesh())
    resolved = []
    for study in studies:
        try:
            make_crew(study, display)  # checks the devices
            resolved.append(with_split(study))
            check_study(resolved[-1])
        except InputError as error:
            raise InputError(f"data set {study.dataset!r}: {error}" if study.dataset else str(error)) from error
    diverged = []
    for study, open_study in zip(resolved, studies, strict=True):
        try:
            _run(study, display, make_crew, is_open=open_study.split == "auto")
        except NonFiniteLossError as error:
            diverged.append(f"{study.dataset}: {error}" if study.dataset else str(error))
    if diverged:
        raise NonFiniteLossError("\n".join(diverged))


def _workers(mesh: Mesh, study: Study, display: GridDisplay) -> Crew:
    return Workers(study, mesh, display)


def _run(study: Study, display: GridDisplay, make_crew: Callable[[Study, GridDisplay], Crew], *, is_open: bool) -> None:
    """Do the runs of a checked study and measure costs."""
    out = epath.Path(study.out)
    out.mkdir(parents=True, exist_ok=True)
    num_left_out = write_folds(study)
    for text in warnings(study, is_open=is_open, num_left_out=num_left_out):
        display.line(f"WARNING: {text}")
    if study.tune is not None:
        tune_study(study, make_crew(study, display), display)
        study = with_tuning(study)
        check_jobs(list_jobs(study), _REMEDY)
    crew, jobs = make_crew(study, display), list_jobs(study)
    with display.grid([(job.row, job.column) for job in jobs], out / "log.txt"):
        diverged = crew.work_through(jobs, lambda job: _check_paired(study, job.path))
    if diverged:
        raise NonFiniteLossError(
            "\n  ".join([f"{len(diverged)} of {len(jobs)} runs diverged, and the others are done:", *diverged]) + "\n"
            "Remove their variants from the study to compare the others, or start a new study with other settings."
        )
    crew.finish(study)


def warnings(study: Study, *, is_open: bool, num_left_out: int = 0) -> list[str]:
    """Say what limits the conclusions before anything is trained.

    Args:
      study: the study, with its split resolved.
      is_open: whether the study did not name a split.
      num_left_out: number of images that are in no fold.
    """
    lines = [said] if (said := few_seeds(len(study.seeds), study.folds)) else []
    if num_left_out:
        lines.append(
            f"the {num_left_out} images of the data set's test split are in no fold: they are neither trained on nor "
            f"scored."
        )
    if is_open and study.split == "val":
        lines.append(
            "the data set has no test split: the images of val are scored, by which the best checkpoints are chosen "
            "too."
        )
    return [f"{study.dataset}: {line}" if study.dataset else line for line in lines]


def list_jobs(study: Study) -> list[Job]:
    """Return the jobs of all runs: all variants with the first seed (and fold), then with the next."""
    return [
        Job(
            row=variant.name,
            column=unit.name,
            config=study.run_config(variant, *unit),
            path=study.run_path(variant, *unit),
            result=scores_path(study, variant, *unit),
            score=functools.partial(_score, study, variant, unit),
            describe=_describe,
        )
        for unit in study.units
        for variant in study.variants
    ]


def _score(
    study: Study, variant: Variant, unit: Unit, job: Job, trained: TrainResult, mesh: Mesh, display: Display
) -> None:
    """Score the best checkpoint of a trained run on the study's split, and write the scores."""
    run = load_run(job.path, mesh=mesh)
    _, layout, records = select_records(run, study.data_of(*unit), study.split)
    drawn, positions = [], example_positions(len(records))

    def draw(i: int, probs: np.ndarray, truth: np.ndarray, valid: np.ndarray | None) -> None:
        if i in positions:
            drawn.append(draw_example(run, layout, records[i], probs, truth, valid))

    with display.bar(f"scoring {study.split}", len(records), unit="images") as show:
        table = score_run(run, layout, records, on_image=draw, on_progress=lambda done: show(done, ""))
    save_examples(examples_path(study, variant, *unit), drawn)
    write_scores(job.result, table)


def _describe(scores: epath.Path) -> str:
    return f"Dice {mean_score(read_scores(scores).values['dice']):.4f}"


def check_study(study: Study) -> None:
    """Raise `InputError` for what would otherwise stop a study only after hours of training.

    That is the scored split, class weights, the users' own losses, settings that are refused, and runs that were begun
    with other settings.
    """
    layout = find_layout(study.config.data)
    plan_folds(study)
    if not study.folds and not assign_splits(layout, study.config.data)[study.split]:
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
    if study.tune is None:
        check_jobs(list_jobs(study), _REMEDY)
    else:
        check_trials(study)


def _check_paired(study: Study, path: epath.Path) -> None:
    """Raise `InputError` if the run in `path` has other images, splits or classes than the other runs."""
    mine = load_info(path)
    for variant, unit in itertools.product(study.variants, study.units):
        other = study.run_path(variant, *unit)
        is_paired = not study.folds or other.name == path.name  # other folds have other images
        if other == path or not is_paired or not info_path(other).exists():
            continue
        theirs = load_info(other)
        if (mine.splits, mine.class_names) != (theirs.splits, theirs.class_names):
            raise InputError(
                f"{path} and {other}: these runs were begun with different images or classes, so they cannot be "
                f"compared. Restore the data set and remove one of the runs, or start a new study with another "
                f"study.out."
            )
        return


def evaluations(study: Study, variant: Variant, unit: Unit) -> list[dict]:
    """Return the rows of a run's metrics.jsonl that hold an evaluation on the validation split."""
    rows = MetricsFile(study.run_path(variant, *unit) / "metrics.jsonl").read()
    return [row for row in rows if "eval/loss" in row]
