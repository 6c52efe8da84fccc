"""Tables of a file of results of `gpu.py`: `python benchmarks/gpu_table.py FILE`."""

import json
import pathlib
import sys
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

Report = dict[str, Any]
_NUM_SHOWN = 15  # kernels in the table; the file has more
_AGREE = 0.05  # bfloat16 rounds in other places in every framework; another network differs by far more


def print_tables(report: Report) -> None:
    """Print all rows, the slowest kernels, what failed, and a summary."""
    console = Console(width=150)
    for i, session in enumerate(report["sessions"]):
        told = (session.get(name, "") for name in ("worker", "device", "driver", "date", "commit", "versions"))
        print(f"session {i}:", *told)
    console.print(_rows_table(report))
    for row in report["results"]:
        if row.get("top"):
            console.print(_profile_table(row))
    for piece, outcome in report["pieces"].items():
        if outcome["outcome"] != "done":
            print(f"{piece}: {outcome['outcome']}")
    for name, why in report["failed"].items():
        print(f"{name} failed: {why}")
    print("\n".join(summary(report)))


def _rows_table(report: Report) -> Table:
    table = Table("piece", "variant", "program", box=box.SIMPLE_HEAD, pad_edge=False)
    columns = ("ms", "images/s", "TFLOP/s", "GB/s", "of copy", "over floor", "GB", "compile s", "session")
    for column in columns:
        table.add_column(column, justify="right")
    limits = ceilings(report)
    for row in report["results"]:
        rate = row.get("bytes_per_s")
        if rate is None and row.get("kernel_bytes"):
            rate = 1e3 * row["kernel_bytes"] / row["ms"]
        copied, floor_ms = limits.get("bytes_per_s"), None
        if copied and row.get("floor_bytes"):
            floor_ms = 1e3 * row["floor_bytes"] / copied
        cells = (
            f"{row['ms']:.3f}",
            _number(row.get("images_per_s"), ".1f"),
            _number(row.get("flops_per_s"), ".1f", 1e-12),
            _number(rate, ".0f", 1e-9),
            _number(rate / copied if rate and copied else None, ".0%"),
            _number(row["ms"] / floor_ms if floor_ms else None, ".2f"),
            _number(row.get("peak_bytes") or row.get("memory_bytes"), ".2f", 1e-9),
            _number(row.get("compile_s", row.get("first_s")), ".1f"),
            str(row["session"]),
        )
        table.add_row(row["piece"], row["variant"], row["program"], *cells)
    return table


def _number(value: float | None, form: str, factor: float = 1.0) -> str:
    return "" if value is None else format(factor * value, form)


def _profile_table(row: dict[str, Any]) -> Table:
    title = (
        f"one step, {row['program']}: {row['ms']:.2f} ms, busy {row['busy_ms']:.2f} ms, {row['launches']:.0f} launches"
    )
    table = Table("ms", "share", "launches", "MB", "GB/s", "kernel", "operation", title=title, box=box.SIMPLE_HEAD)
    for kernel in row["top"][:_NUM_SHOWN]:
        cells = f"{kernel['ms']:.3f}", f"{kernel['ms'] / max(row['busy_ms'], 1e-9):.1%}", f"{kernel['launches']:g}"
        rates = _number(kernel.get("num_bytes"), ".0f", 1e-6), _number(kernel.get("bytes_per_s"), ".0f", 1e-9)
        table.add_row(*cells, *rates, kernel["kernel"][:44], str(kernel.get("operation", ""))[-60:])
    return table


def ceilings(report: Report) -> dict[str, float]:
    """Return the limits of the machine: bytes/s of a copy, and FLOP/s of matrix products by dtype."""
    limits: dict[str, float] = {}
    for row in report["results"]:
        if row["piece"] == "sanity" and row["variant"] == "machine":
            rate = {"bytes_per_s": row["bytes_per_s"]} if row["program"] == "copy" else {}
            limits |= rate or {row["program"]: row["flops_per_s"]}
    return limits


def summary(report: Report) -> list[str]:
    """Return lines that compare the library with PyTorch: convolutions, losses, and the best rates of each."""
    lines = []
    for row in report["results"]:
        if row["piece"] == "sanity" and row["variant"] != "machine":
            other = _row(report, "sanity_torch", row["variant"], row["program"])
            if other:
                ratio = row["ms"] / other["ms"]
                lines.append(f"convolution {row['variant']}, {row['program']}: {ratio:.2f} of PyTorch's time")
        if "fraction_median" in row:
            lines.append(f"training from {row['variant']}: {row['fraction_median']:.3f} of the rate of the step alone")
    for piece in ("seed", "float32", "original"):
        for program in ("train", "predict"):
            ours, theirs = _best(report, (piece,), program), _best(report, _of_torch(piece), program)
            if ours and theirs:
                ratio = ours["images_per_s"] / theirs["images_per_s"]
                rates = [f"{row['variant']}: {row['images_per_s']:.0f} images/s" for row in (ours, theirs)]
                lines.append(f"{piece}, {program}: {ratio:.2f} times the best of PyTorch ({'; '.join(rates)})")
        lines += _disagreements(report, piece)
    return lines


def _disagreements(report: Report, piece: str) -> list[str]:
    """Return a line for each row of PyTorch whose first losses or probabilities are not those of the library."""
    lines = []
    for theirs in report["results"]:
        if theirs["piece"] not in _of_torch(piece):
            continue
        batch = theirs["variant"].rpartition(", ")[2]
        ours = [row for row in report["results"] if row["piece"] == piece and row["variant"].endswith(f", {batch}")]
        for row in ours[-2:]:
            for name in ("losses", "mean_probability"):
                if row["program"] == theirs["program"] and name in row and not _agree(row[name], theirs.get(name)):
                    lines.append(f"NOT THE SAME: {name} of {theirs['variant']}: {theirs.get(name)}, not {row[name]}")
    return lines


def _agree(ours: Any, theirs: Any) -> bool:
    pairs = zip(ours, theirs, strict=True) if isinstance(ours, list) else [(ours, theirs)]
    return all(abs(a - b) <= _AGREE * max(abs(a), abs(b)) for a, b in pairs)


def _row(report: Report, piece: str, variant: str, program: str) -> dict[str, Any] | None:
    wanted = {"piece": piece, "variant": variant, "program": program}
    return next((row for row in reversed(report["results"]) if wanted.items() <= row.items()), None)


def _of_torch(piece: str) -> tuple[str, ...]:
    return f"{piece}_torch", f"{piece}_torch_more"


def _best(report: Report, pieces: tuple[str, ...], program: str) -> dict[str, Any] | None:
    """Return the row of some pieces with the most images per second."""
    rows = [row for row in report["results"] if row["piece"] in pieces and row["program"] == program]
    return max(rows, key=lambda row: row["images_per_s"], default=None)


if __name__ == "__main__":
    print_tables(json.loads(pathlib.Path(sys.argv[1]).read_text()))
