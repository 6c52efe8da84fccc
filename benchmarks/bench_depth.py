"""Images per second of our loader for 8 and 16 bits, in one call; and of another checkout of the library, for 8 bits.

`--against DIR` runs the loader of another checkout (`git worktree add DIR COMMIT`), each time in a process of its own,
and this one's in the same way. On a busy machine, processor time per image is more reliable than images per second.
"""

import contextlib
import dataclasses
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import cv2
import numpy as np
import tyro
from etils import epath
from measure import finish, record
from network import Size, height_and_width
from photos import write_photos
from rich.console import Console
from rich.table import Table

from unet_jax.config import DataConfig
from unet_jax.config.presets import PRESETS
from unet_jax.data.augment import augment
from unet_jax.data.disk_cache import disk_source
from unet_jax.data.images.files import read_image
from unet_jax.data.images.format import ImageFormat
from unet_jax.data.layout import find_layout
from unet_jax.data.order import TrainOrder
from unet_jax.data.pipeline import train_batches
from unet_jax.data.sources import FileSource

_HERE = pathlib.Path(__file__).parent
_OF_A_CHECKOUT = """
import sys
folder, root, seconds, *sizes = sys.argv[1:]
sys.path[:0] = [folder + "/benchmarks", folder]
import bench_input
from etils import epath
num_images, num_classes, batch_size, height, width = map(int, sizes)
image_size = height if height == width else (height, width)
options = bench_input.Options("", num_images, num_classes, image_size, batch_size, (1,), float(seconds))
loaders = bench_input.make_loaders(options, epath.Path(root))
print(*bench_input.rate(loaders["ours from the cache, 1 threads"], options, 1, ""))
"""


@dataclasses.dataclass(frozen=True)
class Options:
    """Read RGB images of 8 and 16 bits from the cache, augment them as in a preset, and make batches, in one thread."""

    preset: str = "default"
    """Preset of the augmentation; the checkouts that are compared augment as in preset seed."""
    num_images: int = 24
    num_classes: int = 2
    image_size: Size = 512
    batch_size: int = 4
    seconds: float = 2.0
    """Seconds of each measurement. There is one measurement for each variant in each round."""
    num_rounds: int = 9
    against: str = ""
    """Folder of another checkout of the library. Empty: none."""
    save: str = ""
    """Name of a copy of the report: results/SAVE.json, or a path that ends in .json. Empty: none."""


def write_deep_copies(root: epath.Path, deep: epath.Path) -> None:
    """Write 16-bit PNG files of the 8-bit images below root, with random low bytes, and link their masks."""
    rng = np.random.default_rng(0)
    (deep / "images").mkdir(parents=True)
    pathlib.Path(deep / "masks").symlink_to(root / "masks")
    for path in (root / "images").iterdir():
        image = read_image(path)[..., ::-1].astype(np.uint16) * 256
        image += rng.integers(0, 256, image.shape, np.uint16)
        ok, data = cv2.imencode(".png", image)
        assert ok
        (deep / "images" / f"{path.stem}.png").write_bytes(data.tobytes())


def make_variants(options: Options, folder: epath.Path) -> dict[str, Callable[[], tuple[float, float]]]:
    """Return functions that work for `options.seconds`, by name: each returns images/s and ms of CPU per image."""
    config = PRESETS[options.preset]()
    variants: dict[str, Callable[[], tuple[float, float]]] = {}
    write_photos(folder / "8", num_images=options.num_images, num_classes=options.num_classes)
    write_deep_copies(folder / "8", folder / "16")
    for bits in (8, 16):
        data = DataConfig(
            root=str(folder / str(bits)),
            image_size=options.image_size,
            cache_dir=str(folder / "cache"),
            num_threads=1,
            mask_interpolation=config.data.mask_interpolation,
        )
        layout = find_layout(data)
        cached = disk_source(
            FileSource(layout, layout.records, image_format=ImageFormat(bits=bits)), data, num_threads=1
        )
        samples = [cached[i] for i in range(len(cached))]
        order = TrainOrder(len(cached), options.batch_size, 10**6, 0)

        def alone(samples=samples) -> tuple[float, float]:
            start, start_cpu_s, count = time.perf_counter(), time.process_time(), 0
            while time.perf_counter() - start < options.seconds:
                augment(np.random.default_rng(count), samples[count % len(samples)], config.augment)
                count += 1
            return count / (time.perf_counter() - start), 1e3 * (time.process_time() - start_cpu_s) / count

        def from_cache(cached=cached, order=order, data=data) -> tuple[float, float]:
            with contextlib.closing(train_batches(cached, order, config.augment, data)) as batches:
                next(batches)
                start, start_cpu_s, count = time.perf_counter(), time.process_time(), 0
                while time.perf_counter() - start < options.seconds:
                    next(batches)
                    count += options.batch_size
                return count / (time.perf_counter() - start), 1e3 * (time.process_time() - start_cpu_s) / count

        variants |= {f"augmentation alone, {bits} bits": alone, f"from the cache, {bits} bits": from_cache}
    checkouts = {"this checkout": str(_HERE.parent), "the other checkout": options.against} if options.against else {}
    for name, checkout in checkouts.items():

        def of_checkout(checkout=checkout) -> tuple[float, float]:
            of_images = height_and_width(options.image_size)
            sizes = (options.num_images, options.num_classes, options.batch_size, *of_images)
            arguments = (checkout, str(folder / "8"), str(options.seconds), *map(str, sizes))
            done = subprocess.run(
                [sys.executable, "-c", _OF_A_CHECKOUT, *arguments], capture_output=True, text=True, check=True
            )
            images_per_s, cpu_ms = map(float, done.stdout.split()[-2:])
            return images_per_s, cpu_ms

        variants[f"from the cache, 8 bits, {name}"] = of_checkout
    return variants


def main(options: Options) -> None:
    """Time the variants in turns, print a table, and finish the report."""
    cv2.setNumThreads(1)
    rates: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        variants = make_variants(options, epath.Path(folder))
        rng = np.random.default_rng(0)
        for _ in range(options.num_rounds):
            for name in rng.permutation(list(variants)):
                rates.setdefault(name, []).append(variants[name]())
    table, results = Table("variant", "images/s", "ratio", "CPU ms", "CPU ratio"), {}
    for name in variants:
        base = name.replace("16 bits", "8 bits").replace("this checkout", "the other checkout")
        # The median of ratios within a round, because other processes slow both sides alike.
        ratio, more_cpu = np.median(np.divide(rates[name], rates[base]), axis=0)
        images_per_s, cpu_ms = np.median(rates[name], axis=0)
        results[name] = {
            "images_per_s": float(images_per_s),
            "cpu_ms": float(cpu_ms),
            "compared_with": base,
            "ratio": float(ratio),
            "cpu_rate_ratio": float(1.0 / more_cpu),
        }
        table.add_row(name, f"{images_per_s:.1f}", f"{ratio:.2f}", f"{cpu_ms:.1f}", f"{1 / more_cpu:.2f}")
    Console(width=110).print(table)
    report = record("depth", {**dataclasses.asdict(options), "against": bool(options.against)})
    finish({**report, "results": results, "rounds": rates}, options.save)


if __name__ == "__main__":
    main(tyro.cli(Options))
