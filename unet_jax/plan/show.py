"""Tables of estimates for a terminal."""

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from unet_jax.plan.estimate import LABEL, Estimate


def size(num_bytes: float) -> str:
    """Format a number of bytes with a decimal unit.

    Example:
      >>> size(1_234_567)
      '1.23 MB'
    """
    for unit in ("B", "kB", "MB"):
        if abs(num_bytes) < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.2f} GB"


def show(estimate: Estimate) -> RenderableType:
    """Make tables of everything in an estimate: summary, padding, collectives and the most expensive instructions."""
    parts: list[RenderableType] = [_summary(estimate)]
    if estimate.padding:
        parts.append(_padding(estimate.padding))
    if estimate.collectives:
        table = Table(title="data exchanged between devices, per step and device", title_justify="left")
        for column in ("collective", "count", "bytes"):
            table.add_column(column, justify="left" if column == "collective" else "right")
        for collective in estimate.collectives:
            table.add_row(collective["opcode"], str(collective["count"]), size(collective["num_bytes"]))
        parts.append(table)
    if estimate.top:
        parts.append(_top(estimate))
    return Group(*parts)


def _summary(estimate: Estimate) -> Table:
    """Make the table of totals; a floor stands below the number that it is a lower bound of."""
    e, floor = estimate, estimate.floor
    table = Table(title=f"{e.program} step on {e.target}: {LABEL}", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("devices", str(e.num_devices))
    table.add_row("images per device and step", f"{e.images_per_device:g}")
    table.add_row("packing, highest resolution first", e.packing)
    if e.cycles:
        table.add_row("cycles", f"{e.cycles / 1e6:.1f} million")
    if "cycles" in floor:
        table.add_row("  floor (a rough lower bound)", f"{floor['cycles'] / 1e6:.1f} million")
    if e.flops is not None:
        table.add_row("FLOPs", f"{e.flops / 1e12:.3f} T")
    table.add_row(
        ("  floor: " if e.flops is not None else "") + "FLOPs of the convolutions alone",
        f"{floor['flops'] / 1e12:.3f} T",
    )
    table.add_row("bytes accessed", size(e.bytes_accessed))
    table.add_row("  floor: activations that must be read and written", size(floor["bytes"]))
    if e.traffic_ms is not None:
        table.add_row("bytes / peak bandwidth (not a time)", f"{e.traffic_ms:.2f} ms")
    if e.kernels:
        few = f"{e.kernels['count']}; {e.kernels['small']} move under 1 MB, {e.kernels['copies']} copy"
        table.add_row("kernels", few)
    if "ms" in floor:
        table.add_row("floor: time at the chip's published peaks", f"{floor['ms']:.2f} ms")
    memory = f"{size(e.argument_bytes)} + {size(e.temporary_bytes)} + {size(e.output_bytes)}"
    table.add_row("memory: arguments + temporaries + outputs", memory)
    if e.hbm_bytes:
        fits = "fits" if e.fits else "DOES NOT FIT"
        table.add_row("  total, of the chip's memory", f"{size(e.total_bytes)} of {size(e.hbm_bytes)}: {fits}")
    table.add_row("time to compile", f"{e.compile_s:.0f} s by {e.compiler}")
    return table


def _padding(padding: Sequence[dict[str, Any]]) -> Table:
    """Make a table of the bytes written at each resolution, without and with the padding of tiles."""
    table = Table(title="bytes written to memory at each resolution (level 0 is the highest)", title_justify="left")
    for column in ("level", "data", "with padding", "waste"):
        table.add_column(column, justify="right")
    for row in padding:
        waste = 1.0 - row["num_bytes"] / max(1, row["stored_bytes"])
        table.add_row(str(row["level"]), size(row["num_bytes"]), size(row["stored_bytes"]), f"{waste:.0%}")
    return table


def _top(estimate: Estimate) -> Table:
    """Make a table of the instructions with the most cycles, or of the kernels with the most bytes; M is a million."""
    by_bytes = "num_bytes" in estimate.top[0]
    title = "kernels that move most" if by_bytes else "most expensive instructions"
    table = Table(title=title, title_justify="left")
    table.add_column("MB" if by_bytes else "M cycles", justify="right")
    table.add_column("share", justify="right")
    table.add_column("source")
    table.add_column("operation", overflow="fold")
    for row in estimate.top:
        cost = row["num_bytes" if by_bytes else "cycles"]
        share = cost / ((estimate.bytes_accessed if by_bytes else estimate.cycles) or 1)
        operation = row["operation"].partition("/")[2] or row["instruction"]
        table.add_row(f"{cost / 1e6:.2f}", f"{share:.1%}", row["source"], operation)
    return table


def show_sweep(rows: Sequence[tuple[dict[str, Any], Estimate | str]]) -> Table:
    """Make a table with one line for each variant of a sweep; a string says why there is no estimate."""
    table = Table(title=f"variants: {LABEL}", title_justify="left")
    columns = ("images/device", "packing", "remat", "M cycles/image", "GB/image", "memory", "compile s")
    for column in columns:
        table.add_column(column, justify="left" if column in ("packing", "remat") else "right")
    for variant, estimate in rows:
        names = [f"{variant['images_per_device']:g}", variant["packing"], variant["remat"]]
        if isinstance(estimate, str):
            table.add_row(*names, "", "", estimate, "")
            continue
        cycles = f"{estimate.cycles / 1e6 / estimate.images_per_device:.2f}" if estimate.cycles else ""
        traffic = f"{estimate.bytes_accessed / 1e9 / estimate.images_per_device:.2f}"
        fits = "" if estimate.fits is not False else ", does not fit"
        memory = f"{size(estimate.total_bytes)}{fits}"
        table.add_row(*names, cycles, traffic, memory, f"{estimate.compile_s:.0f}")
    return table
