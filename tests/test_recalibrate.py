"""Statistics of batch normalisation computed again at the end of a run."""

import dataclasses
import json

import flax.linen as nn
import jax
import numpy as np
import pytest
from helpers import ONE_DEVICE, run, tiny_config
from test_verify import verify

from unet_jax import PRESETS, InputError, load_run, read_image, replace
from unet_jax.config import AugmentConfig
from unet_jax.program.own import Own, check_own_settings
from unet_jax.program.statistics_step import statistics_of
from unet_jax.runs.load import abstract_state, open_checkpoints
from unet_jax.runs.statistics_file import read_statistics, statistics_path
from unet_jax.training import recalibrate

OFF = {name: 0.0 for name in vars(AugmentConfig()) if name.endswith("_prob")}


@pytest.fixture(scope="module")
def recalibrated(synthetic_root, tmp_path_factory):
    """A run whose batches are all its images, unchanged, and whose running statistics have hardly begun."""
    config = tiny_config(synthetic_root, recalibrate=True, monitor="loss", batch_size=9)
    config = dataclasses.replace(config, augment=dataclasses.replace(config.augment, **OFF))
    out = tmp_path_factory.mktemp("recalibrate") / "run"
    result = run(config, out)
    return result, load_run(out, mesh=ONE_DEVICE)


def stored(loaded):
    with open_checkpoints(loaded.path, loaded.config) as store:
        state = store.load(loaded.step, abstract_state(loaded.info), ONE_DEVICE)
        return state, store.metrics(loaded.step)


def test_a_loaded_run_has_the_statistics_and_scores_that_were_found(recalibrated):
    result, loaded = recalibrated
    state, before = stored(loaded)
    found = read_statistics(loaded.path, loaded.step)
    assert found.metrics["loss"] < before["loss"]
    assert result.best_metrics == loaded.metrics == found.metrics
    jax.tree.map(np.testing.assert_array_equal, state.params, loaded.state.params)
    assert found.layers["down0/norm0/mean"] == np.asarray(loaded.state.batch_stats["down0"]["norm0"]["mean"]).tolist()


def test_the_first_layer_has_mean_and_variance_of_all_its_pixels(recalibrated, synthetic_root):
    _, loaded = recalibrated
    ids = loaded.info.splits["train"]
    images = np.stack([read_image(synthetic_root / "images" / f"{id_}.png") for id_ in ids]).astype(np.float32) / 255
    layer = loaded.state.params["down0"]["conv0"]
    x = jax.lax.conv_general_dilated(
        images, layer["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    x = np.asarray(x, np.float64) + np.asarray(layer.get("bias", 0.0))
    stats = loaded.state.batch_stats["down0"]["norm0"]
    np.testing.assert_allclose(stats["mean"], x.mean(axis=(0, 1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(stats["var"], x.var(axis=(0, 1, 2)), rtol=1e-4)


def test_a_run_that_was_killed_before_they_were_written_computes_the_same(recalibrated):
    _, loaded = recalibrated
    path = statistics_path(loaded.path)
    wanted = path.read_bytes()
    path.unlink()
    with open_checkpoints(loaded.path, loaded.config) as store:
        before = store.metrics(loaded.step)
    assert load_run(loaded.path, mesh=ONE_DEVICE).metrics == before
    run(loaded.config, loaded.path)
    assert path.read_bytes() == wanted


def test_statistics_that_score_no_better_are_not_used(recalibrated, monkeypatch):
    _, loaded = recalibrated
    path = statistics_path(loaded.path)
    wanted = path.read_bytes()
    path.unlink()
    scored = recalibrate.score
    monkeypatch.setattr(recalibrate, "score", lambda *arguments: (scored(*arguments)[0], 1e3))
    run(loaded.config, loaded.path)
    state, before = stored(loaded)
    now = load_run(loaded.path, mesh=ONE_DEVICE)
    jax.tree.map(np.testing.assert_array_equal, state.batch_stats, now.state.batch_stats)
    assert now.metrics == before and json.loads(path.read_text())["metrics"]["loss"] == 1e3
    path.write_bytes(wanted)


def test_those_of_another_checkpoint_are_not_used_and_damaged_ones_are_refused(recalibrated, capsys):
    _, loaded = recalibrated
    path = statistics_path(loaded.path)
    wanted = path.read_text()
    assert read_statistics(loaded.path, loaded.step + 1) is None
    assert "statistics.json: good" in verify(loaded.path, capsys)[1]
    path.write_text(wanted.replace("down0/norm0", "down0/norm9"))
    with pytest.raises(
        InputError, match=r"statistics\.json: is damaged .*not those that were written.*Delete the file"
    ):
        load_run(loaded.path, mesh=ONE_DEVICE)
    assert verify(loaded.path, capsys)[0] == 1
    path.write_text("".join(line for line in path.read_text().splitlines() if '"digest"' not in line))
    with pytest.raises(InputError, match="does not fit the network at down0/norm0"):
        load_run(loaded.path, mesh=ONE_DEVICE)
    path.write_text(wanted)


def test_variance_is_that_of_all_pixels():
    batches = np.random.default_rng(0).normal(size=(4, 100)) * [[1], [2], [3], [4]] + [[0], [3], [0], [9]]
    moments = {"norm0": {"mean": batches.mean(), "var": (batches**2).mean(axis=1).mean()}}
    np.testing.assert_allclose(statistics_of(moments)["norm0"]["var"], batches.var(), rtol=1e-12)


def test_it_is_refused_where_there_are_no_running_statistics_to_compute():
    with pytest.raises(InputError, match=r"model\.norm 'group' has no running statistics"):
        replace(PRESETS["small"](), {"model.norm": "group", "train.recalibrate": True})
    with pytest.raises(InputError, match=r"train\.recalibrate is True, but the run has a network of its own"):
        check_own_settings(replace(PRESETS["small"](), {"train.recalibrate": True}), Own(nn.Dense(2), None))
