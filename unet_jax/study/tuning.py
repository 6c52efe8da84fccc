"""Tuning of a study's variants: the same number of trials for each, scored on val only, before the runs of the study.

OUT/tune/VARIANT/trialN/           run directory of a trial; with -1ofP, one that is trained for 1/P of the run's length
OUT/tune/VARIANT/trialN/trial.csv  best Dice on val; written last, so a trial that has this file is done
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from etils import epath
from jax.sharding import Mesh

from unet_jax._files import replace_text
from unet_jax._types import InputError
from unet_jax.config.dicts import replace
from unet_jax.config.presets import check_settings
from unet_jax.program.objective import make_loss
from unet_jax.report.display import Display
from unet_jax.study.checked_table import checked_csv, read_checked
from unet_jax.study.config import Study, Variant
from unet_jax.study.display import GridDisplay
from unet_jax.study.jobs import Crew, Job, check_jobs
from unet_jax.study.search import Range
from unet_jax.training.loop import TrainResult

_COLUMNS = ("trial", "val_dice")
_REMEDY = (
    "Its settings were changed after the tuning had begun. Give the variant another name, remove the folder, or choose "
    "another study.out."
)


class Trial(NamedTuple):
    """A trial of a variant that is done."""

    number: int
    """Number of the trial; 0 has the settings of the file."""
    part: float
    """Part of the run's length that it was trained for."""
    val_dice: float
    """Mean Dice of its best checkpoint on val; nan if it diverged."""


@dataclasses.dataclass(frozen=True)
class Tuned:
    """Result of the tuning of one variant."""

    variant: str
    """Name of the variant."""
    draws: tuple[dict[str, Any], ...]
    """Values that each trial has, by setting."""
    trials: tuple[Trial, ...]
    """Trials that were trained, in the order of rounds and numbers."""
    chosen: int
    """Number of the trial whose settings the runs of the study have."""
    at_ends: tuple[str, ...]
    """Tuned settings whose chosen value is the smallest or largest of those that could be tried."""

    @property
    def values(self) -> dict[str, Any]:
        """Chosen values by setting; empty if those of the file are the best."""
        return self.draws[self.chosen]

    def val_dice(self, number: int) -> float:
        """Return the Dice on val of a trial of the whole length."""
        return next(trial.val_dice for trial in self.trials if (trial.number, trial.part) == (number, 1.0))

    @property
    def gain(self) -> float:
        """Dice on val with the chosen values minus that with the settings of the file; nan if that diverged."""
        return self.val_dice(self.chosen) - self.val_dice(0)


def list_trials(study: Study, variant: Variant, part: float, numbers: Sequence[int]) -> list[Job]:
    """Return the jobs of some trials of a variant, which are trained for a part of the run's length."""
    assert study.tune is not None
    draws, jobs = study.draws(variant), []
    for number in numbers:
        config = study.run_config(variant.with_values(draws[number]), study.tune.seed)
        if part < 1.0:
            unit = "train.num_steps" if config.train.num_steps else "train.num_epochs"
            length = config.train.num_steps or config.train.num_epochs
            config = replace(config, {unit: max(1, round(part * length))})
        folder = f"trial{number}" if part == 1.0 else f"trial{number}-1of{round(1.0 / part)}"
        path = epath.Path(study.out) / "tune" / variant.name / folder
        jobs.append(
            Job(
                row=variant.name,
                column=f"trial {number}",
                config=config,
                path=path,
                result=path / "trial.csv",
                score=functools.partial(_write, number),
                describe=_describe,
                on_divergence=functools.partial(_write_diverged, number),
            )
        )
    return jobs


def check_trials(study: Study) -> None:
    """Raise `InputError` if a trial cannot be trained, or was begun with other settings."""
    assert study.tune is not None
    for variant in study.variants:
        numbers = range(len(study.draws(variant)))
        for part, _ in study.tune.rungs(len(numbers)):
            jobs = list_trials(study, variant, part, numbers)
            check_jobs(jobs, _REMEDY)
        for job in jobs:
            try:
                check_settings(job.config)
            except InputError as error:
                raise InputError(f"{job.column} of the variant {variant.name!r}: {error}") from error
            make_loss(job.config.loss)


def tune_study(study: Study, crew: Crew, display: GridDisplay) -> None:
    """Do all trials that are not done yet, round after round."""
    assert study.tune is not None
    num_trials = len(study.draws(study.variants[0]))
    rungs = study.tune.rungs(num_trials)
    for rung, (part, _) in enumerate(rungs):
        by_variant = [list_trials(study, v, part, _numbers(study, v, rung)) for v in study.variants]
        # All variants with a trial, then with the next one: losses of one structure share its compiled step.
        jobs = sorted((job for of_one in by_variant for job in of_one), key=lambda job: int(job.column.split()[1]))
        length = "" if part == 1.0 else f" for 1/{round(1.0 / part)} of the length"
        display.line(f"tuning, round {rung + 1} of {len(rungs)}: {len(jobs)} trials{length}, scored on val")
        with display.grid([(job.row, job.column) for job in jobs], epath.Path(study.out) / "log.txt"):
            crew.work_through(jobs, lambda job: None)


def read_tuning(study: Study) -> tuple[Tuned, ...]:
    """Return what the tuning of each variant has found; empty if the study is not tuned.

    Raises:
      InputError: a trial is not done yet, or all trials of a variant diverged.
    """
    return tuple(_tuned(study, variant) for variant in study.variants) if study.tune is not None else ()


def with_tuning(study: Study) -> Study:
    """Return the study whose variants have the chosen values.

    Raises:
      InputError: the same as in `read_tuning`.
    """
    tuned = read_tuning(study)
    if not tuned:
        return study
    variants = (v.with_values(found.values) for v, found in zip(study.variants, tuned, strict=True))
    return dataclasses.replace(study, variants=tuple(variants))


def _tuned(study: Study, variant: Variant) -> Tuned:
    assert study.tune is not None
    draws, trials = study.draws(variant), []
    rungs = study.tune.rungs(len(draws))
    for rung, (part, _) in enumerate(rungs):
        trials += _read(study, variant, part, _numbers(study, variant, rung))
    best = _best([trial for trial in trials if trial.part == 1.0], 1)[0]
    if math.isnan(best.val_dice):
        raise InputError(f"{study.out}: all trials of the variant {variant.name!r} diverged. Tune smaller values.")
    return Tuned(variant.name, tuple(draws), tuple(trials), best.number, _at_ends(study, variant, draws, best.number))


def _numbers(study: Study, variant: Variant, rung: int) -> list[int]:
    """Return the trials of a round: all in the first, and later the best of the round before, and trial 0."""
    assert study.tune is not None
    num_trials = len(study.draws(variant))
    numbers, rungs = list(range(num_trials)), study.tune.rungs(num_trials)
    for (part, _), (_, count) in itertools.pairwise(rungs[: rung + 1]):
        best = _best(_read(study, variant, part, numbers), count)
        numbers = sorted({0, *(trial.number for trial in best)})
    return numbers


def _best(trials: Sequence[Trial], count: int) -> list[Trial]:
    """Return the best trials; one that diverged is the worst, and of equal ones the first is better."""
    return sorted(trials, key=lambda t: (-1.0 if math.isnan(t.val_dice) else t.val_dice, -t.number), reverse=True)[
        :count
    ]


def _read(study: Study, variant: Variant, part: float, numbers: Sequence[int]) -> list[Trial]:
    """Read the results of trials.

    Raises:
      InputError: one is not done yet, or its file is not the one that was written.
    """
    jobs = list_trials(study, variant, part, numbers)
    return [Trial(number, part, _read_dice(job.result)) for number, job in zip(numbers, jobs, strict=True)]


def _read_dice(path: epath.Path) -> float:
    if not path.exists():
        raise InputError(f"{path}: is not there yet. Run the study to its end first.")
    try:
        (row,) = read_checked(path.read_bytes().decode(), _COLUMNS)
        value = float(row["val_dice"])
        if not (0.0 <= value <= 1.0 or math.isnan(value)):
            raise ValueError(f"{value} is no Dice")
    except ValueError as error:
        raise InputError(
            f"{path}: is not the result of the trial that was written ({error}). Remove it; the same command then "
            f"writes it again."
        ) from error
    return value


def _write(number: int, job: Job, trained: TrainResult, mesh: Mesh, display: Display) -> None:
    replace_text(job.result, checked_csv(_COLUMNS, [(number, repr(float(trained.best_metrics["dice"])))]))


def _write_diverged(number: int, job: Job) -> None:
    replace_text(job.result, checked_csv(_COLUMNS, [(number, "nan")]))


def _describe(result: epath.Path) -> str:
    value = _read_dice(result)
    return "diverged" if math.isnan(value) else f"val Dice {value:.4f}"


def _at_ends(study: Study, variant: Variant, draws: Sequence[dict[str, Any]], chosen: int) -> tuple[str, ...]:
    """Return the settings whose chosen value is the smallest or largest that was tried, so that more may be better."""
    assert study.tune is not None
    found = []
    for name, values in {**study.tune.space, **variant.tune}.items():
        if name not in draws[chosen]:
            continue
        tried = [draw[name] for draw in draws if name in draw] if isinstance(values, Range) else list(values)
        ordered = all(type(value) in (int, float) for value in tried) and len(set(tried)) > 2
        if ordered and draws[chosen][name] in (min(tried), max(tried)):
            found.append(name)
    return tuple(found)
