"""Compile every JAX program of `gpu.py` for a GPU that is not there, and print how long that takes.

`python benchmarks/gpu.py --rehearse h100` starts it. It needs the packages of the extra `plan-gpu`, no GPU and no
driver. Nothing is autotuned without a card, which there takes additional time. Processor time is that of all threads,
which other programs hardly change.
"""

import hashlib
import os
import sys
import time

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "0"  # the times are those of compilation

from gpu_pieces import LOW, Sizes, list_pieces
from gpu_programs import SEPARATE_KERNELS, lower
from gpu_timing import reason
from library_steps import compile_lowered
from rich.console import Console
from rich.table import Table

from unet_jax.devices.mesh import make_mesh
from unet_jax.plan.gpu_program import list_kernels
from unet_jax.plan.gpu_targets import gpu_target


def main(kind: str, levels: str, wanted: list[str]) -> None:
    """Compile the programs of the wanted pieces, each once, and print a table; status 1 if one does not compile."""
    mesh = make_mesh(gpu_target(kind).devices)
    table = Table(
        "piece", "variant", "program", "lower s", "compile s", "processor s", "kernels", "GB", "memory GB", title=kind
    )
    seen: set[str] = set()
    num_failed, total_s = 0, 0.0
    pieces = list_pieces(LOW if levels == "low" else Sizes())
    for piece in (piece for piece in pieces if piece.worker == "jax" and piece.name in wanted):
        for variant in piece.variants:
            start = time.perf_counter()
            programs = lower(variant, mesh)
            lower_s = (time.perf_counter() - start) / len(programs)
            for name, (lowered, _) in programs.items():
                if variant["kind"] != "steps" and name == "predict":
                    continue  # only training is profiled, or fed
                flags = variant.get("flags", {})
                if variant["kind"] == "profile":
                    flags = SEPARATE_KERNELS
                digest = hashlib.sha256(f"{flags}\n{lowered.as_text()}".encode()).hexdigest()
                if digest in seen:
                    continue
                seen.add(digest)
                processor = sum(os.times()[:4])  # ptxas, a process of its own, included
                try:
                    program, facts = compile_lowered(lowered, flags)
                except Exception as error:
                    num_failed += 1
                    cells = [reason(error)[:60]]
                else:
                    processor = sum(os.times()[:4]) - processor
                    total_s += processor
                    kernels = list_kernels(program.as_text() or "")
                    gigabytes = sum(kernel.num_bytes for kernel in kernels) / 1e9, facts["memory_bytes"] / 1e9
                    seconds = f"{facts['compile_s']:.1f}", f"{processor:.1f}"
                    cells = [*seconds, str(len(kernels)), *(f"{value:.2f}" for value in gigabytes)]
                table.add_row(piece.name, variant["name"], name, f"{lower_s:.1f}", *cells)
                print(piece.name, variant["name"], name, *cells, flush=True)
    Console(width=130).print(table)
    print(f"{len(seen)} programs, {total_s:.0f} s of processor time, {num_failed} failed")
    raise SystemExit(1 if num_failed else 0)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
