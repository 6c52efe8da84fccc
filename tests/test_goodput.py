"""The ledger against clocks that are moved by hand, so that every number can be added up in one's head."""

import json

import pytest
from etils import epath
from helpers import Interrupting, run, tiny_config, with_optim

from unet_jax.report.display import Quiet
from unet_jax.runs.load import open_checkpoints
from unet_jax.training.goodput import PHASES, Ledger, Pacer, Throttle


class Clock:
    def __init__(self):
        self.time = 100.0

    def __call__(self):
        return self.time


@pytest.fixture
def clock():
    return Clock()


def take(ledger, clock, **seconds):
    """Lets each phase take so long."""
    for name, value in seconds.items():
        with ledger.phase(name):
            clock.time += value


def test_phases_interrupt_each_other_and_add_up(tmp_path, clock):
    ledger = Ledger(epath.Path(tmp_path), clock)
    clock.time += 5.0
    with ledger.phase("step"):
        clock.time += 2.0
        with ledger.phase("data_wait"):
            clock.time += 1.0
        clock.time += 4.0
        assert ledger.seconds["step"] == 6.0  # also in the middle of it
        with pytest.raises(KeyError), ledger.phase("evaluation"):
            clock.time += 3.0
            raise KeyError
        clock.time += 1.0
    expected = {"start_up": 5.0, "step": 7.0, "data_wait": 1.0, "evaluation": 3.0}
    assert ledger.seconds == {**dict.fromkeys(PHASES, 0.0), **expected}
    assert sum(ledger.seconds.values()) == clock.time - 100.0


def test_pace_knows_steps_and_waiting_only(tmp_path, clock):
    ledger = Ledger(epath.Path(tmp_path), clock)
    take(ledger, clock, step=10.0, data_wait=10.0)
    pace = Pacer(8, ledger, step=3)
    assert pace.at(3) == (0.0, 0.0)
    take(ledger, clock, step=6.0, data_wait=2.0, evaluation=50.0, checkpoint=7.0)
    assert pace.at(8) == (5.0, 0.25)
    pace.restart(8)
    take(ledger, clock, step=2.0)
    assert pace.at(9) == (4.0, 0.0)


def test_what_came_after_the_checkpoint_of_a_killed_run_is_lost(tmp_path, clock):
    folder = epath.Path(tmp_path)
    killed = Ledger(folder, clock)
    killed.resume(0, {})
    take(killed, clock, compile=20.0, step=30.0)
    in_checkpoint = killed.seconds
    take(killed, clock, step=8.0, data_wait=2.0)
    killed.write(7)  # of which 5 steps are in the checkpoint

    again = Ledger(folder, clock)
    take(again, clock, start_up=1.0)
    again.resume(5, in_checkpoint)
    take(again, clock, step=4.0)
    expected = {"start_up": 1.0, "compile": 20.0, "step": 34.0, "lost": 10.0}
    assert again.seconds == {**dict.fromkeys(PHASES, 0.0), **expected}
    again.write(9)
    assert json.loads((folder / "goodput.json").read_text())["starts"] == 2

    # A third start finds a checkpoint of the step that was reached: nothing is lost again.
    third = Ledger(folder, clock)
    third.resume(9, in_checkpoint)
    assert third.seconds == again.seconds
    table = third.table()
    assert table[0] == "wall time 65.0 s over 3 starts, of which"
    assert table[4] == "  steps             34.0 s   52.3%" and table[7] == "  lost              10.0 s   15.4%"


def test_a_checkpoint_newer_than_the_file_counts(tmp_path, clock):
    ledger = Ledger(epath.Path(tmp_path), clock)
    ledger.write(3)
    take(ledger, clock, step=20.0)
    in_checkpoint = ledger.seconds
    again = Ledger(epath.Path(tmp_path), clock)
    again.resume(8, in_checkpoint)
    assert again.seconds == in_checkpoint


def test_going_back_to_a_checkpoint_loses_the_time_since(tmp_path, clock):
    ledger = Ledger(epath.Path(tmp_path), clock)
    take(ledger, clock, step=5.0)
    ledger.mark_checkpoint()
    take(ledger, clock, step=3.0, evaluation=1.0)
    ledger.go_back()
    assert (ledger.seconds["step"], ledger.seconds["evaluation"], ledger.seconds["lost"]) == (5.0, 0.0, 4.0)


def test_the_file_is_replaced_twice_a_minute_and_a_damaged_one_is_no_obstacle(tmp_path, clock):
    file = tmp_path / "goodput.json"
    ledger = Ledger(epath.Path(tmp_path), clock)
    clock.time += 29.0
    ledger.write_if_old(1)
    assert not file.exists()
    clock.time += 1.0
    ledger.write_if_old(2)
    assert json.loads(file.read_text())["step"] == 2
    for damaged in ('{"step": 2, "sta', "[]", "{}"):
        file.write_text(damaged)
        ledger.resume(1, {})
    assert ledger.seconds["start_up"] == 30.0


def test_a_run_that_was_interrupted_has_a_ledger_of_both_starts(synthetic_root, tmp_path):
    said, config = [], tiny_config(synthetic_root, checkpoint_every_steps=1)
    config = with_optim(config, learning_rate=0.02)  # of no other test: its program is compiled here
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "run", Interrupting(2))
    display = Quiet()
    display.line = said.append
    result = run(config, tmp_path / "run", display)
    ledger = json.loads((tmp_path / "run" / "goodput.json").read_text())
    assert (ledger["step"], ledger["starts"]) == (4, 2) and ledger["seconds"].keys() == PHASES.keys()
    assert min(v for p, v in ledger["seconds"].items() if p != "lost") > 0.0
    assert any("over 2 starts, of which" in line for line in said) and any("  evaluation" in line for line in said)
    with open_checkpoints(result.path, config) as store:
        saved = store.progress(4)["goodput"]
    assert all(0.0 <= saved[p] <= ledger["seconds"][p] + 1e-3 for p in PHASES)


def test_a_throttle_keeps_its_share_of_the_time():
    clock = [0.0]
    throttle, done = Throttle(share=0.1, now=lambda: clock[0]), []
    for second in range(1000):
        clock[0] = max(clock[0], float(second))
        if throttle.allows:
            with throttle.work():
                clock[0] += 30.0 if not done else 2.0  # the first time compiles
            done.append(clock[0])
    assert done[0] == 30.0 and len(done) > 40
    assert 2.0 * (len(done) - 1) <= 0.1 * clock[0] + 2.0
