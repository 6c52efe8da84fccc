"""A run remembers its data: changed, vanished and new files when it continues, and damaged samples of the cache."""

import dataclasses
import json
import os
import shutil

import cv2
import numpy as np
import pytest
from etils import epath
from helpers import Lines, tiny_config

from unet_jax import InputError
from unet_jax.config.dicts import replace
from unet_jax.data.disk_cache import disk_source
from unet_jax.data.layout import find_layout
from unet_jax.report.display import Quiet
from unet_jax.runs.data_files import data_path, load_identities
from unet_jax.runs.info import load_info
from unet_jax.training.setup import begin_run, split_source


@pytest.fixture
def begun(synthetic_root, tmp_path):
    """A run on a data set of its own that was begun and has a checkpoint, and its config."""
    root = epath.Path(tmp_path / "data")
    shutil.copytree(synthetic_root, root)
    config, out = tiny_config(root), epath.Path(tmp_path / "run")
    begin_run(config, out, Quiet())
    (out / "checkpoints/1").mkdir(parents=True)
    return config, out, root


def go_on(begun, **settings):
    config, out, _ = begun
    display = Lines()
    info, _ = begin_run(replace(config, {k.replace("__", "."): v for k, v in settings.items()}), out, display)
    return info, display.lines


def mask_of(begun, split):
    _, out, root = begun
    id_ = load_info(out).splits[split][0]
    return root / "masks/disk" / f"{id_}.png", id_


def invert(path, *, keep_times=True):
    """The same number of bytes or not, and the time of the last change as it was, as a careless copy leaves it."""
    before = os.stat(path)
    assert cv2.imwrite(str(path), 255 - cv2.imread(str(path), cv2.IMREAD_UNCHANGED))
    if keep_times:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_changed_mask_of_train_is_refused_and_can_be_accepted(begun):
    assert go_on(begun)[1] == []
    path, id_ = mask_of(begun, "train")
    invert(path)
    with pytest.raises(InputError, match=rf"run: 1 samples of train and val .*{path}.*--data\.changed-files accept"):
        go_on(begun)
    info, lines = go_on(begun, data__changed_files="accept")
    assert info.changes == ({"step": 1, "settings": {}, "changed_files": [id_]},)
    assert lines == [
        f"{begun[2]}: 1 samples of train and val have changed and are used as they are now; the first is {path}"
    ]
    info, lines = go_on(begun)  # it is the run's own now
    assert lines == [] and len(info.changes) == 1


def test_an_accepted_image_counts_as_trained_on(begun):
    id_ = mask_of(begun, "train")[1]
    before = load_info(begun[1]).audit["digests"][id_]
    invert(begun[2] / "images" / f"{id_}.png", keep_times=False)
    assert go_on(begun, data__changed_files="accept")[0].audit["digests"][id_] != before


def test_a_removed_mask_is_a_change(begun):
    path, _ = mask_of(begun, "val")
    path.unlink()
    config, out, root = begun
    begun = (replace(config, {"data.missing_masks": "empty"}), out, root)
    info = load_info(out)
    values = json.loads((out / "run.json").read_text())
    values["config"]["data"]["missing_masks"] = "empty"
    del values["digest"]
    (out / "run.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match="1 samples of train and val have other files"):
        go_on(begun)
    assert info.splits == load_info(out).splits


def test_copied_data_are_the_same_and_new_and_lost_test_samples_are_said(begun, tmp_path):
    config, out, root = begun
    moved = epath.Path(tmp_path / "moved")
    shutil.copytree(root, moved, copy_function=shutil.copyfile)  # other times
    begun = (replace(config, {"data.root": str(moved), "data.splits": str(moved / "splits.csv")}), out, moved)
    info, lines = go_on(begun)
    assert lines == [] and info.config.data.root == str(moved)
    assert load_identities(out)[0] == str(moved)
    test_path, test_id = mask_of(begun, "test")
    invert(test_path)
    source = moved / "images" / f"{test_id}.png"
    for folder in ("images", "masks/disk", "masks/square"):
        shutil.copyfile(source, moved / folder / "another.png")
    with open(moved / "splits.csv", "a") as file:
        file.write("another,test\n")
    _, lines = go_on(begun)
    assert lines == [
        f"{moved}: 1 samples of test have changed; training does not use them; the first is {test_path}",
        f"{moved}: 1 samples are new; this run does not use them; the first is another",
    ]


def test_a_run_of_an_earlier_version_is_told_once(begun):
    data_path(begun[1]).unlink()
    assert "From now on it does" in go_on(begun)[1][0]
    assert go_on(begun)[1] == []
    data_path(begun[1]).write_text("{")
    with pytest.raises(InputError, match=r"data\.json: is damaged .*delete it"):
        go_on(begun)


def test_a_damaged_sample_of_the_cache_is_refused_by_id(synthetic_root, tmp_path):
    config = dataclasses.replace(tiny_config(synthetic_root).data, cache="disk", cache_dir=str(tmp_path))
    layout = find_layout(config)
    files = split_source(layout, [r.id for r in layout.records], config)
    cached = disk_source(files, config, num_threads=1)
    for name, row in (("images", 3), ("masks", 5)):
        path = cached.folder / f"{name}.npy"
        content = bytearray(path.read_bytes())
        array = np.load(path)
        content[len(content) - array[row:].nbytes + 7] ^= 1
        path.write_bytes(bytes(content))
    again = disk_source(files, config, num_threads=1)
    np.testing.assert_array_equal(again[0].image, cached[0].image)
    for row in (3, 5):
        with pytest.raises(InputError, match=rf"sample '{cached.ids[row]}' is damaged.*--data\.rebuild-cache"):
            again[row]
    (cached.folder / "digests.npy").unlink()  # as an earlier version left it
    assert disk_source(files, config, num_threads=1)[3].image.shape == (32, 32, 3)
