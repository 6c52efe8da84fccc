"""Prediction by tiles through a run, and of folders: faults, jobs that continue, tables, probabilities."""

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest
import tifffile
from etils import epath
from helpers import ONE_DEVICE, environment
from scipy import ndimage

from unet_jax import InputError, predict_images, predict_masks, predict_probs, predict_probs_unresized
from unet_jax._files import csv_text, plain_cell, scratch_folder
from unet_jax.config import Config, DataConfig, ModelConfig
from unet_jax.config.predict import OutputConfig, PredictConfig
from unet_jax.data.images import rows as image_rows
from unet_jax.data.images.format import RGB8
from unet_jax.devices.mesh import make_mesh, put_replicated
from unet_jax.inference import image_writer
from unet_jax.inference.folder import predict_files
from unet_jax.inference.image_writer import as_bits
from unet_jax.inference.inputs import find_inputs
from unet_jax.inference.scale import scale_warning
from unet_jax.inference.way import way_of
from unet_jax.metrics.calibration import Calibration
from unet_jax.metrics.object_rules import ObjectRules, apply_rules
from unet_jax.model.receptive_field import receptive_radius
from unet_jax.program.build import build
from unet_jax.runs.info import RunInfo
from unet_jax.runs.load import Run

CONFIG = Config(
    data=DataConfig(image_size=32),
    model=ModelConfig(widths=(4,), center_width=8, num_convs_down=1, num_convs_up=1),
)
FAR = pytest.mark.filterwarnings("ignore:an image is")  # of a scale far from that of training
CROP, EXACT = PredictConfig(fit="crop"), PredictConfig(fit="crop", overlap=0.5)


def make_run(config=CONFIG, names=("cell", "=nucleus"), **audit):
    """An untrained run, whose masks are patches of noise."""
    state = jax.jit(build(config, len(names), 1).init)(jax.random.key(0))
    audit = {"smallest": [30, 28], "largest": [34, 36], **audit}
    info = RunInfo(config, names, {"train": [], "val": [], "test": []}, audit, {}, RGB8)
    state = put_replicated(state, ONE_DEVICE)
    return Run(epath.Path("RUN"), 7, state, config, names, info, {}, ONE_DEVICE)


@pytest.fixture(scope="module")
def run():
    return make_run()


def noise(*size, seed=0):
    coarse = np.random.default_rng(seed).random((-(-size[0] // 6), -(-size[1] // 6), 3), np.float32)
    return (cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC).clip(0, 1) * 255).astype(np.uint8)


def write(folder, **images):
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in images.items():
        cv2.imwrite(str(folder / f"{name}.png"), image[..., ::-1])
    return find_inputs([folder])


# --- images in memory -------------------------------------------------------------------------------------------------


@FAR
def test_tiles_with_overlap_are_the_network_on_the_whole_image(run):
    assert receptive_radius(CONFIG.model) == 5  # the overlap of 16 is larger than both sides' together
    image = noise(64, 90)
    whole = predict_probs_unresized(run, image[None])[0]
    (tiled,) = predict_images(run, [image], EXACT)
    np.testing.assert_allclose(tiled, whole, atol=1e-5)
    (in_one_piece,) = predict_images(run, [image], PredictConfig(fit="whole"))
    np.testing.assert_allclose(in_one_piece, whole, atol=1e-6)
    assert np.abs(predict_probs(run, image[None])[0] - whole).max() > 0.01  # stretched: something else


@FAR
def test_images_of_all_sizes_in_one_stream(run):
    sizes = [(32, 32), (1, 70), (33, 5), (100, 1), (50, 49), (7, 7)]
    images = [noise(*size, seed=i) for i, size in enumerate(sizes)]
    together = list(predict_images(run, images, EXACT))
    for image, probs in zip(images, together, strict=True):
        assert probs.shape == (*image.shape[:2], 2)
        np.testing.assert_allclose(predict_probs(run, image[None], EXACT)[0], probs, atol=1e-6)


@pytest.mark.parametrize("num_classes", [1, 2, 8, 11])
def test_masks_wait_as_bits(num_classes):
    probs = np.random.default_rng(0).random((5, 7, num_classes), np.float32)
    threshold = np.linspace(0.2, 0.8, num_classes, dtype=np.float32)
    np.testing.assert_array_equal(as_bits(probs, threshold), np.packbits(probs > threshold, axis=-1))


def test_tiles_on_several_devices(run, tmp_path):
    """Four devices divide the batch, two the rows of each tile; one tile alone, and more than full batches."""
    mesh = make_mesh(jax.devices(), space=2)
    assert dict(mesh.shape) == {"data": 4, "space": 2}
    many = dataclasses.replace(run, state=put_replicated(jax.device_get(run.state), mesh), mesh=mesh)
    for sizes in ([(20, 31)], [(70, 64), (1, 50), (33, 40)]):
        images = [noise(*size, seed=i) for i, size in enumerate(sizes)]
        for actual, expected in zip(predict_images(many, images, CROP), predict_images(run, images, CROP), strict=True):
            np.testing.assert_allclose(actual, expected, atol=1e-6)
    np.save(tmp_path / "x.npy", images[0])
    files = {"x": (epath.Path(tmp_path / "x.npy"),)}
    for name, one in (("one", run), ("many", many)):
        assert [outcome.error for outcome in predict_files(one, files, epath.Path(tmp_path / name), CROP)] == [""]
    masks = [(tmp_path / name / "cell" / "x.png").read_bytes() for name in ("one", "many")]
    assert masks[0] == masks[1]


@FAR
def test_scale_is_undone_and_calibration_comes_last(run):
    """Against resizing by OpenCV, before and after."""
    image = noise(60, 81)
    half = cv2.resize(image, (40, 30), interpolation=cv2.INTER_AREA)
    (small,) = predict_images(run, [half], dataclasses.replace(EXACT, scale=1.0))
    expected = cv2.resize(small, (81, 60), interpolation=cv2.INTER_LINEAR)
    (got,) = predict_images(run, [image], dataclasses.replace(EXACT, scale=0.5))
    np.testing.assert_allclose(got, expected, atol=3e-3)  # gray values differ by 1 where halves are rounded
    calibrated = dataclasses.replace(run, calibration=Calibration((2.0, 0.5), (0.5, 0.5)))
    (cooled,) = predict_images(calibrated, [image], dataclasses.replace(EXACT, scale=0.5))
    logit = np.log(got / (1 - got))
    np.testing.assert_allclose(cooled, 1 / (1 + np.exp(-logit / [2.0, 0.5])), atol=1e-5)


def test_settings_without_effect_and_impossible_ones_are_refused(run):
    for how, message in (
        (PredictConfig(scale=0.5), r"--scale is 0.5, but the fit is stretch \(that of the run\).*add --fit crop"),
        (PredictConfig(overlap=0.5), r"--overlap is 0.5, but the fit is stretch"),
        (PredictConfig(fit="whole", blend="trapezoid"), r"--blend is trapezoid, but the fit is whole"),
        (PredictConfig(fit="whole", tta="d4"), r"--tta is d4.*use --tta flips"),
    ):
        with pytest.raises(InputError, match=message):
            way_of(run, how)
    wide = make_run(dataclasses.replace(CONFIG, data=DataConfig(image_size=(32, 64))))
    with pytest.raises(InputError, match=r"the network sees 64x32: use --tta flips"):
        way_of(wide, PredictConfig(tta="d4"))
    with pytest.raises(InputError, match=r"--overlap is 0.95, but must be from 0 to 0.9"):
        PredictConfig(overlap=0.95)
    with pytest.raises(InputError, match=r"--scale is 0.0, but must be above 0"):
        PredictConfig(scale=0.0)


@FAR
def test_pad_keeps_the_aspect(run):
    """Against resizing by OpenCV into the corner of a mirrored image."""
    image = noise(60, 81)
    small = cv2.resize(image, (32, 24), interpolation=cv2.INTER_AREA)
    seen = np.pad(small, ((0, 8), (0, 0), (0, 0)), mode="symmetric")
    expected = cv2.resize(predict_probs(run, seen[None])[0, :24], (81, 60), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(predict_probs(run, image[None], PredictConfig(fit="pad"))[0], expected, atol=1e-6)
    thin = predict_probs(run, noise(1, 400)[None], PredictConfig(fit="pad"))
    assert thin.shape == (1, 1, 400, 2)
    panorama = scale_warning(run.info, "pad", 1.0, (32, 32), 36, 300)
    assert "is 300x36 pixels" in panorama and "8.33 times smaller" in panorama  # 300 / 36
    assert scale_warning(run.info, "pad", 1.0, (32, 32), 36, 50) == ""


def test_rectangular_tiles(run):
    wide = make_run(dataclasses.replace(CONFIG, data=DataConfig(image_size=(16, 48))))
    image = noise(40, 60)
    (tiled,) = predict_images(wide, [image], dataclasses.replace(EXACT, overlap=0.7, scale=1.0))
    np.testing.assert_allclose(tiled, predict_probs_unresized(wide, image[None])[0], atol=1e-5)


def test_many_classes_keep_their_order(tmp_path):
    """Nine classes, more than a byte has bits."""
    names = tuple(f"c{k}" for k in range(9))
    many, image = make_run(names=names), noise(40, 50)
    list(predict_files(many, write(tmp_path / "in", a=image), epath.Path(tmp_path / "out"), EXACT))
    (probs,) = predict_images(many, [image], EXACT)
    np.testing.assert_array_equal(masks_of(tmp_path / "out", many, "a"), (probs > 0.5) * np.uint8(255))
    assert len({(probs[..., k] > 0.5).tobytes() for k in range(9)}) > 5  # so that a wrong order would show


# --- scale ------------------------------------------------------------------------------------------------------------


def test_an_image_far_from_the_scale_of_training_is_said(run):
    info, size = run.info, (32, 32)
    near = [scale_warning(info, "stretch", 1.0, size, h, w) for h, w in ((32, 32), (20, 40), (60, 60))]
    assert near == ["", "", ""]
    large = scale_warning(info, "stretch", 1.0, size, 1440, 2400)
    assert "is 2400x1440 pixels" in large and "28x30 to 36x34" in large and "66.7 times smaller" in large
    assert "Use --fit crop" in large
    assert "3 times larger" in scale_warning(info, "stretch", 1.0, size, 10, 32)
    assert scale_warning(info, "crop", 1.0, size, 1440, 2400) == ""
    assert "--scale 0.25" in scale_warning(info, "crop", 0.25, size, 40, 40)
    assert "4 times smaller" in scale_warning(info, "crop", 0.25, size, 40, 40)
    assert "is a reduced picture" in scale_warning(info, "crop", 1.0, size, 10, 10)
    unknown = dataclasses.replace(info, audit={})
    assert scale_warning(unknown, "stretch", 1.0, size, 1440, 2400) == ""


def test_crop_keeps_the_scale_at_which_a_stretched_run_was_trained():
    """Files of 120x60 to 130x70 were resized to 32x32: a scale of sqrt(32/sqrt(120*130) * 32/sqrt(60*70))."""
    shrunk = make_run(smallest=[120, 60], largest=[130, 70])
    expected = np.sqrt(32 / np.sqrt(120 * 130) * 32 / np.sqrt(60 * 70))
    assert way_of(shrunk, CROP).scale == pytest.approx(expected, abs=1e-3)
    assert way_of(shrunk, dataclasses.replace(CROP, scale=2.0)).scale == 2.0
    assert way_of(make_run(), CROP).scale == 1.0  # within 10 %


# --- folders ----------------------------------------------------------------------------------------------------------

EVERYTHING = OutputConfig(probs="npy", csv=True)


def masks_of(out, run, id_):
    planes = [cv2.imread(str(out / name / f"{id_}.png"), cv2.IMREAD_UNCHANGED) for name in run.class_names]
    return np.stack(planes, axis=-1)


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_folder_with_everything(run, tmp_path):
    images = {"-a": noise(70, 50), "b": noise(32, 32, seed=1), "sub": noise(1, 40, seed=2)}
    files = write(tmp_path / "in", **images)
    out = epath.Path(tmp_path / "out")
    progress = []
    outcomes = list(predict_files(run, files, out, EXACT, EVERYTHING, on_rows=progress.append))
    assert [(o.id, o.error, o.was_there) for o in outcomes] == [(id_, "", False) for id_ in files]
    assert {p.id for p in progress} == {"-a", "b", "sub"} - {"b"} or progress
    by_image, by_object = table(out / "images.csv"), table(out / "objects.csv")
    assert [(row["id"], row["class"]) for row in by_image][:2] == [("'-a", "cell"), ("'-a", "'=nucleus")]
    for id_, image in images.items():
        (probs,) = predict_images(run, [image], EXACT)
        np.testing.assert_allclose(np.load(out / "probs" / f"{id_}.npy"), probs, atol=1e-6)
        masks = masks_of(out, run, id_)
        np.testing.assert_array_equal(masks, (np.load(out / "probs" / f"{id_}.npy") > 0.5) * np.uint8(255))
        assert cv2.imread(str(out / "overlay" / f"{id_}.png")).shape == image.shape
        for k, name in enumerate(run.class_names):
            labels, count = ndimage.label(masks[..., k], np.ones((3, 3)))
            (row,) = [r for r in by_image if (plain_cell(r["id"]), plain_cell(r["class"])) == (id_, name)]
            assert (int(row["objects"]), int(row["area"])) == (count, (masks[..., k] > 0).sum())
            assert (int(row["height"]), int(row["width"])) == image.shape[:2]
            assert float(row["share"]) == pytest.approx((masks[..., k] > 0).mean(), rel=1e-4)
            objects = [r for r in by_object if (plain_cell(r["id"]), plain_cell(r["class"])) == (id_, name)]
            centers = ndimage.center_of_mass(masks[..., k], labels, range(1, count + 1))
            assert sorted((float(r["centroid_y"]), float(r["centroid_x"])) for r in objects) == [
                pytest.approx(center, abs=1e-3) for center in sorted(centers)
            ]
            assert sum(int(r["area"]) for r in objects) == int(row["area"])
    assert sorted(path.name for path in out.iterdir()) == sorted(
        ["=nucleus", "cell", "images.csv", "objects.csv", "overlay", "predict.json", "probs"]
    )


def test_probabilities_as_tiff_and_no_overlay(run, tmp_path):
    image = noise(40, 33)
    geo = [(33550, 12, 3, (0.5, 0.5, 0.0), True), (33922, 12, 6, (0.0, 0.0, 0.0, 10.0, 20.0, 0.0), True)]
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in" / "map.tif", image, photometric="rgb", extratags=geo)
    out = epath.Path(tmp_path / "out")
    list(predict_files(run, find_inputs([tmp_path / "in"]), out, EXACT, OutputConfig(overlay=False, probs="tiff")))
    assert sorted(p.name for p in out.iterdir()) == ["=nucleus", "cell", "predict.json", "probs"]
    (probs,) = predict_images(run, [image], EXACT)
    for k, name in enumerate(run.class_names):
        for path, expected in (
            (out / "probs" / name / "map.tif", np.rint(probs[..., k] * 65535)),
            (out / name / "map.tif", (probs[..., k] > 0.5) * 255.0),
        ):
            with tifffile.TiffFile(str(path)) as tif:
                np.testing.assert_allclose(tif.asarray(), expected, atol=1)
                assert tif.pages.first.tags[33550].value == (0.5, 0.5, 0.0)


def test_rules_for_objects_see_whole_masks_though_rows_come_one_by_one(run, tmp_path, monkeypatch):
    """Rules applied to the finished probabilities, whose objects lie in several rows of tiles."""
    rules = (ObjectRules(smallest_hole=9, smallest_object=30), ObjectRules(largest_only=True))
    (plain,) = predict_images(run, [noise(70, 50)], EXACT)
    threshold = tuple(np.quantile(plain, 0.6, axis=(0, 1)).tolist())  # masks of many objects and holes
    calibrated = dataclasses.replace(run, calibration=Calibration((1.0, 1.0), threshold, rules))
    files, out = write(tmp_path / "in", a=noise(70, 50)), epath.Path(tmp_path / "out")
    list(predict_files(calibrated, files, out, EXACT, EVERYTHING))
    masks = masks_of(out, run, "a") > 0
    (probs,) = predict_images(calibrated, [noise(70, 50)], EXACT)
    raw = probs > calibrated.threshold
    expected = np.stack([apply_rules(raw[..., k], rules[k], 70 * 50) for k in (0, 1)], axis=-1)
    np.testing.assert_array_equal(masks, expected)
    assert (masks != raw).any(axis=(0, 1)).all()  # both classes have something to change
    np.testing.assert_array_equal(next(predict_masks(calibrated, [noise(70, 50)], EXACT)), expected)
    assert int(table(out / "images.csv")[1]["objects"]) == 1 and len(table(out / "objects.csv")) > 1
    settings = json.loads((out / "predict.json").read_text())["calibration"]
    assert settings["rules"][0] == {"smallest_hole": 9, "smallest_object": 30, "largest_only": False}
    monkeypatch.setattr(image_writer, "LARGEST_WHOLE", 70 * 50 - 1)
    (refused,) = predict_files(calibrated, files, epath.Path(tmp_path / "other"), EXACT, EVERYTHING)
    assert "a.png: has 50x70 pixels, but the calibration has rules for objects" in refused.error


def test_unreadable_files_do_not_end_the_job(run, tmp_path, monkeypatch):
    """Neither one that is no image, nor one that breaks off in the middle of the prediction."""
    monkeypatch.setattr(image_rows, "LARGE_BYTES", 0)
    folder = tmp_path / "in"
    write(folder, a=noise(40, 40), z=noise(50, 40))
    (folder / "b.png").write_bytes(b"not an image")
    tifffile.imwrite(folder / "c.tif", noise(200, 40), photometric="rgb", rowsperstrip=8, compression="zlib")
    content = (folder / "c.tif").read_bytes()
    (folder / "c.tif").write_bytes(content[: len(content) * 2 // 3])
    cv2.imwrite(str(folder / "d.png"), np.zeros((40, 40), np.uint16))
    out = epath.Path(tmp_path / "out")
    outcomes = {o.id: o.error for o in predict_files(run, find_inputs([folder]), out, EXACT, EVERYTHING)}
    assert set(outcomes) == set("abcdz") and not outcomes["a"] and not outcomes["z"]
    assert "b.png: is not an image" in outcomes["b"]
    assert "c.tif: cannot be decoded from row" in outcomes["c"]
    assert "d.png: has" in outcomes["d"]
    assert {path.stem for path in Path(out).rglob("*.*") if path.suffix in (".png", ".npy")} == {"a", "z"}
    assert {row["id"] for row in table(out / "images.csv")} == {"a", "z"}
    assert not [path for path in Path(out).rglob("*") if "unfinished" in path.name]


def test_a_job_continues_and_only_with_the_same_settings(run, tmp_path):
    files = write(tmp_path / "in", a=noise(40, 40), b=noise(33, 50, seed=1), c=noise(20, 20, seed=2))
    out = epath.Path(tmp_path / "out")
    list(predict_files(run, files, out, EXACT, EVERYTHING))
    tables = [(out / name).read_text() for name in ("images.csv", "objects.csv")]
    before = masks_of(out, run, "b")
    (out / "cell" / "b.png").unlink()
    (out / "images.csv").unlink()
    continuing = dataclasses.replace(EVERYTHING, skip_existing=True)
    kept = (out / "cell" / "a.png").stat()
    outcomes = {o.id: o.was_there for o in predict_files(run, files, out, EXACT, continuing)}
    assert outcomes == {"a": True, "b": False, "c": True}
    assert (out / "cell" / "a.png").stat() == kept
    np.testing.assert_array_equal(masks_of(out, run, "b"), before)
    again = [sorted((out / name).read_text().splitlines()) for name in ("images.csv", "objects.csv")]
    assert again == [sorted(text.splitlines()) for text in tables]
    with pytest.raises(InputError, match=r"predict.json: the files that are there were made with overlap 0.5, but now"):
        list(predict_files(run, files, out, CROP, continuing))
    (out / "predict.json").unlink()
    with pytest.raises(InputError, match=r"predict.json: cannot be read.*Leave out --skip-existing"):
        list(predict_files(run, files, out, EXACT, continuing))


def test_a_full_disk_ends_the_job_with_the_path_and_the_remedy(run, tmp_path, monkeypatch):
    files = write(tmp_path / "in", a=noise(40, 40), b=noise(40, 40))
    real, out = os.replace, epath.Path(tmp_path / "out")

    def full(source, target):
        if str(target).endswith("cell/b.png"):
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(image_writer.os, "replace", full)
    message = r"cell/b.png: cannot be written \(No space left on device\).*--skip-existing then continues"
    with pytest.raises(InputError, match=message):
        list(predict_files(run, files, out))
    assert not [path for path in Path(out).rglob("*") if "unfinished" in path.name]
    monkeypatch.undo()

    class FullFile(image_writer.PngRows):
        def write(self, rows):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(image_writer, "PngRows", FullFile)
    with pytest.raises(InputError, match=r"cell/a.png: cannot be written"):
        list(predict_files(run, files, out))


def test_names_of_classes_that_are_names_of_results(tmp_path):
    named = make_run(names=("overlay",))
    files = write(tmp_path / "in", a=noise(32, 32))
    out = epath.Path(tmp_path / "out")
    with pytest.raises(InputError, match=r"the class 'overlay' has the name of another file or folder.*--no-overlay"):
        list(predict_files(named, files, out))
    list(predict_files(named, files, out, outputs=OutputConfig(overlay=False)))
    assert set(np.unique(cv2.imread(str(out / "overlay" / "a.png"), cv2.IMREAD_UNCHANGED))) <= {0, 255}


def test_large_overlays_are_reduced_and_show_thin_objects(run, tmp_path, monkeypatch):
    monkeypatch.setattr(image_writer, "LARGEST_OVERLAY", 30)
    reduced, mask = np.zeros((15, 30), bool), np.zeros((50, 100), bool)
    mask[33, 77] = True
    for y in range(0, 50, 7):
        image_writer._add_reduced(reduced, y, mask[y : y + 7], (50, 100))
    assert np.argwhere(reduced).tolist() == [[33 * 15 // 50, 77 * 30 // 100]]
    files = write(tmp_path / "in", a=noise(50, 100))
    list(predict_files(run, files, epath.Path(tmp_path / "out"), EXACT))
    assert cv2.imread(str(tmp_path / "out" / "overlay" / "a.png")).shape == (15, 30, 3)


def test_csv_cells_are_no_formulas():
    text = csv_text(["id", "x"], [("=1+1", -1), ("@a", "-2.5"), ("+b", None), ("a,b", 3)])
    assert text == "id,x\n'=1+1,-1\n'@a,-2.5\n'+b,\n\"a,b\",3\n"


KILLED = """
import os, sys
import numpy as np
sys.path.insert(0, {tests!r})
from etils import epath
from test_predict_folder import EXACT, EVERYTHING, find_inputs, make_run, predict_files
from unet_jax.inference import image_writer
publish = image_writer.publish
def slow(path, final):
    publish(path, final)
    print(final, flush=True)
image_writer.publish = slow
files = find_inputs([{folder!r}])
list(predict_files(make_run(), files, epath.Path({out!r}), EXACT, EVERYTHING))
"""


@pytest.mark.slow  # starts a process that compiles
def test_a_killed_job_leaves_whole_files_and_continues(run, tmp_path):
    files = write(tmp_path / "in", **{f"i{n:03d}": noise(40, 40, seed=n) for n in range(60)})
    out = tmp_path / "out"
    code = KILLED.format(tests=str(Path(__file__).parent), folder=str(tmp_path / "in"), out=str(out))
    for count in (3, 40):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment())
        assert process.stdout is not None
        for _ in range(count):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        for path in out.rglob("*.png"):
            if ".unfinished" not in str(path):
                assert cv2.imread(str(path), cv2.IMREAD_UNCHANGED) is not None
    assert list(out.glob(".unfinished*"))
    continuing = dataclasses.replace(EVERYTHING, skip_existing=True)
    outcomes = list(predict_files(run, files, epath.Path(out), EXACT, continuing))
    assert any(o.was_there for o in outcomes) and len(outcomes) == 60
    assert not list(out.glob(".unfinished*")) and len(table(out / "images.csv")) == 120


def test_leftovers_of_a_killed_process_are_removed_and_those_of_a_living_one_stay(tmp_path):
    with scratch_folder(tmp_path) as living:
        dead = tmp_path / ".unfinished.building-dead"
        dead.mkdir()
        (dead / "lock").touch()
        young = tmp_path / ".unfinished.building-young"  # between its making and its lock
        young.mkdir()
        old = tmp_path / ".unfinished.building-old"
        old.mkdir()
        os.utime(old, (time.time() - 1000,) * 2)
        with scratch_folder(tmp_path):
            assert living.exists() and young.exists() and not dead.exists() and not old.exists()
    assert not living.exists()


def test_the_mark_says_how_the_masks_were_made(run, tmp_path):
    files = write(tmp_path / "in", a=noise(32, 32))
    list(predict_files(run, files, epath.Path(tmp_path / "out"), EXACT))
    mark = json.loads((tmp_path / "out" / "predict.json").read_text())
    assert {"run": "RUN", "step": 7, "fit": "crop", "scale": 1.0, "overlap": 0.5, "tta": "none"}.items() <= mark.items()
