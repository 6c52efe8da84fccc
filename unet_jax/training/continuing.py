"""Comparison of a run that continues with its beginning: what may differ, and what that means for the steps to come."""

import dataclasses
from typing import Any

from etils import epath

from unet_jax._types import InputError
from unet_jax.config import Config
from unet_jax.config.dicts import changed_settings, check_same_run, replace
from unet_jax.config.settings import adjustable_settings
from unet_jax.data.records import Layout
from unet_jax.data.splits import assign_splits
from unet_jax.interop.pretrained import file_digest
from unet_jax.program.own import OURS, Own
from unet_jax.runs.checkpoints import committed_steps
from unet_jax.runs.info import RunInfo, load_info
from unet_jax.runs.loss_code import check_loss_code, loss_code
from unet_jax.runs.own_parts import check_own_parts


def continue_info(config: Config, layout: Layout, out: epath.Path, own: Own = OURS) -> tuple[RunInfo, list[str]]:
    """Return the facts of an existing run with the new config, and what somebody should know about the changes.

    Adjustable settings that differ are recorded in `RunInfo.changes`, with the step from which they hold.

    Args:
      config: settings that the run is continued with.
      layout: layout of the data set.
      out: run directory.
      own: network and optimizer that the run is continued with, where they are not the library's.

    Raises:
      InputError: this config or this data set would train another run.
    """
    info = load_info(out)
    if "imported_from" in info.audit:
        raise InputError(
            f"{out}: was imported, not trained. To train from its weights, use --init-from {out} and another --out."
        )
    config, notes = _with_encoder_of(info, config, out)
    remedy = (
        f"Use the same settings to continue it. To train from its weights with these settings, use --init-from {out} "
        f"and another --out."
    )
    adjustable = adjustable_settings(config)
    same = {name: value for name, (value, _) in changed_settings(info.config, config).items() if name in adjustable}
    check_same_run(out, info.config, replace(config, same), remedy)
    anew = f"To train on with this code, use --init-from {out} and another --out."
    check_loss_code(out, info.loss_code, config.loss, anew)
    check_own_parts(out, info.own, own, "Give the same to continue it, or begin a new run with another out.")
    _check_images(info, config, layout, out)
    new, changes = _changed(info, config, out)
    return new, [*notes, *changes]


def _with_encoder_of(info: RunInfo, config: Config, out: epath.Path) -> tuple[Config, list[str]]:
    """Return the config with what the file of the encoder's weights decided when the run began, and lines about it.

    A run that has a checkpoint does not read the file. Only its path may be another one, or be left out.

    Raises:
      InputError: a file is given, but the run began without one.
    """
    file, before = config.model.encoder_weights, info.config.model.encoder_weights
    if file and config.model.encoder == info.config.model.encoder and not info.encoder:
        raise InputError(
            f"{out}: began without --model.encoder-weights, which are read only when a run begins. Leave it out, or "
            f"give another --out."
        )
    decided = {"model.encoder_weights": file or before} if info.encoder else {}
    if config.model.encoder_input == "auto":
        decided["model.encoder_input"] = info.config.model.encoder_input
    now = file_digest(file) if file else ""
    differs = bool(now) and now != info.encoder.get("sha256")
    said = f"{file}: is another file than the one that the run began with; a run that has a checkpoint does not read it"
    return replace(config, decided), [said] if differs else []


def _check_images(info: RunInfo, config: Config, layout: Layout, out: epath.Path) -> None:
    """Raise `InputError` if classes, images or splits are not those that the run began with."""
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


def _changed(info: RunInfo, config: Config, out: epath.Path) -> tuple[RunInfo, list[str]]:
    """Return the facts with the new config, and a line for each adjustable setting that differs from now on."""
    step = max(committed_steps(out / "checkpoints"), default=0)
    config = replace(config, {"optim.schedule_span": info.config.optim.schedule_span})
    new = dataclasses.replace(info, config=config, loss_code={**loss_code(config.loss), **info.loss_code})
    adjustable = adjustable_settings(config)
    changes = {n: pair for n, pair in changed_settings(info.config, config).items() if n in adjustable}
    notes = [f"from step {step} on, {name} is {now!r}; it was {was!r}" for name, (was, now) in changes.items()]
    if new.num_steps < info.num_steps:
        raise InputError(
            f"{out}: the run has {info.num_steps} steps, but with these settings it would have {new.num_steps}. It may "
            f"become longer, not shorter. It can be stopped at any time, and its checkpoints used."
        )
    if new.num_steps > info.num_steps:
        span, note = _longer_schedule(info, new, step, out)
        new = dataclasses.replace(new, config=replace(config, {"optim.schedule_span": span}))
        notes.append(note)
    if "train.threshold" in changes:
        notes.append("scores on val of earlier evaluations were computed with the earlier threshold")
    if "train.monitor" in changes:
        notes.append(f"the best checkpoint is now chosen by {config.train.monitor}, among those that are still there")
    if new.eval_every_steps != info.eval_every_steps:
        plateau = ", and they are what a plateau of the learning rate is counted in"
        notes.append(
            f"evaluations come every {new.eval_every_steps} steps now, before every {info.eval_every_steps}"
            f"{plateau if config.optim.schedule == 'plateau' else ''}"
        )
    if changes:
        record: dict[str, Any] = {"step": step, "settings": {name: list(pair) for name, pair in changes.items()}}
        new = dataclasses.replace(new, changes=(*info.changes, record))
    return new, notes


def _longer_schedule(old: RunInfo, new: RunInfo, step: int, out: epath.Path) -> tuple[tuple[int, int], str]:
    """Return the part of the steps that the learning rate's schedule takes in a run made longer, and what that means.

    Args:
      old: facts of the run before it is made longer.
      new: the same with the new config.
      step: number of steps done.
      out: run directory, for messages.

    Raises:
      InputError: the schedule would fall to 0 before the new end, and no setting says what it should do instead; or a
        weight of the loss changes over the length of the run.
    """
    config, before, after = new.config, old.num_steps, new.num_steps
    begin, length = old.config.optim.schedule_span or (0, before)
    longer = f"the run has {after} steps in the place of {before}"
    if any(term.ramp for term in config.loss.terms):
        raise InputError(
            f"{out}: {longer}, but a term of its loss has a ramp, which is a share of the run's length: the weights "
            f"of the steps that are done would have been others. Begin a new run with --init-from {out} and another "
            f"--out."
        )
    schedule = config.optim.schedule
    if schedule not in ("cosine", "polynomial"):
        return (begin, length), f"{longer}; the learning rate goes on as it is (schedule {schedule})"
    match config.optim.when_longer:
        case "stretch":
            return (begin, after - begin), f"{longer}; the {schedule} schedule is stretched to the new end"
        case "restart":
            return (step, after - step), f"{longer}; the {schedule} schedule begins anew at step {step}"
    raise InputError(
        f"{out}: {longer}, and the {schedule} schedule of its learning rate ends at step {begin + length}. Say how it "
        f"goes on: --optim.when-longer stretch (as if the run had had this length from the start) or "
        f"--optim.when-longer restart (the schedule begins anew at step {step})."
    )
