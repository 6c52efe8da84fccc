"""The command `unet-jax info`: parse the options, read the run, print what it holds."""

import dataclasses
from collections.abc import Sequence

import tyro
from etils import epath
from rich.console import Console

from unet_jax.config.dicts import flatten_config


@dataclasses.dataclass(frozen=True)
class _Info:
    """Show classes, data, checkpoints with their scores, versions and settings of a run."""

    run: tyro.conf.Positional[str]
    """Run directory."""


def info(args: Sequence[str]) -> None:
    """Run `unet-jax info`."""
    options = tyro.cli(_Info, args=args, prog="unet-jax info")
    from unet_jax.runs.info import load_info

    path = epath.Path(options.run)
    run_info = load_info(path)  # an answer to a mistake, before what follows imports jax
    from unet_jax.data.images.format import describe_format
    from unet_jax.program.state import num_parameters
    from unet_jax.report.choices_table import choices_table
    from unet_jax.runs.load import abstract_state, open_checkpoints
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
    print(f"parameters: {num_parameters(abstract_state(run_info).params):,}")
    with open_checkpoints(path, run_info.config) as store:
        best = store.best_step
        for step in store.steps:
            scores = ", ".join(f"{name} {value:.4f}" for name, value in store.metrics(step).items())
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
        Console(width=120).print(choices_table(run_info.choices))
    for name, value in flatten_config(run_info.config).items():
        print(f"  {name} = {value!r}")
