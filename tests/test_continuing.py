"""Settings that change when a run continues, runs that become longer, and folders that hold no step."""

import json

import numpy as np
import optax
import pytest
from etils import epath
from helpers import Interrupting, Lines, assert_equal_runs, rows, run, tiny_config, with_optim

from unet_jax import InputError, load_run
from unet_jax.config import OptimConfig
from unet_jax.config.dicts import replace
from unet_jax.data.images.format import RGB8
from unet_jax.data.layout import find_layout
from unet_jax.data.splits import assign_splits
from unet_jax.program.optim import make_schedule
from unet_jax.runs.info import RunInfo, load_info, save_info
from unet_jax.runs.progress import Patience, Progress
from unet_jax.training.continuing import continue_info
from unet_jax.training.starting_state import describe_start


@pytest.fixture
def begun(synthetic_root, tmp_path):
    """A run of two epochs of two steps that stands at step 3, without its arrays; its config and layout."""
    config = tiny_config(synthetic_root)
    layout = find_layout(config.data)
    info = RunInfo(config, layout.class_names, assign_splits(layout, config.data), {}, {}, RGB8)
    save_info(epath.Path(tmp_path), info)
    (tmp_path / "checkpoints/3").mkdir(parents=True)
    return epath.Path(tmp_path), config, layout


def continued(begun, **settings):
    out, config, layout = begun
    return continue_info(replace(config, {k.replace("__", "."): v for k, v in settings.items()}), layout, out)


def test_what_changes_no_number_may_change_and_what_holds_from_now_on_is_recorded(begun):
    info, notes = continued(begun, train__keep_last=3, train__num_pictures=9, train__checkpoint_every_steps=1)
    assert info.config.train.keep_last == 3 and notes == [] and info.changes == ()
    info, notes = continued(begun, train__threshold=0.25, train__monitor="loss", train__early_stop_patience=2)
    settings = {"train.early_stop_patience": [0, 2], "train.monitor": ["dice", "loss"], "train.threshold": [0.5, 0.25]}
    assert info.changes == ({"step": 3, "settings": settings},)
    assert notes[0] == "from step 3 on, train.monitor is 'loss'; it was 'dice'"
    assert any("earlier threshold" in note for note in notes) and any("still there" in note for note in notes)
    save_info(begun[0], info)
    assert load_info(begun[0]) == info


def test_any_other_setting_is_refused_with_the_way_out(begun):
    with pytest.raises(InputError, match=r"(?s)train.batch_size: was 8, now 4\nUse.*--init-from \S+ and another --out"):
        continued(begun, train__batch_size=4, train__threshold=0.2)


def test_a_longer_run_must_say_how_a_falling_schedule_goes_on(begun):
    with pytest.raises(
        InputError, match=r"8 steps in the place of 4, and the cosine schedule .* ends at step 4.*restart"
    ):
        continued(begun, train__num_epochs=4)
    with pytest.raises(InputError, match=r"the run has 4 steps, but with these settings it would have 2"):
        continued(begun, train__num_epochs=1)
    restarted, notes = continued(begun, train__num_epochs=4, optim__when_longer="restart")
    assert restarted.config.optim.schedule_span == (3, 5) and "begins anew at step 3" in notes[-1]
    save_info(begun[0], restarted)  # the same command again, and then longer once more
    again, notes = continued(begun, train__num_epochs=4, optim__when_longer="restart")
    assert (again, notes) == (restarted, [])
    longer, _ = continued(begun, train__num_epochs=6, optim__when_longer="stretch")
    assert longer.config.optim.schedule_span == (3, 9)


def test_a_ramp_of_the_loss_keeps_the_length(begun):
    out, config, layout = begun
    ramp = {"start": 0.0, "stop": 0.5, "first": 0.0, "last": 1.0}
    config = replace(config, {"loss.terms": [{"name": "bce", "ramp": ramp}], "optim.schedule": "constant"})
    save_info(out, RunInfo(config, layout.class_names, load_info(out).splits, {}, {}, RGB8))
    with pytest.raises(InputError, match=r"has a ramp.*--init-from"):
        continue_info(replace(config, {"train.num_epochs": 4}), layout, out)


def test_schedules_of_longer_runs_against_optax():
    cosine = OptimConfig(learning_rate=0.5, schedule="cosine")
    restarted = make_schedule(replace_optim(cosine, (10, 20)), 30)
    expected = optax.cosine_decay_schedule(0.5, 20)
    for step in (10, 15, 29, 30):
        assert float(restarted(np.int32(step))) == pytest.approx(float(expected(step - 10)), abs=1e-7)
    warm = OptimConfig(learning_rate=0.5, schedule="constant", warmup_fraction=0.5)
    before, after = make_schedule(warm, 10), make_schedule(replace_optim(warm, (0, 10)), 30)
    assert [float(after(step)) for step in range(11)] == [float(before(step)) for step in range(11)]
    assert float(after(29)) == 0.5


def replace_optim(optim, span):
    return OptimConfig(**{**vars(optim), "schedule_span": span})


def test_a_finished_run_made_longer_equals_one_that_was_long_from_the_start(synthetic_root, tmp_path):
    """Constant learning rate: three epochs, or one epoch that is made longer twice and interrupted in between."""
    config = with_optim(tiny_config(synthetic_root, num_epochs=3), schedule="constant")
    straight = run(config, tmp_path / "straight")
    short = replace(config, {"train.num_epochs": 1})
    assert run(short, tmp_path / "run").step == 2
    display = Lines()
    with pytest.raises(KeyboardInterrupt):
        run(replace(config, {"train.num_epochs": 2}), tmp_path / "run", Interrupting(3))
    result = run(config, tmp_path / "run", display)
    assert result.step == straight.step == 6
    assert "from step 2 on, train.num_epochs is 3; it was 2" in display.lines
    assert_equal_runs(straight.path, tmp_path / "run")
    changes = [change["settings"]["train.num_epochs"] for change in load_info(epath.Path(tmp_path / "run")).changes]
    assert changes == [[1, 2], [2, 3]]


@pytest.mark.slow  # the longer run above goes on by the same code
def test_a_run_stopped_early_goes_on_with_more_patience(synthetic_root, tmp_path):
    config = tiny_config(synthetic_root, num_epochs=3, early_stop_patience=1, early_stop_min_delta=100.0)
    assert run(config, tmp_path).step == 4
    ended = Progress(step=4, early_stop=Patience(0.5, 1), finished=True)
    said = describe_start(epath.Path(tmp_path), load_info(epath.Path(tmp_path)), ended)
    assert said.endswith("at step 4 of 6, stopped early after 1 evaluations without a better validation loss")
    assert run(replace(config, {"train.early_stop_patience": 5}), tmp_path).step == 6
    assert [row["epoch"] for row in rows(tmp_path) if "eval/loss" in row] == [1, 2, 3]


def test_a_run_without_a_step_does_not_hold_its_folder(synthetic_root, tmp_path):
    config = tiny_config(synthetic_root, num_epochs=1)
    with pytest.raises(InputError, match="nowhere"):
        run(replace(config, {"init_from": str(tmp_path / "nowhere")}), tmp_path / "run")
    display = Lines()
    assert run(replace(config, {"seed": 4}), tmp_path / "run", display).step == 2
    assert any("No step of that run was saved, so a new run takes its place." in line for line in display.lines)
    assert load_run(tmp_path / "run").config.seed == 4
    assert json.loads((tmp_path / "run/run.json").read_text())["config"]["init_from"] == ""
    with pytest.raises(InputError, match="seed: was 4, now 0"):
        run(config, tmp_path / "run")
