"""Estimates of communication between chips and of compute in a training step, from reports of `unet-jax plan --out`.

Compute is the compiler's cycles at the chip's clock. Communication is the bytes that the compiled program all-reduces,
at the public bandwidth of the links, as if none of it were hidden behind compute. Nothing is timed.

    for t in v5e:4x4 v5e:16x16; do unet-jax plan seed --topology $t --data.image-size 1024 \\
        --model.dtype bfloat16 --images-per-device 8 --out plan_$t.json; done
    python benchmarks/scaling_estimate.py plan_*.json
"""

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import tyro
from measure import finish
from rich.console import Console
from rich.table import Table

from unet_jax.plan.targets import CHIPS


class Links(NamedTuple):
    """Bandwidths of one chip in one direction, in bytes/s (Google Cloud's TPU documentation, per version)."""

    slice_bytes_per_s: float
    """Inter-chip interconnect. The page of v5e says 51.2 TB/s of all-reduce for its 256 chips."""
    network_bytes_per_s: float
    """Data-center network between slices."""


LINKS = {"v5e": Links(200e9, 6.4e12 / 8 / 256), "v5p": Links(600e9, 50e9 / 8)}


@dataclasses.dataclass(frozen=True)
class Options:
    """Read reports of `unet-jax plan --out` and print a table."""

    reports: tyro.conf.Positional[tuple[str, ...]]
    """Paths of the reports."""
    chips: tuple[int, ...] = (8,)
    """Numbers of chips of one slice. Each adds a row for the program of the first report on that many chips."""
    slices: int = 16
    """Number of slices. Each report gets another row for that many slices, connected by the data-center network."""
    save: str = ""
    """Name of a copy of the report: results/SAVE.json, or a path that ends in .json. Empty: none."""


def all_reduced_bytes(report: dict[str, Any]) -> int:
    """Return the bytes that one device all-reduces in a step."""
    collectives = report["collectives"]
    return sum(c["num_bytes"] for c in collectives if c["opcode"].startswith("all-reduce"))


def in_slice_s(num_bytes: float, num_chips: int, links: Links) -> float:
    """Return the seconds of an all-reduce in one slice.

    It sends and receives every number twice, except one chip's part, over all links at once.
    """
    return 2 * num_bytes * (num_chips - 1) / num_chips / links.slice_bytes_per_s


def between_slices_s(num_bytes: float, num_chips: int, num_slices: int, links: Links) -> float:
    """Return the seconds in which each chip of a slice exchanges its part of the sums with its counterparts."""
    return 2 * num_bytes / num_chips * (num_slices - 1) / num_slices / links.network_bytes_per_s


def row(report: dict[str, Any], topology: str, chips: int, slices: int = 1) -> dict[str, Any]:
    """Return the estimates for a report's program on `slices` slices of `chips` chips each."""
    kind = report["target"].partition(":")[0]
    clock, links = CHIPS[kind].clock_hz, LINKS[kind]
    assert clock is not None
    compute, num_bytes = report["cycles"] / clock, all_reduced_bytes(report)
    communication = in_slice_s(num_bytes, chips, links) + between_slices_s(num_bytes, chips, slices, links)
    return {
        "topology": topology,
        "chips": chips * slices,
        "images_per_step": int(report["images_per_device"] * chips * slices),
        "compute_ms": 1e3 * compute,
        "all_reduced_mb": num_bytes / 1e6,
        "communication_ms": 1e3 * communication,
        "efficiency": compute / (compute + communication),
        "images_for_95%": report["images_per_device"] * 19 * communication / compute,
    }


def main() -> None:
    """Print the table and one line of JSON."""
    options = tyro.cli(Options)
    reports = [json.loads(Path(path).read_text()) for path in options.reports]
    first = reports[0]["target"].partition(":")[0]
    rows = [row(reports[0], f"{first}, {chips} chips", chips) for chips in options.chips]
    for report in reports:
        name, chips = report["target"], report["num_devices"]
        rows += [row(report, name, chips), row(report, f"{options.slices} x {name}", chips, options.slices)]
    rows.sort(key=lambda line: line["chips"])
    table = Table()
    for name in rows[0]:
        table.add_column(name.replace("_", " "), justify="left" if name == "topology" else "right")
    for line in rows:
        table.add_row(*(f"{v:.3g}" if isinstance(v, float) and v < 100 else f"{v:,.0f}" if not isinstance(v, str) else v
                        for v in line.values()))  # fmt: skip
    Console(width=150).print(table)
    finish({"what": "compiler's estimates and public bandwidths, not timings", "results": rows}, options.save)


if __name__ == "__main__":
    main()
