"""The command `unet-jax compare`: parse the options, score both runs, print their differences."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Annotated, Literal

import tyro
from etils import epath

from unet_jax.cli.options import (
    HOW,
    ON_DEVICES,
    SCORING,
    DataOptions,
    DeviceOptions,
    ScoreOptions,
    check_run_and_root,
    groups_of,
    load,
    print_json,
    say_difference,
    score,
    select,
)
from unet_jax.config.placeholders import OptionalFile
from unet_jax.config.predict import PredictConfig


@dataclasses.dataclass(frozen=True)
class _Compare:
    """Compare two finished runs on the same images, image by image."""

    first: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """Run directory that the other is compared with."""
    second: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """Run directory of the other run. Differences are second minus first."""
    data: DataOptions
    split: str | None = None
    """Split to score: train, val, test or all. By default test, or val if there is no test."""
    checkpoint: Literal["best", "last"] = "best"
    """Checkpoints to score: best (the best on val) or last (the newest)."""
    calibrated: bool = False
    """Use the temperatures and thresholds that unet-jax calibrate has fitted, of both runs."""
    csv: OptionalFile = None
    """CSV file to write, with both scores of every image and class, and their difference."""
    json: bool = False
    """Print the result as JSON, too, as the last line. Without it, that is done only if the output is no terminal."""
    what: SCORING = dataclasses.field(default_factory=ScoreOptions)
    how: HOW = dataclasses.field(default_factory=PredictConfig)
    devices: ON_DEVICES = dataclasses.field(default_factory=DeviceOptions)


def compare(args: Sequence[str]) -> None:
    """Run `unet-jax compare`."""
    options = tyro.cli(_Compare, args=args, prog="unet-jax compare")
    options.what.check()
    for run in (options.first, options.second):
        check_run_and_root(run, options.data, options.devices.processes)
    from unet_jax.devices.processes import connected

    with connected(options.devices.processes):
        _compare(options)


def _compare(options: _Compare) -> None:
    """Score and compare the runs; only the first process writes and prints."""
    from rich.markup import escape
    from rich.table import Table

    from unet_jax._files import replace_text
    from unet_jax.devices.processes import is_first
    from unet_jax.inference.pair import (
        check_paired,
        check_same_images,
        check_training_images,
        compare_scores,
        conclusion,
        most_different,
        pairs_csv,
    )
    from unet_jax.inference.way import way_of
    from unet_jax.metrics.estimates import MEAN
    from unet_jax.metrics.score_sums import check_scores
    from unet_jax.report.display import make_display, print_table
    from unet_jax.report.estimates_table import explanation, interval, number, p_text

    if options.csv:
        epath.Path(options.csv).parent.mkdir(parents=True, exist_ok=True)
    names, paths = check_scores(options.what.scores), (options.first, options.second)
    runs = [load(path, options.checkpoint, options.devices, calibrated=options.calibrated) for path in paths]
    selected = [select(run, options.data, options.split) for run in runs]
    ids = [sorted(record.id for record in records) for _, _, records in selected]
    check_same_images(paths, ids[0], ids[1])
    trained = (runs[0].info.splits["train"], runs[1].info.splits["train"])
    num_seen = check_training_images(paths, ids[0], trained)
    groups = groups_of(options.what.group_key, ids[0])
    display = make_display()
    if num_seen and options.split != "train":
        display.line(f"WARNING: both runs were trained on {num_seen} of these images.")
    scores = []
    for run, (_, layout, records) in zip(runs, selected, strict=True):
        say_difference(run, way_of(run, options.how), display)
        ordered = sorted(records, key=lambda record: record.id)
        title = f"evaluating {run.path}"
        scores.append(score(run, layout, ordered, names, options.what, options.how, display, title=title))
    first, second = scores
    check_paired(paths, first, second, same_format=runs[0].info.image_format == runs[1].info.image_format)
    if not is_first():
        return
    pairs = compare_scores(first, second, names, groups)
    split = selected[0][0]
    table = Table(title=f"{split}: {len(first.ids)} images; first: {escape(paths[0])}, second: {escape(paths[1])}")
    for column in ("class", "score", "first", "second", "second - first", "95 % interval", "p"):
        table.add_column(column, justify="left" if column in ("class", "score") else "right")
    for pair in pairs:
        d = pair.difference
        means = number(pair.first), number(pair.second)
        compared = number(d.value, "+"), interval(d, "+"), p_text(pair.p_value)
        table.add_row(escape(pair.class_name), pair.score, *means, *compared)
    print_table(table)
    num_groups = None if groups is None else len(set(groups))
    print("\n".join(explanation(names, len(first.ids), num_groups)))
    print(f"(p: sign-flip permutation test, not corrected for the {len(pairs)} lines above)")
    print(f"most different images in {names[0]} (first, second):")
    for id_, a, b in most_different(first, second, names[0]):
        print(f"  {id_}  {number(a)}  {number(b)}  {number(b - a, '+')}")
    if options.csv:
        replace_text(epath.Path(options.csv), pairs_csv(first, second, names))
        print(f"scores of every image: {options.csv}")
    units = f"{len(first.ids)} images" if num_groups is None else f"{num_groups} groups of images"
    main = next(p for p in pairs if p.score == names[0] and (p.class_name == MEAN or len(first.class_names) == 1))
    said = conclusion(
        paths, (runs[0].config, runs[1].config), main, units, same_images=set(trained[0]) == set(trained[1])
    )
    print(said)
    rows = [
        {
            "score": p.score,
            "class": p.class_name,
            "first": p.first,
            "second": p.second,
            **dict(zip(("difference", "low", "high"), p.difference, strict=True)),
            "p_value": p.p_value,
        }
        for p in pairs
    ]
    known = [{k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()} for row in rows]
    print_json({"split": split, "num_images": len(first.ids), "pairs": known, "conclusion": said}, wanted=options.json)
