"""Time of a training step of the same network in this library, in textbook JAX, in PyTorch and in Keras 3.

First it is checked that network, loss and update are the same. Every implementation has its own process, which takes a
step on request. The processes take turns, so that ratios are valid on a busy machine. An implementation that is not
installed or fails is left out and named.
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
from network import Network, Size, num_parameters, random_pixels, random_weights, training_flops
from peer import VARIANTS, Task, environment_of
from rich.console import Console
from rich.table import Table

TOLERANCE = {("cpu", "float32"): 1e-4, ("cpu", "bfloat16"): 0.1, ("gpu", "float32"): 2e-2, ("gpu", "bfloat16"): 0.1}
"""Largest allowed difference of logits relative to the largest logit, by device and dtype.

By default GPUs multiply float32 in TF32, which has 10 bits. bfloat16 has 7 bits, and each framework rounds at other
places.
"""


@dataclasses.dataclass(frozen=True)
class PeerOptions:
    """Settings of the implementations, and of the training step that all of them take."""

    variants: tuple[str, ...] = tuple(VARIANTS)
    """Implementations to compare; ratios are relative to the first. "unet_jax packing 2,2" is the library with that
    setting of the model. "unet_jax, huge pages" is the library with the memory pages that its command has on a CPU; the
    other implementations can have them too."""
    widths: tuple[int, ...] = (8, 16, 32, 64, 128, 256, 512)
    center_width: int = 1024
    num_classes: int = 2
    image_size: Size = 512
    batch_size: int = 2
    dtype: Literal["float32", "bfloat16"] = "float32"
    learning_rate: float = 1e-4
    """Learning rate of Adam, the optimizer that all of the libraries have."""
    limit_s: float = 900.0
    """Longest wait for an answer in seconds, compilation included. An implementation that takes longer is left out."""
    save: str = ""
    """Name of a copy of the report: results/SAVE.json, or a path that ends in .json. Empty: none."""


@dataclasses.dataclass(frozen=True)
class Options(PeerOptions):
    """Compare training steps of several implementations of one network, with the same weights and batch."""

    num_rounds: int = 10
    """Timed steps of each variant, after one untimed step."""
    small_ceilings: bool = False
    """Measure the limits of the machine with small arrays. This is for tests; the numbers mean nothing."""


class Unavailable(Exception):
    """Error for an implementation that is not installed or fails here. Its message is the reason."""


class Process:
    """Running process of an implementation, which answers requests.

    Args:
      variant: name of the implementation.
      folder: folder with the task, from `prepare`.
      limit_s: longest wait for an answer, in seconds.
      environment: additional environment variables.
    """

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
        """Send a request and return the answer; raise `Unavailable` if there is none in time, or an error."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the process has ended; `_read` finds its error or its exit status
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
        values = json.loads(line)
        if "error" in values:
            self.close()
            raise Unavailable(values["error"])
        return values

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


def prepare(folder: pathlib.Path, options: Any) -> Network:
    """Write the task, the weights and the batch into the folder, and return the network. All processes read them."""
    network = Network(options.widths, options.center_width, options.num_classes)
    Task(network, options.dtype, options.learning_rate).write(folder)
    np.savez(folder / "weights.npz", **{str(i): a for i, a in enumerate(random_weights(network))})  # type: ignore[arg-type]
    image, label = random_pixels(options.batch_size, options.image_size, options.num_classes)
    np.savez(folder / "pixels.npz", image=image, label=label)
    return network


def check(process: Process, variant: str, folder: pathlib.Path, wanted: np.ndarray | None) -> dict[str, Any]:
    """Return the number of parameters, the difference of the logits from `wanted`, and the losses of two steps.

    The loss of the second step differs if the update differs.
    """
    file = folder / f"{variant}.npy"
    facts = process.ask(do="logits", file=str(file))
    logits = np.load(file)
    start = time.perf_counter()
    first = process.ask(do="steps", count=1)
    facts["first_step_s"] = time.perf_counter() - start
    facts["losses"] = first["losses"] + process.ask(do="steps", count=1)["losses"]
    if wanted is not None:
        facts["logits_apart"] = float(np.abs(logits - wanted).max() / np.abs(wanted).max())
    return facts


def main(options: Options) -> None:
    """Check and time all variants, print a table, and finish the report."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the processes share the device
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
        # A virtual machine may return the memory that a step freed to its host while other variants have their turns.
        # The next step then takes up to twice as long, which does not happen in training. So each timed step follows
        # an untimed one.
        before = {variant: again(variant) for variant in processes}
        times = time_in_turns({**steps, **ceilings.steps}, options.num_rounds, before=before)
        limits = ceilings.summary(times)
        baseline, rows = next(iter(processes)), []
        for variant, process in processes.items():
            row = {"variant": variant, **summary(times[variant], times[baseline]), **checks[variant]}
            # Processor time of all threads, without the warm-up. Other processes hardly change it, but it includes
            # threads that wait in a loop.
            row["processor_ms"] = 1e3 * float(np.median(processor_s[variant][1:]))
            row["s_per_image"] = row["median_ms"] / 1e3 / options.batch_size
            flops = training_flops(network, options.image_size) / row["s_per_image"]
            row["of_flops"] = flops / limits[f"flops_per_s_{options.dtype}"]
            rows.append({**row, **process.ask(do="memory")})
    _print(rows, skipped, report["device"])
    limits_of = {"tolerance": tolerance, "ceilings": limits, "results": rows, "skipped": skipped}
    finish({**report, **limits_of, "rounds_s": times}, options.save)


def same(checks: dict[str, dict[str, Any]], network: Network, tolerance: float) -> None:
    """End the program if the implementations are not the same network."""
    wrong = []
    losses = next(iter(checks.values()))["losses"]
    for variant, facts in checks.items():
        if facts["num_parameters"] != num_parameters(network):
            wrong.append(f"{variant} has {facts['num_parameters']} parameters, not {num_parameters(network)}")
        if facts.get("logits_apart", 0.0) > tolerance:
            wrong.append(f"{variant}: logits differ by {facts['logits_apart']:.1e}, the tolerance is {tolerance:.0e}")
        if not np.allclose(facts["losses"], losses, rtol=10 * tolerance):
            wrong.append(f"{variant}: losses are {facts['losses']}, not {losses}")
    if wrong:
        raise SystemExit("not the same network:\n" + "\n".join(wrong))


def _print(rows: list[dict[str, Any]], skipped: dict[str, str], device: str) -> None:
    columns = {
        "median ms": "{median_ms:.0f}",
        "p95 ms": "{p95_ms:.0f}",
        "s per image": "{s_per_image:.3f}",
        "ratio": "{ratio:.2f}",
        "ratio of fastest": "{ratio_of_fastest:.2f}",
        "CPU ms": "{processor_ms:.0f}",
        "of FLOP/s": "{of_flops:.0%}",
        "first step s": "{first_step_s:.1f}",
        "logit difference": "{logits_apart:.0e}",
    }
    table = Table("variant", *columns, title=f"training step, {device}")
    for row in rows:
        table.add_row(row["variant"], *(cell.format(**{"logits_apart": 0.0, **row}) for cell in columns.values()))
    for variant, why in skipped.items():
        table.add_row(variant, "left out", why)
    Console(width=120).print(table)


if __name__ == "__main__":
    main(tyro.cli(Options))
