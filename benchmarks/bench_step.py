"""Time and memory of the training, evaluation and prediction steps of presets, on the available device.

The report compares them with the limits of the machine.
"""

import dataclasses
import itertools
from typing import Any

import tyro
from library_steps import KINDS, LibrarySteps, make_library_steps, network_of, reason
from measure import Ceilings, finish, peak_bytes, record, summary, time_in_turns
from network import forward_flops, training_flops
from rich.console import Console
from rich.table import Table

from unet_jax.config import Config
from unet_jax.config.dicts import replace
from unet_jax.config.presets import PRESETS
from unet_jax.devices.huge_pages import restart_with_huge_pages


@dataclasses.dataclass(frozen=True)
class Options:
    """Time the steps of presets in one interleaved run. Every combination of the given values is a variant."""

    preset: tuple[str, ...] = ("seed", "default")
    image_size: tuple[str, ...] = ("128",)
    """Sides of squares, or heights and widths such as 512x768."""
    batch_size: tuple[int, ...] = (8,)
    """Images in a step, over all devices."""
    dtype: tuple[str, ...] = ("float32",)
    packing: tuple[str, ...] = ("auto",)
    remat: tuple[str, ...] = ("none",)
    accumulation: tuple[int, ...] = (1,)
    num_devices: tuple[int, ...] = (0,)
    """Numbers of devices to use; 0 uses all."""
    kinds: tuple[str, ...] = KINDS
    num_classes: int = 2
    num_rounds: int = 10
    """Timed steps of each variant, after one untimed step."""
    small_ceilings: bool = False
    """Measure the limits of the machine with small arrays. This is for tests; the numbers mean nothing."""
    save: str = ""
    """Name of a copy of the report: results/SAVE.json, or a path that ends in .json. Empty: none."""


# Option of this command for each setting that it varies.
SWEPT = {
    "data.image_size": "image_size",
    "train.batch_size": "batch_size",
    "model.dtype": "dtype",
    "model.packing": "packing",
    "model.remat": "remat",
    "train.accumulation": "accumulation",
}


def chosen(options: Options) -> dict[str, tuple[Config, int]]:
    """Return the config and the number of devices of every combination. The names say what differs."""
    lists = {"preset": options.preset, **{field: getattr(options, field) for field in SWEPT.values()}}
    lists["num_devices"] = options.num_devices
    variants = {}
    for values in itertools.product(*lists.values()):
        chosen_values = dict(zip(lists, values, strict=True))
        settings = {setting: chosen_values[field] for setting, field in SWEPT.items()}
        sides = [int(side) for side in chosen_values["image_size"].split("x")]
        settings["data.image_size"] = (sides[0], sides[-1])
        config = replace(PRESETS[chosen_values["preset"]](), settings)
        varied = [f"{field} {chosen_values[field]}" for field in lists if field != "preset" and len(lists[field]) > 1]
        variants[", ".join([chosen_values["preset"], *varied])] = (config, chosen_values["num_devices"])
    return variants


def rates(config: Config, kind: str, num_devices: int, options: Options, times: dict[str, float]) -> dict[str, float]:
    """Return images and FLOPs per second, from the median time of a step in `times`."""
    count = forward_flops if kind != "train" else training_flops
    flops = count(network_of(config, options.num_classes), config.data.image_size)
    per_s = 1e3 * config.train.batch_size / times["median_ms"]
    return {
        "images_per_s": per_s,
        "images_per_s_per_device": per_s / num_devices,
        "flops_per_s_per_device": flops * per_s / num_devices,
    }


def main(options: Options) -> None:
    """Time the steps, print a table, and finish the report."""
    variants: dict[str, tuple[Config, int, LibrarySteps]] = {}
    failed: dict[str, str] = {}
    report = record("step", dataclasses.asdict(options))
    for name, (config, count) in chosen(options).items():
        num_devices = count or report["num_devices"]
        try:
            variants[name] = (
                config,
                num_devices,
                make_library_steps(config, options.num_classes, options.kinds, num_devices),
            )
        except Exception as error:  # such as too little memory; the other variants are still measured
            failed[name] = reason(error)
    ceilings = Ceilings(options.dtype, small=options.small_ceilings)
    steps: dict[str, Any] = {
        f"{name}: {kind}": step for name, (*_, product) in variants.items() for kind, step in product.steps.items()
    }
    times = time_in_turns({**steps, **ceilings.steps}, options.num_rounds)
    limits = ceilings.summary(times)
    rows = []
    for name, (config, num_devices, product) in variants.items():
        for kind, facts in product.facts.items():
            row = {"variant": name, "step": kind, **facts, **summary(times[f"{name}: {kind}"])}
            row |= rates(config, kind, num_devices, options, row)
            row["of_flops"] = row["flops_per_s_per_device"] / limits[f"flops_per_s_{config.model.dtype}"]
            if "bytes_accessed" in row:
                # The compiler counts the bytes that the program of one device reads and writes, without caches.
                row["bytes_per_s_per_device"] = 1e3 * row["bytes_accessed"] / row["median_ms"]
                row["of_bytes"] = row["bytes_per_s_per_device"] / limits["bytes_per_s"]
            rows.append(row)
    _print(rows, failed, report["device"])
    finish({**report, "ceilings": limits, "peak_bytes": peak_bytes(), "results": rows, "failed": failed}, options.save)


def _print(rows: list[dict[str, Any]], failed: dict[str, str], device: str) -> None:
    columns = (
        "variant",
        "step",
        "median ms",
        "p95 ms",
        "images/s",
        "of FLOP/s",
        "of bytes/s",
        "memory MB",
        "compile s",
    )
    table = Table(*columns, title=device)
    for row in rows:
        cells = [f"{row['median_ms']:.1f}", f"{row['p95_ms']:.1f}", f"{row['images_per_s']:.2f}"]
        cells += [f"{row['of_flops']:.0%}", f"{row['of_bytes']:.0%}" if "of_bytes" in row else ""]
        cells += [f"{row['memory_bytes'] / 1e6:.0f}" if "memory_bytes" in row else "", f"{row['compile_s']:.1f}"]
        table.add_row(row["variant"], row["step"], *cells)
    for name, why in failed.items():
        table.add_row(name, "failed", why)
    Console(width=120).print(table)


if __name__ == "__main__":
    restart_with_huge_pages()  # the same memory pages as in the library's command
    main(tyro.cli(Options))
