"""Measure what large data sets and long runs cost outside of training: one line of JSON for each figure.

    python scripts/measure_load.py --files 100000 --lines 1000000

Times are of one process, in seconds of the clock and of the processor; memory is the process's largest so far.
"""

import argparse
import json
import os
import platform
import resource
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


def main() -> None:
    """Parse the options and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000, help="image files")
    parser.add_argument("--lines", type=int, default=1_000_000, help="lines of metrics.jsonl")
    options = parser.parse_args()
    print(json.dumps({"machine": platform.processor(), "cores": os.cpu_count(), "python": platform.python_version()}))
    with tempfile.TemporaryDirectory() as name:
        folder, count = epath.Path(name), options.files
        data_set(Path(name) / "data", count)
        config = DataConfig(root=str(folder / "data"))
        layout = measure("listing", count, lambda: find_layout(config))
        splits = measure("splits", count, lambda: assign_splits(layout, config))
        digests = {record.id: f"{i:032x}" for i, record in enumerate(layout.records)}
        sizes = {record.id: [8, 8] for record in layout.records}
        audit = {"digests": digests, "sizes": sizes}
        info = RunInfo(PRESETS["small"](), layout.class_names, splits, audit, current_versions())
        measure("run.json written", count, lambda: save_info(folder, info))
        measure("run.json read", count, lambda: load_info(folder))
        one = identities_of(layout.records[0])
        identities = dict.fromkeys(digests, one)
        measure("data.json written", count, lambda: save_identities(folder, config.root, identities))
        measure("data.json read", count, lambda: load_identities(folder))
        file, lines = MetricsFile(folder / "metrics.jsonl"), options.lines
        row = {"step/loss": 0.123456789, "step/learning_rate": 1e-3, "step/gradient": 3.25}
        measure("metrics.jsonl written", lines, lambda: [file.write({"step": i, **row}) for i in range(lines)])
        measure("metrics.jsonl read", lines, file.read)
        measure("metrics.jsonl rewound", lines, lambda: file.rewind(lines))


if __name__ == "__main__":
    main()
