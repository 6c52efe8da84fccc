"""Dice of `unet-jax train auto` on data sets, against preset `default` and loops in PyTorch of the same minutes.

    python benchmarks/bench_auto.py SHARED --work WORK --minutes 10 --seeds 0 1 2 --save auto_2_cores

SHARED has the folders wbc_d1, dsb2018_256 and les_av (images/ID.png, masks/CLASS/ID.png; les_av with train/ and test/).
Every run is a process of its own, one after the other; its result is a file in WORK, so that the same command continues
after a stop. All methods have the same training images: val is held out of train by the library's rule, and the loops
in PyTorch (`recipe_torch.py`) do not use it. Test images are scored at their own size.
"""

import argparse
import csv
import json
import pathlib
import subprocess
import sys
import time
from typing import Any, NamedTuple

import numpy as np
from measure import finish, record

from unet_jax.config import DataConfig
from unet_jax.data.layout import find_layout
from unet_jax.data.splits import assign_splits
from unet_jax.metrics.statistics import bootstrap_intervals

FOLDER = pathlib.Path(__file__).parent
METHODS = ("auto", "default", "PyTorch", "smp resnet18")
FLAGS = ("--train.num-pictures", "0")


class DataSet(NamedTuple):
    """How methods other than `auto` see a data set: side of the squares, and images in a step."""

    side: int
    batch_size: int


SETS = {"wbc_d1": DataSet(128, 8), "dsb2018_256": DataSet(256, 8), "les_av": DataSet(512, 2)}


def splits_of(root: pathlib.Path, name: str) -> dict[str, list[str]]:
    """Return the ids of train, val and test: every fifth is test unless there are folders train/ and test/."""
    layout = find_layout(DataConfig(root=str(root)))
    if (root / "test").exists():
        return {split: list(ids) for split, ids in assign_splits(layout, DataConfig(root=str(root))).items()}
    ids = sorted(record.id for record in layout.records)
    test = [id_ for id_ in ids if int(id_) % 5 == 0] if name == "wbc_d1" else ids[::5]
    rest = assign_splits(layout, DataConfig(root=str(root)))
    held_out = set(rest["val"]) - set(test)
    train = [id_ for id_ in ids if id_ not in held_out and id_ not in set(test)]
    return {"train": train, "val": sorted(held_out), "test": test}


def write_splits(path: pathlib.Path, splits: dict[str, list[str]]) -> None:
    """Write a file for `data.splits`."""
    lines = [f"{id_},{split}" for split, ids in splits.items() for id_ in ids]
    path.write_text("\n".join(["id,split", *lines]) + "\n")


def run_of_library(method: str, root: pathlib.Path, work: pathlib.Path, options: argparse.Namespace, seed: int) -> Any:
    """Train with a preset and score the best checkpoint; return the Dice of each test image and facts."""
    name, run = root.name, work / f"{root.name}-{method}-{seed}"
    flags = ["--data.root", str(root), "--out", str(run), "--seed", str(seed), *FLAGS]
    if not (root / "test").exists():
        flags += ["--data.splits", str(work / f"{name}.csv")]
    if method == "auto":
        flags += ["--minutes", str(options.minutes)]
    else:
        flags += ["--data.image-size", str(SETS[name].side), "--train.batch-size", str(SETS[name].batch_size)]
    command = [sys.executable, "-m", "unet_jax"]
    begin = time.time()
    done = subprocess.run([*command, "train", method, *flags], capture_output=True, text=True)
    seconds = time.time() - begin
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    scores = work / f"{run.name}.csv"
    subprocess.run(
        [*command, "evaluate", str(run), "--split", "test", "--csv", str(scores)], check=True, capture_output=True
    )
    with scores.open() as file:
        rows = list(csv.DictReader(file))
    dice = {row["id"]: [float(value) for key, value in row.items() if key.startswith("dice/")] for row in rows}
    info = json.loads((run / "run.json").read_text())
    facts = {key: info["config"]["data"][key] for key in ("image_size", "fit")}
    last = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][-1]
    return {"dice": dice, "num_steps": last["step"], "train_s": seconds, **facts}


def run_of_torch(method: str, root: pathlib.Path, work: pathlib.Path, options: argparse.Namespace, seed: int) -> Any:
    """Train and score a loop in PyTorch."""
    layout, splits = find_layout(DataConfig(root=str(root))), splits_of(root, root.name)
    files = {r.id: {"id": r.id, "image": str(r.image), "masks": [str(m[0]) for m in r.masks]} for r in layout.records}
    out = work / f"{root.name}-{method}-{seed}.out.json"
    task = {
        "method": method,
        "seed": seed,
        "minutes": options.minutes,
        "out": str(out),
        **SETS[root.name]._asdict(),
        "samples": {split: [files[id_] for id_ in ids] for split, ids in splits.items()},
    }
    path = work / f"{root.name}-{method}-{seed}.task.json"
    path.write_text(json.dumps(task))
    done = subprocess.run([sys.executable, FOLDER / "recipe_torch.py", path], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return json.loads(out.read_text())


def measured(options: argparse.Namespace) -> tuple[dict[str, list[dict[str, Any]]], dict[str, str]]:
    """Run what is not there yet; return the results by data set and method, and what failed."""
    work, results, failed = pathlib.Path(options.work), {}, {}
    work.mkdir(parents=True, exist_ok=True)
    for name in options.sets:
        root = pathlib.Path(options.data) / name
        write_splits(work / f"{name}.csv", splits_of(root, name))
        for seed in options.seeds:
            for method in options.methods:
                path = work / f"{name}-{method}-{seed}.json"
                if not path.exists():
                    print(f"{name}: {method}, seed {seed}", file=sys.stderr, flush=True)
                    start = run_of_library if method in ("auto", "default") else run_of_torch
                    try:
                        report = start(method, root, work, options, seed)
                    except RuntimeError as error:
                        failed[f"{name}, {method}"] = str(error)[:200]
                        continue
                    path.write_text(json.dumps(report))
                results.setdefault(f"{name}, {method}", []).append(json.loads(path.read_text()))
    return results, failed


def summary(results: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return a row for each data set and method: means over seeds, and the paired difference of `auto`."""
    rows = []
    for key, runs in results.items():
        name, method = key.split(", ")
        dice = image_dice(runs)
        row = {
            "data": name,
            "method": method,
            "dice": dice.mean(),
            "classes": np.mean([list(run["dice"].values()) for run in runs], axis=(0, 1)).tolist(),
            "num_steps": float(np.mean([run["num_steps"] for run in runs])),
            "minutes": float(np.mean([run["train_s"] for run in runs])) / 60,
            "num_seeds": len(runs),
        }
        auto = results.get(f"{name}, auto")
        if method != "auto" and auto and len(auto) == len(runs):
            ahead = image_dice(auto) - dice
            low, high = bootstrap_intervals(ahead[:, None])
            row |= {"ahead": float(ahead.mean()), "low": float(low[0]), "high": float(high[0])}
        rows.append(row)
    return rows


def image_dice(runs: list[dict[str, Any]]) -> np.ndarray:
    """Return the Dice of each test image, a mean over classes and seeds, in the order of ids: `[n]`."""
    ids = sorted(runs[0]["dice"])
    return np.mean([[np.mean(run["dice"][id_]) for id_ in ids] for run in runs], axis=0)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder with the data sets")
    parser.add_argument("--work", required=True, help="folder for runs and results")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=(0,))
    parser.add_argument("--sets", nargs="+", default=tuple(SETS), choices=tuple(SETS))
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--save", default="")
    options = parser.parse_args()
    results, failed = measured(options)
    rows = summary(results)
    for row in rows:
        print(
            f"{row['data']:>12} {row['method']:<14} {row['dice']:.4f} in {row['num_steps']:.0f} updates",
            file=sys.stderr,
        )
    told = {key: value for key, value in vars(options).items() if key not in ("save", "data", "work")}
    packages = ("torch", "segmentation_models_pytorch")
    finish(record("auto", told, packages) | {"results": rows, "failed": failed}, options.save)


if __name__ == "__main__":
    main()
