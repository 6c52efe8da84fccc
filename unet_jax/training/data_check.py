"""The comparison of the data set's files with those that a run began with."""

import dataclasses

from etils import epath

from unet_jax._types import InputError
from unet_jax.config import DataConfig
from unet_jax.data.records import Layout
from unet_jax.data.sample_facts import pixel_digest
from unet_jax.data.sources import FileSource
from unet_jax.data.threads import num_cores
from unet_jax.report.display import Display
from unet_jax.runs.checkpoints import committed_steps
from unet_jax.runs.data_files import Comparison, compare_files, load_identities, save_identities
from unet_jax.runs.info import RunInfo


def check_data(info: RunInfo, layout: Layout, out: epath.Path, display: Display) -> tuple[RunInfo, list[str]]:
    """Return the facts of a run that continues, and what somebody should know about changes of its data set.

    Args:
      info: facts of the run, with the config that it is continued with.
      layout: layout of the data set.
      out: run directory, in which data.json is brought up to date.
      display: place for a progress bar.

    Raises:
      InputError: files of train or val have other content, and `data.changed_files` does not accept that.
    """
    data = info.config.data
    known = load_identities(out)
    used = {id_ for ids in info.splits.values() for id_ in ids}
    # An earlier version did not write data.json. Then the files of now count as those of the beginning.
    stored = known[1] if known else {r.id: [None] * len(r.files) if r.id in used else [] for r in layout.records}
    with display.bar("comparing data", len(used), unit="images") as show:
        found = compare_files(
            stored,
            layout.records,
            num_threads=data.num_threads or num_cores(),
            on_progress=lambda done, _: show(done, ""),
        )
    if not known:
        save_identities(out, data.root, found.identities)
        return info, ["the run did not know the content of its files: an earlier version began it. From now on it does"]
    in_training = {id_ for name in ("train", "val") for id_ in info.splits[name]}
    changed = {id_: path for id_, path in found.changed.items() if id_ in in_training}
    if changed and data.changed_files == "refuse":
        raise InputError(
            f"{out}: {len(changed)} samples of train and val have other files or other content than when the run "
            f"began, the first is {next(iter(changed.values()))}. Restore them. To go on with them as they are now, "
            f"use --data.changed-files accept; scores before and after are then not comparable."
        )
    if found.identities != known[1] or found.vanished:
        kept = {id_: known[1][id_] for id_ in found.vanished}
        save_identities(out, data.root, {**kept, **found.identities})
    return _accepted(info, changed, layout, out), _notes(found, changed, data)


def _notes(found: Comparison, changed: dict[str, epath.Path], data: DataConfig) -> list[str]:
    """Return lines about changes that do not stop the run."""
    of_test = [path for id_, path in found.changed.items() if id_ not in changed]
    counts = [
        (len(changed), "samples of train and val have changed and are used as they are now", [*changed.values()]),
        (len(of_test), "samples of test have changed; training does not use them", of_test),
        (len(found.vanished), "samples of test are not there any more; training does not use them", found.vanished),
        (len(found.new), "samples are new; this run does not use them", found.new),
    ]
    return [f"{data.root}: {n} {what}; the first is {which[0]}" for n, what, which in counts if n]


def _accepted(info: RunInfo, changed: dict[str, epath.Path], layout: Layout, out: epath.Path) -> RunInfo:
    """Return the facts with changed samples recorded, and the digests of their pixels as they are now."""
    if not changed:
        return info
    records = [record for record in layout.records if record.id in changed]
    source = FileSource(layout, records, soft_masks=info.config.data.soft_masks, image_format=info.image_format)
    digests = {id_: pixel_digest(source[i].image) for i, id_ in enumerate(source.ids)}
    audit = (
        {**info.audit, "digests": {**info.audit.get("digests", {}), **digests}}
        if "digests" in info.audit
        else info.audit
    )
    step = max(committed_steps(out / "checkpoints"), default=0)
    change = {"step": step, "settings": {}, "changed_files": sorted(changed)}
    return dataclasses.replace(info, audit=audit, changes=(*info.changes, change))
