"""Preparation of a run before its first step: audit of the data set, and beginning or check of the run directory."""

import dataclasses
from collections.abc import Sequence

from etils import epath

from unet_jax._types import InputError
from unet_jax.config import Config, DataConfig
from unet_jax.config.dicts import check_same_run
from unet_jax.config.presets import check_settings
from unet_jax.data.audit import DARK, Audit, audit_source
from unet_jax.data.layout import Layout, find_layout
from unet_jax.data.order import TrainOrder
from unet_jax.data.sources import FileSource
from unet_jax.data.splits import assign_splits
from unet_jax.data.threads import num_cores
from unet_jax.devices.processes import is_first, wait_for_all
from unet_jax.report.display import Display
from unet_jax.runs.info import RunInfo, current_versions, info_path, load_info, save_info

_NUM_SHOWN = 10


def begin_run(config: Config, out: epath.Path, display: Display) -> tuple[RunInfo, Layout]:
    """Return the fixed facts of a run, and the layout of its data set.

    If `out` is new, the facts are collected from the data set and written to run.json. Otherwise they are read from
    run.json and compared with the config and the data set. Among connected processes, the first one collects them
    while the others wait.

    Args:
      config: settings of the run.
      out: run directory.
      display: place for lines and progress bars.

    Raises:
      InputError: the data set cannot be used, or `out` holds a run with other settings, classes or images.
    """
    layout = find_layout(config.data)
    if is_first() and not info_path(out).exists():
        info = _new_info(config, layout, out, display)
        wait_for_all("begun")
        return info, layout
    wait_for_all("begun")
    if not info_path(out).exists():
        raise InputError(f"{out}: this process does not see what the first one wrote. Give an --out that all share.")
    return _continue_info(config, layout, out), layout


def split_source(layout: Layout, ids: Sequence[str], data: DataConfig) -> FileSource:
    """Return a source of the samples with these ids, in this order."""
    by_id = {r.id: r for r in layout.records}
    return FileSource(layout, [by_id[i] for i in ids], soft_masks=data.soft_masks)


def _new_info(config: Config, layout: Layout, out: epath.Path, display: Display) -> RunInfo:
    """Audit the data set, print the findings, and write run.json."""
    check_settings(config)
    splits = assign_splits(layout, config.data)
    for name in ("train", "val"):
        if not splits[name]:
            raise InputError(
                f"{config.data.root}: the split {name!r} is empty (train {len(splits['train'])}, val "
                f"{len(splits['val'])}, test {len(splits['test'])} of {len(layout.records)} samples). "
                f"Give it images, or correct --data.splits."
            )
    used = set(splits["train"]) | set(splits["val"])
    source = split_source(layout, [r.id for r in layout.records if r.id in used], config.data)
    with display.bar("reading data", len(source), unit="images") as show:
        audit = audit_source(
            source,
            layout.class_names,
            skip_bad=config.data.on_bad_sample == "skip",
            num_threads=config.data.num_threads or num_cores(),
            on_progress=lambda done, _: show(done, ""),
        )
    usable = set(audit.ids)
    for name in ("train", "val"):
        splits[name] = [i for i in splits[name] if i in usable]
        if not splits[name]:
            raise InputError(f"{config.data.root}: no sample of the split {name!r} can be used:\n  {audit.bad[0]}")
    # Made only for its check, so that too few images are an error before anything is written.
    TrainOrder(len(splits["train"]), config.train.batch_size, config.train.num_epochs, config.seed)
    _describe_data(layout, audit, splits, display)
    info = RunInfo(config, layout.class_names, splits, audit.to_dict(), current_versions())
    save_info(out, info)
    return info


def _describe_data(layout: Layout, audit: Audit, splits: dict[str, list[str]], display: Display) -> None:
    """Print what the audit found: sizes, classes, dark images, samples left out, and identical images."""
    sizes = "x".join(map(str, audit.smallest[::-1]))
    if audit.largest != audit.smallest:
        sizes += " to " + "x".join(map(str, audit.largest[::-1]))
    counts = ", ".join(f"{len(ids)} {name}" for name, ids in splits.items())
    display.line(f"data: {counts}; {sizes} pixels")
    for k, name in enumerate(audit.class_names):
        others = [
            f"{share:.0%} also {other}"
            for other, share in zip(audit.class_names, audit.overlap[k], strict=True)
            if other != name and share > 0
        ]
        empty = f", absent from {audit.num_empty[k]} images" if audit.num_empty[k] else ""
        overlaps = f" ({', '.join(others)})" if others else ""
        display.line(f"  channel {k} = {name}: {audit.prevalence[k]:.1%} of the pixels{overlaps}{empty}")
    if audit.dark:
        display.line(
            f"  WARNING: {len(audit.dark)} images have no value of at least {DARK} of 255, the first is "
            f"{audit.dark[0]!r}. 16-bit files that use only 10 or 12 bits keep few gray levels: stretch them first."
        )
    left_out = (*layout.bad, *audit.bad)
    for reason in left_out[:_NUM_SHOWN]:
        display.line(f"  left out: {reason}")
    if left_out:
        display.line(f"  {len(left_out)} left out in all (data.on_bad_sample is skip)")
    unused = len(layout.records) - sum(len(ids) for ids in splits.values()) - len(audit.bad)
    if unused > 0:
        display.line(f"  {unused} samples are in no split and are not used")
    split_of = {i: name for name, ids in splits.items() for i in ids}
    for group in audit.duplicates:
        names = {split_of[i] for i in group}
        warning = "  WARNING, in different splits" if len(names) > 1 else ""
        display.line(f"  identical images: {', '.join(group)}{warning}")


def _continue_info(config: Config, layout: Layout, out: epath.Path) -> RunInfo:
    """Return the facts of an existing run, with the new config.

    Raises:
      InputError: this config or this data set would train another run.
    """
    info = load_info(out)
    if "imported_from" in info.audit:
        raise InputError(
            f"{out}: was imported, not trained. To train from its weights, use --init-from {out} and another --out."
        )
    remedy = "Use the same settings to continue it, or another --out to start anew."
    check_same_run(out, info.config, config, remedy)
    if info.class_names != layout.class_names:
        raise InputError(
            f"{out}: was begun with the classes {list(info.class_names)}, but {config.data.root} has "
            f"{list(layout.class_names)}."
        )
    known = {r.id for r in layout.records}
    lost = [i for name in ("train", "val") for i in info.splits[name] if i not in known]
    if lost:
        raise InputError(
            f"{out}: {len(lost)} images that the run uses are not in {config.data.root} any more, the first is "
            f"{lost[0]!r}. Restore them, or start anew with another --out."
        )
    now = {i: name for name, ids in assign_splits(layout, config.data).items() for i in ids}
    moved = [i for name, ids in info.splits.items() for i in ids if now.get(i, name) != name]
    if moved:
        raise InputError(
            f"{out}: {len(moved)} images are in another split now than when the run began, the first is {moved[0]!r}. "
            f"Give the --data.splits that it began with, or start anew with another --out."
        )
    return dataclasses.replace(info, config=config)
