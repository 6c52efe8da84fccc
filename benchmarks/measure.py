"""What the benchmarks share: interleaved timing, the machine's own limits, and a record of where and when.

On a busy machine the time of one variant means little. So variants take turns, one step each in every round, and what
is compared are ratios of times of the same round.
"""

import contextlib
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import unet_jax
from unet_jax.data.threads import num_cores
from unet_jax.runs.info import current_versions

Step = Callable[[], object]
"""Runs one step to its end: nothing of it is still under way when the call returns."""

RESULTS = pathlib.Path(__file__).parent / "results"


def time_in_turns(
    steps: Mapping[str, Step], num_rounds: int, *, num_warm_up: int = 1, before: Mapping[str, Step] | None = None
) -> dict[str, list[float]]:
    """Seconds of every step, by name and round; warm-up rounds are not among them.

    The order is another one in every round: a step that follows a greedy neighbour (a cold cache, a hot core) should
    not always be the same one. `before` holds what is run ahead of a step, and not timed.
    """
    times: dict[str, list[float]] = {name: [] for name in steps}
    rng = np.random.default_rng(0)
    for round_ in range(num_warm_up + num_rounds):
        for name in rng.permutation(list(steps)):
            if before and name in before:
                before[name]()
            start = time.perf_counter()
            steps[name]()
            if round_ >= num_warm_up:
                times[name].append(time.perf_counter() - start)
    return times


def summary(seconds: Sequence[float], baseline: Sequence[float] | None = None) -> dict[str, float]:
    """Median, 95th percentile and fastest in ms; and this time over the baseline's of the same round, the median.

    The ratio of the fastest is what is left where a neighbour takes a core away now and then: threads that wait for
    each other at every operation (OpenMP's) lose more by that than others.
    """
    median, p95 = np.percentile(np.multiply(seconds, 1e3), [50, 95])
    found = {"median_ms": float(median), "p95_ms": float(p95), "fastest_ms": 1e3 * min(seconds)}
    if baseline is not None:
        found["ratio"] = float(np.median(np.divide(seconds, baseline)))
        found["ratio_of_fastest"] = min(seconds) / min(baseline)
    found["num_rounds"] = len(seconds)
    return found


# --- the machine's limits ---------------------------------------------------------------------------------------------


class Ceilings:
    """A large matrix product per dtype and a large copy on one device: what a step can be held against.

    Their steps belong in the rounds of what they are compared with, where they meet the same neighbours. Numbers are
    random: hardware is faster, or clocks higher, on zeros.
    """

    def __init__(self, dtypes: Sequence[str] = ("float32",), *, small: bool = False):
        on_cpu = jax.default_backend() == "cpu"
        side, num_bytes = (256, 2**22) if small else (2048, 2**28) if on_cpu else (8192, 2**31)
        key = jax.random.key(0)
        self.flops, self.num_bytes = 2.0 * side**3, 2.0 * num_bytes  # read and written
        self.steps: dict[str, Step] = {}
        product = jax.jit(lambda a, b: a @ b)  # in the precision that convolutions have by default
        for dtype in dtypes:
            a, b = (jax.random.normal(k, (side, side), jnp.dtype(dtype)) for k in jax.random.split(key))
            self.steps[f"matrix product, {dtype}"] = _ended(product, a, b)
        # Negation, as XLA would not run a copy at all; it writes into what the last call gave back, so that no
        # call waits for the system to find it new pages.
        copy = jax.jit(lambda x: -x, donate_argnums=0)
        box = [jax.random.normal(key, (num_bytes // 4,), jnp.float32)]

        def step() -> None:
            box[0] = jax.block_until_ready(copy(box[0]))

        self.steps["copy"] = step

    def summary(self, times: Mapping[str, Sequence[float]]) -> dict[str, float]:
        """FLOP/s by dtype and bytes/s, from the median times."""
        found = {"bytes_per_s": self.num_bytes / float(np.median(times["copy"]))}
        for name in self.steps:
            if name != "copy":
                dtype = name.removeprefix("matrix product, ")
                found[f"flops_per_s_{dtype}"] = self.flops / float(np.median(times[name]))
        return found


def _ended(function: Callable[..., Any], *arguments: Any) -> Step:
    return lambda: jax.block_until_ready(function(*arguments))


# --- where and when ---------------------------------------------------------------------------------------------------


def record(benchmark: str, options: Mapping[str, Any], packages: Sequence[str] = ()) -> dict[str, Any]:
    """What a number means nothing without: device, driver, machine, versions, commit, date and options."""
    versions = current_versions() | {name: version_of(name) for name in packages}
    return {
        "benchmark": benchmark,
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "device": jax.devices()[0].device_kind,
        "num_devices": jax.device_count(),
        "driver": driver(),
        "tunables": os.environ.get("GLIBC_TUNABLES", ""),
        "machine": machine(),
        "versions": {name: version for name, version in versions.items() if version},
        "options": dict(options),
    }


def version_of(package: str) -> str:
    """Empty where it is not installed."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return ""


def commit() -> str:
    """Of the library that is measured, with a plus where it has changed since; empty without git."""
    folder = str(pathlib.Path(unet_jax.__file__).parent)
    head = _said("git", "-C", folder, "rev-parse", "--short", "HEAD")
    changed = _said("git", "-C", folder, "status", "--porcelain", "--", ".")
    return head + ("+" if changed else "")


def driver() -> str:
    """Of NVIDIA GPUs; empty where there are none."""
    return _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").partition("\n")[0]


def machine() -> str:
    """Architecture, cores and processor."""
    return f"{platform.machine()}, {num_cores()} cores, {_processor()}"


def _processor() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        return next((line.split(":")[1].strip() for line in file if line.startswith("model name")), "")
    return platform.processor()


def _said(*command: str) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def peak_bytes() -> int | None:
    """The most that the first device has held since the process began; None on CPUs, whose allocator does not say."""
    statistics = jax.devices()[0].memory_stats()
    return statistics.get("peak_bytes_in_use") if statistics else None


def finish(report: Mapping[str, Any], save: str) -> None:
    """Prints the report as the last line; `save` also writes results/SAVE.json, or a path that ends in .json.

    Ends the program with status 1, and writes no file, where nothing was measured.
    """
    if report.get("failed") and not report.get("results"):
        raise SystemExit(f"nothing could be measured: {json.dumps(report['failed'])}")
    if save:
        path = pathlib.Path(save) if save.endswith(".json") else RESULTS / f"{save}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report), flush=True)
