"""Flags that are named for data sets of other layouts: given to the command, they join the images with their masks."""

import shlex

import numpy as np
import pytest
import tyro
from etils import epath
from PIL import Image

from unet_jax._types import InputError
from unet_jax.config import DataConfig
from unet_jax.data.layout import find_layout
from unet_jax.data.layout_hints import _groups
from unet_jax.data.masks.read import read_mask

SHAPE = np.zeros((24, 32), np.uint8)
SHAPE[4:14, 6:20] = 1
HARD, CLASSES = SHAPE * np.uint8(255), SHAPE + np.roll(SHAPE, 6, 0)
PHOTO = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
COLORS = np.stack([HARD, 0 * HARD, np.roll(HARD, 6, 0)], -1)


def write(root, files):
    for name, pixels in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


def hint(root):
    with pytest.raises(InputError) as caught:
        find_layout(DataConfig(root=str(root)))
    return str(caught.value)


def data_set(image, mask, pixels=HARD):
    """Files of three images and their masks: ID is another text in each, and N another number in each file."""
    ids = ("a 7", "b8", "ä9") if "img_" not in image else ("1", "2", "3")
    files = {}
    for id_ in ids:
        for pattern, content in ((image, PHOTO), *((each, pixels) for each in mask.split())):
            files[pattern.replace("ID", id_).replace("N", f"{len(files)}x")] = content
    return files


# What is common among public data sets and in laboratories: paths of images, those of masks, and the classes.
LAYOUTS = [
    ("images/ID.png", "masks/ID.png", HARD, ["object"]),
    ("images/ID.png", "masks/ID_mask.png", HARD, ["object"]),
    ("images/ID.png", "masks/cell/ID_cell.png masks/nucleus/ID_nucleus.png", HARD, ["cell", "nucleus"]),
    ("images/ID.png", "masks/ID_cell.png masks/ID_nucleus.png", HARD, ["cell", "nucleus"]),
    ("images/ID.png", "cell/ID.png nucleus/ID.png", HARD, ["cell", "nucleus"]),
    ("images/day1/ID.png", "masks/cell/ID.png", HARD, ["cell"]),
    ("images/img_ID.png", "masks/mask_ID.png", HARD, ["object"]),
    ("img_ID.png", "mask_img_ID.png", HARD, ["object"]),
    ("ID.png", "ID_mask.png", HARD, ["object"]),
    ("ID/image.png", "ID/mask.png", HARD, ["object"]),
    ("stage1/ID/images/ID.png", "stage1/ID/masks/N.png stage1/ID/masks/N_.png", HARD, ["object"]),
    ("train/ID.png", "train_masks/ID_mask.gif", HARD, ["object"]),
    ("Bilder/ID.png", "Umrisse/ID.png", HARD, ["umrisse"]),
    ("images/ID.jpg", "masks/ID.jpg", HARD, ["object"]),
    ("train/ID.png", "trainannot/ID.png", CLASSES, ["class1", "class2"]),
    ("images/ID.png", "labels/ID.png", COLORS, ["class1", "class2", "class3"]),
]


@pytest.mark.parametrize(("image", "mask", "pixels", "names"), LAYOUTS)
def test_flags_of_a_message_join_images_with_masks(tmp_path, image, mask, pixels, names):
    files = data_set(image, mask, pixels)
    write(tmp_path, files)
    message = hint(tmp_path)
    assert "These flags join 3 images with masks: --data." in message
    flags = shlex.split(message.partition("with masks: ")[2].removesuffix(".").replace("--data.", "--"))
    config = tyro.cli(DataConfig, args=[*flags, "--root", str(tmp_path)])
    layout = find_layout(config)
    assert list(layout.class_names) == names
    used = {path for record in layout.records for path in record.files}
    assert used == {tmp_path / name for name in files}
    for record in layout.records:  # each image with its own masks
        assert all(record.id in str(path.relative_to(tmp_path)) for path in record.files)
        if not config.index_map:
            for paths in record.masks:
                for path in paths:
                    np.testing.assert_array_equal(read_mask(path, threshold=config.mask_threshold), HARD)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "Expected .*/images/ID"),
        ({f"{i}.png": PHOTO for i in range(4)}, "Expected .*/images/ID"),
        ({f"a/{i}.png": PHOTO for i in range(4)} | {f"b/{i}x.png": PHOTO for i in range(4)}, "Expected .*/images/ID"),
        (
            {"train/images/1.png": PHOTO, "train/masks/1.png": HARD, "val/images/2.png": PHOTO},
            "no class folders.*CLASS/.$",
        ),
    ],
)
def test_nothing_is_guessed_where_nothing_fits(tmp_path, files, words):
    write(tmp_path, files)
    with pytest.raises(InputError, match=words) as caught:
        find_layout(DataConfig(root=str(tmp_path)))
    assert "These flags" not in str(caught.value)


def test_a_root_one_folder_too_deep_is_named(tmp_path):
    write(tmp_path, data_set("images/ID.png", "masks/cell/ID.png"))
    assert hint(tmp_path / "images").endswith(f"Use --data.root {tmp_path}.")


def test_of_many_names_few_patterns_are_tried():
    """Each folder has patterns of its own, and all pairs of patterns would be tried."""
    names = [f"im{i}/masks/{i}x{j}.png" for i in range(100) for j in range(5)] + [
        f"im{i}/im{i}.png" for i in range(100)
    ]
    groups = _groups({name: epath.Path(name) for name in names})
    assert len(groups) <= 60
    assert {"{id}/masks/*", "{id}/{id}.png"} <= {group.pattern for group in groups}
