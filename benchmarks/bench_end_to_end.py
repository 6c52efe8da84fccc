"""Rate of training from files, relative to the rate of the step alone, and share of time spent waiting for data."""

import contextlib
import dataclasses
import itertools
import sys
import tempfile
import time

import jax
import numpy as np
import tyro
from etils import epath
from measure import finish, record
from photos import write_photos
from rich.console import Console
from rich.table import Table

from unet_jax.config import Config
from unet_jax.config.dicts import replace
from unet_jax.config.presets import PRESETS
from unet_jax.data.cached_source import training_source
from unet_jax.data.layout import find_layout
from unet_jax.data.order import TrainOrder
from unet_jax.data.sources import FileSource
from unet_jax.data.threads import num_cores
from unet_jax.devices.compilation import compiler_options
from unet_jax.devices.huge_pages import restart_with_huge_pages
from unet_jax.devices.mesh import make_mesh, put_replicated
from unet_jax.losses import bce_dice_loss
from unet_jax.program.initial_state import init_state, make_model
from unet_jax.program.optim import make_optimizer
from unet_jax.program.steps import make_train_step
from unet_jax.training.prefetch import device_batches


@dataclasses.dataclass(frozen=True)
class Options:
    """Train a preset's network on 1918x1280 files, with several caches, and on one batch that stays on the device."""

    root: str = ""
    """Folder for the image files and the cache. Empty: a temporary folder."""
    preset: str = "seed"
    image_size: int = 256
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
        root = epath.Path(folder) / "photos"
        write_photos(root, num_images=options.num_images, num_classes=options.num_classes)
        settings = {
            "data.root": str(root),
            "data.cache_dir": str(root.parent / "cache"),
            "data.image_size": options.image_size,
            "data.num_threads": options.num_threads,
            "train.batch_size": options.batch_size,
        }
        base = replace(PRESETS[options.preset](), settings)
        run(base, options, stack)


def run(base: Config, options: Options, stack: contextlib.ExitStack) -> None:
    """Time training with each cache and place of augmentation, print a table, and finish the report."""
    mesh = make_mesh()
    model, tx = make_model(base.model, options.num_classes), make_optimizer(base.optim, 10**6)
    state = put_replicated(jax.jit(lambda key: init_state(key, model, tx))(jax.random.key(0)), mesh)
    layout = find_layout(base.data)
    files = FileSource(layout, layout.records)
    order = TrainOrder(len(files), options.batch_size, 10**6, 0)
    feeds = {}
    for cache, where in itertools.product(options.cache, options.where):
        config = replace(base, {"data.cache": cache, "augment.where": where})
        source = training_source(files, config.data, num_threads=num_cores())
        for i in range(len(source) if cache == "memory" else 0):
            source[i]  # fill the cache, as the first epoch of a run does
        feeds[f"{cache} cache, {where}"] = (source, config)
    with contextlib.closing(device_batches(*_feed(feeds, 0, order), mesh, start_step=0)) as batches:
        fixed = next(batches)
    train_step = make_train_step(model.apply, bce_dice_loss, tx, compiler_options=compiler_options())
    step = train_step.lower(state, fixed).compile()

    def steps(state, batches):
        """Run steps as the loop of a run does, with metrics read one step late.

        Returns the state, the seconds per step, and the share of time spent waiting for a batch.
        """
        pending, waited = None, 0.0
        start = time.perf_counter()
        for _ in range(options.num_steps):
            before = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - before
            state, metrics = step(state, batch)
            if pending is not None:
                jax.device_get(pending)
            pending = metrics
        jax.block_until_ready(pending)
        spent = time.perf_counter() - start
        return state, spent / options.num_steps, waited / spent

    state, *_ = steps(state, itertools.repeat(fixed))
    times: dict[str, list[tuple[float, float, float, float]]] = {}
    for _ in range(options.num_rounds):
        for i, name in enumerate(feeds):
            # Timed between two measurements of the step alone, so that other processes slow both alike.
            state, before_s, _ = steps(state, itertools.repeat(fixed))
            with contextlib.closing(device_batches(*_feed(feeds, i, order), mesh, start_step=0)) as batches:
                next(batches)
                state, fed_s, wait_share = steps(state, batches)
            state, after_s, _ = steps(state, itertools.repeat(fixed))
            times.setdefault(name, []).append((before_s, fed_s, after_s, wait_share))
            alone = f"step alone {before_s:.3f} and {after_s:.3f} s"
            print(f"{name}: {alone}, with data {fed_s:.3f} s, waiting {wait_share:.1%}", file=sys.stderr)
    table = Table("input", "step s", "pure step s", "share of rate", "share, fastest", "waiting", title=options.preset)
    results = {}
    for name, rows in times.items():
        before, fed, after, wait = np.array(rows).T
        pure = np.sqrt(before * after)
        results[name] = {
            "pure_step_s": float(np.median(pure)),
            "step_s": float(np.median(fed)),
            "fraction_median": float(np.median(pure / fed)),
            "fraction_fastest": float(before.min() / fed.min()),
            "wait_share": float(np.median(wait)),
        }
        r = results[name]
        table.add_row(
            name,
            *(f"{r[key]:.3f}" for key in ("step_s", "pure_step_s", "fraction_median", "fraction_fastest")),
            f"{r['wait_share']:.1%}",
        )
    Console(width=100).print(table)
    report = record("end to end", {**dataclasses.asdict(options), "root": ""})
    finish({**report, "results": results, "rounds": times}, options.save)


def _feed(feeds, index, order):
    """Return the source, the order and the config of one variant, for `device_batches`."""
    source, config = list(feeds.values())[index]
    return source, order, config


if __name__ == "__main__":
    restart_with_huge_pages()  # the same memory pages as in the library's command
    main(tyro.cli(Options))
