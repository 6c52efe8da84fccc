"""A study's runs, one after the other; killed at any moment, the same command continues.

OUT/runs/VARIANT/seedN/          an ordinary run, and
OUT/runs/VARIANT/seedN/SPLIT.csv its best checkpoint's scores per image and class: written last, so a run that has them
                                 is done
OUT/log.txt                      what the runs had to say
"""

import json
import statistics
from collections.abc import Iterable

from etils import epath
from jax.sharding import Mesh

from unet_jax._types import InputError
from unet_jax.build import make_loss
from unet_jax.config_dict import config_differences
from unet_jax.data.layout import Layout, find_layout
from unet_jax.data.splits import assign_splits
from unet_jax.evaluate import select_records
from unet_jax.runs import info_path, load_info, load_run
from unet_jax.sharding import check_batch_size, make_mesh
from unet_jax.study.grid_display import GridDisplay
from unet_jax.study.scoring import read_scores, score_run, write_scores
from unet_jax.study.shared_program import SharedPrograms
from unet_jax.study.study_config import Study, Variant
from unet_jax.training import NonFiniteLossError, train
from unet_jax.writers import MetricsFile

_COST_FILE = "cost.json"


def scores_path(study: Study, variant: Variant, seed: int) -> epath.Path:
    """The file whose presence makes a run done."""
    return study.run_path(variant, seed) / f"{study.split}.csv"


def run_study(study: Study, *, display: GridDisplay | None = None, mesh: Mesh | None = None) -> None:
    """Trains and scores what is not done yet: all variants of the first seed, then of the next.

    Raises:
      InputError: the data set, a loss or the devices cannot be used, or `out` holds runs of another study.
      NonFiniteLossError: runs diverged; said when all others are done.
    """
    mesh = mesh or make_mesh()
    check_batch_size(study.config.train.batch_size, mesh)
    layout = _check_data(study)
    _check_runs(study)
    programs = SharedPrograms(mesh)
    cells = [(variant, seed) for seed in study.seeds for variant in study.variants]
    display, diverged = display or GridDisplay(), list[str]()
    out = epath.Path(study.out)
    out.mkdir(parents=True, exist_ok=True)
    with display.grid([v.name for v in study.variants], study.seeds, out / "log.txt"):
        for variant, seed in cells:
            path, scores = study.run_path(variant, seed), scores_path(study, variant, seed)
            with display.cell(variant.name, seed) as finish:
                try:
                    if not scores.exists():
                        _one(study, variant, seed, layout, mesh, programs, display)
                    finish(f"Dice {read_scores(scores).values['dice'].mean():.4f}")
                except NonFiniteLossError as error:
                    diverged.append(f"{variant.name}, seed {seed}: {error}")
                    finish("diverged")
            _check_paired(study, path, cells)
    if diverged:
        raise NonFiniteLossError(
            f"{len(diverged)} runs diverged, and the others are done:\n  " + "\n  ".join(diverged) + "\n"
            "Take their variants out of the study to compare the others, or begin anew with other settings."
        )


def _one(
    study: Study,
    variant: Variant,
    seed: int,
    layout: Layout,
    mesh: Mesh,
    programs: SharedPrograms,
    display: GridDisplay,
) -> None:
    path = study.run_path(variant, seed)
    config = study.run_config(variant, seed)
    train(config, path, display=display, mesh=mesh, make_program=programs)
    run = load_run(path, mesh=mesh)
    num_bytes = programs.step_bytes(config, len(run.class_names), run.info.num_steps)
    if num_bytes is not None:  # this process compiled it
        (path / _COST_FILE).write_text(json.dumps({"step_bytes": num_bytes}) + "\n")
    _, _, records = select_records(run, study.config.data, study.split)
    with display.bar(f"scoring {study.split}", len(records), unit="images") as show:
        table = score_run(run, layout, records, on_progress=lambda done: show(done, ""))
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
            differences = config_differences(load_info(path).config, study.run_config(variant, seed))
            if differences:
                shown = "\n  ".join(f"{name}: was {old!r}, now {new!r}" for name, (old, new) in differences.items())
                raise InputError(
                    f"{path}: holds a run with other settings:\n  {shown}\n"
                    f"Give the variant another name, remove the folder, or choose another study.out."
                )


def _check_paired(study: Study, path: epath.Path, cells: Iterable[tuple[Variant, int]]) -> None:
    """All runs must have had the same images in the same splits."""
    mine = load_info(path)
    for variant, seed in cells:
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


def step_ms(study: Study, variant: Variant) -> float | None:
    """Median over all evaluations and seeds of the wall time of a training step, waiting for data included."""
    times = []
    for seed in study.seeds:
        for row in evaluations(study, variant, seed):
            if float(row["images_per_s"]) > 0:
                times.append(1000.0 * study.config.train.batch_size / float(row["images_per_s"]))
    return statistics.median(times) if times else None


def step_bytes(study: Study, variant: Variant) -> int | None:
    """Device memory of a training step by its compiler, where that was kept."""
    for seed in study.seeds:
        path = study.run_path(variant, seed) / _COST_FILE
        if path.exists():
            return json.loads(path.read_text())["step_bytes"]
    return None


def evaluations(study: Study, variant: Variant, seed: int) -> list[dict]:
    """The lines of a run's metrics that belong to evaluations on val."""
    rows = MetricsFile(study.run_path(variant, seed) / "metrics.jsonl").read()
    return [row for row in rows if "eval/loss" in row]
