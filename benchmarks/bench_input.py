"""Images per second that are read: by stage, by our loader in its modes, and by other loaders from the same files."""

import contextlib
import dataclasses
import gc
import itertools
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import jax
import numpy as np
import tyro
from etils import epath
from input_peers import plain_grain, seed_generator, torch_albumentations
from measure import finish, record
from network import Size, height_and_width
from photos import write_photos
from rich.console import Console
from rich.table import Table

from unet_jax._types import Batch
from unet_jax.config import AugmentConfig, Config, DataConfig
from unet_jax.config.presets import seed
from unet_jax.data.augment import warp
from unet_jax.data.augment_color import shift_color
from unet_jax.data.disk_cache import disk_source
from unet_jax.data.images.files import read_image
from unet_jax.data.layout import find_layout
from unet_jax.data.masks.read import read_mask
from unet_jax.data.order import TrainOrder
from unet_jax.data.pipeline import Batches, batches_with_changes, train_batches
from unet_jax.data.pixels import resize_image, resize_mask
from unet_jax.data.sources import FileSource, ResizedSource
from unet_jax.data.threads import PrefetchIterator, num_cores
from unet_jax.data.warp_matrix import Geometry, geometry_matrix
from unet_jax.devices.mesh import batch_sharding, make_mesh, put_batch, put_rows
from unet_jax.program.augment_step import make_augment_step


@dataclasses.dataclass(frozen=True)
class Options:
    """Read 1918x1280 JPEG images and PNG masks, resize them, augment them as in preset seed, and make batches."""

    root: str = ""
    """Folder for the image files and the cache. Empty: a temporary folder."""
    num_images: int = 24
    num_classes: int = 1
    image_size: Size = 1024
    batch_size: int = 4
    num_threads: tuple[int, ...] = (1, 2)
    """Numbers of threads of our loader and of plain Grain, and of worker processes of PyTorch's loader."""
    seconds: float = 3.0
    """Seconds of each measurement. There is one measurement for each variant in each round."""
    num_rounds: int = 3
    save: str = ""
    """Name of a copy of the report: results/SAVE.json, or a path that ends in .json. Empty: none."""


def stage_times(source: FileSource, config: DataConfig) -> dict[str, float]:
    """Return the median ms of each stage in one thread, on the first image."""
    cv2.setNumThreads(1)
    record, (size, _) = source.records[0], config.height_and_width
    image, mask, _ = source[0]
    small = resize_image(image, size, size)
    small_mask = resize_mask(mask, size, size, linear=True)
    matrix = np.asarray(cv2.invert(geometry_matrix(Geometry(0.0, 1.05, 1.0, 20, -30), size, size))[1])
    four = np.concatenate([small, small_mask[..., :1]], axis=-1)
    stages: dict[str, Callable[[], Any]] = {
        "decode image": lambda: read_image(record.image),
        "decode mask": lambda: read_mask(record.masks[0][0]),
        "resize image and mask": lambda: (
            resize_image(image, size, size),
            resize_mask(mask, size, size, linear=True),
        ),
        "shift color": lambda: shift_color(small, (20.0, 3.0, -7.0), circular_hue=False),
        "warp image and mask": lambda: warp(four, matrix, linear=True, border="constant"),
        "flip": lambda: cv2.flip(small, 1),
        "batch of 4": lambda: np.stack([small] * 4),
    }
    times: dict[str, list[float]] = {name: [] for name in stages}
    for _ in range(15):
        for name, stage in stages.items():
            start = time.perf_counter()
            stage()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: float(np.median(values)) for name, values in times.items()}


def make_loaders(options: Options, root: epath.Path) -> dict[str, Callable[[], Iterator[Any]]]:
    """Return, for each variant by name, a function that makes an endless iterator over its batches."""
    base = seed()
    data = dataclasses.replace(
        base.data, root=str(root), image_size=options.image_size, cache_dir=str(root.parent / "cache")
    )
    layout = find_layout(data)
    files = FileSource(layout, layout.records)
    cached = disk_source(files, data, num_threads=num_cores())
    order = TrainOrder(len(files), options.batch_size, 10**6, 0)
    mesh = make_mesh()

    def ours(source: Any, threads: int, augment: AugmentConfig = base.augment) -> Batches[Batch]:
        config = dataclasses.replace(data, num_threads=threads)
        return train_batches(source, order, augment, config)

    def to_device(threads: int, change: bool) -> Iterator[Any]:
        config = Config(data=dataclasses.replace(data, num_threads=threads), augment=base.augment, model=base.model)
        drawn = batches_with_changes(cached, order, config.augment, config.data)
        step = make_augment_step(config.augment, linear_masks=True, sharding=batch_sharding(mesh))
        if change:
            return PrefetchIterator(drawn, lambda pair: jax.block_until_ready(step(*put_rows(pair, mesh))))
        return PrefetchIterator(drawn, lambda pair: jax.block_until_ready(put_rows(pair, mesh)))

    size, batch = height_and_width(options.image_size), options.batch_size
    loaders: dict[str, Callable[[], Iterator[Any]]] = {"seed's generator": lambda: seed_generator(files, size, batch)}
    for n in options.num_threads:
        loaders |= {
            f"plain Grain, {n} threads": lambda n=n: plain_grain(files, data, batch, n),
            f"PyTorch + albumentations, {n} workers": lambda n=n: torch_albumentations(files, size, batch, n),
            f"PyTorch + albumentations from our cache, {n} workers": lambda n=n: torch_albumentations(
                files, size, batch, n, cached
            ),
            f"ours from files, {n} threads": lambda n=n: ours(ResizedSource(files, data), n),
            f"ours from the cache, {n} threads": lambda n=n: ours(cached, n),
            f"ours to the device from the cache, {n} threads": lambda n=n: PrefetchIterator(
                ours(cached, n), lambda b: jax.block_until_ready(put_batch(b, mesh))
            ),
            f"unchanged pixels to the device, {n} threads": lambda n=n: to_device(n, False),
            f"changed on the device, {n} threads": lambda n=n: to_device(n, True),
        }
    return loaders


def cpu_s() -> float:
    """Return the processor time of this process and its children so far, in seconds."""
    total = time.process_time()
    for child in multiprocessing.active_children():
        with contextlib.suppress(OSError), open(f"/proc/{child.pid}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def rate(make: Callable[[], Iterator[Any]], options: Options, default_threads: int, name: str) -> tuple[float, float]:
    """Return images per second and processor ms per image, after two batches that are not counted."""
    # The Keras original uses OpenCV's own threads; all other loaders have their own threads or processes.
    cv2.setNumThreads(default_threads if name.startswith("seed") else 1)
    batches = make()
    for _ in itertools.islice(batches, 2):
        pass
    start, start_cpu_s, count = time.perf_counter(), cpu_s(), 0
    while time.perf_counter() - start < options.seconds:
        next(batches)
        count += options.batch_size
    result = count / (time.perf_counter() - start), 1e3 * (cpu_s() - start_cpu_s) / count
    with contextlib.suppress(AttributeError):
        batches.close()  # type: ignore[attr-defined]
    del batches
    gc.collect()
    return result


def main(options: Options) -> None:
    """Time all stages and loaders, print a table, and finish the report."""
    default_threads = cv2.getNumThreads()
    with contextlib.ExitStack() as stack:
        folder = options.root or stack.enter_context(tempfile.TemporaryDirectory())
        root = epath.Path(folder) / "photos"
        write_photos(root, num_images=options.num_images, num_classes=options.num_classes)
        loaders = make_loaders(options, root)
        data = DataConfig(root=str(root), image_size=options.image_size)
        layout = find_layout(data)
        stages = stage_times(FileSource(layout, layout.records), data)
        rates: dict[str, list[tuple[float, float]]] = {}
        skipped: dict[str, str] = {}
        for _ in range(options.num_rounds):
            for name, make in loaders.items():
                if name in skipped:
                    continue
                try:
                    rates.setdefault(name, []).append(rate(make, options, default_threads, name))
                except ImportError as error:
                    skipped[name] = str(error)
                    rates.pop(name)
    table = Table(
        "loader", "images/s", "ratio to Keras", "CPU ms", "Keras CPU / this", title=f"{options.image_size} pixels"
    )
    for name, ms in stages.items():
        table.add_row(f"stage: {name}", f"{1e3 / ms:.0f}", "", f"{ms:.1f}", "")
    base = np.array(rates["seed's generator"])
    results = {}
    for name, values in rates.items():
        images_per_s, cpu_ms = np.median(values, axis=0)
        # Medians of ratios within a round, because other processes slow both sides alike.
        speed, less_cpu = np.median(np.array(values) / base, axis=0)
        results[name] = {
            "images_per_s": float(images_per_s),
            "cpu_ms": float(cpu_ms),
            "rate_to_seed": float(speed),
            "seed_cpu_to_this": float(1.0 / less_cpu),
        }
        table.add_row(name, f"{images_per_s:.1f}", f"{speed:.2f}", f"{cpu_ms:.1f}", f"{1 / less_cpu:.2f}")
    for name, reason in skipped.items():
        table.add_row(name, "skipped", reason, "", "")
    Console(width=120).print(table)
    report = record("input", {**dataclasses.asdict(options), "root": ""}, ("torch", "albumentations"))
    measured = {"stages_ms": stages, "results": results, "rounds": rates, "skipped": skipped}
    finish({**report, **measured}, options.save)


if __name__ == "__main__":
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    main(tyro.cli(Options))
