"""Scores of one training run with other statistics of batch normalisation, and with the mean of its weights.

    unet-jax train auto --data.root DATA --out RUN --train.num-steps 150 --train.ema 0.99
    python benchmarks/bench_statistics.py RUN --save statistics_wbc

A run with `train.ema` keeps both its weights and their running mean. Its newest checkpoint is scored on the test split
(or val, if there is none) with each of them, and with

- "running": the running statistics, as they are; for the weights themselves "uncorrected" and "corrected": those of a
  run without and with `model.batch_norm_correction`, which takes their start out;
- "recalibrated": means and variances over the training images with these weights, of batches that are changed as in
  training ("augmented") or not ("plain"). The variance is that of all pixels: E[var + mean^2] - E[mean]^2.

Reference: Wu and Johnson, Rethinking "Batch" in BatchNorm, 2021 (arXiv:2105.07576).
"""

import argparse
import contextlib
import dataclasses
import itertools
import sys
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from measure import finish, record

from unet_jax._types import PyTree
from unet_jax.config import AugmentConfig, DataConfig
from unet_jax.config.dicts import replace
from unet_jax.devices.mesh import make_mesh
from unet_jax.inference.evaluate import evaluate_run, select_records
from unet_jax.program.build import build
from unet_jax.program.state import TrainState, averaged
from unet_jax.program.statistics_step import make_moments_step, of_layers, statistics_of
from unet_jax.report.display import Quiet
from unet_jax.runs.load import Run, abstract_state, load_run, open_checkpoints
from unet_jax.training.prefetch import device_batches
from unet_jax.training.session import train_source


def newest(path: epath.Path) -> tuple[Run, TrainState]:
    """Return a run and the whole state of its newest checkpoint."""
    run = load_run(path, "last")
    with open_checkpoints(path, run.config) as store:
        return run, store.load(run.step, abstract_state(run.info), run.mesh)


def recalibrated(run: Run, state: TrainState, data: DataConfig, *, augmented: bool) -> PyTree:
    """Return statistics of batch normalisation over the training images, for the weights of a state."""
    config = replace(run.config, {"data.num_workers": 0})
    if not augmented:
        off = {f"{name}": 0.0 for name in vars(AugmentConfig()) if name.endswith("_prob")}
        config = dataclasses.replace(config, augment=dataclasses.replace(config.augment, **off))
    program = build(config, len(run.class_names), run.info.num_steps)
    moments_step = make_moments_step(config, len(run.class_names), run.info.num_steps)
    _, layout, _ = select_records(run, data, "train")
    order = run.info.order
    source = train_source(run.info, layout, Quiet())
    count = max(order.steps_per_epoch, 8)
    with contextlib.closing(
        device_batches(source, order.extended_by(count), config, run.mesh, start_step=0, packing=program.packing)
    ) as batches:
        moments = [moments_step(state.params, state.batch_stats, batch) for batch in itertools.islice(batches, count)]
    return statistics_of(jax.tree.map(lambda *values: sum(values) / count, *moments))


def with_start(run: Run, state: TrainState, *, kept: bool) -> PyTree:
    """Return the running statistics with the start (mean 0, variance 1) kept in them, or taken out.

    After n updates with momentum m it has the share m^n of them; `model.batch_norm_correction` takes it out.
    """
    share = run.config.model.batch_norm_momentum ** int(state.step)
    start = of_layers(lambda s: {"mean": jnp.zeros_like(s["mean"]), "var": jnp.ones_like(s["var"])}, state.batch_stats)
    is_kept = not run.config.model.batch_norm_correction
    if kept == is_kept:
        return state.batch_stats
    if kept:
        return jax.tree.map(lambda now, first: (1.0 - share) * now + share * first, state.batch_stats, start)
    return jax.tree.map(lambda now, first: (now - share * first) / (1.0 - share), state.batch_stats, start)


def scores_of(path: epath.Path, data_root: str) -> dict[str, Any]:
    """Score every combination of weights and statistics."""
    run, whole = newest(path)
    moved = {"data.root": data_root} if data_root else {}
    data = replace(run.config, {"data.splits": None, **moved}).data  # the splits that the run recorded
    split, layout, records = select_records(run, data, None)
    own = dataclasses.replace(whole, ema=None)
    states = {
        f"weights, {name}": dataclasses.replace(own, batch_stats=with_start(run, own, kept=name == "uncorrected"))
        for name in ("uncorrected", "corrected")
    }
    for name, state in {"weights": own, "mean of weights": averaged(whole)}.items():
        if name != "weights" and whole.ema is None:
            continue
        if name != "weights":
            states[f"{name}, running"] = state
        for kind in ("augmented", "plain"):
            stats = recalibrated(run, state, data, augmented=kind == "augmented")
            states[f"{name}, recalibrated {kind}"] = dataclasses.replace(state, batch_stats=stats)
    results = {}
    for name, state in states.items():
        scores = evaluate_run(dataclasses.replace(run, state=state), layout, records, soft_masks=data.soft_masks)
        dice = dict(zip(run.class_names, scores.values("dice").mean(axis=0).tolist(), strict=True))
        results[name] = {**dice, "mean": sum(dice.values()) / len(dice)}
        print(f"{path.name:>20} {name:<36} " + " ".join(f"{v:.4f}" for v in results[name].values()), file=sys.stderr)
    facts = {
        "split": split,
        "steps": run.step,
        "momentum": run.config.model.batch_norm_momentum,
        "images": len(records),
    }
    return {**facts, "dice": results}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="run directories")
    parser.add_argument("--data-root", default="", help="place of the data set, if it has moved")
    parser.add_argument("--save", default="")
    options = parser.parse_args()
    make_mesh()
    results = {epath.Path(run).name: scores_of(epath.Path(run), options.data_root) for run in options.runs}
    finish(record("statistics", {"runs": list(results)}) | {"results": results}, options.save)


if __name__ == "__main__":
    main()
