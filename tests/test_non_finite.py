"""Training over batches that make the loss NaN, against a plain loop that is told which batches those are."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ONE_DEVICE, Interrupting, Lines, assert_equal_runs, rows, run, tiny_config

from unet_jax import Config, load_run, replace
from unet_jax.config import TrainConfig
from unet_jax.config.dicts import config_differences
from unet_jax.data.cached_source import training_source
from unet_jax.data.layout import find_layout
from unet_jax.data.order import TrainOrder
from unet_jax.data.pipeline import train_batches
from unet_jax.program.after_update import keep_if_finite
from unet_jax.program.build import build
from unet_jax.program.state import TrainState
from unet_jax.program.steps import make_train_step
from unet_jax.runs.progress import Progress
from unet_jax.training.non_finite import MAX_ROLLBACKS, MAX_SKIPS, NonFiniteLossError
from unet_jax.training.setup import split_source
from unet_jax.training.starting_state import initial_state

NUM_STEPS = 12


def is_bad(image, modulus):
    """An arbitrary property of a batch that the network knows nothing of; of every batch where the modulus is 1."""
    return image.astype(np.int32).sum() % modulus == 1 % modulus


def poisoned_train_step(modulus, apply_fn, loss_fn, tx, *, seed, norm_fn):
    """A step that a bad batch turns into NaN altogether, as a loss that overflows would."""
    inner = make_train_step(apply_fn, loss_fn, tx)

    def step(state, batch):
        new, metrics = inner(state, batch)
        nan = jnp.where(is_bad(batch.image, modulus), jnp.nan, 0.0)
        params, batch_stats = (jax.tree.map(lambda x: x + nan, tree) for tree in (new.params, new.batch_stats))
        return dataclasses.replace(new, params=params, batch_stats=batch_stats), metrics | {
            "loss": metrics["loss"] + nan
        }

    return jax.jit(step, donate_argnums=0)


@pytest.fixture
def poison(monkeypatch):
    """Makes one batch in so many a bad one."""
    return lambda modulus: monkeypatch.setattr(
        "unet_jax.program.build.make_train_step", functools.partial(poisoned_train_step, modulus)
    )


def all_batches(config, info):
    """More than a run needs."""
    source = training_source(split_source(find_layout(config.data), info.splits["train"], config.data), config.data)
    order = TrainOrder(len(source), config.train.batch_size, 30, config.seed)
    return [
        batch for _, batch in zip(range(60), train_batches(source, order, config.augment, config.data), strict=False)
    ]


def state_after(config, info, batches):
    """Of a plain loop over these batches."""
    step = build(config, len(info.class_names), info.num_steps).train_step
    state = initial_state(info, ONE_DEVICE)
    for batch in batches:
        state, _ = step(state, batch)
    return jax.device_get(state)


def interrupted(config, out):
    """The same run with Ctrl-C in the middle of its steps."""
    with pytest.raises(KeyboardInterrupt):
        run(config, out, Interrupting(9))
    run(config, out)
    return out


def test_a_step_is_kept_whole_or_not_at_all():
    def state(value, step):
        return TrainState(jnp.int32(step), {"w": jnp.full(2, value)}, {"m": jnp.float32(value)}, (jnp.int32(value),))

    old, new = state(1.0, 4), state(2.0, 5)
    jax.tree.map(np.testing.assert_array_equal, keep_if_finite(old, new, {"loss": 1.0, "grad_norm": 3.0}), new)
    for bad in (jnp.nan, jnp.inf, -jnp.inf):
        kept = keep_if_finite(old, new, {"loss": 1.0, "grad_norm": bad})
        jax.tree.map(np.testing.assert_array_equal, kept, dataclasses.replace(old, step=new.step))


def test_skip_leaves_bad_batches_out_and_continues_bit_for_bit(synthetic_root, tmp_path, poison):
    poison(3)
    config = tiny_config(synthetic_root, num_epochs=6, on_non_finite="skip", checkpoint_every_steps=1)
    display = Lines()
    result = run(config, tmp_path / "run", display)
    last = load_run(tmp_path / "run", "last", mesh=ONE_DEVICE)
    batches = all_batches(config, last.info)[:NUM_STEPS]
    bad = [bool(is_bad(batch.image, 3)) for batch in batches]
    assert 2 <= sum(bad) <= 8 and result.step == NUM_STEPS
    expected = state_after(config, last.info, [batch for batch, b in zip(batches, bad, strict=True) if not b])
    jax.tree.map(np.testing.assert_array_equal, last.state, dataclasses.replace(expected, step=np.int32(NUM_STEPS)))
    skipped = [row["skipped_steps"] for row in rows(tmp_path / "run") if "eval/loss" in row]
    assert skipped == np.cumsum(bad)[1::2].tolist()
    assert sum("loss is nan (images " in line and "Left out" in line for line in display.lines) == sum(bad)
    assert_equal_runs(interrupted(config, tmp_path / "again"), tmp_path / "run")


def test_rollback_goes_on_with_later_batches_and_continues_bit_for_bit(synthetic_root, tmp_path, poison):
    poison(5)
    config = tiny_config(synthetic_root, num_epochs=6, on_non_finite="rollback")
    display = Lines()
    run(config, tmp_path / "run", display)
    last = load_run(tmp_path / "run", "last", mesh=ONE_DEVICE)
    batches = all_batches(config, last.info)
    step, saved, offset, used, returns = 1, 0, 0, {}, []
    while step <= NUM_STEPS:
        if is_bad(batches[step - 1 + offset].image, 5):
            returns.append(f"back to step {saved}: training continues with the batches after that of step {step}")
            step, offset = saved + 1, offset + step - saved
            continue
        used[step] = batches[step - 1 + offset]
        saved = step if step % 2 == 0 else saved  # evaluations
        step += 1
    assert len(returns) >= 2 and [line.splitlines()[-1] for line in display.lines if "back to" in line] == returns
    expected = state_after(config, last.info, [used[s] for s in sorted(used)])
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(last.state), expected)
    assert rows(tmp_path / "run")[-1]["rollbacks"] == len(returns)
    assert_equal_runs(interrupted(config, tmp_path / "again"), tmp_path / "run")


_RETURNS = pytest.param("rollback", MAX_ROLLBACKS + 1, marks=pytest.mark.slow)  # the test above has returns too


@pytest.mark.parametrize(("policy", "tries"), [("skip", MAX_SKIPS + 1), _RETURNS])
def test_every_policy_ends_where_nothing_is_finite_any_more(synthetic_root, tmp_path, poison, policy, tries):
    poison(1)
    config, display = tiny_config(synthetic_root, num_epochs=20, on_non_finite=policy), Lines()
    with pytest.raises(NonFiniteLossError, match=r"loss is nan \(images .*--optim.learning-rate") as error:
        run(config, tmp_path / "run", display)
    said = sum("Left out" in line or "back to step 0" in line for line in display.lines)
    assert said == tries - 1 and error.value.step == (tries if policy == "skip" else 1)


def test_the_policy_may_change_when_a_run_continues():
    config = Config(train=TrainConfig(on_non_finite="stop"))
    assert not config_differences(config, replace(config, {"train.on_non_finite": "rollback"}))


def test_progress_counts_through_json():
    progress = Progress(step=4).with_loss(2.0).with_skip().with_skip()
    assert (progress.num_skipped, progress.skips_in_a_row, progress.mean_loss) == (2, 2, 2.0)
    assert progress.with_loss(4.0).skips_in_a_row == 0 and progress.with_loss(4.0).mean_loss == 3.0
    first = Progress(step=4).rolled_back(7, Progress(step=6))
    assert (first.step, first.data_offset, first.num_rollbacks) == (4, 3, 1)
    assert Progress(step=4).rolled_back(5, first).data_offset == 4
    assert Progress.from_dict(first.to_dict()) == first
    # A checkpoint from before these counts existed.
    old = {
        name: value for name, value in Progress(step=3).to_dict().items() if "skip" not in name and "roll" not in name
    }
    assert Progress.from_dict(old) == Progress(step=3)
