"""Masks of several files per image: patterns with * and folders of one file per object, joined by id."""

import numpy as np
import pytest
from etils import epath
from PIL import Image

from unet_jax._types import InputError
from unet_jax.config import DataConfig
from unet_jax.data.disk_cache import disk_source
from unet_jax.data.layout import find_layout
from unet_jax.data.patterns import join_by_id, match_files
from unet_jax.data.pixels import BadSampleError
from unet_jax.data.sources import FileSource


def make(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def files_of(root, **settings):
    """Mask files by sample id and class."""
    layout = find_layout(DataConfig(root=str(root), **settings))
    return {r.id: [[str(p.relative_to(root)) for p in paths] for paths in r.masks] for r in layout.records}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("{id}.png", {"a.png": ("a",), "b_1.png": ("b_1",), "b_1_2.png": ("b_1_2",), "7_72.png": ("7_72",)}),
        ("b_{id}.png", {"b_1.png": ("1",), "b_1_2.png": ("1_2",)}),
        ("{id}_*.png", {"b_1.png": ("b",), "b_1_2.png": ("b_1", "b"), "7_72.png": ("7",)}),
        ("{id}_1*.png", {"b_1.png": ("b",), "b_1_2.png": ("b",)}),
        ("*_{id}.png", {"b_1.png": ("1",), "b_1_2.png": ("1_2", "2"), "7_72.png": ("72",)}),
        ("{id}_{id}2.png", {"7_72.png": ("7",)}),
        ("d/{id}/*.png", {"d/x/1.png": ("x",), "d/x/2.png": ("x",), "d/y.1/1.png": ("y.1",), "d/[z]/z.png": ("[z]",)}),
        ("d/[{id}]/{id}.png", {"d/[z]/z.png": ("z",)}),
        ("{id}/*/1.png", {"d/x/1.png": ("d",), "d/y.1/1.png": ("d",)}),
        ("*/{id}/1.png", {"d/x/1.png": ("x",), "d/y.1/1.png": ("y.1",)}),
        (".{id}.png", {".hidden.png": ("hidden",)}),
    ],
)
def test_patterns_stand_for_parts_of_names(tmp_path, pattern, expected):
    make(tmp_path, "a.png", "b_1.png", "b_1_2.png", "7_72.png", ".hidden.png", "notes.txt", "c.png/1.txt")
    make(
        tmp_path,
        "d/x/1.png",
        "d/x/2.png",
        "d/x/.3.png",
        "d/y.1/1.png",
        "d/y.1/n.png/4.png",
        "d/[z]/z.png",
        "d/.w/1.png",
    )
    root = epath.Path(tmp_path)
    matches = match_files(root, pattern, "field")
    assert {str(path.relative_to(root)): ids for path, ids in matches.items()} == expected


def test_the_longest_id_that_has_an_image_counts(tmp_path):
    make(tmp_path, "a_1.png", "a_b_1.png", "a_b_2.png", "c_1.png")
    matches = match_files(epath.Path(tmp_path), "{id}_*.png", "field")
    names = {id_: [p.name for p in paths] for id_, paths in join_by_id(matches, {"a", "a_b"}.__contains__).items()}
    assert names == {"a": ["a_1.png"], "a_b": ["a_b_1.png", "a_b_2.png"], "c": ["c_1.png"]}
    names = {id_: [p.name for p in paths] for id_, paths in join_by_id(matches, {"a"}.__contains__).items()}
    assert names == {"a": ["a_1.png", "a_b_1.png", "a_b_2.png"], "c": ["c_1.png"]}


def test_patterns_with_a_star_unite_the_files_of_an_image(tmp_path):
    make(tmp_path, "images/a.jpg", "images/b.jpg", "m/a_1.png", "m/a_2.png", "m/b_1.png", "n/a.png", "n/b.png")
    patterns = ("cell=m/{id}_*.png", "nucleus=n/{id}.png")
    assert files_of(tmp_path, mask_patterns=patterns) == {
        "a": [["m/a_1.png", "m/a_2.png"], ["n/a.png"]],
        "b": [["m/b_1.png"], ["n/b.png"]],
    }


def test_layout_of_the_data_science_bowl_of_2018(tmp_path):
    """stage1_train/ID/images/ID.png and stage1_train/ID/masks/HASH.png."""
    masks = {id_: [f"stage1_train/{id_}/masks/{i}f.png" for i in range(3)] for id_ in ("00ae65", "0a7d30")}
    for id_, names in masks.items():
        make(tmp_path, f"stage1_train/{id_}/images/{id_}.png", *names)
    for images in ("stage1_train/{id}/images/{id}.png", "stage1_train/{id}/images/*.png"):
        settings = {"image_pattern": images, "mask_patterns": ("nuclei=stage1_train/{id}/masks/*.png",)}
        assert files_of(tmp_path, **settings) == {id_: [names] for id_, names in masks.items()}


def test_image_key_and_a_star_work_together(tmp_path):
    make(tmp_path, "images/7.png", "images/8.png", "m/site_7_1.png", "m/site_7_2.png", "m/site_8_1.png")
    found = files_of(tmp_path, mask_patterns=("cell=m/{id}_*.png",), image_key="^site_([^_]*)$")
    assert found == {"site_7": [["m/site_7_1.png", "m/site_7_2.png"]], "site_8": [["m/site_8_1.png"]]}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mask_patterns": ("a=m/*.png",)}, r"data.mask_patterns a is 'm/\*.png', but must contain \{id\}"),
        ({"mask_patterns": ("a=**/{id}.png",)}, r"and \* only for a part of one name"),
        ({"mask_patterns": ("a=m/{id}_*.gif",)}, r"no file matches '\{id\}_\*.gif'"),
        (
            {"mask_patterns": ("a=m/{id}_*.png",), "image_pattern": "i/{id}*.png"},
            r"12.png: has the id '12' or '1' by data.image_pattern, which must match one file",
        ),
        (
            {"index_map": "m/{id}/*.png", "index_values": ("a=1",)},
            r"/2.png: has the id '1' as .*/m/1/1.png by data.index",
        ),
    ],
)
def test_patterns_that_cannot_be_joined_are_refused(tmp_path, settings, message):
    make(tmp_path, "images/1.png", "i/12.png", "m/1_1.png", "m/1/1.png", "m/1/2.png")
    with pytest.raises(InputError, match=message):
        files_of(tmp_path, **settings)


def test_folder_of_an_image_holds_a_file_for_each_object(tmp_path):
    make(tmp_path, "images/a.png", "images/b.png", "images/p/c.png")
    make(tmp_path, "masks/cell/a/1.png", "masks/cell/a/2.png", "masks/cell/b.png", "masks/cell/p/c/x.png")
    assert files_of(tmp_path) == {
        "a": [["masks/cell/a/1.png", "masks/cell/a/2.png"]],
        "b": [["masks/cell/b.png"]],
        "p/c": [["masks/cell/p/c/x.png"]],
    }


def test_subfolders_of_ids_are_no_folders_of_objects(tmp_path):
    make(tmp_path, "images/a/1.png", "images/a/2.png", "masks/cell/a/1.png", "masks/cell/a/2.png")
    assert files_of(tmp_path) == {"a/1": [["masks/cell/a/1.png"]], "a/2": [["masks/cell/a/2.png"]]}


def test_file_and_folder_of_one_image_are_refused(tmp_path):
    make(tmp_path, "images/a.png", "masks/cell/a.png", "masks/cell/a/1.png")
    with pytest.raises(InputError, match=r"cell/a\.png: is the mask of 'a', and .*cell/a/1\.png is another\. Keep"):
        files_of(tmp_path)


def test_folder_of_files_that_are_not_read_is_no_empty_mask(tmp_path):
    make(tmp_path, "images/a.png", "images/b.png", "masks/cell/a/1.xcf", "masks/cell/b/1.png")
    with pytest.raises(InputError, match=r"masks/cell/a\.\* is missing .*; 1\.xcf is there, but \.xcf is not read"):
        files_of(tmp_path, missing_masks="empty")


def test_folder_of_no_image_is_named(tmp_path):
    make(tmp_path, "images/a.png", "masks/cell/a/1.png", "masks/cell/b/1.png")
    with pytest.raises(InputError, match=r"masks/cell/b/1\.png: there is no image of this id"):
        files_of(tmp_path)


def test_mask_is_the_union_of_its_files(tmp_path):
    planes = [np.zeros((6, 7), np.uint8) for _ in range(3)]
    planes[0][1:3, 1:4], planes[1][2:5, 3:6] = 255, 1
    make(tmp_path, "images/a.png", "masks/cell/a/1.png", "masks/cell/a/2.png", "masks/cell/a/3.png")
    Image.fromarray(np.zeros((6, 7, 3), np.uint8)).save(tmp_path / "images/a.png")
    for i, plane in enumerate(planes, start=1):
        Image.fromarray(plane).save(tmp_path / f"masks/cell/a/{i}.png")
    layout = find_layout(DataConfig(root=str(tmp_path)))
    source = FileSource(layout, layout.records)
    np.testing.assert_array_equal(source[0].mask[..., 0], 255 * ((planes[0] > 0) | (planes[1] > 0)))
    Image.fromarray(np.zeros((5, 7), np.uint8)).save(tmp_path / "masks/cell/a/2.png")
    with pytest.raises(BadSampleError, match=r"cell/a/2\.png: is 7x5 pixels"):
        source[0]


def test_files_of_a_record_are_in_the_order_of_its_classes(tmp_path):
    """The disk cache compares them one by one, and knows absent ones by None."""
    make(tmp_path, "images/a.png", "masks/x/a/1.png", "masks/x/a/2.png", "masks/z/a.png")
    make(tmp_path, "images/b.png", "masks/y/b.png")
    layout = find_layout(DataConfig(root=str(tmp_path), missing_masks="empty"))
    assert [[p and p.name for p in r.files] for r in layout.records] == [
        ["a.png", "1.png", "2.png", None, "a.png"],
        ["b.png", None, "b.png", None],
    ]


def test_disk_cache_of_several_files_is_stale_when_one_is_added_or_changed(tmp_path):
    first, second = np.zeros((6, 7), np.uint8), np.zeros((6, 7), np.uint8)
    first[1:3, 1:4], second[3:5, 3:6] = 255, 255
    make(tmp_path, "images/a.png", "masks/cell/a/1.png")
    Image.fromarray(np.zeros((6, 7, 3), np.uint8)).save(tmp_path / "images/a.png")
    Image.fromarray(first).save(tmp_path / "masks/cell/a/1.png")

    def cached(**settings):
        config = DataConfig(root=str(tmp_path), image_size=6, cache="disk", cache_dir=str(tmp_path / "c"), **settings)
        layout = find_layout(config)
        return disk_source(FileSource(layout, layout.records), config, num_threads=1)

    assert (cached()[0].mask[:, 0] == 0).all() and cached()[0].mask[1, 2] == 255
    Image.fromarray(second).save(tmp_path / "masks/cell/a/2.png")
    with pytest.raises(InputError, match=r"is stale: 'a' has more or fewer mask files than it had"):
        cached()
    assert cached(rebuild_cache=True)[0].mask[3, 4] == 255
    Image.fromarray(second * 0).save(tmp_path / "masks/cell/a/2.png")
    with pytest.raises(InputError, match=r"is stale: .*masks/cell/a/2\.png"):
        cached()
    assert cached(instance_masks=True)[0].mask[3, 4] == 0  # another cache: the same files may mean something else
    Image.fromarray(second // 2).save(tmp_path / "masks/cell/a/2.png")
    assert cached(mask_threshold=0.4)[0].mask[3, 4] == 255
    assert cached(mask_threshold=0.5)[0].mask[3, 4] == 0
