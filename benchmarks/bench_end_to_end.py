"""Rate of training from files, relative to the rate of the step alone, and share of time spent waiting for data."""

import contextlib
import dataclasses
import itertools
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import tyro
from etils import epath
from jax.sharding import Mesh
from measure import finish, record
from network import Size
from photos import write_photos
from rich.console import Console
from rich.table import Table

from unet_jax._types import Batch
from unet_jax.config import Config
from unet_jax.config.dicts import replace
from unet_jax.config.packing import Packing
from unet_jax.config.presets import PRESETS
from unet_jax.data.cached_source import training_source
from unet_jax.data.layout import find_layout
from unet_jax.data.order import TrainOrder
from unet_jax.data.sources import FileSource
from unet_jax.data.threads import num_cores
from unet_jax.devices.huge_pages import restart_with_huge_pages
from unet_jax.devices.mesh import make_mesh, put_replicated
from unet_jax.program.build import build
from unet_jax.program.state import TrainState
from unet_jax.training.prefetch import device_batches


@dataclasses.dataclass(frozen=True)
class Options:
    """Train a preset's network on 1918x1280 files, with several caches, and on one batch that stays on the device."""

    root: str = ""
    """Folder for the image files and the cache. Empty: a temporary folder."""
    preset: str = "seed"
    image_size: Size = 256
    batch_size: int = 8
    num_images: int = 24
    num_classes: int = 1
    num_steps: int = 6
    """Steps of each variant in each round."""
    num_rounds: int = 5
    num_threads: int = 0
    cache: tuple[str, ...] = ("none", "memory", "disk")
    where: tuple[str, ...] = ("host", "device")
    save: str = ""
    """Name of a copy of the report: results/SAVE.json, or a path that ends in .json. Empty: none."""


def main(options: Options) -> None:
    """Write the image files, and run the benchmark on them."""
    with contextlib.ExitStack() as stack:
        folder = options.root or stack.enter_context(tempfile.TemporaryDirectory())
        settings = {
            **photo_settings(epath.Path(folder), num_images=options.num_images, num_classes=options.num_classes),
            "data.image_size": options.image_size,
            "data.num_threads": options.num_threads,
            "train.batch_size": options.batch_size,
        }
        run(replace(PRESETS[options.preset](), settings), options)


class Feed(NamedTuple):
    """Training samples, with the order and the settings in which they are read."""

    source: Any
    order: TrainOrder
    config: Config


def photo_settings(root: epath.Path, *, num_images: int, num_classes: int) -> dict[str, Any]:
    """Write the image files into a folder, and return the settings with which they are read."""
    write_photos(root / "photos", num_images=num_images, num_classes=num_classes)
    return {"data.root": str(root / "photos"), "data.cache_dir": str(root / "cache")}


def open_feed(config: Config) -> Feed:
    """Open the files of a config, with a cache in memory already filled, as after the first epoch of a run."""
    layout = find_layout(config.data)
    files = FileSource(layout, layout.records)
    source = training_source(files, config.data, num_threads=num_cores())
    for i in range(len(source) if config.data.cache == "memory" else 0):
        source[i]
    return Feed(source, TrainOrder(len(files), config.train.batch_size, 10**6, 0), config)


def first_batch(feed: Feed, mesh: Mesh, packing: Packing) -> Batch:
    """Return a batch of a feed, on the devices."""
    batches = device_batches(*feed, mesh, start_step=0, packing=packing)
    with contextlib.closing(batches):
        return next(batches)


def timed_steps(step: Any, state: TrainState, batches: Iterator[Batch], count: int) -> tuple[TrainState, float, float]:
    """Run steps as the loop of a run does, with metrics read one step late.

    Returns:
      The state, the seconds per step, and the share of time spent waiting for a batch.
    """
    pending, waited = None, 0.0
    start = time.perf_counter()
    for _ in range(count):
        before = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - before
        state, metrics = step(state, batch)
        if pending is not None:
            jax.device_get(pending)
        pending = metrics
    jax.block_until_ready(pending)
    spent = time.perf_counter() - start
    return state, spent / count, waited / spent


def timed_round(
    step: Any, state: TrainState, fixed: Batch, feed: Feed, mesh: Mesh, packing: Packing, count: int
) -> tuple[TrainState, tuple[float, float, float, float]]:
    """Time steps with data between two measurements of the step alone, so that other processes slow both alike.

    Returns:
      The state, and seconds per step before, with data and after, and the share of time spent waiting for a batch.
    """
    state, before_s, _ = timed_steps(step, state, itertools.repeat(fixed), count)
    batches = device_batches(*feed, mesh, start_step=0, packing=packing)
    with contextlib.closing(batches):
        next(batches)
        state, fed_s, wait_share = timed_steps(step, state, batches, count)
    state, after_s, _ = timed_steps(step, state, itertools.repeat(fixed), count)
    return state, (before_s, fed_s, after_s, wait_share)


def summary_of(rounds: Sequence[tuple[float, float, float, float]]) -> dict[str, float]:
    """Return medians over rounds of `timed_round`."""
    before, fed, after, wait = np.array(rounds).T
    pure = np.sqrt(before * after)
    return {
        "pure_step_s": float(np.median(pure)),
        "step_s": float(np.median(fed)),
        "fraction_median": float(np.median(pure / fed)),
        "fraction_fastest": float(before.min() / fed.min()),
        "wait_share": float(np.median(wait)),
    }


def run(base: Config, options: Options) -> None:
    """Time training with each cache and place of augmentation, print a table, and finish the report."""
    mesh = make_mesh()
    program = build(base, options.num_classes, 10**6)
    state = put_replicated(jax.jit(program.init)(jax.random.key(0)), mesh)
    feeds = {
        f"{cache} cache, {where}": open_feed(replace(base, {"data.cache": cache, "augment.where": where}))
        for cache, where in itertools.product(options.cache, options.where)
    }
    fixed = first_batch(next(iter(feeds.values())), mesh, program.packing)
    step = program.train_step.lower(state, fixed).compile()  # type: ignore[attr-defined]
    state, *_ = timed_steps(step, state, itertools.repeat(fixed), options.num_steps)
    times: dict[str, list[tuple[float, float, float, float]]] = {}
    for _ in range(options.num_rounds):
        for name, feed in feeds.items():
            state, seconds = timed_round(step, state, fixed, feed, mesh, program.packing, options.num_steps)
            times.setdefault(name, []).append(seconds)
            before_s, fed_s, after_s, wait_share = seconds
            alone = f"step alone {before_s:.3f} and {after_s:.3f} s"
            print(f"{name}: {alone}, with data {fed_s:.3f} s, waiting {wait_share:.1%}", file=sys.stderr)
    table = Table("input", "step s", "pure step s", "share of rate", "share, fastest", "waiting", title=options.preset)
    results = {name: summary_of(rounds) for name, rounds in times.items()}
    for name, r in results.items():
        table.add_row(
            name,
            *(f"{r[key]:.3f}" for key in ("step_s", "pure_step_s", "fraction_median", "fraction_fastest")),
            f"{r['wait_share']:.1%}",
        )
    Console(width=100).print(table)
    report = record("end to end", {**dataclasses.asdict(options), "root": ""})
    finish({**report, "results": results, "rounds": times}, options.save)


if __name__ == "__main__":
    restart_with_huge_pages()  # the same memory pages as in the library's command
    main(tyro.cli(Options))
