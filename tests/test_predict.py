import dataclasses
import os
import select
import shutil
import signal
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from etils import epath
from helpers import tiny_config

from unet_jax import InputError, load_run, metrics, predict_images, predict_probs, predict_probs_unresized, train
from unet_jax.data.images.files import read_image
from unet_jax.data.layout import find_layout
from unet_jax.data.masks.read import read_mask
from unet_jax.inference.evaluate import evaluate_run, select_records, summary
from unet_jax.inference.folder import predict_files
from unet_jax.inference.inputs import find_inputs, unread_inputs
from unet_jax.report.display import Quiet


@pytest.fixture(scope="module")
def loaded(synthetic_root, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    train(tiny_config(synthetic_root, num_epochs=6), out, display=Quiet())
    return load_run(out)


def random_images(*sizes):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]


@pytest.mark.filterwarnings("ignore:an image is")
def test_probs_have_the_size_of_each_image_and_do_not_depend_on_company(loaded):
    sizes = [(32, 32), (7, 90), (33, 31), (64, 48), (1, 1), (5, 5), (8, 8), (9, 9), (10, 10), (11, 11)]
    images = random_images(*sizes)  # more than one internal batch
    with pytest.warns(UserWarning, match=r"an image is .* times larger .*Use --fit crop.* are fields of Pred") as said:
        probs = list(predict_images(loaded, images))
    assert len(said) == 1  # and not one for each image
    assert [p.shape for p in probs] == [(*size, 2) for size in sizes]
    for image, expected in zip(images[:3], probs, strict=False):
        np.testing.assert_allclose(predict_probs(loaded, image[None])[0], expected, atol=1e-6)


def test_threads_that_predict_at_once_get_the_same_numbers(loaded):
    images = [np.stack(random_images((32, 32), (32, 32)))[::1] + np.uint8(i) for i in range(8)]
    wanted = [predict_probs(loaded, batch) for batch in images]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda batch: predict_probs(loaded, batch), images))
    np.testing.assert_array_equal(found, wanted)


def test_a_forked_process_says_so_instead_of_hanging(loaded):
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # jax's, and Python's from 3.12 on
        child = os.fork()
    if child == 0:  # no assertion and no clean-up of pytest here
        try:
            predict_probs(loaded, np.zeros((1, 32, 32, 3), np.uint8))
        except InputError as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    try:
        assert select.select([reading], [], [], 30.0)[0], "the child hangs"
        assert b"get_context('spawn')" in os.read(reading, 1000)
    finally:
        os.close(reading)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_own_size_equals_resized_prediction_when_the_sizes_are_equal(loaded):
    images = np.stack(random_images((32, 32), (32, 32)))
    np.testing.assert_allclose(predict_probs_unresized(loaded, images), predict_probs(loaded, images), atol=1e-6)
    assert predict_probs_unresized(loaded, np.stack(random_images((30, 41)))).shape == (1, 30, 41, 2)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((4, 4, 3), np.uint8), r"images have shape \(4, 4, 3\).*\[batch height width 3\].*images\[None\]"),
        (np.zeros((1, 4, 4, 2), np.uint8), r"shape \(4, 4, 2\): has 2 channels, but this run's images have 3"),
        (
            np.zeros((1, 4, 4, 3), np.float32),
            r"shape \(4, 4, 3\): has float32 values, but this run's images have 8 bits",
        ),
        (np.zeros((1, 0, 4, 3), np.uint8), r"an image has shape \(0, 4, 3\)"),
    ],
)
def test_wrong_arrays_are_refused_with_their_shape(loaded, images, message):
    with pytest.raises(InputError, match=message):
        predict_probs(loaded, images)


def test_no_images_give_no_probabilities(loaded):
    assert predict_probs(loaded, np.zeros((0, 4, 5, 3), np.uint8)).shape == (0, 4, 5, 2)


def test_files_hold_the_thresholded_probabilities_at_the_images_own_size(loaded, synthetic_root, tmp_path):
    wide = tmp_path / "in" / "sub" / "wide.JPG"
    wide.parent.mkdir(parents=True)
    cv2.imwrite(str(wide), random_images((20, 50))[0])
    files = find_inputs([str(tmp_path / "in"), str(synthetic_root / "images" / "0003.png")])
    assert list(files) == ["sub/wide", "0003"]
    outcomes = list(predict_files(loaded, files, epath.Path(tmp_path / "out")))
    assert [(o.id, o.error) for o in outcomes] == [(id_, "") for id_ in files]
    for id_, (path,) in files.items():
        probs = predict_probs(loaded, read_image(path)[None])[0]
        for k, name in enumerate(loaded.class_names):
            written = cv2.imread(str(tmp_path / "out" / name / f"{id_}.png"), cv2.IMREAD_UNCHANGED)
            np.testing.assert_array_equal(written, (probs[..., k] > 0.5) * np.uint8(255))
        overlay = cv2.imread(str(tmp_path / "out" / "overlay" / f"{id_}.png"))
        assert overlay.shape == (*probs.shape[:2], 3)


def test_inputs_that_cannot_be_are_named(tmp_path):
    with pytest.raises(InputError, match=r"nothing.png: there is no such file"):
        find_inputs([str(tmp_path / "nothing.png")])
    with pytest.raises(InputError, match="holds no image"):
        find_inputs([str(tmp_path)])
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match=r"notes.txt: does not end in one of"):
        find_inputs([str(tmp_path / "notes.txt")])
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"same output same.png"):
        find_inputs([str(tmp_path / "a" / "same.png"), str(tmp_path / "b" / "same.png")])


def test_predict_lists_names_and_counts_what_it_does_not_read(tmp_path):
    for name in ("a.ome.tif", "sub/b.png", "c.xyz", "sub/d.XYZ", "notes"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert list(find_inputs([tmp_path])) == ["a", "sub/b"]
    assert unread_inputs([tmp_path, tmp_path / "sub" / "b.png"]) == "because of the ending: 2 .xyz, 1 without an ending"
    assert list(find_inputs([tmp_path / "a.ome.tif"])) == ["a"]
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "e.xyz").write_bytes(b"")
    with pytest.raises(InputError, match=r"none: holds no image.*Not read, because of the ending: 1 \.xyz\."):
        find_inputs([tmp_path / "none"])
    (tmp_path / "sub" / "loop").symlink_to("..")
    with pytest.raises(InputError, match=r"sub/loop: is a symbolic link to .*Remove the link"):
        find_inputs([tmp_path])


def test_two_images_of_one_folder_never_write_one_mask(tmp_path):
    for name in ("a.png", "a.jpg"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match=r"has the same id 'a' as .*Rename one"):
        find_inputs([tmp_path])
    strange = tmp_path / "x\ny.png"
    strange.write_bytes(b"")
    with pytest.raises(InputError, match=r"x\\ny\.png: the name holds a control character"):
        find_inputs([strange])


def test_evaluation_scores_what_prediction_writes(loaded, synthetic_root, tmp_path):
    """Dice computed from the files, with the textbook formula, is the Dice that evaluation reports."""
    split, layout, records = select_records(loaded, loaded.config.data, None)
    assert split == "test"
    assert [r.id for r in records] == [f"{i:04d}" for i in range(30) if i % 5 == 4]
    scores = evaluate_run(loaded, layout, records)
    out = epath.Path(tmp_path / "out")
    list(predict_files(loaded, {r.id: r.images for r in records}, out))
    for k, name in enumerate(loaded.class_names):
        by_file = []
        for record in records:
            predicted = cv2.imread(str(out / name / f"{record.id}.png"), cv2.IMREAD_UNCHANGED) > 0
            truth = read_mask(record.masks[k][0]) > 0
            union = predicted.sum() + truth.sum()
            by_file.append(1.0 if union == 0 else 2 * (predicted & truth).sum() / union)
        np.testing.assert_allclose(scores.per_image(metrics.dice)[name], np.mean(by_file), rtol=1e-12)
        np.testing.assert_allclose(metrics.dice(scores.counts)[:, k], by_file, rtol=1e-12)
    result = summary(scores, split="test", threshold=0.5)
    assert result["num_images"] == 6
    assert result["dice_mean"] == pytest.approx(np.mean(list(result["dice"].values())))
    lines = scores.to_csv().splitlines()
    columns = "id,dice/disk,dice/square,iou/disk,iou/square,present/disk,present/square"
    assert lines[0] == columns and len(lines) == 7
    for line, record in zip(lines[1:], records, strict=True):
        wanted = [int(read_mask(paths[0]).any()) if paths else 0 for paths in record.masks]
        assert [int(cell) for cell in line.split(",")[-2:]] == wanted


def test_splits_come_from_the_file_or_the_run(loaded, synthetic_root, tmp_path):
    data = dataclasses.replace(loaded.config.data, splits=None)
    assert len(select_records(loaded, data, "val")[2]) == 6
    assert len(select_records(loaded, data, "all")[2]) == 30
    other = tmp_path / "splits.csv"
    other.write_text("id,split\n0000,train\n0001,test\n0002,test\n")
    with_file = dataclasses.replace(data, splits=str(other))
    assert [r.id for r in select_records(loaded, with_file, "test")[2]] == ["0001", "0002"]
    other.write_text("id,split\n0000,train\n0001,val\n")
    assert select_records(loaded, with_file, None)[0] == "val"
    with pytest.raises(InputError, match=r"no sample of the split 'test'"):
        select_records(loaded, with_file, "test")
    with pytest.raises(InputError, match=r"--split is 'tset'"):
        select_records(loaded, data, "tset")
    assert find_layout(data).class_names == loaded.class_names


def test_predictions_never_replace_images_or_masks(loaded, synthetic_root, tmp_path):
    with pytest.raises(InputError, match="no image was named"):
        find_inputs([])
    with pytest.raises(InputError, match="is a data set with masks"):
        find_inputs([str(synthetic_root)])
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train").symlink_to(synthetic_root)
    with pytest.raises(InputError, match=r"data/train: is a data set with masks. Name its images: .*data/train/images"):
        find_inputs([tmp_path / "data"])
    files = find_inputs([str(synthetic_root / "images")])
    with pytest.raises(InputError, match=r"masks/disk: is there already and was not made by predict"):
        list(predict_files(loaded, files, synthetic_root / "masks"))
    with pytest.raises(InputError, match=r"0000.png lies in it"):
        list(predict_files(loaded, files, synthetic_root / "images"))


def test_a_split_that_lost_images_is_not_scored_in_part(loaded, synthetic_root, tmp_path):
    root = epath.Path(tmp_path / "data")
    shutil.copytree(synthetic_root, root)
    for path in Path(root).rglob("0004.png"):
        path.unlink()
    data = dataclasses.replace(loaded.config.data, root=str(root), splits=None)
    with pytest.raises(InputError, match=r"1 of the 6 images of the split 'test' are not there, the first is '0004'"):
        select_records(loaded, data, "test")
