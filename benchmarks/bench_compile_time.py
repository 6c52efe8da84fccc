"""Seconds from the start of a process to the end of its first training step, in this library and in others.

The others are textbook JAX, PyTorch and Keras. Every variant is started cold, with nothing compiled before, and then
again with the caches of the cold start. The time includes imports, loading the weights from a file, tracing,
compilation and the step itself, because a user waits for all of them. (`bench_tpu_compiler.py` is about the quality of
the program that a TPU's compiler makes.)
"""

import dataclasses
import pathlib
import sys
import tempfile
import time
from typing import Any

import numpy as np
import tyro
from bench_peers import PeerOptions, Process, Unavailable, prepare
from measure import finish, record
from network import Size
from rich.console import Console
from rich.table import Table


@dataclasses.dataclass(frozen=True)
class Options(PeerOptions):
    """Start every implementation twice in each round: cold, and again with the caches of the cold start."""

    image_size: Size = 128
    num_rounds: int = 2


def start(variant: str, folder: pathlib.Path, caches: pathlib.Path, limit_s: float) -> dict[str, float]:
    """Start a process, and return the seconds until it is ready for a step, and until its first step is done.

    Args:
      variant: name of the variant.
      folder: folder with the task, from `prepare`.
      caches: folder for all caches of compiled programs.
      limit_s: longest wait for an answer, in seconds.
    """
    environment = {
        "JAX_COMPILATION_CACHE_DIR": str(caches / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3",  # as in unet_jax.devices.compilation
        "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor"),
        "TRITON_CACHE_DIR": str(caches / "triton"),
    }
    before = time.perf_counter()
    process = Process(variant, folder, limit_s, environment)
    try:
        ready = time.perf_counter() - before
        process.ask(do="steps", count=1)
        return {"ready_s": ready, "first_step_s": time.perf_counter() - before}
    finally:
        process.close()


def summary_of(
    variant: str, states: dict[str, list[dict[str, float]]], first: dict[str, list[dict[str, float]]]
) -> dict[str, Any]:
    """Return medians, and ratios to the first variant's start in the same round, of the cold and the cached starts."""
    row: dict[str, Any] = {"variant": variant}
    for state, values in states.items():
        seconds, baseline = ([v["first_step_s"] for v in of] for of in (values, first[state]))
        row[f"{state}_s"] = float(np.median(seconds))
        row[f"{state}_ratio"] = float(np.median(np.divide(seconds, baseline)))
    return {**row, "ready_s": float(np.median([v["ready_s"] for v in states["cached"]]))}


def main(options: Options) -> None:
    """Measure all starts, print a table, and finish the report."""
    report = record("compile time", dataclasses.asdict(options), ("torch", "keras", "triton"))
    starts: dict[str, dict[str, list[dict[str, float]]]] = {}
    skipped: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        prepare(folder, options)
        for round_ in range(options.num_rounds):
            for variant in options.variants:
                if variant in skipped:
                    continue
                caches = folder / f"{variant} {round_}"
                try:
                    for state in ("cold", "cached"):
                        seconds = start(variant, folder, caches, options.limit_s)
                        starts.setdefault(variant, {}).setdefault(state, []).append(seconds)
                        print(f"{variant}, {state}: {seconds['first_step_s']:.1f} s", file=sys.stderr, flush=True)
                except Unavailable as error:
                    skipped[variant] = str(error)
                    starts.pop(variant, None)
                    print(f"{variant} is left out: {error}", file=sys.stderr, flush=True)
    rows = [summary_of(variant, states, next(iter(starts.values()))) for variant, states in starts.items()]
    table = Table("variant", "cold s", "ratio", "cached s", "ratio", "cached s before the step", title=report["device"])
    for r in rows:
        cells = [f"{r['cold_s']:.1f}", f"{r['cold_ratio']:.2f}", f"{r['cached_s']:.1f}", f"{r['cached_ratio']:.2f}"]
        table.add_row(r["variant"], *cells, f"{r['ready_s']:.1f}")
    for variant, why in skipped.items():
        table.add_row(variant, "left out", why)
    Console(width=100).print(table)
    finish({**report, "results": rows, "skipped": skipped, "rounds": starts}, options.save)


if __name__ == "__main__":
    main(tyro.cli(Options))
