"""Preparation of a run before its first step: audit of the data set, and beginning or check of the run directory."""

import dataclasses
from collections.abc import Sequence

from etils import epath

from unet_jax._types import InputError
from unet_jax.config import Config, DataConfig
from unet_jax.config.dicts import check_same_run
from unet_jax.config.presets import check_settings
from unet_jax.data.audit import Audit, audit_source, cannot_choose
from unet_jax.data.fit import fit_of
from unet_jax.data.images.format import ImageFormat
from unet_jax.data.images.intensity import find_format
from unet_jax.data.layout import find_layout
from unet_jax.data.records import Layout
from unet_jax.data.sources import FileSource
from unet_jax.data.splits import assign_splits, empty_split
from unet_jax.data.threads import num_cores
from unet_jax.devices.processes import is_first, wait_for_all
from unet_jax.report.audit_text import format_lines, overview, remarks
from unet_jax.report.display import Display
from unet_jax.runs.info import RunInfo, current_versions, info_path, load_info, save_info


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


def split_source(
    layout: Layout, ids: Sequence[str], data: DataConfig, image_format: ImageFormat | None = None
) -> FileSource:
    """Return a source of the samples with these ids, in this order."""
    by_id = {r.id: r for r in layout.records}
    return FileSource(layout, [by_id[i] for i in ids], soft_masks=data.soft_masks, image_format=image_format)


def _new_info(config: Config, layout: Layout, out: epath.Path, display: Display) -> RunInfo:
    """Audit the data set, print the findings, and write run.json."""
    check_settings(config)
    splits = assign_splits(layout, config.data)
    for name in ("train", "val"):
        if reason := empty_split(splits, name, config.data):
            raise InputError(reason)
    in_splits = {id_ for ids in splits.values() for id_ in ids}
    image_format = _find_format(layout, splits["train"], config, display)
    source = split_source(layout, [r.id for r in layout.records if r.id in in_splits], config.data, image_format)
    with display.bar("reading data", len(source), unit="images") as show:
        audit = audit_source(
            source,
            layout.class_names,
            skip_bad=config.data.on_bad_sample == "skip",
            splits=splits,
            fit=fit_of(config.data),
            linear_masks=config.data.mask_interpolation == "linear",
            num_threads=config.data.num_threads or num_cores(),
            on_progress=lambda done, _: show(done, ""),
        )
    usable = set(audit.ids)
    for name in ("train", "val"):
        splits[name] = [i for i in splits[name] if i in usable]
    if config.train.monitor == "dice" and cannot_choose(audit):
        raise InputError(f"{config.data.root}: {cannot_choose(audit)}")
    info = RunInfo(config, layout.class_names, splits, audit.to_dict(), current_versions(), image_format)
    _ = info.order  # made only for its check, so that too few images are an error before anything is written
    _describe_data(layout, audit, splits, config.data, display)
    save_info(out, info)
    return info


def _find_format(layout: Layout, train_ids: Sequence[str], config: Config, display: Display) -> ImageFormat:
    """Find the channels and intensities of the training images, and print them."""
    train = set(train_ids)
    paths = [record.image for record in layout.records if record.id in train]
    with display.bar("reading intensities", len(paths), unit="images") as show:
        found = find_format(
            paths,
            config.data,
            num_threads=config.data.num_threads or num_cores(),
            on_progress=lambda done, _: show(done, ""),
        )
    for line in format_lines(found):
        display.line(line)
    return found.format


def _describe_data(
    layout: Layout, audit: Audit, splits: dict[str, list[str]], config: DataConfig, display: Display
) -> None:
    """Print what the audit found: sizes, classes, and what somebody should know before training."""
    for line in overview(audit, splits):
        display.line(line)
    for line in remarks(audit, layout, splits, config):
        display.line(f"  {line}")


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
    now = {name: set(ids) for name, ids in assign_splits(layout, config.data).items()}
    anywhere = set().union(*now.values())
    moved = [i for name, ids in info.splits.items() for i in ids if i in anywhere and i not in now[name]]
    if moved:
        raise InputError(
            f"{out}: {len(moved)} images are in another split now than when the run began, the first is {moved[0]!r}. "
            f"Give the --data.splits that it began with, or start anew with another --out."
        )
    return dataclasses.replace(info, config=config)
