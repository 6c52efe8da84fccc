"""The command `unet-jax evaluate`: parse the options, call the library, print the results."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import tyro
from etils import epath

from unet_jax.cli.options import (
    HOW,
    ON_DEVICES,
    RUNS,
    SCORING,
    DataOptions,
    DeviceOptions,
    ScoreOptions,
    check_run_and_root,
    check_runs,
    groups_of,
    load_all,
    print_json,
    say_difference,
    score,
    select,
)
from unet_jax.config.placeholders import OptionalFile
from unet_jax.config.predict import PredictConfig


@dataclasses.dataclass(frozen=True)
class _Evaluate:
    """Score a run's masks against mask files, at each image's own size.

    The logits of several runs are averaged (docs/metrics.md).
    """

    runs: RUNS
    """Run directory; or several, which predict together."""
    data: DataOptions
    split: str | None = None
    """Split to score: train, val, test, or all (the whole data set). By default test, or val if there is no test."""
    checkpoint: Literal["best", "last"] = "best"
    """Checkpoint to score: best (the best on val) or last (the newest)."""
    calibrated: bool = False
    """Use the temperatures, thresholds and rules for objects that unet-jax calibrate has fitted."""
    csv: OptionalFile = None
    """CSV file to write, with the scores of every image."""
    json: bool = False
    """Print the result as JSON, too, as the last line. Without it, that is done only if the output is no terminal."""
    what: SCORING = dataclasses.field(default_factory=ScoreOptions)
    how: HOW = dataclasses.field(default_factory=PredictConfig)
    devices: ON_DEVICES = dataclasses.field(default_factory=DeviceOptions)


def evaluate(args: Sequence[str]) -> None:
    """Run `unet-jax evaluate`."""
    options = tyro.cli(_Evaluate, args=args, prog="unet-jax evaluate")
    options.what.check()
    check_runs(options.runs, options.devices.processes)
    check_run_and_root(options.runs[0], options.data, options.devices.processes)
    from unet_jax.devices.processes import connected

    with connected(options.devices.processes):
        _evaluate(options)


def _evaluate(options: _Evaluate) -> None:
    """Score the run; only the first process writes and prints."""
    from unet_jax.devices.processes import is_first
    from unet_jax.inference.evaluate import (
        IGNORED_RULE,
        copies_of_training,
        summary,
        trained_on,
        write_csv,
    )
    from unet_jax.inference.way import way_of
    from unet_jax.metrics.estimates import estimate_scores
    from unet_jax.metrics.score_sums import check_scores
    from unet_jax.report.audit_text import percent
    from unet_jax.report.display import make_display, print_table
    from unet_jax.report.estimates_table import estimates_json, estimates_table, explanation
    from unet_jax.runs.ensemble import members_of
    from unet_jax.runs.load import Run

    if options.csv:
        # Made first, so that a folder that cannot be made is an error before the work instead of after it.
        epath.Path(options.csv).parent.mkdir(parents=True, exist_ok=True)
    run = load_all(options.runs, options.checkpoint, options.devices, calibrated=options.calibrated)
    split, layout, records = select(run, options.data, options.split)
    names, groups = check_scores(options.what.scores), groups_of(options.what.group_key, [r.id for r in records])
    display = make_display()
    say_difference(run, way_of(run, options.how), display)
    scores = score(run, layout, records, names, options.what, options.how, display, title="evaluating")
    if not is_first():
        return
    members = members_of(run)
    if run.calibration:
        threshold: float | dict[str, float] = dict(zip(run.class_names, run.calibration.threshold, strict=True))
    else:
        thresholds = dict(zip(run.class_names, run.threshold.tolist(), strict=True))
        threshold = run.config.train.threshold if isinstance(run, Run) else thresholds
    result = summary(scores, split=split, threshold=threshold)
    if len(members) > 1:
        result["runs"] = [str(member.path) for member in members]
    seen = trained_on(run, scores)
    if split != "train" and seen:
        ids = sorted(set().union(*seen.values()))
        who = f" of {', '.join(seen)}" if len(members) > 1 else ""
        display.line(f"WARNING: {len(ids)} of these images were used for training{who}, the first is {ids[0]!r}.")
    copies = copies_of_training(run, scores)
    if copies:
        shown = ", ".join(f"{id_!r} (of {ids[0]!r})" for id_, ids in list(copies.items())[:10])
        more = f" and {len(copies) - 10} more" if len(copies) > 10 else ""
        display.line(
            f"WARNING: {len(copies)} of these images are copies of training images, pixel by pixel: {shown}{more}."
        )
    if copies is not None:
        result["copies_of_training_images"] = copies
    estimates = estimate_scores(scores, names, groups)
    marks = dict.fromkeys(scores.absent, " (absent)")
    marks |= {name: " (not annotated)" for name, share in scores.annotated.items() if not share}
    what = f"checkpoint {run.step}" if isinstance(run, Run) else f"mean logits of {len(members)} runs"
    title = f"{split}: {len(scores.ids)} images, {what}{', calibrated' if run.calibration else ''}"
    print_table(estimates_table(title, estimates, marks))
    lines = explanation(names, len(scores.ids), None if groups is None else len(set(groups)))
    print("\n".join(lines))
    chose = set().union(*(member.info.splits["val"] for member in members)) & set(scores.ids)
    if split == "train" and seen:
        print("(these images are those of training: their scores say nothing of others)")
    elif split == "val" and chose:
        print(
            f"({len(chose)} of these images chose the checkpoint, so that the scores are a little too good. For "
            f"numbers to report, keep images for test: folders train/ and test/, or --data.splits)"
        )
    if scores.num_ignored is not None:
        shares = ", ".join(f"{percent(share)} of {name}" for name, share in scores.annotated.items())
        print(f"({IGNORED_RULE}; annotated: {shares})")
    unknown = [f"{count} for {name}" for name, count in scores.num_unknown.items() if count]
    if unknown:
        print(f"(images without an annotated pixel: {', '.join(unknown)})")
    if any(scores.annotated[name] for name in scores.absent):
        print("(absent: no image has a true pixel of the class; its scores only tell whether it is predicted)")
    if options.csv:
        write_csv(epath.Path(options.csv), scores, names)
        print(f"per-image scores: {options.csv}")
    result |= {"scores": estimates_json(estimates), "intervals": lines[0].strip("()")}
    print_json(result, wanted=options.json)
