"""Sentences and tables about the tuning of a study's variants."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from unet_jax.report.estimates_table import number
from unet_jax.study.config import Study
from unet_jax.study.page_parts import folded, note, table
from unet_jax.study.tuning import Tuned

UNTUNED = (
    "No variant was tuned: all were trained with the settings of the study's file, which may suit one of them better "
    "than another."
)
TUNING_COLUMNS = ("variant", "trial", "part_of_length", "values", "val_dice", "chosen")


def tuned_how(study: Study) -> str:
    """Say how the variants were tuned, or what the comparison lacks if they were not."""
    tune = study.tune
    if tune is None:
        return UNTUNED
    count = len(study.draws(study.variants[0])) - 1
    kind = "random draws" if tune.method == "random" else "combinations of a grid"
    rounds = len(tune.rungs(count + 1))
    halving = (
        f" Successive halving in {rounds} rounds left the best 1 / {tune.halving} of the trials each time."
        if rounds > 1
        else ""
    )
    chosen = (
        "The scored images took no part in it."
        if study.split == "test"
        else "The scored images are those by which the settings were chosen, so the scores are too good."
    )
    return (
        f"Each variant was tuned with the same budget before its runs: {count} {kind} besides the settings of the "
        f"file, trained with the seed {tune.seed} and compared by their Dice on val.{halving} {chosen}"
    )


def tuning_limits(tuning: Sequence[Tuned]) -> list[str]:
    """Say what the tuning leaves open; nothing if there was none."""
    if not tuning:
        return []
    lines = ["Another search may choose other settings. The intervals do not contain that."]
    ends = [f"{found.variant} ({', '.join(found.at_ends)})" for found in tuning if found.at_ends]
    if ends:
        lines.append(
            f"The best value was the smallest or largest that was tried, so a wider search may find a better one: "
            f"{'; '.join(ends)}."
        )
    diverged = [found.variant for found in tuning if any(math.isnan(trial.val_dice) for trial in found.trials)]
    if diverged:
        lines.append(f"Some trials diverged, and count as the worst: of {', '.join(diverged)}.")
    return lines


def tuning_found(tuning: Sequence[Tuned]) -> str:
    """Say in prose what each variant was tuned to; empty if there was no tuning."""
    said = []
    for found in tuning:
        moved = "" if math.isnan(found.gain) else f" ({found.gain:+.4f} Dice on val)"
        said.append(f"{values_text(found.values)} for {found.variant}{moved}")
    return f"Tuning chose {'; '.join(said)}." if said else ""


def values_text(values: dict[str, Any]) -> str:
    """Return chosen values as text."""
    short = (f"{name.removeprefix('config.')} = {value}" for name, value in values.items())
    return ", ".join(short) or "the settings of the file"


def tuning_section(tuning: Sequence[Tuned]) -> str:
    """Return the page's section about tuning as HTML."""
    rows = [
        (
            found.variant,
            number(found.val_dice(0)) or "diverged",
            number(found.val_dice(found.chosen)),
            number(found.gain, "+"),
            values_text(found.values),
        )
        for found in tuning
    ]
    header = ("variant", "val Dice, settings of the file", "val Dice, tuned", "moved by", "chosen")
    said = note(
        "Each number is of one training. The best of many is too good by chance: how much the tuning really moved, "
        "only other seeds and images can say."
    )
    trials = [(row[0], str(row[1]), f"{row[2]:.3g}", row[4] or "diverged", row[3]) for row in tuning_rows(tuning)]
    all_trials = table(("variant", "trial", "part of the length", "val Dice", "values"), trials)
    return table(header, rows) + said + folded("all trials", all_trials)


def tuning_rows(tuning: Sequence[Tuned]) -> Iterable[Sequence[Any]]:
    """Yield the rows of tuning.csv, which has the columns `TUNING_COLUMNS`."""
    for found in tuning:
        for trial in found.trials:
            value = "" if math.isnan(trial.val_dice) else f"{trial.val_dice:.6f}"
            is_chosen = (trial.number, trial.part) == (found.chosen, 1.0)
            values = values_text(found.draws[trial.number])
            yield (found.variant, trial.number, trial.part, values, value, "chosen" if is_chosen else "")
