"""`unet-jax info`: parse, call, print."""

import dataclasses
from collections.abc import Sequence

import tyro
from etils import epath

from unet_jax.config.dicts import flatten_config
from unet_jax.program.state import num_parameters
from unet_jax.runs.info import load_info
from unet_jax.runs.load import abstract_state, open_checkpoints


@dataclasses.dataclass(frozen=True)
class _Info:
    """Say what is in a run."""

    run: tyro.conf.Positional[str]
    """Run directory."""


def info(args: Sequence[str]) -> None:
    """Run `unet-jax info`."""
    options = tyro.cli(_Info, args=args, prog="unet-jax info")
    path = epath.Path(options.run)
    found = load_info(path)
    print(f"run: {path}")
    prevalence = found.audit.get("prevalence")  # an imported run has seen no data
    for k, name in enumerate(found.class_names):
        print(f"  channel {k} = {name}" + (f": {prevalence[k]:.1%} of the pixels" if prevalence else ""))
    if "imported_from" in found.audit:
        print(f"imported from {found.audit['imported_from']} ({found.audit['channels']})")
    print("images: " + ", ".join(f"{len(ids)} {name}" for name, ids in found.splits.items()))
    print(f"parameters: {num_parameters(abstract_state(found).params):,}")
    with open_checkpoints(path, found.config) as store:
        best = store.best_step
        for step in store.steps:
            scores = ", ".join(f"{name} {value:.4f}" for name, value in store.metrics(step).items())
            marked = " (best)" if step == best else ""
            print(f"checkpoint {step} of {found.num_steps}{marked}: {scores or 'not evaluated'}")
    print("versions: " + ", ".join(f"{name} {version}" for name, version in found.versions.items()))
    for name, value in flatten_config(found.config).items():
        print(f"  {name} = {value!r}")
