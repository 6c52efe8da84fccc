"""Several processes, for real: connected on this machine, each with devices of its own."""

import contextlib
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from etils import epath
from helpers import ONE_DEVICE, TINY, committed, environment, rows, run

from unet_jax import InputError, load_run
from unet_jax.config.dicts import replace
from unet_jax.config.processes import Processes
from unet_jax.data.layout import find_layout
from unet_jax.devices import processes as distributed
from unet_jax.inference.evaluate import evaluate_run
from unet_jax.inference.folder import predict_files
from unet_jax.inference.inputs import find_inputs
from unet_jax.metrics.score_sums import DEFAULT
from unet_jax.runs.info import load_info

SMALL = (
    *(*TINY, "--train.num-pictures", "2", "--optim.name", "sgd", "--optim.learning-rate", "0.05"),
    *("--data.num-threads", "1", "--data.cache", "none"),
)


def start(root, out, num_processes, num_devices, *options, root_of_last=None):
    """`unet-jax train` in connected processes; the last may have another copy of the data."""

    def arguments(index):
        own = root_of_last if root_of_last and index == num_processes - 1 else root
        data = ("--data.root", own, "--data.splits", f"{own}/splits.csv")
        return ("train", "small", "--out", out, *data, *SMALL, *options)

    return launch(num_processes, num_devices, arguments)


def launch(num_processes, num_devices, arguments):
    """`unet-jax` with the `arguments` of each index, in connected processes which share `num_devices` devices."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    own, processes = environment(num_devices // num_processes), []
    for index in range(num_processes):
        command = [sys.executable, "-m", "unet_jax", *arguments(index)]
        command += ["--coordinator", f"localhost:{port}", "--num-processes", num_processes, "--process-id", index]
        pipe = subprocess.PIPE
        strings = [str(part) for part in command]
        processes.append(subprocess.Popen(strings, env=own, stdout=pipe, stderr=pipe, text=True))
    return processes


def finish(processes, timeout=180):
    """Exit status and what was said of each; none is left running."""
    try:
        said = [process.communicate(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], said


def succeed(processes):
    statuses, said = finish(processes)
    assert statuses == [0] * len(processes), said
    return said


def wait_for(processes, is_there):
    """Until it is, or a process has ended."""
    deadline = time.monotonic() + 180.0
    while all(process.poll() is None for process in processes) and not is_there():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def assert_same_runs(a, b, rtol):
    """Of the newest checkpoints, and what was logged: bit for bit where `rtol` is 0, or to `rtol` of the length."""
    left, right = load_run(a, "last", mesh=ONE_DEVICE), load_run(b, "last", mesh=ONE_DEVICE)
    assert left.step == right.step
    if rtol == 0.0:
        jax.tree.map(np.testing.assert_array_equal, left.state, right.state)
    for name in ("params", "batch_stats"):
        x, y = (np.concatenate([np.ravel(a) for a in jax.tree.leaves(getattr(r.state, name))]) for r in (left, right))
        assert np.linalg.norm(x - y) <= rtol * np.linalg.norm(y), name
    assert [row["step"] for row in rows(a)] == [row["step"] for row in rows(b)]
    for mine, other in zip(rows(a), rows(b), strict=True):
        assert mine == pytest.approx(other, rel=rtol, abs=0.0)


def is_gloo(said):
    """Whether these are only the words of what connects CPUs, in any order: its threads write at the same time."""
    words = "[Gloo] Rank is connected to peer ranks. Expected number of connected peer ranks is :"
    return set(re.sub(r"\d+", " ", said).split()) <= set(words.split())


def straight(out, folder, mesh=None):
    """The same run in this process, from its beginning to its end; on all devices unless a mesh is given."""
    return run(load_info(epath.Path(out)).config, folder, mesh=mesh).path


@pytest.fixture(scope="module")
def two_processes(synthetic_root, tmp_path_factory):
    """Two epochs of two steps: eight devices in two processes, two devices for each image."""
    out = tmp_path_factory.mktemp("two") / "run"
    options = ("--train.num-epochs", "2", "--train.devices-per-image", "2", "--augment.where", "device")
    return out, succeed(start(synthetic_root, out, 2, 8, *options))


def test_two_processes_are_one_run(two_processes, tmp_path):
    """Numbers of one process with the same devices; one process says and writes what there is one of."""
    out, ((first, first_log), (second, second_log)) = two_processes
    assert "finished at step 4" in first and "epoch 2/2" in first_log and "886 parameters" in first_log
    # What connects CPUs says so; nothing else does.
    assert is_gloo(second) and "epoch" not in second_log
    assert_same_runs(out, straight(out, tmp_path / "here"), 1e-5)
    here = {p.relative_to(tmp_path / "here") for p in (tmp_path / "here").rglob("*") if p.suffix in (".json", ".png")}
    there = {p.relative_to(out) for p in out.rglob("*") if p.suffix in (".json", ".png")}
    assert here == there
    assert json.loads((out / "goodput.json").read_text())["starts"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("devices_per_image", [1, 8])
def test_four_processes_are_one_run(synthetic_root, tmp_path, devices_per_image):
    """With 8, each image is divided over all processes, which then all read it."""
    out = tmp_path / "run"
    options = ("--train.num-epochs", "2", "--train.devices-per-image", devices_per_image, "--train.accumulation", 2)
    if devices_per_image == 1:
        options = options[:-2]
    succeed(start(synthetic_root, out, 4, 8, *options))
    assert_same_runs(out, straight(out, tmp_path / "here"), 1e-5)


@pytest.mark.slow
def test_one_told_to_stop_stops_all_at_the_same_step_and_any_devices_continue(synthetic_root, tmp_path):
    """A checkpoint of two processes is continued bit for bit by two, and to 1e-5 by one process with one device."""
    out, options = tmp_path / "run", ("--train.num-epochs", "30", "--train.checkpoint-every-steps", "1")
    processes = start(synthetic_root, out, 2, 8, *options)
    wait_for(processes, lambda: len(committed(out)) > 0 and committed(out)[-1] >= 3)
    processes[1].send_signal(signal.SIGTERM)
    statuses, said = finish(processes)
    assert statuses == [75, 75], said
    (step,) = {int(log.split("stopped at step ")[1].split(",")[0]) for _, log in said}
    assert committed(out)[-1] == step < 60
    shutil.copytree(out, tmp_path / "alone")
    succeed(start(synthetic_root, out, 2, 8, *options))
    uninterrupted = tmp_path / "uninterrupted"
    succeed(start(synthetic_root, uninterrupted, 2, 8, *options))
    assert_same_runs(out, uninterrupted, 0.0)
    straight(tmp_path / "alone", tmp_path / "alone", mesh=ONE_DEVICE)
    assert_same_runs(tmp_path / "alone", uninterrupted, 1e-5)


@pytest.mark.slow
def test_two_processes_continue_what_one_device_began(two_processes, synthetic_root, tmp_path):
    config = replace(load_info(epath.Path(two_processes[0])).config, {"train.devices_per_image": 1})
    with contextlib.suppress(SystemExit):
        run(config, tmp_path / "run", stop_at=lambda step: step == 3)
    assert committed(tmp_path / "run")[-1] == 3
    options = ("--train.num-epochs", "2", "--train.devices-per-image", "4", "--augment.where", "device")
    succeed(start(synthetic_root, tmp_path / "run", 2, 8, *options))
    assert_same_runs(tmp_path / "run", straight(two_processes[0], tmp_path / "here", mesh=ONE_DEVICE), 1e-5)


@pytest.mark.slow
def test_two_processes_score_and_predict_as_one(two_processes, synthetic_root, tmp_path):
    """An image over devices of both processes."""
    run, devices = two_processes[0], ("--devices-per-image", 8)
    data = ("--data.root", synthetic_root, "--split", "all", "--csv", tmp_path / "scores.csv")
    (first, _), (second, _) = succeed(launch(2, 8, lambda index: ("evaluate", run, *data, *devices)))
    here = load_run(run, mesh=ONE_DEVICE)
    layout = find_layout(here.config.data)
    expected = evaluate_run(here, layout, layout.records)
    assert json.loads(first.splitlines()[-1])["dice_mean"] == pytest.approx(expected.dice_mean, abs=1e-9)
    assert (tmp_path / "scores.csv").read_text() == expected.to_csv(DEFAULT)
    assert is_gloo(second)
    folders = tmp_path / "two", tmp_path / "one"
    succeed(launch(2, 8, lambda index: ("predict", run, synthetic_root / "images", "--out", folders[0], *devices)))
    list(predict_files(here, find_inputs([synthetic_root / "images"]), epath.Path(folders[1])))
    files = sorted(p.relative_to(folders[1]) for p in folders[1].rglob("*.png"))
    assert files == sorted(p.relative_to(folders[0]) for p in folders[0].rglob("*.png")) and len(files) == 90
    assert all((folders[0] / file).read_bytes() == (folders[1] / file).read_bytes() for file in files)


@pytest.mark.slow
def test_an_error_of_one_process_ends_all_with_its_message(synthetic_root, tmp_path):
    """A file that only one machine cannot read; the others are in the middle of a step, or wait in one."""
    broken = tmp_path / "copy"
    shutil.copytree(synthetic_root, broken)
    processes = start(synthetic_root, tmp_path / "run", 2, 2, "--train.num-epochs", "500", root_of_last=broken)
    wait_for(processes, lambda: committed(tmp_path / "run"))
    for image in (broken / "images").iterdir():
        image.write_bytes(b"")
    begun = time.monotonic()
    statuses, said = finish(processes)
    assert time.monotonic() - begun < 30
    assert statuses == [2, 2], said
    assert "process 1 of 2 failed:" in said[0][1] and ".png: is not an image" in said[0][1]
    assert "is not an image" in said[1][1]
    assert "Traceback" not in said[0][1] + said[1][1]


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_other(synthetic_root, tmp_path, victim):
    processes = start(synthetic_root, tmp_path / "run", 2, 2, "--train.num-epochs", "500")
    wait_for(processes, lambda: committed(tmp_path / "run"))
    processes[victim].kill()
    begun = time.monotonic()
    statuses, said = finish(processes)
    assert time.monotonic() - begun < 2 * distributed.HEARTBEAT_TIMEOUT_S
    assert statuses[victim] == -signal.SIGKILL and statuses[1 - victim] != 0, said


@pytest.mark.slow
def test_an_error_before_the_first_step_ends_those_who_wait_for_it(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    statuses, said = finish(start(tmp_path, tmp_path / "run", 2, 2))
    assert statuses == [2, 2], said


@pytest.mark.parametrize(
    "processes",
    [Processes("localhost:1", 2), Processes("localhost", 2, 0), Processes("", 2, 0), Processes("a:1", 2, 2)],
)
def test_settings_that_do_not_belong_together_are_refused(processes):
    with pytest.raises(InputError, match=r"--coordinator is .*HOST:PORT of process 0"):
        distributed.connect(processes)


def test_nothing_is_connected_on_one_machine(monkeypatch):
    with distributed.connected():
        assert jax.process_count() == 1 and distributed.is_first()
        distributed.wait_for_all("nothing")
    assert not jax.distributed.is_initialized()
    of_one_task = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "a", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    for count, is_cluster in (("1", False), ("2", True)):
        for name, value in {**of_one_task, "SLURM_NTASKS": count}.items():
            monkeypatch.setenv(name, value)
        assert distributed._in_cluster() == is_cluster
