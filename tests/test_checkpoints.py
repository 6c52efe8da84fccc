"""What the store keeps and gives back; that runs continue bit for bit is in test_training.py."""

import dataclasses
import errno
import hashlib
import json
import shutil
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
from unet_jax.runs.integrity import damaged_files


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
        with pytest.raises(InputError, match=r"1: this checkpoint cannot be read .*delete the folder.*starts anew"):
            store.load(1, abstract, make_mesh())


OPTIONS = {"keep_last": 2, "best_metric": "score", "best_is_larger": True}


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Checkpoints 2 and 3; that of step 1 is not kept."""
    folder = tmp_path_factory.mktemp("two")
    with save_all(epath.Path(folder), [0.5, 0.9, 0.7], keep_last=2):
        pass
    return folder


def load(folder, step=3):
    with open_store(epath.Path(folder), **OPTIONS) as store:
        return store.load(step, jax.eval_shape(lambda: state_at(0, make_mesh())), make_mesh())


def test_digests_are_of_the_checkpoints_that_are_kept(two):
    """Against hashlib."""
    digests = json.loads((two / "digests.json").read_text())["checkpoints"]
    assert digests.keys() == {"2", "3"}
    files = {str(p.relative_to(two / "3")): p for p in (two / "3").rglob("*") if p.is_file()}
    assert digests["3"] == {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}


def zero(content):
    return content[:100] + bytes(50) + content[150:]


def swap(content):
    return content[:100] + content[150:200] + content[100:150] + content[200:]


def flip(content):
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize("damage", [zero, swap, flip])
def test_other_bytes_are_refused_and_the_good_checkpoint_is_named(two, tmp_path, damage):
    folder = tmp_path / "checkpoints"
    shutil.copytree(two, folder)
    largest = max((p for p in (folder / "3").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    largest.write_bytes(damage(largest.read_bytes()))
    with pytest.raises(InputError, match=rf"3: .*{largest.name} has other bytes.*continues from step 2"):
        load(folder)
    assert load(folder, 2).step == 2
    assert damaged_files(epath.Path(folder), 2) == []
    assert damaged_files(epath.Path(folder), 3) == [
        f"{largest.relative_to(folder / '3')} has other bytes than when it was saved"
    ]
    (folder / "digests.json").unlink()  # as an earlier version left it
    assert damaged_files(epath.Path(folder), 3) is None


def test_a_damaged_file_of_digests_is_named_and_in_nobodys_way(two, tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.copytree(two, folder)
    for content in (b"", b"{", b"[]", b'{"format": 1, "checkpoints": {"3": {"a": 1}}}', b'{"format": 9}'):
        (folder / "digests.json").write_bytes(content)
        with pytest.raises(InputError, match=r"digests\.json: .*(delete it|format 9)"):
            load(folder)
    (folder / "digests.json").unlink()
    assert load(folder).step == 3


@pytest.mark.parametrize("content", [b"", b'{"score"', b"\xff", b"[]", b"{}", b'{"score": "high"}'])
def test_damaged_metrics_are_named_and_the_checkpoint_can_be_used_without_them(two, tmp_path, content):
    folder = tmp_path / "checkpoints"
    shutil.copytree(two, folder)
    (folder / "2/metrics/metrics").write_bytes(content)
    with pytest.raises(InputError, match=r"2/metrics/metrics: is damaged.*Delete this file"):
        load(folder)
    (folder / "2/metrics/metrics").unlink()
    assert load(folder).step == 3


def test_a_full_disk_is_one_line_with_the_step_to_continue_from(two, tmp_path, monkeypatch):
    """An OSError of the system while the checkpoint of step 4 is written; that of step 3 stays."""
    folder = epath.Path(tmp_path / "checkpoints")
    shutil.copytree(two, folder)
    mesh = make_mesh(jax.devices()[:1])

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device", str(folder))

    for place in ("save_checkpointables_async", "wait"):
        with open_store(folder, **OPTIONS) as store:
            monkeypatch.setattr(store._checkpointer, place, full)
            monkeypatch.setattr(store._checkpointer, "close", full)  # Orbax raises it again, and must not be heard
            with pytest.raises(InputError, match=r"4: .*cannot be saved \(.*No space left.*Make room.*from step 3"):
                store.save(4, state_at(4, mesh), progress={"step": 4}, metrics=None)
                store.wait()
            monkeypatch.undo()
        shutil.rmtree(folder / "4", ignore_errors=True)


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
