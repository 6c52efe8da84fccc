"""Kill commands, or fill their disk, at random moments; repeat them; compare with commands that nobody disturbed.

    python scripts/attack_run.py --kills 50 --full-disks 20

Each attempt starts one of the jobs below on a tiny network as a process of its own (forked from one that has imported
the library, which saves seconds of every attempt). At a random moment the process gets
SIGKILL, or a file takes all that is left of a small disk (a tmpfs, which needs root or user namespaces: `unshare -rm
python scripts/attack_run.py ...`). Then:

- files that are there under final names are those of the undisturbed command, and no checkpoint is lost or damaged;
- on a full disk, the command has ended with status 2 and one line that names it;
- the same command ends well, without a traceback, and leaves what the undisturbed command left, bit for bit.

The last line is JSON with the counts. An attempt that ended by itself before its moment, or that had nothing
left to write, is not counted but made again. The status is 1 if anything differed. Programs are compiled once, into a
cache outside of the small disk.
"""

import argparse
import contextlib
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from etils import epath

from unet_jax import load_run
from unet_jax.cli import main as main_module
from unet_jax.devices.mesh import make_mesh
from unet_jax.runs.checkpoints import committed_steps
from unet_jax.runs.integrity import damaged_files

NETWORK = "--model.widths 4 --model.center-width 8 --model.num-convs-down 1 --model.num-convs-up 1"
TRAIN = f"train small {NETWORK} --data.num-threads 2 --train.num-pictures 0 --train.batch-size 4"
STUDY = """
[study]
seeds = [0, 1]
[config.data]
root = "{data}"
splits = "{data}/splits.csv"
image_size = 32
[config.model]
widths = [4]
center_width = 8
num_convs_down = 1
num_convs_up = 1
[config.train]
num_epochs = 2
batch_size = 4
checkpoint_every_steps = 2
[[variant]]
name = "bce"
terms = [{{ name = "bce" }}]
[[variant]]
name = "dice"
terms = [{{ name = "soft_dice" }}]
"""
TIMES = ("images_per_s", "wait_share", "time", "crc")
"""What no two runs share in metrics.jsonl."""
LEFTOVERS = ("**/*.new", "**/*.building-*", "**/lock")
PRELOADED = ["unet_jax.training.loop", "unet_jax.study.run", "unet_jax.export.onnx_model", "unet_jax.inference.folder"]
DISK_MIB = 48
_MOST_TRIES = 8  # for one attempt
_LONGEST_S = 300.0


class Job(NamedTuple):
    """A command, and what it leaves."""

    command: str
    """Options of `unet-jax`; {out} is the folder that it writes to."""
    whole: tuple[str, ...] = ()
    """Patterns of files in {out} that are whole as soon as they have their names."""
    at_end: tuple[str, ...] = ()
    """Patterns of files that are compared at the end only."""
    runs: str = ""
    """Pattern of the run directories in {out} that the command trains."""
    begins: str = ""
    """Pattern of a file in {out} with which the work begins that is attacked; empty: any moment is as good."""
    ends: str = ""
    """Pattern of a file with which that work ends; empty: with the process."""
    needs_run: bool = False
    """Whether {out} begins with a copy of the trained run."""


JOBS = {
    "train": Job(
        f"{TRAIN} --data.root data --data.image-size 32 --train.num-epochs 6 --train.checkpoint-every-steps 2 "
        "--out {out}/run",
        at_end=("run/run.json", "run/data.json"),
        runs="run",
        begins="run/run.json",
    ),
    "study": Job(
        "study study.toml --out {out}/study",
        whole=("study/runs/*/*/test.csv",),
        at_end=("study/results.csv", "study/table.csv"),
        runs="study/runs/*/*",
        begins="study/runs",
    ),
    "predict": Job(
        "predict trained large/images --out {out}/masks --skip-existing",
        whole=("masks/*/*.png", "masks/predict.json"),
        begins="masks",
    ),
    "cache": Job(
        f"{TRAIN} --data.root large --data.image-size 256 --data.cache disk --data.cache-dir {{out}}/cache "
        "--train.num-steps 1 --out {out}/run",
        whole=("cache/*/*",),
        runs="run",
        begins="cache",
        ends="cache/*/meta.json",
    ),
    "calibrate": Job("calibrate {out}/run", whole=("run/calibration.json",), needs_run=True),
    "export": Job("export trained --to onnx --out {out}/export/model.onnx", whole=("export/*",)),
}


def start(job: Job, out: Path, work: Path) -> BaseProcess:
    """Start a job's command in a new folder."""
    out.mkdir(parents=True)
    if job.needs_run:
        shutil.copytree(work / "trained", out / "run")
    return again(job, out, work)


def again(job: Job, out: Path, work: Path) -> BaseProcess:
    """Start a job's command where it was started before; what it says goes to files."""
    process = multiprocessing.get_context("forkserver").Process(
        target=run_command, args=(job.command.format(out=out).split(), work)
    )
    process.start()
    return process


def run_command(args: list[str], work: Path) -> None:
    """Run `unet-jax` in this process."""
    os.setsid()
    os.chdir(work)
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        with open(work / name, "wb") as file:
            os.dup2(file.fileno(), descriptor)
    main_module.main(args)


def finish(process: BaseProcess, work: Path) -> tuple[int, str]:
    """Wait for a command; return its status and what it said on the standard error."""
    process.join(_LONGEST_S)
    if process.exitcode is None:
        kill(process)
        return -1, f"it had not ended after {_LONGEST_S:.0f} s"
    return process.exitcode, (work / "stderr").read_text(errors="replace")


def kill(process: BaseProcess) -> None:
    """Kill a command."""
    process.kill()
    process.join()


def found(out: Path, patterns: tuple[str, ...]) -> dict[str, str]:
    """Return a digest of each file with a final name."""
    paths = [path for pattern in patterns for path in out.glob(pattern) if path.is_file()]
    paths = [path for path in paths if not any(".building-" in part for part in path.parts)]
    return {path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def run_values(run: Path) -> dict[str, str]:
    """Return digests of the newest checkpoint's numbers and of the logged metrics of a run."""
    loaded = load_run(epath.Path(run), "last", mesh=make_mesh(jax.devices()[:1]))
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(loaded.state):
        digest.update(jax.tree_util.keystr(path).encode() + np.asarray(leaf).tobytes())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows = [{name: value for name, value in line.items() if name not in TIMES} for line in lines]
    return {"state": f"{loaded.step} {digest.hexdigest()}", "metrics": json.dumps(rows)}


def runs_of(job: Job, out: Path) -> list[Path]:
    """Return the run directories that a job has made."""
    return sorted(run for run in out.glob(job.runs) if (run / "run.json").exists()) if job.runs else []


def result(job: Job, out: Path) -> dict[str, str]:
    """Return all that two commands must have in common."""
    values = found(out, job.whole + job.at_end)
    for run in runs_of(job, out):
        name = run.relative_to(out).as_posix()
        values |= {f"{name}: {what}": value for what, value in run_values(run).items()}
    values["leftovers"] = ", ".join(str(p.relative_to(out)) for pattern in LEFTOVERS for p in sorted(out.glob(pattern)))
    return values


def steps_of(job: Job, out: Path) -> dict[Path, int]:
    """Return the newest committed step of each run."""
    return {run: max(committed_steps(epath.Path(run / "checkpoints")), default=-1) for run in runs_of(job, out)}


def problems_now(job: Job, out: Path, before: dict[Path, int], expected: dict[str, str]) -> list[str]:
    """Return what was lost or damaged when a command was disturbed."""
    wrong = [name for name, digest in found(out, job.whole).items() if expected.get(name) != digest]
    problems = [f"{name} has its final name and other bytes" for name in wrong]
    after = steps_of(job, out)
    problems += [
        f"{run}: step {step} is not there any more" for run, step in before.items() if after.get(run, -1) < step
    ]
    for run in after:
        folder = epath.Path(run / "checkpoints")
        for step in committed_steps(folder):
            if damaged := damaged_files(folder, step):
                problems.append(f"{run}: step {step} is damaged: {damaged}")
    return problems


class Window(NamedTuple):
    """When a job's work begins and ends, in seconds after its start."""

    begins: float
    ends: float


def wait_until(process: BaseProcess, happened: Callable[[], bool]) -> bool:
    """Wait for something; return False if the process ends before."""
    while process.exitcode is None:
        if happened():
            return True
        time.sleep(0.002)
    return False


def appears(out: Path, pattern: str) -> Callable[[], bool]:
    """Return whether there is a file, when called."""
    return lambda: any(out.glob(pattern))


def undisturbed(job: Job, out: Path, work: Path) -> tuple[dict[str, str], Window]:
    """Run a job's command; return what it leaves, and when it works."""
    begun = time.monotonic()
    process = start(job, out, work)
    if job.begins:
        wait_until(process, appears(out, job.begins))
    begins = time.monotonic() - begun if job.begins else 0.0
    if job.ends:
        wait_until(process, appears(out, job.ends))
    ends = time.monotonic() - begun if job.ends else None
    status, said = finish(process, work)
    if status != 0:
        sys.exit(f"the undisturbed command ended with status {status}: {said}")
    return result(job, out), Window(begins, ends if ends is not None else time.monotonic() - begun)


def wait_for_moment(process: BaseProcess, job: Job, out: Path, window: Window, rng) -> bool:
    """Wait for a random moment, mostly one at which the job works; return False if the process ends before."""
    if job.begins and rng.random() < 0.85:
        if not wait_until(process, appears(out, job.begins)):
            return False
        seconds = rng.uniform(0.0, window.ends - window.begins)
    else:
        seconds = rng.uniform(0.0, window.ends)
    moment = time.monotonic() + seconds
    return wait_until(process, lambda: time.monotonic() >= moment)


def attack_by_kill(job: Job, out: Path, work: Path, window: Window, expected: dict[str, str], rng) -> list[str] | None:
    """Kill a command and repeat it; return what is wrong then, or None if it had ended before."""
    process = start(job, out, work)
    if not wait_for_moment(process, job, out, window, rng):
        kill(process)
        return None
    before = steps_of(job, out)
    kill(process)
    if process.exitcode != -signal.SIGKILL:
        return None
    problems = problems_now(job, out, before, expected)
    return problems + repeat(job, out, work, expected)


def attack_by_full_disk(
    job: Job, out: Path, work: Path, window: Window, expected: dict[str, str], rng
) -> list[str] | None:
    """Fill a command's disk, make room and repeat it; return what is wrong, or None if it had nothing left to write."""
    process = start(job, out, work)
    filler = out.parent / "filler"
    try:
        if not wait_for_moment(process, job, out, window, rng):
            kill(process)
            return None
        before = steps_of(job, out)
        fill(filler)
        status, said = finish(process, work)
        problems = problems_now(job, out, before, expected)
    finally:
        filler.unlink(missing_ok=True)
    if status == 0:
        return problems or None
    lines = [line for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("unet-jax: ")]
    if status != 2 or len(errors) != 1 or lines[-1] != errors[0] or str(out) not in errors[0]:
        problems.append(f"status {status} on a full disk, and said: {said[-3000:]}")
    elif "Make room" not in errors[0]:
        problems.append(f"does not say what to do: {errors[0]}")
    return problems + repeat(job, out, work, expected)


def repeat(job: Job, out: Path, work: Path, expected: dict[str, str]) -> list[str]:
    """Start the command again; return how its end differs from that of the undisturbed one."""
    status, said = finish(again(job, out, work), work)
    if status != 0 or "Traceback" in said:
        return [f"repeated, it ended with status {status}: {said[-3000:]}"]
    values = result(job, out)
    differing = sorted(name for name in values.keys() | expected.keys() if values.get(name) != expected.get(name))
    return [f"{name}: {values.get(name)} instead of {expected.get(name)}"[:2000] for name in differing]


def fill(filler: Path) -> None:
    """Take all that is left of a disk."""
    with open(filler, "wb", buffering=0) as file:
        for size in (2**20, 2**12, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Mount a small disk on a folder."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", folder], capture_output=True)
    if mounted.returncode != 0:
        sys.exit(f"cannot mount a small disk ({mounted.stderr.decode().strip()}). Begin with: unshare -rm")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def prepare(work: Path) -> None:
    """Make data sets, the study, and the trained run that other jobs use."""
    main = [sys.executable, "-m", "unet_jax"]
    quiet = {"cwd": work, "check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    for name, count, size in (("data", 24, 32), ("large", 60, 384)):
        subprocess.run([*main, "synth", "--out", name, "--num-images", str(count), "--image-size", str(size)], **quiet)
    # A split test, which studies score.
    splits = ["id,split", *(f"{i:04d},{('train', 'train', 'val', 'test')[i % 4]}" for i in range(24))]
    (work / "data/splits.csv").write_text("\n".join(splits) + "\n")
    (work / "study.toml").write_text(STUDY.format(data=work / "data"))
    size = "--data.image-size 32 --train.num-epochs 2"
    subprocess.run([*main, *f"{TRAIN} --data.root data {size} --out trained".split()], **quiet)


def attack(name: str, kills: int, full_disks: int, work: Path, disk: Path, seed: int) -> dict[str, int]:
    """Attack one job, say what goes wrong, and return the counts."""
    job = JOBS[name]
    expected, _ = undisturbed(job, work / "undisturbed" / name, work)
    again, window = undisturbed(job, work / "undisturbed_again" / name, work)  # with compiled programs: as attacked
    if again != expected:
        sys.exit(f"{name}: two undisturbed commands differ")
    counts = {"kills": 0, "full_disks": 0, "ended_before": 0, "wrong": 0}
    for kind, count in (("kills", kills), ("full_disks", full_disks)):
        for i in range(count):
            rng = np.random.default_rng((seed, list(JOBS).index(name), kind == "kills", i))
            for _ in range(_MOST_TRIES):
                folder = (work if kind == "kills" else disk) / "attacked"
                attack_one = attack_by_kill if kind == "kills" else attack_by_full_disk
                problems = attack_one(job, folder / name, work, window, expected, rng)
                if problems:
                    counts["wrong"] += 1
                    print(f"{name}, {kind} {i}:", *problems, sep="\n  ", flush=True)
                shutil.rmtree(folder)
                if problems is not None:
                    counts[kind] += 1
                    break
                counts["ended_before"] += 1
    return counts


def main() -> None:
    """Parse the options, attack, print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="number of kills, divided over all jobs")
    parser.add_argument("--full-disks", type=int, default=20, help="number of full disks, divided over all jobs")
    parser.add_argument(
        "--jobs", nargs="+", choices=JOBS, default=list(JOBS), help="attack only these, with their part"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compiled", help="folder of compiled programs to keep; a new one by default")
    options = parser.parse_args()
    total = {}
    with tempfile.TemporaryDirectory(prefix="attack_run.") as name, contextlib.ExitStack() as stack:
        work = Path(name)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = options.compiled or str(work / "compiled")
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        prepare(work)
        multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)
        disk = stack.enter_context(small_disk(work / "disk")) if options.full_disks else work
        for i, job in enumerate(JOBS):
            kills, full = ((count + len(JOBS) - 1 - i) // len(JOBS) for count in (options.kills, options.full_disks))
            if job in options.jobs:
                begun = time.monotonic()
                total[job] = attack(job, kills, full, work, disk, options.seed)
                seconds = round(time.monotonic() - begun, 1)
                print(json.dumps({"job": job, **total[job], "seconds": seconds}), flush=True)
    sums = {key: sum(counts[key] for counts in total.values()) for key in next(iter(total.values()))}
    print(json.dumps({"seed": options.seed, **sums}))
    sys.exit(1 if sums["wrong"] else 0)


if __name__ == "__main__":
    main()
