"""The command `unet-jax info`: parse the options, read the run, print what it holds."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tyro
from etils import epath

from unet_jax.cli.options import RUN
from unet_jax.config import Config
from unet_jax.config.dicts import flatten_config
from unet_jax.config.presets import nearest_preset
from unet_jax.data.listing import printable
from unet_jax.runs.folder import check_is_run


@dataclasses.dataclass(frozen=True)
class _Info:
    """Show classes, data, checkpoints with their scores, versions and settings of a run."""

    run: RUN
    """Run directory."""
    all: bool = False
    """Show every setting, and not only those that differ from the preset."""


def info(args: Sequence[str]) -> None:
    """Run `unet-jax info`."""
    options = tyro.cli(_Info, args=args, prog="unet-jax info")
    path = epath.Path(options.run)
    check_is_run(path)
    from unet_jax.runs.info import load_info

    run_info = load_info(path)  # an answer to a mistake, before what follows imports jax
    from unet_jax.data.images.format import describe_format
    from unet_jax.model.receptive_field import receptive_radius
    from unet_jax.program.state import num_parameters
    from unet_jax.report.choices_table import choices_table
    from unet_jax.report.display import print_table
    from unet_jax.runs.load import abstract_state, metrics_of, open_checkpoints
    from unet_jax.runs.own_parts import describe_part
    from unet_jax.runs.verdict import verdict

    print(f"run: {path}")
    prevalence = run_info.audit.get("prevalence")  # missing in an imported run, which has seen no data
    for k, name in enumerate(run_info.class_names):
        print(f"  channel {k} = {name}" + (f": {prevalence[k]:.1%} of the pixels" if prevalence else ""))
    if "imported_from" in run_info.audit:
        print(f"imported from {run_info.audit['imported_from']} ({run_info.audit['channels']})")
    if run_info.image_format:
        print(describe_format(run_info.image_format))
    print("images: " + ", ".join(f"{len(ids)} {name}" for name, ids in run_info.splits.items()))
    for name, facts in run_info.own.items():
        print(f"{name}: {printable(describe_part(facts))}, given from Python")
    if "network" not in run_info.own:
        print(f"parameters: {num_parameters(abstract_state(run_info).params):,}")
        print(_described_radius(receptive_radius(run_info.config.model)))
        for line in _encoder(run_info.config.model.encoder, run_info.encoder):
            print(line)
    with open_checkpoints(path, run_info.config) as store:
        best = store.best_step
        for step in store.steps:
            scores = ", ".join(f"{name} {value:.4f}" for name, value in metrics_of(store, path, step).items())
            marked = " (best)" if step == best else ""
            print(f"checkpoint {step} of {run_info.num_steps}{marked}: {scores or 'not evaluated'}")
        for line in verdict(run_info, path, best, store.latest_step) if best is not None else []:
            print(line)
    for change in run_info.changes:
        for name, (was, now) in change["settings"].items():
            print(f"from step {change['step']} on: {name} = {now!r}, before {was!r}")
        if changed := change.get("changed_files"):
            print(f"from step {change['step']} on: {len(changed)} samples with other files, the first is {changed[0]}")
    print("versions: " + ", ".join(f"{name} {version}" for name, version in run_info.versions.items()))
    if run_info.choices:
        print_table(choices_table(run_info.choices), 120)
    print("\n".join(_evaluations(path, best)))
    print("\n".join(_settings(run_info.config, every=options.all)))


def _encoder(name: str, facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield lines about the encoder and the file of its first weights."""
    if name == "none":
        return
    if not facts:
        yield f"encoder: {name}, whose first weights were random"
        return
    yield f"encoder: {name}, first weights from {printable(facts['file'])} (sha256 {facts['sha256'][:16]}...)"
    metadata = facts.get("metadata", {})
    if not metadata:
        yield "  the file says nothing of its origin and licence"
    for key, value in metadata.items():
        yield f"  {printable(key)}: {printable(value)}"


def _evaluations(path: epath.Path, best: int | None, most: int = 5) -> Iterator[str]:
    """Yield a table of the last evaluations."""
    from unet_jax.report.metrics_file import read_history

    rows = read_history(path)
    if rows:
        yield f"evaluations ({len(rows)}, the last {min(most, len(rows))}; all of them in {path}/metrics.jsonl):"
        yield f"  {'step':>7} {'epoch':>7} {'loss':>8} {'val loss':>9} {'val Dice':>9}"
    for row in rows[-most:]:
        numbers = f"{row['step']:>7} {row['epoch']:>7.4g} {row['train/loss']:>8.4f} {row['eval/loss']:>9.4f}"
        yield f"  {numbers} {row['eval/dice']:>9.4f}{' best' if row['step'] == best else ''}"


def _settings(config: Config, *, every: bool) -> Iterator[str]:
    """Yield the settings: all of them, or those that differ from the preset that is nearest."""
    values = flatten_config(config)
    if every:
        yield "settings:"
        yield from (f"  {name} = {value!r}" for name, value in values.items())
        return

    nearest, differing = nearest_preset(config)
    yield f"settings, where they differ from the preset {nearest!r} (all {len(values)} with --all):"
    yield from (f"  {name} = {value!r}" for name, value in differing.items())


def _described_radius(radius: int | None) -> str:
    """Return a line about how far the network sees."""
    if radius is None:
        return "receptive field: the whole image (group normalisation); tiles never give exactly the whole image"
    return (
        f"receptive field: {radius} pixels to each side; tiles that overlap by {2 * radius} pixels or more give "
        f"exactly the whole image (docs/large-images.md)"
    )
