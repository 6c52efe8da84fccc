"""Measure what large data sets, long runs and crowds cost outside of training: one line of JSON for each figure.

    python scripts/measure_load.py --files 100000 --lines 1000000
    python scripts/measure_load.py --only commands

Times are in seconds of the clock and of the processor. Parts of the library are measured in this process, and their
memory is its largest so far; commands are measured as processes of their own, at once where the line says so. The
results of commands that run at once are compared with those of one that runs alone; the status is 1 if they differ.
"""

import argparse
import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from unet_jax.config import DataConfig
from unet_jax.config.presets import PRESETS
from unet_jax.data.layout import find_layout
from unet_jax.data.splits import assign_splits
from unet_jax.data.synthetic import write_synthetic
from unet_jax.report.metrics_file import MetricsFile
from unet_jax.runs.data_files import identities_of, load_identities, save_identities
from unet_jax.runs.info import RunInfo, current_versions, load_info, save_info

_MOST_LINKS = 50_000  # of one file; ext4 allows 65,000


def measure(what: str, count: int, work: Callable[[], Any]) -> Any:
    """Print what some work takes, and return its result."""
    clock, processor = time.perf_counter(), time.process_time()
    result = work()
    figures = {"seconds": time.perf_counter() - clock, "processor_s": time.process_time() - processor}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rounded = {name: round(value, 2) for name, value in {**figures, "peak_MiB": peak}.items()}
    print(json.dumps({"what": what, "count": count, **rounded}), flush=True)
    return result


def data_set(folder: Path, count: int) -> None:
    """Write so many images and masks: links to few files, as only their names count here."""
    for name in ("images", "masks/cell"):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            path = folder / name / f"{i:07d}.png"
            if i % _MOST_LINKS == 0:
                Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save(first := path)
            else:
                os.link(first, path)


def measure_parts(folder: Path, count: int, num_lines: int) -> None:
    """Measure lists, files of a run and metrics in this process, for a data set of so many images."""
    out = epath.Path(folder)
    data_set(folder / "data", count)
    config = DataConfig(root=str(folder / "data"))
    layout = measure("listing", count, lambda: find_layout(config))
    splits = measure("splits", count, lambda: assign_splits(layout, config))
    digests = {record.id: f"{i:032x}" for i, record in enumerate(layout.records)}
    sizes = {record.id: [8, 8] for record in layout.records}
    audit = {"digests": digests, "sizes": sizes}
    info = RunInfo(PRESETS["small"](), layout.class_names, splits, audit, current_versions())
    measure("run.json written", count, lambda: save_info(out, info))
    measure("run.json read", count, lambda: load_info(out))
    identities = dict.fromkeys(digests, identities_of(layout.records[0]))
    measure("data.json written", count, lambda: save_identities(out, config.root, identities))
    measure("data.json read", count, lambda: load_identities(out))
    file = MetricsFile(out / "metrics.jsonl")
    row = {"step/loss": 0.123456789, "step/learning_rate": 1e-3, "step/gradient": 3.25}
    measure("metrics.jsonl written", num_lines, lambda: [file.write({"step": i, **row}) for i in range(num_lines)])
    measure("metrics.jsonl read", num_lines, file.read)
    measure("metrics.jsonl rewound", num_lines, lambda: file.rewind(num_lines))


def command(what: str, count: int, *commands: str) -> None:
    """Print what commands of `unet-jax` take that start at once: clock, processor of all, memory of the largest."""
    begin = time.perf_counter()
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "unet_jax", *line.split()], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for line in commands
    ]
    lengths = [len(process.stdout.read()) for process in started]  # type: ignore[union-attr]
    ended = [os.wait4(process.pid, 0) for process in started]
    clock = time.perf_counter() - begin
    figures = {
        "what": what,
        "count": count,
        "seconds": round(clock, 2),
        "processor_s": round(sum(usage.ru_utime + usage.ru_stime for _, _, usage in ended), 2),
        "peak_MiB": round(max(usage.ru_maxrss for _, _, usage in ended) / 1024, 2),
        "characters_printed": max(lengths),
        "statuses": [os.waitstatus_to_exitcode(status) for _, status, _ in ended],
    }
    print(json.dumps(figures), flush=True)


def contents(folder: Path, pattern: str) -> dict[str, str]:
    """Return a digest of each file below a folder."""
    files = sorted(path for path in folder.glob(pattern) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def measure_commands(folder: Path, num_files: int) -> list[str]:
    """Measure commands on many files, many classes, and at once; return what differed from a command alone."""
    wrong = []
    for count in (num_files // 4, num_files):
        data_set(folder / f"links{count}", count)
        command("audit", count, f"audit --data.root {folder}/links{count} --page {folder}/audit.html")
    for name, images, classes in (("many", 2000, 2), ("classes", 20, 500)):
        write_synthetic(epath.Path(folder / name), num_images=images, image_size=64, num_classes=classes, seed=0)
    tiny = "--model.widths 4 --model.center-width 8 --train.num-steps 4 --data.image-size 64 --train.num-pictures 1"
    command("audit, classes", 500, f"audit --data.root {folder}/classes --page {folder}/audit.html")
    command("train, classes", 500, f"train small {tiny} --data.root {folder}/classes --out {folder}/run500")
    command("evaluate, classes", 500, f"evaluate {folder}/run500")
    command("train", 2000, f"train small {tiny} --data.root {folder}/many --out {folder}/run")
    predict = f"predict {folder}/run {folder}/many/images --out {folder}"
    command("predict, images", 2000, f"{predict}/alone")
    command("predict, eight at once into one folder", 2000, *[f"{predict}/eight"] * 8)
    if contents(folder / "alone", "*/*.png") != contents(folder / "eight", "*/*.png"):
        wrong.append("eight predictions at once differ from one")
    cached = f"train small {tiny} --data.root {folder}/many --data.cache disk --data.cache-dir {folder}"
    command("cache built", 2000, f"{cached}/cache1 --out {folder}/alone1")
    command("cache built by four at once", 2000, *[f"{cached}/cache4 --out {folder}/builder{i}" for i in range(4)])
    if contents(folder / "cache1", "*/*.npy") != contents(folder / "cache4", "*/*.npy"):
        wrong.append("the cache of four builders differs from that of one")
    return wrong


def main() -> None:
    """Parse the options and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000, help="image files")
    parser.add_argument("--lines", type=int, default=1_000_000, help="lines of metrics.jsonl")
    parser.add_argument("--only", choices=("parts", "commands"), help="half of it")
    options = parser.parse_args()
    print(json.dumps({"machine": platform.processor(), "cores": os.cpu_count(), "python": platform.python_version()}))
    wrong = []
    with tempfile.TemporaryDirectory() as name:
        if options.only != "commands":
            measure_parts(Path(name), options.files, options.lines)
        if options.only != "parts":
            wrong = measure_commands(Path(name), options.files)
    print(json.dumps({"wrong": wrong}))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
