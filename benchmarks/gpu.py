"""What is worth measuring on a GPU, in one command of at most 8 minutes: `python benchmarks/gpu.py`.

Pieces run one after the other, the most important first (`gpu_pieces.py`), each with a time limit. Every row is written
into one file as soon as it is measured, so that nothing is lost when time is over, whatever ends the command. A second
command measures what is left, `--only PIECES` only some of it, and both add to the same file.

`--small` tries all pieces with tiny sizes on any machine; its numbers mean nothing. `--rehearse h100` measures nothing,
but compiles every JAX program for a GPU that is not there.
"""

import contextlib
import dataclasses
import datetime
import json
import os
import pathlib
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any

import facts
import tyro
from gpu_pieces import CPU_FLAGS, SMALL, Piece, list_pieces
from gpu_results import Results
from gpu_table import print_tables

FOLDER = pathlib.Path(__file__).resolve().parent
REPOSITORY = FOLDER.parent
_LEAST_S = 10.0  # no piece is started with less
_TAIL = 3000  # characters of a worker's stderr that are kept if it fails


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure the library's steps on a GPU, against PyTorch's and the limits of the machine."""

    minutes: float = 8.0
    """Time for everything; what is not finished by then is left for another call."""
    only: tuple[str, ...] = ()
    """Names of the pieces to measure, or the beginnings of their names. Empty: all."""
    again: bool = False
    """Measure again what the file already has for this device and this code."""
    out: str = ""
    """File of results. Empty: results/gpu.json, or gpu_small.json in the folder of temporary files."""
    cache: str = ""
    """Folder for compiled programs and the results of autotuning, which all pieces share. Empty: one in the folder of
    temporary files."""
    commit: str = ""
    """Commit to write into the file, where git cannot say it."""
    small: bool = False
    """Use tiny sizes, to test whether everything runs, on a CPU too."""
    rehearse: str = ""
    """Kind of GPU (a100, h100, h200 or b200) to compile every program for, without one; nothing is measured. With
    --small, one level of each network."""


class Late(Exception):
    """The time of a piece is over."""


class Ended(Exception):
    """A worker cannot measure any more; the message says why."""


class Worker:
    """Running process that measures, in JAX or in PyTorch.

    Args:
      kind: jax or torch; or the path of another script, for tests.
      environment: environment variables.
      log: file for its stderr.
    """

    def __init__(self, kind: str, environment: dict[str, str], log: pathlib.Path):
        self.log = log
        script = [kind] if kind.endswith(".py") else [str(FOLDER / "gpu_worker.py"), kind]
        with open(log, "w") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, *script], env=environment, text=True, process_group=0,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr,
            )  # fmt: skip
        self._messages: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._messages.put(line)
        self._messages.put("")  # it has ended

    def next_message(self, deadline: float) -> dict[str, Any]:
        """Return its next message; raise `Late` after the deadline, and `Ended` if the process has ended."""
        try:
            line = self._messages.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise Late from None
        if not line:
            raise Ended(f"its process ended with status {self._process.wait()}")
        return json.loads(line)

    def ask(self, request: dict[str, Any]) -> None:
        """Send a request."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended, which `next_message` says
            print(json.dumps(request), file=self._process.stdin, flush=True)

    def end(self) -> None:
        """End the process, and the processes that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join(timeout=5.0)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):  # a request that nobody read
                pipe.close()


class Workers:
    """Running workers by kind, which live as long as nothing goes wrong: starting one takes some seconds."""

    def __init__(self, environment: dict[str, str], folder: pathlib.Path):
        self._environment, self._folder = environment, folder
        self._running: dict[str, tuple[Worker, dict[str, Any]]] = {}

    def get(self, kind: str, deadline: float) -> tuple[Worker, dict[str, Any]]:
        """Return the worker of a kind, started if it does not run, and its facts."""
        if kind not in self._running:
            name = pathlib.Path(kind).stem
            worker = Worker(kind, self._environment, self._folder / f"{name}.log")
            self._running[kind] = worker, {}
            self._running[kind] = worker, worker.next_message(deadline)["facts"]
        return self._running[kind]

    def end(self, kind: str) -> str:
        """End the worker of a kind, and return the end of what it said on stderr."""
        worker, _ = self._running.pop(kind)
        worker.end()
        return worker.log.read_text(errors="replace")[-_TAIL:]

    def end_all(self) -> None:
        """End all workers."""
        for kind in list(self._running):
            self.end(kind)


def run_piece(piece: Piece, workers: Workers, results: Results, deadline: float) -> str:
    """Measure what is left of a piece, and return "done" or what went wrong. Rows are written as they come."""
    deadline = min(deadline, time.monotonic() + piece.limit_s)
    start, failures, log = time.monotonic(), 0, ""
    try:
        worker, device = workers.get(piece.worker, deadline)
        if device["device"] == "cpu" and not results.small:
            raise Ended("it finds no GPU (--small tries everything on a CPU)")
        results.begin(piece.worker, device)
        left = results.left(piece)
        worker.ask({"variants": left})
        while True:
            message = worker.next_message(deadline)
            if "done" in message:
                break
            for kind in ("row", "finished", "failed"):
                if kind in message:
                    results.add(piece.name, kind, message[kind])
                    failures += kind == "failed"
        outcome = f"{failures} of {len(left)} variants failed" if failures else "done"
        if failures:  # the memory of what failed may not be free
            log = workers.end(piece.worker)
    except Late:
        outcome, log = f"stopped after {time.monotonic() - start:.0f} s", workers.end(piece.worker)
    except (Ended, json.JSONDecodeError) as error:
        outcome, log = f"failed: {error}", workers.end(piece.worker)
    results.close(piece.name, outcome, time.monotonic() - start, "" if outcome == "done" else log)
    return outcome


def run(options: Options, pieces: list[Piece], results: Results, folder: pathlib.Path) -> dict[str, str]:
    """Run the pieces until time is over, and return the outcome of each."""
    start, outcomes = time.monotonic(), {}
    deadline = start + 60.0 * options.minutes - 2.0
    workers = Workers(environment_of(options), folder)
    try:
        for piece in pieces:
            if deadline - time.monotonic() < _LEAST_S:
                outcomes[piece.name] = "left out, time is over"
            else:
                outcomes[piece.name] = run_piece(piece, workers, results, deadline)
            print(f"{time.monotonic() - start:6.0f} s  {piece.name}: {outcomes[piece.name]}", flush=True)
    finally:
        workers.end_all()
    return outcomes


def environment_of(options: Options) -> dict[str, str]:
    """Return the environment of the workers: this repository's library, one cache, memory as it is needed."""
    cache = pathlib.Path(options.cache or pathlib.Path(tempfile.gettempdir()) / "unet_jax_gpu_cache").absolute()
    paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
        "JAX_COMPILATION_CACHE_DIR": str(cache / "jax"),  # XLA's autotuning keeps its results there too
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        "TRITON_CACHE_DIR": str(cache / "triton"),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # PyTorch's worker needs memory too
    }


def common_facts(options: Options) -> dict[str, Any]:
    """Return the facts of this call that do not depend on a worker."""
    return {
        "date": datetime.date.today().isoformat(),
        "commit": options.commit or facts.commit(REPOSITORY / "unet_jax"),
        "code": facts.digest(REPOSITORY / "unet_jax", FOLDER),
        "machine": facts.machine(),
        "driver": facts.driver(),
        "small": options.small,
        "num_devices": 1,
        "options": {**dataclasses.asdict(options), "out": "", "cache": ""},
    }


def main(options: Options) -> None:
    """Run the pieces, print tables, and finish with a line of JSON."""
    pieces = [
        piece
        for piece in (list_pieces(SMALL, CPU_FLAGS) if options.small else list_pieces())
        if not options.only or any(piece.name.startswith(name) for name in options.only)
    ]
    if not pieces:
        names = ", ".join(piece.name for piece in list_pieces())
        raise SystemExit(f"--only names no piece: use the beginnings of {names}.")
    if options.rehearse:
        levels = "low" if options.small else "all"
        command = [sys.executable, str(FOLDER / "gpu_rehearse.py"), options.rehearse, levels]
        command += [piece.name for piece in pieces]
        raise SystemExit(subprocess.run(command, env=environment_of(options)).returncode)
    default = pathlib.Path(tempfile.gettempdir()) / "gpu_small.json" if options.small else FOLDER / "results/gpu.json"
    results = Results(pathlib.Path(options.out or default), common_facts(options), again=options.again)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the workers too; a kill does so by itself
    with tempfile.TemporaryDirectory() as folder:
        outcomes = run(options, pieces, results, pathlib.Path(folder))
    if results.report["results"]:
        print_tables(results.report)
    print(json.dumps({"benchmark": "gpu", "out": str(results.path), "pieces": outcomes}))
    if all(outcome != "done" for outcome in outcomes.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main(tyro.cli(Options))
