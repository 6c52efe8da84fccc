"""Seconds from the start of a process to the end of its first training step, in this library and in others.

The others are textbook JAX, PyTorch and Keras. Every variant is started cold, with nothing compiled before, and then
again with the caches of the cold start. The time includes imports, loading the weights from a file, tracing,
compilation and the step itself, because a user waits for all of them. On a busy machine, the processor time of the
whole process is more reliable. (`bench_tpu_compiler.py` is about the quality of the program that a TPU's compiler
makes.)
"""

import dataclasses
import pathlib
import resource
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

    Also return the processor time of all threads until its end, which follows at once.

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
    before, processor_before = time.perf_counter(), _processor_s()
    process = Process(variant, folder, limit_s, environment)
    try:
        ready = time.perf_counter() - before
        process.ask(do="steps", count=1)
        first_step = time.perf_counter() - before
    finally:
        process.close()
    return {"ready_s": ready, "first_step_s": first_step, "processor_s": _processor_s() - processor_before}


def _processor_s() -> float:
    """Return the processor time of all child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def summary_of(
    variant: str, states: dict[str, list[dict[str, float]]], first: dict[str, list[dict[str, float]]]
) -> dict[str, Any]:
    """Return medians, and ratios to the first variant's start in the same round, of the cold and the cached starts."""
    row: dict[str, Any] = {"variant": variant}
    for state, values in states.items():
        for name, key in ((state, "first_step_s"), (f"{state}_processor", "processor_s")):
            seconds, baseline = ([v[key] for v in of] for of in (values, first[state]))
            row[f"{name}_s"] = float(np.median(seconds))
            row[f"{name}_ratio"] = float(np.median(np.divide(seconds, baseline)))
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
                        took = f"{seconds['first_step_s']:.1f} s, processor {seconds['processor_s']:.1f} s"
                        print(f"{variant}, {state}: {took}", file=sys.stderr, flush=True)
                except Unavailable as error:
                    skipped[variant] = str(error)
                    starts.pop(variant, None)
                    print(f"{variant} is left out: {error}", file=sys.stderr, flush=True)
    rows = [summary_of(variant, states, next(iter(starts.values()))) for variant, states in starts.items()]
    columns = [f"{state}{of}" for state in ("cold", "cached") for of in ("", "_processor")]
    names = [name for column in columns for name in (f"{column.replace('_', ' ')} s", "ratio")]
    table = Table("variant", *names, "cached s before the step", title=report["device"])
    for r in rows:
        cells = [cell for c in columns for cell in (f"{r[f'{c}_s']:.1f}", f"{r[f'{c}_ratio']:.2f}")]
        table.add_row(r["variant"], *cells, f"{r['ready_s']:.1f}")
    for variant, why in skipped.items():
        table.add_row(variant, "left out", why)
    Console(width=100).print(table)
    finish({**report, "results": rows, "skipped": skipped, "rounds": starts}, options.save)


if __name__ == "__main__":
    main(tyro.cli(Options))
