"""All benchmarks that are worth running on a GPU, in one command of about 20 minutes: `python benchmarks/gpu.py`.

Each piece is a process with its own time limit. If a piece fails or takes too long, the results of the others are kept.
Results go to results/gpu/, with a log for each piece. `--small` tests all pieces on any machine; its numbers mean
nothing.

The comparison with PyTorch begins with the smallest batch of each dtype. Larger batches follow in the time that is
left, so compare the best images per second of each implementation.
"""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import time

import tyro
from measure import RESULTS

FOLDER = pathlib.Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure steps, peers, packing, remat, losses, input and a profile."""

    out: str = str(RESULTS / "gpu")
    """Folder for JSON files, logs and the profile."""
    small: bool = False
    """Use tiny sizes, to test whether everything runs, on a CPU too."""
    only: tuple[str, ...] = ()
    """Names of the pieces to run, or the beginnings of their names. Empty: all."""
    total_s: float = 1200.0
    """Seconds after which no further piece is started. The pieces that are left out are named."""


@dataclasses.dataclass(frozen=True)
class Piece:
    """One benchmark with its arguments and its time limit in seconds."""

    name: str
    script: str
    arguments: tuple[str, ...]
    limit_s: float


def pieces(options: Options) -> list[Piece]:
    """Return the pieces to run, the most important first."""
    if options.small:
        size, batches, rounds_of = "32", {"bfloat16": ("2",), "float32": ("2",)}, ("--num-rounds", "1")
        network = ("--widths", "2", "4", "--center-width", "4")
        preset, tiny, packings = "small", ("--small-ceilings",), ("none", "1x2")
    else:
        size, batches = "1024", {"bfloat16": ("8", "16", "32", "64"), "float32": ("4", "8", "16", "32")}
        rounds_of, network = ("--num-rounds", "10"), ()
        preset, tiny, packings = "seed", (), ("none", "2", "2,2", "4,2,2", "4x2,2x2,1x2", "4,2x4,2,1x2")
    of_peers = ("--variants", "unet_jax", "textbook JAX", "PyTorch", "PyTorch compiled", "--image-size", size)
    first, later = [], []
    for dtype, tried in batches.items():
        # All batch sizes in one piece, so that the best one can be seen.
        step = ("--preset", preset, "--image-size", size, "--dtype", dtype, "--batch-size", *tried, *rounds_of)
        first.append(Piece(f"step_{dtype}", "bench_step.py", (*step, *tiny), 240.0))
    for dtype, tried in batches.items():
        for i, batch in enumerate(tried):
            peers = (*of_peers, *network, "--dtype", dtype, "--batch-size", batch, *rounds_of, *tiny)
            (later if i else first).append(Piece(f"peers_{dtype}_{batch}", "bench_peers.py", peers, 240.0))
    best = batches["bfloat16"][0]
    common = ("--image-size", size, "--batch-size", best, *rounds_of)
    packing = ("--packing", *packings, "--dtype", "bfloat16", *common, *network)
    remat = ("--preset", preset, "--dtype", "bfloat16", *common)
    first.append(Piece("packing", "bench_packing.py", packing, 240.0))
    if options.small:
        remat += ("--remat", "none", "--accumulation", "2")
    first.append(Piece("memory", "bench_memory.py", remat, 240.0))
    losses = ("--preset", preset, "--dtype", "bfloat16", *common)
    first.append(Piece("losses", "bench_losses.py", losses, 180.0))
    end_to_end = ("--preset", preset, "--image-size", size, "--batch-size", best, "--num-images", best)
    rounds = ("--num-rounds", "1", "--num-steps", "1", "--cache", "memory") if options.small else ("--num-rounds", "3")
    first.append(Piece("end_to_end", "bench_end_to_end.py", (*end_to_end, *rounds), 240.0))
    first.append(Piece("profile", "profile_step.py", ("--preset", preset, *common[:4], "--dtype", "bfloat16"), 180.0))
    first += later
    wanted = options.only
    return [piece for piece in first if not wanted or any(piece.name.startswith(name) for name in wanted)]


def run(piece: Piece, out: pathlib.Path) -> str:
    """Run one piece, and return "done" or what went wrong. It writes out/NAME.json and its output to out/NAME.log."""
    target = out / f"{piece.name}.json"
    command = [sys.executable, str(FOLDER / piece.script), *piece.arguments, "--save", str(target)]
    with open(out / f"{piece.name}.log", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            status = process.wait(timeout=piece.limit_s)
        except subprocess.TimeoutExpired:
            # End its child processes too: those of the session that it started, and no others.
            os.killpg(process.pid, 9)
            process.wait()
            return f"stopped after {piece.limit_s:.0f} s"
    return "done" if status == 0 and target.exists() else f"failed with status {status}, see {piece.name}.log"


def main(options: Options) -> None:
    """Run all pieces, and print and write the outcome of each."""
    out = pathlib.Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    start, outcomes = time.monotonic(), {}
    for piece in pieces(options):
        spent = time.monotonic() - start
        if spent > options.total_s:
            outcomes[piece.name] = f"left out, {options.total_s:.0f} s are over"
        else:
            outcomes[piece.name] = run(piece, out)
        print(f"{time.monotonic() - start:6.0f} s  {piece.name}: {outcomes[piece.name]}", flush=True)
        _write(out, outcomes)
    print(json.dumps({"benchmark": "gpu", "out": str(out), "pieces": outcomes}))
    if all(outcome != "done" for outcome in outcomes.values()):
        raise SystemExit(1)


def _write(out: pathlib.Path, outcomes: dict[str, str]) -> None:
    """Write the outcome of each piece so far."""
    (out / "pieces.json").write_text(json.dumps(outcomes, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options))
