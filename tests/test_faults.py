"""What training does when it is told to stop, killed, started twice, or meets numbers that are not finite."""

import contextlib
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest
from etils import epath
from helpers import ONE_DEVICE, TINY, assert_equal_runs, committed, environment, run, tiny_config

from unet_jax import InputError, Preempted, load_run
from unet_jax.report.display import Quiet
from unet_jax.runs.checkpoints import CheckpointStore
from unet_jax.runs.lock import lock_run
from unet_jax.training.preemption import stop_requests


class Signalled(Quiet):
    """Sends this process signals after a training step, as a scheduler or a person would."""

    def __init__(self, step, *numbers):
        super().__init__()
        self.step, self.numbers, self.lines = step, numbers, []

    def line(self, text):
        self.lines.append(text)

    def bar(self, title, total, completed=0, unit=""):
        def show(done, note=""):
            if title == "training" and done == self.step:
                for number in self.numbers:
                    os.kill(os.getpid(), number)

        return contextlib.nullcontext(show)


@pytest.fixture
def ctrl_c():
    """Ctrl-C as in a terminal: jobs in the background get it ignored from the shell, and training leaves it so."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_told_to_stop_it_saves_the_step_under_way_and_continues_bit_for_bit(synthetic_root, tmp_path):
    """Four epochs of two steps. A second Ctrl-C ends at once; a second SIGTERM, which launchers send, does not."""
    config, out = tiny_config(synthetic_root, num_epochs=4), tmp_path / "run"
    straight = run(config, tmp_path / "straight").path
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(config, out, Signalled(3, signal.SIGINT, signal.SIGINT))
    assert load_run(out, "last", mesh=ONE_DEVICE).step == 2
    between, at_evaluation = Signalled(3, signal.SIGTERM, signal.SIGTERM), Signalled(6, signal.SIGINT)
    for display in (between, at_evaluation):
        with pytest.raises(Preempted) as stopped:
            run(config, out, display)
        assert (stopped.value.step, stopped.value.code) == (display.step, 75)
        assert load_run(out, "last", mesh=ONE_DEVICE).step == display.step
        assert f"told to stop: saving step {display.step}; Ctrl-C ends at once" in display.lines
    assert run(config, out, Signalled(8, signal.SIGTERM)).step == 8  # the last one: nothing is left to continue
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    assert_equal_runs(out, straight)


def test_another_thread_watches_no_signals_and_ignored_ones_stay_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # what a shell does for a job in the background
    try:
        with stop_requests() as stop_at:
            os.kill(os.getpid(), signal.SIGINT)
            assert not stop_at(1)
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    seen = []

    def watch():
        with stop_requests() as stop_at:
            seen.append((stop_at(1), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=watch)
    thread.start()
    thread.join()
    assert seen == [(False, signal.getsignal(signal.SIGTERM))]


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_a_closed_terminal_and_the_end_of_a_job_stop_like_sigterm(number):
    before = signal.signal(number, signal.SIG_DFL)
    try:
        with stop_requests() as stop_at:
            assert not stop_at(1)
            os.kill(os.getpid(), number)
            assert stop_at(2)
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, before)


def test_a_run_can_be_pickled_and_is_loaded_while_its_checkpoint_is_replaced(synthetic_root, tmp_path, monkeypatch):
    """Beside a run that trains: the store of one moment names a checkpoint that the next one has removed."""
    loaded = load_run(run(tiny_config(synthetic_root, num_epochs=1), tmp_path).path, mesh=ONE_DEVICE)
    again = pickle.loads(pickle.dumps(loaded))
    assert (again.info, again.step, again.path) == (loaded.info, loaded.step, loaded.path)
    assert again.mesh.size == 8
    jax.tree.map(np.testing.assert_array_equal, again.state, loaded.state)
    load, tries = CheckpointStore.load, []

    def gone_at_first(self, step, abstract_state, mesh):
        tries.append(step)
        if len(tries) == 1:
            os.rename(tmp_path / "checkpoints/2", tmp_path / "elsewhere")
            try:
                return load(self, step, abstract_state, mesh)
            finally:
                os.rename(tmp_path / "elsewhere", tmp_path / "checkpoints/3")
        return load(self, step, abstract_state, mesh)

    monkeypatch.setattr(CheckpointStore, "load", gone_at_first)
    assert load_run(tmp_path, mesh=ONE_DEVICE).step == 3 and tries == [2, 3]


def start(root, out, *options):
    """`unet-jax train` in a process of its own."""
    data = ["--data.root", root, "--data.splits", f"{root}/splits.csv", "--data.num-threads", "2"]
    own = [*data, *TINY, "--train.num-pictures", "0"]
    command = [sys.executable, "-m", "unet_jax", "train", "small", "--out", out, *own, *options]
    return subprocess.Popen(
        [str(part) for part in command], env=environment(), stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def wait_for(process, is_there):
    """Until it is, or the process has ended."""
    deadline = time.monotonic() + 180.0
    while process.poll() is None and not is_there():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def finish(process):
    """Exit status and what was said."""
    said = process.communicate(timeout=180)[1]
    assert "Traceback" not in said, said
    return process.returncode, said


def test_the_command_stops_at_sigterm_with_status_75_and_says_how_to_continue(synthetic_root, tmp_path):
    out = tmp_path / "run"
    process = start(synthetic_root, out, "--train.num-epochs", "500")
    wait_for(process, lambda: committed(out))
    process.terminate()
    status, said = finish(process)
    step = load_run(out, "last", mesh=ONE_DEVICE).step
    assert status == 75 and f"told to stop: saving step {step}" in said
    assert f"unet-jax: stopped at step {step}, saved in {out}. The same command continues from there." in said


def test_a_second_process_is_refused_and_a_dead_one_is_not_in_the_way(synthetic_root, tmp_path):
    out, config = epath.Path(tmp_path / "run"), tiny_config(synthetic_root)
    hold = "import sys, time; from etils import epath; from unet_jax.runs.lock import lock_run\n"
    hold += "with lock_run(epath.Path(sys.argv[1])): print(flush=True); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", hold, str(out)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    with pytest.raises(InputError, match=rf"run: another process \({process.pid} on .*\) is training there.*--out"):
        run(config, out)
    assert [p.name for p in out.iterdir()] == ["lock"]
    process.kill()
    process.communicate()
    assert (out / "lock").exists()
    assert run(config, out).step == 4
    assert not (out / "lock").exists()


def test_a_folder_made_for_nothing_is_removed_and_an_empty_name_refused(tmp_path):
    out = epath.Path(tmp_path / "run")
    with pytest.raises(RuntimeError), lock_run(out):
        assert [p.name for p in out.iterdir()] == ["lock"]
        raise RuntimeError
    assert not out.exists()
    out.mkdir()
    with lock_run(out), pytest.raises(InputError, match="another process"), lock_run(out):
        pass
    assert out.exists()
    for nothing in ("", "."):
        with pytest.raises(InputError, match="--out is empty"), lock_run(epath.Path(nothing)):
            pass


CONNECTED = """
import signal, sys, time, jax
from unet_jax.training.preemption import stop_requests
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background gets it ignored
jax.distributed.initialize(f"localhost:{sys.argv[1]}", num_processes=2, process_id=int(sys.argv[2]))
with stop_requests() as stop_at:
    for step in range(1, 2000):
        time.sleep(0.005 * (1 + int(sys.argv[2])))  # one is slower
        if stop_at(step):
            print("stopped at", step, flush=True)
            break
        if step == 20:
            print("running", flush=True)
jax.distributed.shutdown()
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_connected_processes_stop_at_the_same_step_when_one_is_told(number):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-c", CONNECTED, port]
    processes = [subprocess.Popen([*command, i], env=environment(), stdout=subprocess.PIPE, text=True) for i in "01"]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "running\n"
    processes[1].send_signal(number)
    said = {process.communicate(timeout=120)[0] for process in processes}
    assert len(said) == 1 and said.pop().startswith("stopped at ")
    assert [process.returncode for process in processes] == [0, 0]


@pytest.mark.slow
def test_killed_twenty_times_it_ends_as_if_nothing_had_been(synthetic_root, tmp_path):
    """SIGKILL anywhere, in start-up, and while a checkpoint is written; no committed step is ever lost."""
    options = ("--train.num-epochs", "80", "--train.checkpoint-every-steps", "1")
    out, rng, safe, in_a_save = tmp_path / "run", np.random.default_rng(0), 0, 0

    def unfinished():
        folder = out / "checkpoints"
        return {p.name for p in folder.iterdir() if not p.name.isdigit()} if folder.exists() else set()

    for kill in range(20):
        left = unfinished()  # by the process killed before
        process = start(synthetic_root, out, *options)
        if kill % 5 == 4:
            time.sleep(rng.uniform(0.0, 12.0))
        else:
            reached = max(committed(out), default=0)
            wait_for(process, lambda: max(committed(out), default=0) > reached)  # noqa: B023
            time.sleep(rng.uniform(0.0, 0.6))
            if kill % 5 > 1:
                wait_for(process, lambda: unfinished() - left)  # noqa: B023
                time.sleep(rng.uniform(0.0, 0.03))
        before = max(committed(out), default=0)
        process.kill()
        in_a_save += bool(unfinished() - left)
        status, said = finish(process)
        assert status == -signal.SIGKILL, said
        assert f"at step {safe} of 160" in said or safe == 0 or "continuing" not in said
        safe = max(committed(out), default=0)
        assert safe >= before
    assert in_a_save >= 5 and 10 < safe < 160
    continued, undisturbed = start(synthetic_root, out, *options), start(synthetic_root, tmp_path / "b", *options)
    assert (finish(continued)[0], finish(undisturbed)[0]) == (0, 0)
    assert_equal_runs(out, tmp_path / "b")
    assert {p.name for p in (out / "checkpoints").iterdir()} == {p.name for p in (tmp_path / "b/checkpoints").iterdir()}
    ledger = json.loads((out / "goodput.json").read_text())
    assert 10 <= ledger["starts"] <= 21 and ledger["seconds"]["lost"] > 0.0
