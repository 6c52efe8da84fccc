"""A process that runs one implementation of the network. `bench_peers.py` starts it.

It reads requests on stdin and answers on stdout, each a line of JSON. Its arguments are the name of a variant and a
folder with the task (see `Task`).
"""

import dataclasses
import importlib
import json
import os
import pathlib
import resource
import sys
import time
from typing import Any, Protocol

import numpy as np
from network import Network


@dataclasses.dataclass(frozen=True)
class Task:
    """Training task of all implementations. It is `task.json` in a folder that also has weights.npz and pixels.npz."""

    network: Network
    dtype: str
    learning_rate: float

    @staticmethod
    def read(folder: pathlib.Path) -> "Task":
        """Read the task from `task.json` in a folder."""
        values = json.loads((folder / "task.json").read_text())
        network = dict(values["network"], widths=tuple(values["network"]["widths"]))
        return Task(Network(**network), values["dtype"], values["learning_rate"])

    def write(self, folder: pathlib.Path) -> None:
        """Write the task to `task.json` in a folder."""
        values = {**dataclasses.asdict(self), "network": self.network._asdict()}
        (folder / "task.json").write_text(json.dumps(values))


class Peer(Protocol):
    """Implementation of the network, with its weights and its batch on the device."""

    def num_parameters(self) -> int:
        """Return the number of parameters that the optimizer trains."""
        ...

    def logits(self) -> np.ndarray:
        """Compute the logits of the batch with the running statistics: `[b h w k]` float32."""
        ...

    def train_step(self) -> Any:
        """Run one update to its end, and return the loss before it, which `float` can convert."""
        ...

    def peak_bytes(self) -> int | None:
        """Return the peak memory of the device in bytes; None if it is not known."""
        ...


VARIANTS: dict[str, tuple[str, dict[str, str]]] = {
    "unet_jax": ("peer_jax", {}),
    "textbook JAX": ("peer_jax", {}),
    "PyTorch": ("peer_torch", {}),
    "PyTorch compiled": ("peer_torch", {}),
    "Keras on JAX": ("peer_keras", {"KERAS_BACKEND": "jax"}),
    "Keras on PyTorch": ("peer_keras", {"KERAS_BACKEND": "torch"}),
}
"""Module and environment of each variant, by name. The module has `make(variant, task, weights, image, label)`.

A name may have settings at its end: "unet_jax packing 2,2" is "unet_jax" with that packing.
"""
HUGE_PAGES = ", huge pages"
"""Suffix of the name of a variant that runs with huge memory pages, as the library's command does (docs/cpu.md)."""


def environment_of(variant: str) -> dict[str, str]:
    """Return the environment variables for the process of a variant."""
    # Set without the suffix too, because this process, whose environment is inherited, may have huge pages.
    tunables = "glibc.malloc.hugetlb=1" if variant.endswith(HUGE_PAGES) else "glibc.malloc.hugetlb=0"
    return {"GLIBC_TUNABLES": tunables, **VARIANTS[kind_of(variant)][1]}


def kind_of(variant: str) -> str:
    """Return the longest name in `VARIANTS` that a variant's name begins with."""
    variant = variant.removesuffix(HUGE_PAGES)
    kinds = [kind for kind in VARIANTS if variant == kind or variant.startswith(kind + " ")]
    if not kinds:
        raise ValueError(f"variant is {variant!r}, but must begin with one of {', '.join(VARIANTS)}.")
    return max(kinds, key=len)


def answer(peer: Peer, request: dict[str, Any]) -> dict[str, Any]:
    """Do what a request asks for (steps, logits or memory), and return the answer as JSON values."""
    if request["do"] == "steps":
        seconds, processor_s, losses = [], [], []
        for _ in range(request["count"]):
            start, start_processor = time.perf_counter(), time.process_time()
            loss = peer.train_step()
            seconds.append(time.perf_counter() - start)
            processor_s.append(time.process_time() - start_processor)
            losses.append(float(loss))
        return {"seconds": seconds, "processor_s": processor_s, "losses": losses}
    if request["do"] == "logits":
        np.save(request["file"], peer.logits())
        return {"num_parameters": peer.num_parameters()}
    host_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"peak_bytes": peer.peak_bytes(), "host_peak_bytes": host_bytes}


def main() -> None:
    """Load the implementation, and answer requests until stdin ends."""
    variant, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    # Output that libraries print on stdout must not mix with the answers: it goes to stderr instead.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        with np.load(folder / "weights.npz") as file:
            weights = [file[str(i)] for i in range(len(file.files))]
        with np.load(folder / "pixels.npz") as file:
            image, label = file["image"], file["label"]
        module = importlib.import_module(VARIANTS[kind_of(variant)][0])
        peer = module.make(variant.removesuffix(HUGE_PAGES), Task.read(folder), weights, image, label)
        print(json.dumps({"ready": True}), file=answers, flush=True)
        for line in sys.stdin:
            print(json.dumps(answer(peer, json.loads(line))), file=answers, flush=True)
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        missing = f"not installed: {error.name}" if isinstance(error, ModuleNotFoundError) else ""
        told = {"error": missing or f"{type(error).__name__}: {lines[0][:200]}"}
        print(json.dumps(told), file=answers, flush=True)


if __name__ == "__main__":
    main()
