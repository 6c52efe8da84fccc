import json
import shutil

import cv2
import jax
import numpy as np
import pytest
from etils import epath
from helpers import ONE_DEVICE, Interrupting, assert_equal_runs, rows, run, tiny_config, with_optim

from unet_jax import Batch, InputError, UNet, load_run, predict_probs
from unet_jax.config import ModelConfig, OptimConfig
from unet_jax.config.dicts import config_from_dict, replace
from unet_jax.data.synthetic import synthetic_sample
from unet_jax.devices.mesh import make_mesh
from unet_jax.losses import bce_dice_loss
from unet_jax.program.initial_state import init_state
from unet_jax.program.optim import make_optimizer
from unet_jax.program.predict_step import make_predict_step
from unet_jax.program.steps import make_train_step
from unet_jax.report.display import Quiet
from unet_jax.runs.load import open_checkpoints
from unet_jax.training import log as log_module
from unet_jax.training.non_finite import NonFiniteLossError
from unet_jax.training.session import Session

WITHOUT_PICTURES = {"train.num_pictures": 0}  # they change no number


def test_overfits_four_images():
    samples = [synthetic_sample(np.random.default_rng(i), 16, 2) for i in range(4)]
    image, label = (np.stack([getattr(s, name) for s in samples]) for name in ("image", "mask"))
    config = ModelConfig((8,), 16, num_convs_down=1, num_convs_up=1, batch_norm_momentum=0.9)
    model = UNet(config, 2)
    tx = make_optimizer(OptimConfig(name="adamw", learning_rate=5e-3, schedule="cosine"), 150)
    state = jax.jit(lambda key: init_state(key, model, tx))(jax.random.key(0))
    step = make_train_step(model.apply, bce_dice_loss, tx)
    batch = Batch(image, label, np.ones(4, np.float32))
    for _ in range(150):
        state, _ = step(state, batch)
    probs = make_predict_step(model.apply, size_multiple=config.size_multiple)(state.params, state.batch_stats, image)
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


def test_a_run_that_is_interrupted_again_and_again_continues_bit_for_bit(finished, tmp_path):
    """In the middle of epochs, and before the evaluation that ends one."""
    straight, config = finished
    config = replace(config, WITHOUT_PICTURES)
    for stop_after in (1, 2, 5, 7):
        with pytest.raises(KeyboardInterrupt):
            run(config, tmp_path / "run", Interrupting(stop_after))
    run(config, tmp_path / "run")
    assert_equal_runs(straight.path, tmp_path / "run")


def test_a_run_counted_in_updates_equals_the_one_counted_in_epochs(finished, tmp_path):
    """Bit for bit, also if it is interrupted between evaluations: four epochs are eight updates."""
    straight, config = finished
    in_updates = {"train.num_epochs": 25, "train.num_steps": 8, "train.eval_every_steps": 2}
    config = replace(config, WITHOUT_PICTURES | in_updates)
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "run", Interrupting(3))
    run(config, tmp_path / "run")
    assert_equal_runs(straight.path, tmp_path / "run")


def test_a_run_counted_in_updates_ends_in_the_middle_of_an_epoch(synthetic_root, tmp_path):
    result = run(tiny_config(synthetic_root, num_epochs=25, num_steps=5, eval_every_steps=3), tmp_path / "run")
    evaluations = [row for row in rows(result.path) if "eval/loss" in row]
    assert result.step == 5 and [row["step"] for row in evaluations] == [3, 5]
    assert [row["epoch"] for row in evaluations] == [1.5, 2.5]
    assert evaluations[-1]["learning_rate"] == 0.0  # the cosine ends where the run ends


def test_run_with_changes_on_the_device_continues_bit_for_bit_with_other_cache_and_threads(synthetic_root, tmp_path):
    """Interrupted in the middle of the first epoch and of the second."""
    augment = {"where": "device", "rotate": 20.0, "gamma_prob": 0.5, "crop_prob": 0.3}
    config = tiny_config(synthetic_root, checkpoint_every_steps=1)
    config = replace(config, {f"augment.{name}": value for name, value in augment.items()})

    def with_data(**settings):
        settings |= {"cache_dir": str(tmp_path / "cache")}
        return replace(config, {f"data.{name}": value for name, value in settings.items()})

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


def test_a_picture_that_fails_costs_nothing_and_is_said(synthetic_root, tmp_path, monkeypatch):
    """The epoch's checkpoint is there when pictures are drawn, and training goes on."""
    lines, saved = [], []

    def fails(path, **panels):
        saved.append(metrics_of_checkpoint(path.parent.parent))
        raise RuntimeError("no font")

    def metrics_of_checkpoint(out):
        rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        return [row["step"] for row in rows if "eval/loss" in row]

    class Listening(Quiet):
        def line(self, text):
            lines.append(text)

    monkeypatch.setattr(log_module, "save_grid", fails)
    monkeypatch.setattr(
        Session, "save", lambda self, *args, save=Session.save: (saved.append("checkpoint"), save(self, *args))
    )
    result = run(tiny_config(synthetic_root, num_pictures=1), tmp_path / "run", Listening())
    assert result.step == 4 and saved == ["checkpoint", [2], "checkpoint", [2, 4]]
    assert sum("WARNING" in line and "no font" in line for line in lines) == 2


def test_other_settings_are_refused_with_both_values(finished):
    result, config = finished
    other = replace(config, {"seed": 3, "optim.learning_rate": 0.5})
    with pytest.raises(InputError, match=r"(?s)seed: was 0, now 3.*optim.learning_rate: was 0.01, now 0.5"):
        run(other, result.path)


def test_lost_images_are_refused_by_id(finished, synthetic_root, tmp_path):
    result, config = finished
    root = tmp_path / "data"
    shutil.copytree(synthetic_root, root)
    lost = load_run(result.path).info.splits["train"][0]
    for path in root.rglob(f"{lost}.png"):
        path.unlink()
    moved = replace(config, {"data.root": str(root), "data.splits": None})
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
    run(config, tmp_path / "eight", mesh=make_mesh())
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
    root = epath.Path(tmp_path / "data")
    shutil.copytree(synthetic_root, root)
    config = tiny_config(root)
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
    config = replace(tiny_config(synthetic_root), {"data.splits": str(splits)})
    with pytest.raises(InputError, match=r"2 images, fewer than train.batch_size 8"):
        run(config, tmp_path / "run")
    splits.write_text("id,split\n0000,test\n")
    with pytest.raises(InputError, match=r"split 'train' is empty"):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_init_from_starts_with_the_other_runs_weights(finished, synthetic_root, tmp_path):
    source, _ = finished
    config = tiny_config(synthetic_root, num_epochs=1)
    still = {"seed": 9, "init_from": str(source.path), "optim.name": "sgd", "optim.learning_rate": 1e-30}
    still = replace(config, still)
    run(still, tmp_path / "run")
    started, given = load_run(tmp_path / "run", mesh=ONE_DEVICE), load_run(source.path, mesh=ONE_DEVICE)
    jax.tree.map(np.testing.assert_array_equal, started.state.params, given.state.params)
    one_class = replace(still, {"data.classes": ("square",)})
    run(one_class, tmp_path / "other")
    other = load_run(tmp_path / "other", mesh=ONE_DEVICE).state.params
    jax.tree.map(np.testing.assert_array_equal, other["center"], given.state.params["center"])
    assert other["head"]["kernel"].shape == (1, 1, 4, 1)
    wider = replace(still, {"model.widths": (4, 16)})
    with pytest.raises(InputError, match=r"another one .*widths \(4,\) there and \(4, 16\) here"):
        run(wider, tmp_path / "wider")


def test_an_image_that_changed_its_split_is_refused(finished, tmp_path):
    result, config = finished
    splits = load_run(result.path).info.splits
    moved = splits["train"][0]
    text = "id,split\n" + "".join(
        f"{i},{'test' if i == moved else name}\n" for name, ids in splits.items() for i in ids
    )
    (tmp_path / "splits.csv").write_text(text)
    other = replace(config, {"data.splits": str(tmp_path / "splits.csv")})
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
    changed = replace(config, {"train.log_gradients_every_steps": 2, **WITHOUT_PICTURES})
    result = run(changed, tmp_path / "run")
    logged = [row for row in rows(result.path) if "gradient/norm/bce" in row]
    assert [row["step"] for row in logged] == list(range(2, result.step + 1, 2))
    assert all(
        row["gradient/norm/dice_loss/disk"] > 0 and -1 <= row["gradient/cosine/bce/dice_loss"] <= 1 for row in logged
    )
    others = [row for row in rows(result.path) if "gradient/norm/bce" not in row]
    assert others == rows(straight.path)
