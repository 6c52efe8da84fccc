"""What follows an update: corrected statistics, running mean of the weights; against loops in float64, and in runs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ONE_DEVICE, Interrupting, assert_equal_runs, rows, run, tiny_config

from unet_jax import load_run, replace
from unet_jax.program.after_update import average_weights, correct_statistics
from unet_jax.program.state import TrainState, averaged, with_ema
from unet_jax.runs.info import load_info
from unet_jax.runs.load import abstract_state, open_checkpoints
from unet_jax.training.starting_state import initial_state

MOMENTUM, DECAY = 0.9, 0.95
BATCH_MEANS = np.random.default_rng(0).normal(5.0, 1.0, 30)


@jax.jit
def train_step(state, batch):
    """Parameters become the batch's number; the statistic is its running mean."""
    stats = {"mean": MOMENTUM * state.batch_stats["mean"] + (1.0 - MOMENTUM) * batch}
    return TrainState(state.step + 1, {"w": batch * jnp.ones(2)}, stats, ()), {"loss": batch}


def start():
    return TrainState(jnp.int32(0), {"w": jnp.full(2, -3.0)}, {"mean": jnp.float32(0.0)}, ())


def after(step, state):
    for number in BATCH_MEANS:
        state, _ = step(state, jnp.float32(number))
        yield state


def test_corrected_statistics_are_weighted_means_of_the_batches_alone():
    for n, state in enumerate(after(correct_statistics(train_step, MOMENTUM), start()), start=1):
        weights = MOMENTUM ** np.arange(n)[::-1]
        wanted = (weights * BATCH_MEANS[:n]).sum() / weights.sum()
        np.testing.assert_allclose(state.batch_stats["mean"], wanted, rtol=2e-6)


def test_running_mean_of_the_weights_follows_its_rule():
    wanted = -3.0
    for n, state in enumerate(after(average_weights(train_step, DECAY), with_ema(start())), start=1):
        decay = min(DECAY, (1 + n) / (10 + n))
        wanted = decay * wanted + (1 - decay) * BATCH_MEANS[n - 1]
        np.testing.assert_allclose(state.ema["params"]["w"], [wanted, wanted], rtol=2e-6)
        np.testing.assert_array_equal(averaged(state).params["w"], state.ema["params"]["w"])
        np.testing.assert_array_equal(averaged(state).batch_stats["mean"], state.ema["batch_stats"]["mean"])
        np.testing.assert_array_equal(state.params["w"], jnp.float32(BATCH_MEANS[n - 1]))
    assert averaged(start()).ema is None


@pytest.fixture(scope="module")
def with_mean(synthetic_root, tmp_path_factory):
    config = tiny_config(synthetic_root, ema=0.5, checkpoint_every_steps=1)
    config = replace(config, {"model.batch_norm_correction": True})
    return run(config, tmp_path_factory.mktemp("mean") / "run"), config


def newest_checkpoint(path):
    info = load_info(path)
    with open_checkpoints(path, info.config) as store:
        return store.load(store.latest_step, abstract_state(info), ONE_DEVICE)


def test_a_run_with_a_mean_trains_the_same_weights_and_evaluates_the_mean(with_mean, tmp_path):
    """The same up to the last digits: the compiler fuses the two programs differently."""
    result, config = with_mean
    without = run(replace(config, {"train.ema": 0.0}), tmp_path / "without")
    state, plain = newest_checkpoint(result.path), newest_checkpoint(without.path)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), dataclasses.replace(state, ema=None), plain)
    ours, theirs = ([row for row in rows(r.path) if "eval/loss" in row] for r in (result, without))
    for mine, other in zip(ours, theirs, strict=True):
        assert mine["train/loss"] == pytest.approx(other["train/loss"], rel=1e-5)
        assert mine["eval/loss"] != pytest.approx(other["eval/loss"], rel=1e-4)
    loaded = load_run(result.path, "last", mesh=ONE_DEVICE).state
    jax.tree.map(np.testing.assert_array_equal, loaded.params, state.ema["params"])
    jax.tree.map(np.testing.assert_array_equal, loaded.batch_stats, state.ema["batch_stats"])


def test_a_run_with_a_mean_continues_bit_for_bit(with_mean, tmp_path):
    straight, config = with_mean
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "run", Interrupting(3))
    run(config, tmp_path / "run")
    assert_equal_runs(straight.path, tmp_path / "run")
    left, right = newest_checkpoint(straight.path), newest_checkpoint(tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_a_run_begins_from_the_mean_of_another(with_mean):
    source, config = with_mean
    info = load_info(source.path)
    info = dataclasses.replace(info, config=replace(config, {"seed": 7, "init_from": str(source.path)}))
    started, given = initial_state(info, ONE_DEVICE), load_run(source.path, mesh=ONE_DEVICE).state
    for tree in (started.params, started.ema["params"]):
        jax.tree.map(np.testing.assert_array_equal, tree, given.params)
