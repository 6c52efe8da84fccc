"""A profile of a few steps as a list of kernels, the slowest first."""

import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.profiler import ProfileData

from unet_jax.plan.gpu_program import list_kernels

_NUM_TOP = 40


def trace(
    launch: Callable[[], Any], wait: Callable[[Any], Any], folder: Path, num_steps: int
) -> list[tuple[str, float, float]]:
    """Profile some steps, and return name, start and duration in ms of everything that the device ran.

    On CPUs these are the operations of all threads.
    """
    with jax.profiler.trace(str(folder)):
        result = None
        for _ in range(num_steps):
            result = launch()
        wait(result)
    data = ProfileData.from_file(str(next(folder.rglob("*.xplane.pb"))))
    planes = [plane for plane in data.planes if plane.name.startswith("/device:GPU")]
    lines = [line for plane in planes for line in plane.lines if line.name.startswith("Stream")]
    if not planes:
        host = [plane for plane in data.planes if plane.name.startswith("/host:CPU")]
        lines = [line for plane in host for line in plane.lines if "XLA" in line.name or "Eigen" in line.name]
    events = []
    for line in lines:
        for event in line.events:
            stats = {name: value for name, value in event.stats if name == "hlo_op"}
            if planes or stats:
                events.append((str(stats.get("hlo_op") or event.name), event.start_ns / 1e6, event.duration_ns / 1e6))
    return events


def kernels_of(events: list[tuple[str, float, float]], text: str, num_steps: int) -> dict[str, Any]:
    """Return the slowest kernels of a step, with the bytes that the compiled program's text says they move.

    Args:
      events: what `trace` returns.
      text: text of the compiled program.
      num_steps: steps in the profile.

    Returns:
      `busy_ms`, the time in which anything ran, `launches`, and `top`, a list of the slowest kernels, all of one step.
    """
    spent: dict[str, float] = defaultdict(float)
    count: dict[str, int] = defaultdict(int)
    busy, end = 0.0, float("-inf")
    for name, start, duration in sorted(events, key=lambda event: event[1]):
        spent[name] += duration
        count[name] += 1
        busy += max(0.0, start + duration - max(start, end))
        end = max(end, start + duration)
    known = {_plain(kernel.instruction.name): kernel for kernel in list_kernels(text)}
    top = []
    for name, ms in sorted(spent.items(), key=lambda item: -item[1])[:_NUM_TOP]:
        row: dict[str, Any] = {"kernel": name[:80], "ms": ms / num_steps, "launches": count[name] / num_steps}
        kernel = known.get(_plain(name))
        if kernel:
            row |= {"operation": kernel.instruction.op_name, "num_bytes": kernel.num_bytes}
            row["bytes_per_s"] = 1e3 * kernel.num_bytes / row["ms"] if row["ms"] else None
        top.append(row)
    return {"busy_ms": busy / num_steps, "launches": len(events) / num_steps, "top": top}


def _plain(name: str) -> str:
    """Return the name of an instruction as its kernel is called: other characters than letters and digits as "_"."""
    return re.sub(r"\W", "_", name)
