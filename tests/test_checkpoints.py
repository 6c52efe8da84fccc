"""What the store keeps and gives back; that runs continue bit for bit is in test_training.py."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from unet_jax import InputError
from unet_jax.devices.mesh import make_mesh, put_replicated
from unet_jax.program.state import TrainState
from unet_jax.runs.checkpoints import open_store


def state_at(step, mesh):
    return put_replicated(
        TrainState(jnp.int32(step), {"w": jnp.full((3,), step / 7.0)}, {"m": jnp.zeros(2)}, (jnp.ones(()),)), mesh
    )


def save_all(folder, scores, *, larger=True, keep_last=1):
    mesh = make_mesh(jax.devices()[:1])
    options = {"keep_last": keep_last, "best_metric": "score", "best_is_larger": larger}
    with open_store(folder, **options) as store:
        for step, score in enumerate(scores, start=1):
            metrics = None if score is None else {"score": score}
            store.save(step, state_at(step, mesh), progress={"step": step, "inf": float("inf")}, metrics=metrics)
    return open_store(folder, **options)


@pytest.mark.parametrize(
    ("scores", "larger", "keep_last", "steps", "best"),
    [
        ([0.5, 0.9, 0.7, 0.6], True, 1, [2, 4], 2),
        ([0.5, 0.9, 0.7, 0.6], False, 1, [1, 4], 1),
        ([0.5, 0.9, 0.9, 0.6], True, 2, [3, 4], 3),  # of equals the newest
        ([None, 0.3, None, None], True, 1, [2, 4], 2),  # saved between evaluations
        ([None, None], True, 1, [2], None),
        ([float("nan"), 0.3, 0.2], False, 3, [1, 2, 3], 3),  # NaN is never the best
    ],
)
def test_keeps_newest_and_best(tmp_path, scores, larger, keep_last, steps, best):
    with save_all(epath.Path(tmp_path), scores, larger=larger, keep_last=keep_last) as store:
        assert store.steps == steps
        assert store.best_step == best and store.latest_step == len(scores)


def test_state_and_progress_come_back_on_other_devices(tmp_path):
    with save_all(epath.Path(tmp_path), [0.5, 0.25]) as store:
        abstract = jax.eval_shape(lambda: state_at(0, make_mesh()))
        loaded = store.load(2, abstract, make_mesh())
        assert loaded.params["w"].sharding.mesh.size == 8
        np.testing.assert_array_equal(loaded.params["w"], np.full(3, np.float32(2 / 7.0)))
        assert loaded.step == 2 and store.metrics(2) == {"score": 0.25}
        assert store.progress(2) == {"step": 2, "inf": float("inf")}


def test_an_unfinished_checkpoint_is_not_seen(tmp_path):
    with save_all(epath.Path(tmp_path), [0.5]):
        pass
    half = tmp_path / "2.orbax-checkpoint-tmp"
    half.mkdir()
    (half / "state").mkdir()
    options = {"keep_last": 1, "best_metric": "score", "best_is_larger": True}
    with open_store(epath.Path(tmp_path), **options) as store:
        assert store.steps == [1]


def test_a_damaged_checkpoint_is_named_with_the_remedy(tmp_path):
    with save_all(epath.Path(tmp_path), [0.5]):
        pass
    for path in (tmp_path / "1" / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    options = {"keep_last": 1, "best_metric": "score", "best_is_larger": True}
    with open_store(epath.Path(tmp_path), **options) as store:
        abstract = jax.eval_shape(lambda: state_at(0, make_mesh()))
        with pytest.raises(InputError, match=r"1: this checkpoint cannot be read .*Delete the folder"):
            store.load(1, abstract, make_mesh())


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StateOfVersion01:
    """The state as it was before `train.ema`, whose checkpoints must stay readable."""

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any


def test_checkpoints_from_before_the_mean_of_the_weights_are_read(tmp_path):
    mesh = make_mesh(jax.devices()[:1])
    state = state_at(1, mesh)
    old = StateOfVersion01(state.step, state.params, state.batch_stats, state.opt_state)
    with open_store(epath.Path(tmp_path), keep_last=1, best_metric="score", best_is_larger=True) as store:
        store.save(1, old, progress={"step": 1}, metrics=None)
        store.wait()
        loaded = store.load(1, jax.eval_shape(lambda: state), mesh)
    assert isinstance(loaded, TrainState) and loaded.ema is None
    jax.tree.map(np.testing.assert_array_equal, loaded, state)
