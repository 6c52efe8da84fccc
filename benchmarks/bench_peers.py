"""The same network, loss and update in this library, in textbook JAX, in PyTorch and in Keras 3: are they the same, and
how long does a training step of each take?

Every implementation has a process of its own, which takes one step when it is told to: they take turns, so that the
ratios hold on a busy machine. What is not installed or does not run is named and left out.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any, Literal

import jax
import numpy as np
import tyro
from measure import Ceilings, Step, finish, record, summary, time_in_turns
from network import Network, num_parameters, random_pixels, random_weights, training_flops
from peer import VARIANTS, Task, environment_of
from rich.console import Console
from rich.table import Table

TOLERANCE = {("cpu", "float32"): 1e-4, ("cpu", "bfloat16"): 0.1, ("gpu", "float32"): 2e-2, ("gpu", "bfloat16"): 0.1}
"""Largest difference of logits as a part of the largest logit; GPUs multiply float32 in TF32, of 10 bits, by default.
bfloat16 has 7 bits, and each framework rounds elsewhere."""


@dataclasses.dataclass(frozen=True)
class PeerOptions:
    """Implementations, and the training step that all of them take."""

    variants: tuple[str, ...] = tuple(VARIANTS)
    """Ratios are to the first. "unet_jax packing 2,2" is the library with that setting of the model;
    "unet_jax, huge pages" with the memory that its command has on a CPU, which the others can have as well."""
    widths: tuple[int, ...] = (8, 16, 32, 64, 128, 256, 512)
    center_width: int = 1024
    num_classes: int = 2
    image_size: int = 512
    batch_size: int = 2
    dtype: Literal["float32", "bfloat16"] = "float32"
    learning_rate: float = 1e-4
    """Of Adam, which all three libraries have."""
    limit_s: float = 900.0
    """An implementation that has not answered after so long, or compiled its step, is left out."""
    save: str = ""
    """Also write results/SAVE.json, or a path that ends in .json."""


@dataclasses.dataclass(frozen=True)
class Options(PeerOptions):
    """Compare training steps of several implementations of one network, with the same weights and batch."""

    num_rounds: int = 10
    """Timed steps of each variant, after one that is not counted."""
    small_ceilings: bool = False
    """Measure the machine's limits with small arrays: for tests, the numbers mean nothing."""


class Unavailable(Exception):
    """An implementation that is not installed, or does not run here; says why."""


class Process:
    """An implementation at work, which answers requests."""

    def __init__(self, variant: str, folder: pathlib.Path, limit_s: float, environment: dict[str, str] | None = None):
        self._limit_s = limit_s
        script = pathlib.Path(__file__).parent / "peer.py"
        own = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", **environment_of(variant), **(environment or {})}
        self._process = subprocess.Popen(
            [sys.executable, str(script), variant, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **own},
        )
        self._read()

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # then there is an error to be read, or nothing
            print(json.dumps(request), file=self._process.stdin, flush=True)
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        timer = threading.Timer(self._limit_s, self._process.kill)
        timer.start()
        line = self._process.stdout.readline()
        late = not timer.is_alive()
        timer.cancel()
        if not line:
            status = self._process.wait()
            why = f"did not answer in {self._limit_s:.0f} s" if late else f"its process ended with status {status}"
            raise Unavailable(why)
        found = json.loads(line)
        if "error" in found:
            self.close()
            raise Unavailable(found["error"])
        return found

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def prepare(folder: pathlib.Path, options: Any) -> Network:
    """Writes what all processes read: the task, the weights and the batch."""
    network = Network(options.widths, options.center_width, options.num_classes)
    Task(network, options.dtype, options.learning_rate).write(folder)
    np.savez(folder / "weights.npz", **{str(i): a for i, a in enumerate(random_weights(network))})  # type: ignore[arg-type]
    image, label = random_pixels(options.batch_size, options.image_size, options.num_classes)
    np.savez(folder / "pixels.npz", image=image, label=label)
    return network


def check(process: Process, variant: str, folder: pathlib.Path, wanted: np.ndarray | None) -> dict[str, Any]:
    """Number of parameters, logits, and the losses of two steps: whether the update is the same shows in the second."""
    file = folder / f"{variant}.npy"
    found = process.ask(do="logits", file=str(file))
    logits = np.load(file)
    start = time.perf_counter()
    first = process.ask(do="steps", count=1)
    found["first_step_s"] = time.perf_counter() - start
    found["losses"] = first["losses"] + process.ask(do="steps", count=1)["losses"]
    if wanted is not None:
        found["logits_apart"] = float(np.abs(logits - wanted).max() / np.abs(wanted).max())
    return found


def main(options: Options) -> None:
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the device belongs to the other processes too
    report = record("peers", dataclasses.asdict(options), ("torch", "keras", "triton"))
    tolerance = TOLERANCE[("cpu" if jax.default_backend() == "cpu" else "gpu", options.dtype)]
    processes: dict[str, Process] = {}
    checks: dict[str, dict[str, Any]] = {}
    skipped: dict[str, str] = {}
    wanted = None
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = pathlib.Path(name)
        network = prepare(folder, options)
        for variant in options.variants:
            try:
                process = Process(variant, folder, options.limit_s)
                stack.callback(process.close)
                checks[variant] = check(process, variant, folder, wanted)
                processes[variant] = process
            except Unavailable as error:
                skipped[variant] = str(error)
                print(f"{variant} is left out: {error}", file=sys.stderr, flush=True)
                continue
            print(f"{variant}: {checks[variant]}", file=sys.stderr, flush=True)
            if wanted is None:
                wanted = np.load(folder / f"{variant}.npy")
        if not processes:
            raise SystemExit(f"no variant runs here: {skipped}")
        same(checks, network, tolerance)
        ceilings = Ceilings((options.dtype,), small=options.small_ceilings)
        processor_s: dict[str, list[float]] = {variant: [] for variant in processes}

        def step_of(variant: str) -> Step:
            def step() -> None:
                processor_s[variant] += processes[variant].ask(do="steps", count=1)["processor_s"]

            return step

        def again(variant: str) -> Step:
            return lambda: processes[variant].ask(do="steps", count=1)

        steps = {variant: step_of(variant) for variant in processes}
        # While others had their turns, a virtual machine may have given the memory that the last step freed back to its
        # host; the next step then takes up to twice as long. In training no step waits that long for the next.
        before = {variant: again(variant) for variant in processes}
        times = time_in_turns({**steps, **ceilings.steps}, options.num_rounds, before=before)
        limits = ceilings.summary(times)
        baseline, rows = next(iter(processes)), []
        for variant, process in processes.items():
            row = {"variant": variant, **summary(times[variant], times[baseline]), **checks[variant]}
            # Of all threads, the warm-up left out. It hardly feels neighbours, but counts threads that wait in a loop.
            row["processor_ms"] = 1e3 * float(np.median(processor_s[variant][1:]))
            row["s_per_image"] = row["median_ms"] / 1e3 / options.batch_size
            flops = training_flops(network, options.image_size) / row["s_per_image"]
            row["of_flops"] = flops / limits[f"flops_per_s_{options.dtype}"]
            rows.append({**row, **process.ask(do="memory")})
    _print(rows, skipped, report["device"])
    limits_of = {"tolerance": tolerance, "ceilings": limits, "results": rows, "skipped": skipped}
    finish({**report, **limits_of, "rounds_s": times}, options.save)


def same(checks: dict[str, dict[str, Any]], network: Network, tolerance: float) -> None:
    """Ends the program where the implementations are not the same network."""
    wrong = []
    losses = next(iter(checks.values()))["losses"]
    for variant, found in checks.items():
        if found["num_parameters"] != num_parameters(network):
            wrong.append(f"{variant} has {found['num_parameters']} parameters, not {num_parameters(network)}")
        if found.get("logits_apart", 0.0) > tolerance:
            wrong.append(f"{variant}: logits are {found['logits_apart']:.1e} apart, tolerance {tolerance:.0e}")
        if not np.allclose(found["losses"], losses, rtol=10 * tolerance):
            wrong.append(f"{variant}: losses {found['losses']}, not {losses}")
    if wrong:
        raise SystemExit("not the same network:\n" + "\n".join(wrong))


def _print(rows: list[dict[str, Any]], skipped: dict[str, str], device: str) -> None:
    columns = {
        "median ms": "{median_ms:.0f}",
        "p95 ms": "{p95_ms:.0f}",
        "s per image": "{s_per_image:.3f}",
        "ratio": "{ratio:.2f}",
        "of fastest": "{ratio_of_fastest:.2f}",
        "CPU ms": "{processor_ms:.0f}",
        "of FLOP/s": "{of_flops:.0%}",
        "first step s": "{first_step_s:.1f}",
        "apart": "{logits_apart:.0e}",
    }
    table = Table("variant", *columns, title=f"training step, {device}")
    for row in rows:
        table.add_row(row["variant"], *(cell.format(**{"logits_apart": 0.0, **row}) for cell in columns.values()))
    for variant, why in skipped.items():
        table.add_row(variant, "left out", why)
    Console(width=120).print(table)


if __name__ == "__main__":
    main(tyro.cli(Options))
