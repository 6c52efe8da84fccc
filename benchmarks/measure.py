"""Functions that all benchmarks share: interleaved timing, the limits of the machine, and a record of each measurement.

On a busy machine the time of one variant means little. So variants take turns, one step each in every round, and the
benchmarks compare ratios of times of the same round.
"""

import datetime
import json
import os
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from facts import commit, driver, machine, version_of

import unet_jax
from unet_jax.runs.info import current_versions

Step = Callable[[], object]
"""Function that runs one step to its end: when it returns, all results of the step are computed."""

RESULTS = pathlib.Path(__file__).parent / "results"


def time_in_turns(
    steps: Mapping[str, Step], num_rounds: int, *, num_warm_up: int = 1, before: Mapping[str, Step] | None = None
) -> dict[str, list[float]]:
    """Time several steps in turns, one call of each in every round.

    Every round has another random order, so that a step does not always follow the same other one, which may leave
    cold caches or a hot core behind.

    Args:
      steps: steps to time, by name.
      num_rounds: timed rounds.
      num_warm_up: rounds before these, which are not timed.
      before: functions to call before a step, without timing them, by the name of the step.

    Returns:
      Seconds of every step, by name, one number per timed round.
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
    """Return the median, the 95th percentile and the fastest time in ms, and ratios to a baseline.

    `ratio` is the median, over rounds, of this time divided by the baseline's time of the same round.
    `ratio_of_fastest` compares the fastest times. It is the fairer ratio if other processes take a core away now and
    then: threads that wait for each other at every operation (OpenMP's) lose more time by that than others.

    Args:
      seconds: one time per round.
      baseline: times of the baseline in the same rounds; without it there are no ratios.
    """
    median, p95 = np.percentile(np.multiply(seconds, 1e3), [50, 95])
    values = {"median_ms": float(median), "p95_ms": float(p95), "fastest_ms": 1e3 * min(seconds)}
    if baseline is not None:
        values["ratio"] = float(np.median(np.divide(seconds, baseline)))
        values["ratio_of_fastest"] = min(seconds) / min(baseline)
    values["num_rounds"] = len(seconds)
    return values


# --- the machine's limits ---------------------------------------------------------------------------------------------


class Ceilings:
    """Limits of one device: the speed of a large matrix product per dtype, and of a large copy.

    `steps` must be timed in the same rounds as the steps that are compared with them, so that other processes disturb
    both alike. The arrays are random, because on zeros hardware is faster or its clock is higher.

    Args:
      dtypes: dtypes of the matrix products.
      small: use small arrays, for tests.
    """

    def __init__(self, dtypes: Sequence[str] = ("float32",), *, small: bool = False):
        on_cpu = jax.default_backend() == "cpu"
        side, num_bytes = (256, 2**22) if small else (2048, 2**28) if on_cpu else (8192, 2**31)
        key = jax.random.key(0)
        self.flops, self.num_bytes = 2.0 * side**3, 2.0 * num_bytes  # bytes read and bytes written
        self.steps: dict[str, Step] = {}
        product = jax.jit(lambda a, b: a @ b)  # in the precision that convolutions have by default
        for dtype in dtypes:
            a, b = (jax.random.normal(k, (side, side), jnp.dtype(dtype)) for k in jax.random.split(key))
            self.steps[f"matrix product, {dtype}"] = _ended(product, a, b)
        # A negation, because XLA would leave a plain copy out. It writes into the donated result of the last call, so
        # that no call waits for the system to allocate pages.
        copy = jax.jit(lambda x: -x, donate_argnums=0)
        box = [jax.random.normal(key, (num_bytes // 4,), jnp.float32)]

        def step() -> None:
            box[0] = jax.block_until_ready(copy(box[0]))

        self.steps["copy"] = step

    def summary(self, times: Mapping[str, Sequence[float]]) -> dict[str, float]:
        """Return FLOP/s by dtype and bytes/s, from the median times."""
        limits = {"bytes_per_s": self.num_bytes / float(np.median(times["copy"]))}
        for name in self.steps:
            if name != "copy":
                dtype = name.removeprefix("matrix product, ")
                limits[f"flops_per_s_{dtype}"] = self.flops / float(np.median(times[name]))
        return limits


def _ended(function: Callable[..., Any], *arguments: Any) -> Step:
    return lambda: jax.block_until_ready(function(*arguments))


# --- record of a measurement ------------------------------------------------------------------------------------------


def record(benchmark: str, options: Mapping[str, Any], packages: Sequence[str] = ()) -> dict[str, Any]:
    """Return the facts that belong to every number: device, driver, machine, versions, commit, date and options."""
    versions = current_versions() | {name: version_of(name) for name in packages}
    return {
        "benchmark": benchmark,
        "date": datetime.date.today().isoformat(),
        "commit": commit(pathlib.Path(unet_jax.__file__).parent),
        "device": jax.devices()[0].device_kind,
        "num_devices": jax.device_count(),
        "driver": driver(),
        "tunables": os.environ.get("GLIBC_TUNABLES", ""),
        "machine": machine(),
        "versions": {name: version for name, version in versions.items() if version},
        "options": dict(options),
    }


def peak_bytes() -> int | None:
    """Return the peak memory of the first device since the process began; None on CPUs, where it is not known."""
    statistics = jax.devices()[0].memory_stats()
    return statistics.get("peak_bytes_in_use") if statistics else None


def finish(report: Mapping[str, Any], save: str) -> None:
    """Print the report as the last line, and write it to a file.

    The program ends with status 1, and writes no file, if nothing was measured.

    Args:
      report: JSON values.
      save: name of the file: results/SAVE.json, or a path that ends in .json. Empty writes no file.
    """
    if report.get("failed") and not report.get("results"):
        raise SystemExit(f"nothing could be measured: {json.dumps(report['failed'])}")
    if save:
        path = pathlib.Path(save) if save.endswith(".json") else RESULTS / f"{save}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report), flush=True)
