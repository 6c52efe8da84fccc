"""The made-up data set: the same from a seed everywhere, and readable like any other."""

import cv2
import numpy as np
import pytest
from etils import epath

from unet_jax._types import InputError
from unet_jax.config import DataConfig
from unet_jax.data.audit import audit_source
from unet_jax.data.layout import find_layout
from unet_jax.data.sources import FileSource
from unet_jax.data.splits import assign_splits
from unet_jax.data.synthetic import class_names, synthetic_sample, write_synthetic

NUMBERS = {"num_images": 5, "image_size": 24, "num_classes": 3, "seed": 7}


def write(out, **numbers):
    return write_synthetic(epath.Path(out), **(NUMBERS | numbers))


def contents(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_same_seed_same_bytes(tmp_path):
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        write(tmp_path / name, seed=seed)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert len(contents(tmp_path / "a")) == 5 * (1 + 3) + 1
    a, c = contents(tmp_path / "a"), contents(tmp_path / "c")
    assert [name for name in a if a[name] == c[name]] == ["splits.csv"]


def test_an_image_does_not_depend_on_how_many_there_are(tmp_path):
    write(tmp_path / "few")
    write(tmp_path / "many", num_images=8)
    few, many = contents(tmp_path / "few"), contents(tmp_path / "many")
    assert all(many[name] == content for name, content in few.items() if name != "splits.csv")


def test_images_of_one_set_differ(tmp_path):
    write(tmp_path, num_images=12)
    images = [content for name, content in contents(tmp_path).items() if name.startswith("images")]
    assert len(images) == len(set(images)) == 12


def test_class_names_repeat_with_numbers():
    assert class_names(2) == ("disk", "square")
    assert class_names(12) == (
        "disk", "square", "ring", "triangle", "cross", "disk2", "square2", "ring2", "triangle2", "cross2", "disk3",
        "square3",
    )  # fmt: skip


@pytest.mark.parametrize("num_classes", [1, 2, 7])
@pytest.mark.parametrize("image_size", [8, 33])
def test_sample_has_every_class_in_hard_pixels(image_size, num_classes):
    for seed in range(20):
        sample = synthetic_sample(np.random.default_rng(seed), image_size, num_classes)
        assert sample.image.shape == (image_size, image_size, 3)
        assert sample.mask.shape == (image_size, image_size, num_classes)
        assert sample.image.dtype == sample.mask.dtype == np.uint8
        assert set(np.unique(sample.mask)) == {0, 255}
        assert sample.mask.any(axis=(0, 1)).all()


def test_one_to_three_shapes_of_a_class():
    """Disks are counted as connected parts; overlapping ones are one part."""
    parts = [
        cv2.connectedComponents(synthetic_sample(np.random.default_rng(seed), 96, 1).mask[..., 0])[0] - 1
        for seed in range(60)
    ]
    assert set(parts) == {1, 2, 3}


def test_shapes_have_the_areas_of_their_geometry():
    """A disk fills pi/4 of its box, a ring is open in its middle, a triangle fills less than a disk."""
    fills = {name: [] for name in class_names(5)}
    for seed in range(60):
        mask = synthetic_sample(np.random.default_rng(seed), 128, 5).mask
        for name, plane in zip(fills, np.moveaxis(mask > 0, -1, 0), strict=True):
            assert 3.14 * 0.1**2 * 0.2 < plane.mean() < 3 * 0.5 * 0.5
            rows, columns = np.nonzero(plane)
            fills[name].append(plane.sum() / ((np.ptp(rows) + 1) * (np.ptp(columns) + 1)))
    assert abs(max(fills["disk"]) - np.pi / 4) < 0.03  # of a single disk; several fill less of their common box
    assert abs(max(fills["ring"]) - np.pi / 4 * (1 - 0.55**2)) < 0.08
    assert max(fills["triangle"]) < max(fills["disk"]) - 0.1


def test_files_are_read_back_as_drawn_with_overlap_and_splits(tmp_path):
    names = write(tmp_path, num_images=10, image_size=48)
    config = DataConfig(root=str(tmp_path), classes=names, splits=str(tmp_path / "splits.csv"))
    layout = find_layout(config)
    assert layout.class_names == names
    source = FileSource(layout, layout.records)
    for i, sample in enumerate(source):
        expected = synthetic_sample(np.random.default_rng((7, i)), 48, 3)
        np.testing.assert_array_equal(sample.image, expected.image)
        np.testing.assert_array_equal(sample.mask, expected.mask)
    audit = audit_source(source, names, skip_bad=False)
    off_diagonal = np.array(audit.overlap)[~np.eye(3, dtype=bool)]
    assert (off_diagonal > 0.02).all()
    assert (off_diagonal < 0.9).all()
    assert audit.duplicates == ()
    assert {name: len(ids) for name, ids in assign_splits(layout, config).items()} == {"train": 6, "val": 2, "test": 2}


def test_writing_again_is_allowed_and_changes_nothing(tmp_path):
    write(tmp_path)
    before = contents(tmp_path)
    (tmp_path / ".DS_Store").write_bytes(b"")
    write(tmp_path)
    (tmp_path / ".DS_Store").unlink()
    assert contents(tmp_path) == before


@pytest.mark.parametrize("foreign", ["notes.txt", "images/photo.jpg", "masks/cell/0000.png"])
def test_folder_with_other_files_is_refused_untouched(tmp_path, foreign):
    path = tmp_path / foreign
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")
    (tmp_path / "splits.csv").write_text("id,split\n")
    before = contents(tmp_path)
    with pytest.raises(InputError, match=rf"already holds other files, such as .*{foreign}\. Choose another folder"):
        write(tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("other", [{"num_images": 4}, {"num_classes": 2}])
def test_leftovers_of_a_larger_set_are_not_mixed_with_a_smaller(tmp_path, other):
    write(tmp_path)
    with pytest.raises(InputError, match="already holds other files"):
        write(tmp_path, **other)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(InputError, match="already holds other files"):
        write(tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "value", "least"), [("num_images", 0, 1), ("image_size", 7, 8), ("num_classes", 0, 1)]
)
def test_numbers_that_are_too_small_are_refused(tmp_path, name, value, least):
    with pytest.raises(InputError, match=f"{name} is {value}, but must be at least {least}"):
        write(tmp_path / "out", **{name: value})
    assert not (tmp_path / "out").exists()
