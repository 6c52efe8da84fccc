"""What the audit finds, in a run: who chooses the checkpoint, lost objects, copies of training images, one image."""

import dataclasses
import json
from types import SimpleNamespace

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from helpers import Lines, run, tiny_config

from unet_jax import metrics
from unet_jax._types import Batch, InputError
from unet_jax.cli.main import main
from unet_jax.config.dicts import replace
from unet_jax.devices.mesh import make_mesh
from unet_jax.report.display import Quiet
from unet_jax.report.metrics_file import MetricsFile
from unet_jax.runs.info import load_info
from unet_jax.training.evaluation import evaluate_batches


def save(root, folder, id_, pixels, ending=".png"):
    path = root / folder / f"{id_}{ending}"
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), pixels)


def write_data(root):
    """Images of 64x64: a disk everywhere; a square in train only; a speck of 8x8 pixels in train, of 1 pixel in val.

    The network sees 32x32. Test image t is a copy of train image 00, in another kind of file; u is new.
    """
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:64, :64]
    rows = []
    for i in range(16):
        id_, split = f"{i:02d}", "train" if i < 12 else "val"
        image = rng.integers(0, 80, (64, 64, 3), dtype=np.uint8)
        disk = (y - 32) ** 2 + (x - 20 - i) ** 2 < 150
        image[disk] += 120
        square, speck = np.zeros_like(disk), np.zeros_like(disk)
        if split == "train":
            square[40:56, 8:24] = speck[4:12, 4:12] = True
        else:
            speck[8, 8] = True  # of 8 and 9, the resized mask takes 9
        rows.append((id_, split, image, disk, square, speck))
    rows.append(("t", "test", *rows[0][2:]))
    rows.append(("u", "test", rng.integers(0, 80, (64, 64, 3), dtype=np.uint8), *rows[0][3:]))
    for id_, _, image, *masks in rows:
        save(root, "images", id_, image, ".bmp" if id_ == "t" else ".png")
        for name, mask in zip(("disk", "square", "speck"), masks, strict=True):
            save(root, f"masks/{name}", id_, mask.astype(np.uint8) * 255)
    lines = ["id,split", *(f"{row[0]},{row[1]}" for row in rows)]
    (root / "splits.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = epath.Path(tmp_path_factory.mktemp("data"))
    write_data(root)
    display = Lines()
    result = run(tiny_config(root), root / "run", display)
    return root, result, display.lines


def test_the_run_says_what_it_cannot_learn_or_choose_by(trained):
    _, _, lines = trained
    text = "\n".join(lines)
    assert "WARNING: class square has no pixel in val: its Dice on val does not take part in the choice" in text
    assert "WARNING: class speck has no pixel in val at 32x32, the size that the network sees" in text
    assert "of 18 objects of class speck vanish at 32x32" in text and "--data.image-size 64 keeps all of them" in text
    assert "WARNING: images with the same pixels are in different splits: 00 (train), t (test)" in text
    shown = [line for line in lines if "val Dice" in line]
    assert len(shown) == 2 and "square" in shown[0] and shown[0].count(" absent") == 2


def test_a_run_that_does_not_beat_a_constant_mask_ends_with_a_warning(trained, capsys):
    """Two updates at momentum 0.9: 81% of the statistics are still those from before training."""
    root, _, lines = trained
    beside = load_info(root / "run").constant_dice
    assert list(beside) == ["disk"] and 0.2 < beside["disk"] < 0.9
    assert "  to beat: Dice on val of the best masks that are the same for every image: disk 0.67" in lines
    assert any(f"constant masks {beside['disk']:.4f})" in li for li in lines if "val Dice" in li)
    assert lines[-3].startswith("WARNING: this run did not learn to find disk") and "81% of them" in lines[-2]
    main(["info", str(root / "run")])
    assert "\n".join(lines[-3:]) in capsys.readouterr().out


def test_classes_that_val_lacks_do_not_choose_the_checkpoint(trained):
    """Dice of square is 1 while nothing of it is predicted, and of speck 0: neither is in the mean."""
    root, result, _ = trained
    rows = [row for row in MetricsFile(root / "run" / "metrics.jsonl").read() if "eval/loss" in row]
    assert len(rows) == 2
    for row in rows:
        assert row["eval/dice"] == row["eval/dice/disk"]
        assert row["eval/dice/speck"] == 0.0
        assert 0.0 <= row["eval/dice/square"] <= 1.0
    best = max(rows, key=lambda row: row["eval/dice/disk"])
    assert result.best_metrics["dice"] == pytest.approx(best["eval/dice/disk"])


def test_truth_that_resizing_took_away_is_missed_where_nothing_is_predicted():
    """Image 0 has lost its cell: Dice 0. Image 1 never had one: Dice 1. Image 2 has one: Dice 0."""
    label = np.zeros((3, 4, 4, 1), np.uint8)
    label[2, 1, 1] = 255

    def predict_nothing(params, batch_stats, batch):
        logits = jnp.full(batch.label.shape, -9.0)
        return {"loss": jnp.float32(1.0)}, metrics.counts_from_logits(logits, batch.label, threshold=0.5)

    scores, _ = evaluate_batches(
        predict_nothing,
        SimpleNamespace(params=None, batch_stats=None),
        [Batch(np.zeros((3, 4, 4, 3), np.uint8), label, np.ones(3, np.float32))],
        ids=["x", "y", "z"],
        class_names=("cell",),
        mesh=make_mesh(jax.devices()[:1]),
        vanished={"cell": ["x"]},
    )
    assert metrics.dice(scores.counts)[:, 0].tolist() == [0.0, 1.0, 0.0]
    assert scores.absent == ()


def test_lost_truth_counts_during_training_as_evaluate_counts_it(trained, capsys):
    """Evaluate scores at the images' own size, where the speck of one pixel is there and is not found."""
    root, _, _ = trained
    main(["evaluate", str(root / "run"), "--data.root", str(root), "--split", "val"])
    out = capsys.readouterr().out
    result = json.loads(out.splitlines()[-1])
    assert result["dice"]["speck"] < 0.01  # a prediction of half the image hits one pixel by chance
    assert result["absent_classes"] == ["square"]
    assert "square (absent)" in out and "speck (absent)" not in out
    assert f"({result['num_images']} of these images chose the checkpoint, so that" in out


def test_evaluate_names_copies_of_training_images(trained, capsys):
    root, _, _ = trained
    main(["evaluate", str(root / "run"), "--data.root", str(root)])
    captured = capsys.readouterr()
    assert json.loads(captured.out.splitlines()[-1])["copies_of_training_images"] == {"t": ["00"]}
    assert "chose the checkpoint" not in captured.out
    assert "WARNING: 1 of these images" in captured.err and "'t' (of '00')" in captured.err


def test_evaluate_finds_copies_in_another_data_set(trained, tmp_path, capsys):
    """Under another name, in another folder, and beside new images of old names."""
    root, _, _ = trained
    image = cv2.imread(str(root / "images" / "03.png"))
    save(tmp_path, "images", "renamed", image, ".tiff")
    for name in ("disk", "square", "speck"):
        save(tmp_path, f"masks/{name}", "renamed", np.full((64, 64), 255, np.uint8))
    main(["evaluate", str(root / "run"), "--data.root", str(tmp_path), "--split", "all"])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["copies_of_training_images"] == {"renamed": ["03"]}


def test_a_run_of_an_earlier_version_is_evaluated_as_before(trained, tmp_path, capsys):
    """Its run.json knows no digests and no lost objects."""
    root, _, _ = trained
    old = tmp_path / "run"
    for path in (root / "run").iterdir():
        (old / path.name).parent.mkdir(exist_ok=True)
        (old / path.name).symlink_to(path)
    values = json.loads((root / "run" / "run.json").read_text())
    for name in (
        "digests",
        "vanished",
        "splits",
        "seen_at",
        "enlarged",
        "enlarged_for_all",
        "alternative",
        "sizes",
        "classes",
        "bad_test",
    ):
        del values["audit"][name]
    del values["digest"]
    (old / "run.json").unlink()
    (old / "run.json").write_text(json.dumps(values))
    main(["evaluate", str(old), "--data.root", str(root)])
    assert "copies_of_training_images" not in json.loads(capsys.readouterr().out.splitlines()[-1])


def test_val_that_no_class_is_in_is_refused_where_dice_chooses(trained, tmp_path):
    root, _, _ = trained
    config = tiny_config(root)
    lines = (root / "splits.csv").read_text().splitlines()
    (tmp_path / "splits.csv").write_text("\n".join(line for line in lines if not line.endswith("test")) + "\n")
    data = dataclasses.replace(config.data, splits=str(tmp_path / "splits.csv"), classes=("square",))
    with pytest.raises(
        InputError, match=r"no class has a pixel in val, so that Dice on val cannot choose a checkpoint"
    ):
        run(dataclasses.replace(config, data=data), tmp_path / "run")
    assert not (tmp_path / "run" / "run.json").exists()


def test_one_image_can_be_trained_on(tmp_path):
    root = epath.Path(tmp_path)
    image = np.zeros((32, 32, 3), np.uint8)
    image[8:24, 8:24] = 200
    save(root, "images", "only", image)
    save(root, "masks/cell", "only", image[..., 0] // 200 * 255)
    mesh = make_mesh(jax.devices()[:1])
    config = replace(tiny_config(root, batch_size=1, num_epochs=1), {"data.splits": None})
    with pytest.raises(InputError, match=r"the split 'val' is empty \(train 1, .*--data.validate-on-train"):
        run(config, root / "refused", Quiet(), mesh)
    display = Lines()
    config = replace(config, {"data.validate_on_train": True})
    assert run(config, root / "run", display, mesh).step == 1
    assert load_info(root / "run").splits == {"train": ["only"], "val": ["only"], "test": []}
    assert "WARNING: val is train (data.validate_on_train)" in "\n".join(display.lines)
    assert "identical images" not in "\n".join(display.lines)
    assert run(config, root / "run", Quiet(), mesh).step == 1  # it is found again, in the same splits
