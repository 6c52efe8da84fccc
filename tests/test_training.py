import dataclasses
import json
import shutil

import cv2
import jax
import numpy as np
import pytest
from helpers import Interrupting, tiny_config, with_optim

from unet_jax import Batch, InputError, UNet, load_run, predict_probs, train
from unet_jax.config import ModelConfig, OptimConfig
from unet_jax.config.dicts import config_from_dict
from unet_jax.data.synthetic import synthetic_sample
from unet_jax.devices.mesh import make_mesh
from unet_jax.losses import bce_dice_loss
from unet_jax.program.initial_state import init_state
from unet_jax.program.optim import make_optimizer
from unet_jax.program.steps import make_predict_step, make_train_step
from unet_jax.report.display import Quiet
from unet_jax.runs.load import open_checkpoints
from unet_jax.training.non_finite import NonFiniteLossError

ONE_DEVICE = make_mesh(jax.devices()[:1])
TIMES = {"images_per_s", "wait_share", "time"}


def rows(path):
    lines = (path / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def run(config, out, display=None):
    return train(config, out, display=display or Quiet(), mesh=ONE_DEVICE)


def assert_equal_runs(a, b):
    left, right = load_run(a, "last", mesh=ONE_DEVICE), load_run(b, "last", mesh=ONE_DEVICE)
    jax.tree.map(np.testing.assert_array_equal, left.state, right.state)
    assert rows(a) == rows(b)


def test_overfits_four_images():
    samples = [synthetic_sample(np.random.default_rng(i), 32, 2) for i in range(4)]
    image, label = (np.stack(arrays) for arrays in zip(*samples, strict=True))
    model = UNet(ModelConfig(widths=(8, 16), center_width=32, batch_norm_momentum=0.9), 2)
    tx = make_optimizer(OptimConfig(name="adamw", learning_rate=5e-3, schedule="cosine"), 150)
    state = jax.jit(lambda key: init_state(key, model, tx))(jax.random.key(0))
    step = make_train_step(model.apply, bce_dice_loss, tx)
    batch = Batch(image, label, np.ones(4, np.float32))
    for _ in range(150):
        state, _ = step(state, batch)
    probs = make_predict_step(model.apply, size_multiple=4)(state.params, state.batch_stats, image)
    predicted, truth = np.asarray(probs) > 0.5, label > 0
    dice = 2 * (predicted & truth).sum((0, 1, 2)) / (predicted.sum((0, 1, 2)) + truth.sum((0, 1, 2)))
    assert (dice > 0.98).all(), dice


@pytest.fixture(scope="module")
def finished(synthetic_root, tmp_path_factory):
    """A run of four epochs with evaluations and further checkpoints, and its config."""
    out = tmp_path_factory.mktemp("runs") / "straight"
    config = tiny_config(synthetic_root, num_epochs=4, checkpoint_every_steps=1, num_pictures=2)
    return run(config, out), config


def test_a_run_leaves_what_it_promises(finished):
    result, config = finished
    assert result.step == 8 and 0.0 <= result.best_metrics["dice"] <= 1.0
    names = {p.name for p in result.path.iterdir()}
    assert {"run.json", "metrics.jsonl", "checkpoints", "pictures"} <= names
    for picture in ("validation.png", "curves.png"):
        assert cv2.imread(str(result.path / "pictures" / picture)) is not None
    loaded = load_run(result.path)
    assert loaded.class_names == ("disk", "square") and loaded.config == config
    assert loaded.step == result.best_step
    evaluations = [row for row in rows(result.path) if "eval/loss" in row]
    assert [row["epoch"] for row in evaluations] == [1, 2, 3, 4]
    assert {"train/loss", "eval/dice", "eval/dice/disk", "eval/iou/square", "learning_rate"} <= set(evaluations[0])
    best = max(evaluations, key=lambda row: (row["eval/dice"], row["step"]))
    assert best["step"] == result.best_step


def test_only_the_newest_and_the_best_checkpoint_stay(finished):
    result, _ = finished
    kept = {int(p.name) for p in (result.path / "checkpoints").iterdir() if p.name.isdigit()}
    assert kept == {result.step, result.best_step}


@pytest.mark.parametrize("stop_after", [1, 2, 5, 7])
def test_interrupted_runs_continue_bit_for_bit(finished, tmp_path, stop_after):
    straight, config = finished
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "run", Interrupting(stop_after))
    run(config, tmp_path / "run")
    assert_equal_runs(straight.path, tmp_path / "run")


def test_run_with_changes_on_the_device_continues_bit_for_bit_with_other_cache_and_threads(synthetic_root, tmp_path):
    """Interrupted in the middle of the first epoch and of the second."""
    config = tiny_config(synthetic_root)
    augment = dataclasses.replace(config.augment, where="device", rotate=20.0, gamma_prob=0.5, crop_prob=0.3)
    config = dataclasses.replace(
        config, augment=augment, train=dataclasses.replace(config.train, num_epochs=2, checkpoint_every_steps=1)
    )

    def with_data(**settings):
        data = dataclasses.replace(config.data, cache_dir=str(tmp_path / "cache"), **settings)
        return dataclasses.replace(config, data=data)

    straight = run(with_data(cache="memory", num_threads=2), tmp_path / "straight")
    for settings, stop_after in (({"cache": "disk", "num_threads": 1}, 2), ({"cache": "none", "num_threads": 3}, 3)):
        with pytest.raises(KeyboardInterrupt):
            run(with_data(**settings), tmp_path / "run", Interrupting(stop_after))
    run(with_data(cache="disk", num_threads=0), tmp_path / "run")
    assert_equal_runs(straight.path, tmp_path / "run")


def test_a_finished_run_is_left_alone(finished):
    result, config = finished
    before = (result.path / "metrics.jsonl").read_bytes()
    assert run(config, result.path) == result
    assert (result.path / "metrics.jsonl").read_bytes() == before


def test_other_settings_are_refused_with_both_values(finished):
    result, config = finished
    other = with_optim(dataclasses.replace(config, seed=3), learning_rate=0.5)
    with pytest.raises(InputError, match=r"(?s)seed: was 0, now 3.*optim.learning_rate: was 0.01, now 0.5"):
        run(other, result.path)


def test_lost_images_are_refused_by_id(finished, synthetic_root, tmp_path):
    result, config = finished
    root = tmp_path / "data"
    shutil.copytree(synthetic_root, root)
    lost = load_run(result.path).info.splits["train"][0]
    for path in root.rglob(f"{lost}.png"):
        path.unlink()
    moved = dataclasses.replace(config, data=dataclasses.replace(config.data, root=str(root), splits=None))
    with pytest.raises(InputError, match=f"1 images that the run uses are not in .*{lost}"):
        run(moved, result.path)


def test_restores_on_other_devices(finished):
    result, _ = finished
    images = np.random.default_rng(0).integers(0, 256, (3, 20, 24, 3), np.uint8)
    one = predict_probs(load_run(result.path, mesh=ONE_DEVICE), images)
    eight = predict_probs(load_run(result.path), images)
    assert one.shape == (3, 20, 24, 2) and one.dtype == np.float32
    np.testing.assert_allclose(one, eight, atol=1e-6)


def test_eight_devices_train_like_one(synthetic_root, tmp_path):
    """With SGD: Adam turns the rounding noise of a zero gradient (a bias before batch norm) into whole steps."""
    config = with_optim(tiny_config(synthetic_root), name="sgd", learning_rate=0.05)
    run(config, tmp_path / "one")
    train(config, tmp_path / "eight", display=Quiet(), mesh=make_mesh())
    for a, b in zip(rows(tmp_path / "one"), rows(tmp_path / "eight"), strict=True):
        assert a.keys() == b.keys()
        for name in ("train/loss", "eval/loss"):
            assert a[name] == pytest.approx(b[name], rel=1e-5)


def test_diverging_run_stops_with_step_images_and_checkpoint(synthetic_root, tmp_path):
    config = with_optim(tiny_config(synthetic_root, num_epochs=4), name="sgd", learning_rate=1e30, schedule="constant")
    with pytest.raises(NonFiniteLossError, match=r"step \d: .*(nan|inf).*images \d{4}.*--optim.learning-rate"):
        run(config, tmp_path / "run")


def test_early_stop_ends_a_run_that_does_not_improve(synthetic_root, tmp_path):
    config = tiny_config(synthetic_root, num_epochs=9, early_stop_patience=2, early_stop_min_delta=100.0)
    result = run(config, tmp_path / "run")
    assert result.step == 3 * 2  # the first evaluation counts as an improvement, then two without
    assert run(config, tmp_path / "run").step == 6


def test_plateau_lowers_the_learning_rate(synthetic_root, tmp_path):
    config = with_optim(
        tiny_config(synthetic_root, num_epochs=4),
        schedule="plateau",
        plateau_patience=1,
        plateau_min_delta=100.0,
        plateau_factor=0.5,
    )
    with pytest.raises(KeyboardInterrupt):  # the scale must survive
        run(config, tmp_path / "run", Interrupting(7))
    result = run(config, tmp_path / "run")
    rates = [row["learning_rate"] for row in rows(result.path) if "eval/loss" in row]
    np.testing.assert_allclose(rates, [0.01, 0.01, 0.005, 0.0025])


def test_monitor_loss_keeps_the_lowest_loss(synthetic_root, tmp_path):
    result = run(tiny_config(synthetic_root, num_epochs=3, monitor="loss"), tmp_path / "run")
    evaluations = [row for row in rows(result.path) if "eval/loss" in row]
    assert result.best_metrics["loss"] == min(row["eval/loss"] for row in evaluations)


def test_file_that_breaks_during_training_is_named(synthetic_root, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(synthetic_root, root)
    config = tiny_config(synthetic_root)
    config = dataclasses.replace(
        config, data=dataclasses.replace(config.data, root=str(root), splits=str(root / "splits.csv"))
    )
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "run", Interrupting(1))
    victim = root / "masks" / "disk" / f"{load_info_ids(tmp_path / 'run')[0]}.png"
    victim.write_bytes(b"not a picture")
    with pytest.raises(InputError, match=str(victim)):
        run(config, tmp_path / "run")


def load_info_ids(path):
    return json.loads((path / "run.json").read_text())["splits"]["train"]


def test_empty_split_and_small_split_are_refused_before_anything_is_written(synthetic_root, tmp_path):
    splits = tmp_path / "splits.csv"
    splits.write_text("id,split\n0000,train\n0001,train\n0002,val\n")
    config = tiny_config(synthetic_root)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, splits=str(splits)))
    with pytest.raises(InputError, match=r"2 images, fewer than train.batch_size 8"):
        run(config, tmp_path / "run")
    splits.write_text("id,split\n0000,test\n")
    with pytest.raises(InputError, match=r"split 'train' is empty"):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_init_from_starts_with_the_other_runs_weights(finished, synthetic_root, tmp_path):
    source, config = finished
    still = with_optim(dataclasses.replace(config, seed=9, init_from=str(source.path)), name="sgd", learning_rate=1e-30)
    run(still, tmp_path / "run")
    started, given = load_run(tmp_path / "run", mesh=ONE_DEVICE), load_run(source.path, mesh=ONE_DEVICE)
    jax.tree.map(np.testing.assert_array_equal, started.state.params, given.state.params)
    one_class = dataclasses.replace(still, data=dataclasses.replace(config.data, classes=("square",)))
    run(one_class, tmp_path / "other")
    other = load_run(tmp_path / "other", mesh=ONE_DEVICE).state.params
    jax.tree.map(np.testing.assert_array_equal, other["center"], given.state.params["center"])
    assert other["head"]["kernel"].shape == (1, 1, 4, 1)
    wider = dataclasses.replace(still, model=dataclasses.replace(config.model, widths=(4, 16)))
    with pytest.raises(InputError, match=r"another one \(widths \(4, 8\).*widths \(4, 16\)"):
        run(wider, tmp_path / "wider")


def test_an_image_that_changed_its_split_is_refused(finished, tmp_path):
    result, config = finished
    splits = load_run(result.path).info.splits
    moved = splits["train"][0]
    text = "id,split\n" + "".join(
        f"{i},{'test' if i == moved else name}\n" for name, ids in splits.items() for i in ids
    )
    (tmp_path / "splits.csv").write_text(text)
    other = dataclasses.replace(config, data=dataclasses.replace(config.data, splits=str(tmp_path / "splits.csv")))
    with pytest.raises(InputError, match=f"1 images are in another split now.*{moved}"):
        run(other, result.path)


def test_a_checkpoint_says_what_it_is(finished):
    result, config = finished
    with open_checkpoints(result.path, config) as store:
        progress = store.progress(result.step)
    assert progress["class_names"] == ["disk", "square"] and progress["step"] == result.step
    assert config_from_dict(progress["config"]) == config


def test_gradients_of_terms_and_classes_are_logged_and_change_nothing(finished, tmp_path):
    straight, config = finished
    changed = dataclasses.replace(config, train=dataclasses.replace(config.train, log_gradients_every_steps=2))
    result = run(changed, tmp_path / "run")
    logged = [row for row in rows(result.path) if "gradient/norm/bce" in row]
    assert [row["step"] for row in logged] == list(range(2, result.step + 1, 2))
    assert all(
        row["gradient/norm/dice_loss/disk"] > 0 and -1 <= row["gradient/cosine/bce/dice_loss"] <= 1 for row in logged
    )
    others = [row for row in rows(result.path) if "gradient/norm/bce" not in row]
    assert others == rows(straight.path)
