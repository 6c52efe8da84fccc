"""Growth of the time and memory of a training step with image size, batch size, number of classes and depth.

One of them changes at a time. The report has the exponent of the power law that fits best.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import tyro
from library_steps import make_library_steps, reason
from measure import Step, finish, record, summary, time_in_turns
from network import Size
from rich.console import Console
from rich.table import Table

from unet_jax.config.dicts import replace
from unet_jax.config.presets import PRESETS
from unet_jax.devices.huge_pages import restart_with_huge_pages


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure a training step along four axes. Each axis starts from image_size, batch_size and num_classes, with the
    whole network and the given dtype."""

    preset: str = "seed"
    image_sizes: tuple[int, ...] = (256, 512, 1024, 2048, 4096)
    batch_sizes: tuple[int, ...] = (1, 2, 4, 8)
    classes: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    depths: tuple[int, ...] = (3, 4, 5, 6, 7)
    """Numbers of poolings n: the network has the first n of the preset's widths, and the next width as its centre."""
    image_size: Size = 256
    batch_size: int = 1
    num_classes: int = 2
    dtype: str = "float32"
    num_rounds: int = 5
    """Timed steps of each variant, after one untimed step."""
    save: str = ""
    """Name of a copy of the report: results/SAVE.json, or a path that ends in .json. Empty: none."""


def points(options: Options) -> list[tuple[str, int, dict[str, Any], int]]:
    """Return axis, value on the axis, settings and number of classes of each measurement."""
    model = PRESETS[options.preset]().model
    widths = (*model.widths, model.center_width)
    base = {
        "data.image_size": options.image_size,
        "train.batch_size": options.batch_size,
        "model.dtype": options.dtype,
    }
    measurements = [("image size", n, {**base, "data.image_size": n}, options.num_classes) for n in options.image_sizes]
    measurements += [("batch", n, {**base, "train.batch_size": n}, options.num_classes) for n in options.batch_sizes]
    measurements += [("classes", n, base, n) for n in options.classes]
    for n in options.depths:
        shape = {"model.widths": widths[:n], "model.center_width": widths[n]}
        measurements.append(("depth", n, {**base, **shape}, options.num_classes))
    return measurements


def exponent(values: Sequence[float], results: Sequence[float]) -> float | None:
    """Return p of results ~ values^p, by least squares of the logarithms; None for fewer than two different values."""
    if len(set(values)) < 2:
        return None
    return float(np.polyfit(np.log(values), np.log(results), 1)[0])


def main(options: Options) -> None:
    """Measure all axes, print a table, and finish the report."""
    report = record("scaling", dataclasses.asdict(options))
    rows: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    by_axis: dict[str, list[tuple[int, dict[str, Any], int]]] = {}
    for axis, value, settings, num_classes in points(options):
        by_axis.setdefault(axis, []).append((value, settings, num_classes))
    for axis, chosen in by_axis.items():  # the programs of one axis are in memory at a time
        steps: dict[str, Step] = {}
        facts: dict[str, dict[str, float]] = {}
        for value, settings, num_classes in chosen:
            try:
                product = make_library_steps(replace(PRESETS[options.preset](), settings), num_classes)
            except Exception as error:
                failed[f"{axis} {value}"] = reason(error)
                continue
            steps[str(value)], facts[str(value)] = product.steps["train"], product.facts["train"]
        times = time_in_turns(steps, options.num_rounds)
        rows += [{"axis": axis, "value": int(v), **summary(times[v]), **facts[v]} for v in steps]
    exponents = {}
    for axis in by_axis:
        of = [row for row in rows if row["axis"] == axis]
        for key in ("median_ms", "temporary_bytes"):
            if all(key in row for row in of):
                exponents[f"{axis}: {key}"] = exponent([r["value"] for r in of], [r[key] for r in of])
    _print(rows, exponents, failed, report["device"])
    finish({**report, "results": rows, "exponents": exponents, "failed": failed}, options.save)


def _print(rows: list[dict[str, Any]], exponents: dict[str, Any], failed: dict[str, str], device: str) -> None:
    table = Table("axis", "value", "median ms", "exponent", "temporary MB", "exponent", title=device)
    for row in rows:
        powers = [exponents.get(f"{row['axis']}: {key}") for key in ("median_ms", "temporary_bytes")]
        time_grows, memory_grows = ("" if p is None else f"{p:.2f}" for p in powers)
        temporary = f"{row['temporary_bytes'] / 1e6:.0f}" if "temporary_bytes" in row else ""
        table.add_row(row["axis"], f"{row['value']}", f"{row['median_ms']:.1f}", time_grows, temporary, memory_grows)
    for name, why in failed.items():
        table.add_row(name, "failed", why)
    Console(width=100).print(table)


if __name__ == "__main__":
    restart_with_huge_pages()  # the same memory pages as in the library's command
    main(tyro.cli(Options))
