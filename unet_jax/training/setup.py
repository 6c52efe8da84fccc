"""Preparation of a run before its first step: audit of the data set, and beginning or check of the run directory."""

from collections.abc import Sequence
from typing import Any, TypeVar

from etils import epath

from unet_jax._types import InputError
from unet_jax.config import Config, DataConfig
from unet_jax.config.choices import Choice
from unet_jax.config.dicts import replace
from unet_jax.config.presets import check_settings
from unet_jax.data.audit import Audit, audit_source, cannot_choose
from unet_jax.data.fit import fit_of
from unet_jax.data.images.format import ImageFormat
from unet_jax.data.layout import find_layout
from unet_jax.data.records import Layout
from unet_jax.data.sources import FileSource
from unet_jax.data.splits import assign_splits, empty_split
from unet_jax.data.threads import num_cores
from unet_jax.devices.processes import is_first, wait_for_all
from unet_jax.interop.pretrained import read_encoder
from unet_jax.program.own import OURS, Own, check_own, check_own_settings
from unet_jax.report.audit_text import format_lines, overview, remarks
from unet_jax.report.display import Display
from unet_jax.report.findings import find_image_format
from unet_jax.runs.checkpoints import committed_steps
from unet_jax.runs.data_files import RememberingSource, save_identities
from unet_jax.runs.info import RunInfo, current_versions, info_path, load_info, save_info
from unet_jax.runs.loss_code import loss_code
from unet_jax.runs.own_parts import own_facts
from unet_jax.training.continuing import continue_info
from unet_jax.training.data_check import check_data


def begin_run(
    config: Config, out: epath.Path, display: Display, choices: Sequence[Choice] = (), own: Own = OURS
) -> tuple[RunInfo, Layout]:
    """Return the fixed facts of a run, and the layout of its data set.

    If `out` is new, the facts are collected from the data set and written to run.json. Otherwise they are read from
    run.json and compared with the config and the data set. Among connected processes, the first one collects them
    while the others wait.

    Args:
      config: settings of the run.
      out: run directory.
      display: place for lines and progress bars.
      choices: table of the settings that were chosen for this run, to be kept in run.json.
      own: network and optimizer that are given in the place of the library's.

    Raises:
      InputError: the data set cannot be used, or `out` holds a run with other settings, classes or images.
    """
    layout = find_layout(config.data)
    if is_first():
        info = _begun_or_new(config, layout, out, display, choices, own)
        wait_for_all("begun")
        return info, layout
    wait_for_all("begun")
    if not info_path(out).exists():
        raise InputError(f"{out}: this process does not see what the first one wrote. Give an --out that all share.")
    return continue_info(config, layout, out, own)[0], layout


def _begun_or_new(
    config: Config, layout: Layout, out: epath.Path, display: Display, choices: Sequence[Choice], own: Own
) -> RunInfo:
    """Return the facts of the run in `out`, brought up to date, or those of a new run.

    A run without a checkpoint would begin at its first step anyway. So it does not hold its folder: if it cannot
    continue, a new one takes its place.
    """
    if not info_path(out).exists():
        return _new_info(config, layout, out, display, choices, own)
    try:
        info, notes = continue_info(config, layout, out, own)
        info, more = check_data(info, layout, out, display)
    except InputError as error:
        if committed_steps(out / "checkpoints"):
            raise
        display.line(f"{error}\nNo step of that run was saved, so a new run takes its place.")
        return _new_info(config, layout, out, display, choices, own)
    for note in [*notes, *more]:
        display.line(note)
    if info != load_info(out):
        save_info(out, info)
    return info


S = TypeVar("S", bound=FileSource)


def split_source(
    layout: Layout,
    ids: Sequence[str],
    data: DataConfig,
    image_format: ImageFormat | None = None,
    make: type[S] = FileSource,
) -> S:
    """Return a source of the samples with these ids, in this order."""
    by_id = {r.id: r for r in layout.records}
    return make(layout, [by_id[i] for i in ids], soft_masks=data.soft_masks, image_format=image_format)


def _new_info(
    config: Config, layout: Layout, out: epath.Path, display: Display, choices: Sequence[Choice], own: Own
) -> RunInfo:
    """Audit the data set, print the findings, and write run.json."""
    check_settings(config)
    check_own_settings(config, own)
    splits = assign_splits(layout, config.data)
    for name in ("train", "val"):
        if reason := empty_split(splits, name, config.data):
            raise InputError(reason)
    in_splits = {id_ for ids in splits.values() for id_ in ids}
    found = find_image_format(layout, splits["train"], config.data, display)
    image_format = found.format
    for line in format_lines(found):
        display.line(line)
    num_channels = image_format.num_channels if image_format else 3
    check_own(own, len(layout.class_names), config.data.height_and_width, num_channels)
    config, encoder = _with_encoder(config, num_channels, display)
    ids = [r.id for r in layout.records if r.id in in_splits]
    source = split_source(layout, ids, config.data, image_format, RememberingSource)
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
    info = RunInfo(
        config,
        layout.class_names,
        splits,
        audit.to_dict(),
        current_versions(),
        image_format,
        choices=tuple(choices),
        loss_code=loss_code(config.loss),
        encoder=encoder,
        own=own_facts(own),
    )
    order = info.order  # too few images are an error before anything is written
    _describe_data(layout, audit, splits, config.data, display)
    if config.data.fit == "crop":
        height, width = config.data.height_and_width
        display.line(
            f"  an epoch has {order.num_samples} crops of {width}x{height}, as many as fit into the area of the images"
        )
    out.mkdir(parents=True, exist_ok=True)
    save_identities(out, config.data.root, {record.id: [] for record in layout.records} | source.identities)
    save_info(out, info)
    return info


def _with_encoder(config: Config, num_channels: int, display: Display) -> tuple[Config, dict[str, Any]]:
    """Return the config with the kind of its encoder's input, and the facts about the encoder's first weights."""
    if not config.model.encoder_weights:
        return config, {}
    weights = read_encoder(config.model.encoder_weights, config.model, num_channels)
    display.line(f"encoder: {config.model.encoder} with {weights.facts['names']}'s names from {weights.facts['file']}")
    for note in weights.notes:
        display.line(note)
    return replace(config, {"model.encoder_input": weights.input_kind}), weights.facts


def _describe_data(
    layout: Layout, audit: Audit, splits: dict[str, list[str]], config: DataConfig, display: Display
) -> None:
    """Print what the audit found: sizes, classes, and what somebody should know before training."""
    for line in overview(audit, splits):
        display.line(line)
    for line in remarks(audit, layout, splits, config):
        display.line(f"  {line}")
