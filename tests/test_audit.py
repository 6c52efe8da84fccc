"""The audit's numbers on files small enough to count by hand."""

import dataclasses
import json
import pathlib
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from unet_jax._types import InputError, Sample
from unet_jax.config import DataConfig
from unet_jax.data.audit import Audit, audit_source, cannot_choose, problems_of, summarise
from unet_jax.data.fit import Fit, fit_of
from unet_jax.data.layout import find_layout
from unet_jax.data.pixels import resize_mask
from unet_jax.data.sample_facts import facts_of, pixel_digest
from unet_jax.data.sources import FileSource
from unet_jax.data.survey import survey_source
from unet_jax.report.audit_text import remarks


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def plane(height, width, *cells):
    pixels = np.zeros((height, width), np.uint8)
    for row, column in cells:
        pixels[row, column] = 255
    return pixels


def write_three(root):
    """a: 2x4 pixels, cell in 4 of 8, nucleus in 2 of them and 1 beside; b: 5x2, cell in 1 of 10; c: like a, empty."""
    gray = np.arange(8, dtype=np.uint8).reshape(2, 4)
    save(root / "images" / "a.png", gray)
    save(root / "images" / "b.png", np.zeros((5, 2), np.uint8))
    save(root / "images" / "c.png", gray)
    save(root / "masks" / "cell" / "a.png", plane(2, 4, (0, 0), (0, 1), (0, 2), (0, 3)))
    save(root / "masks" / "nucleus" / "a.png", plane(2, 4, (0, 2), (0, 3), (1, 3)))
    save(root / "masks" / "cell" / "b.png", plane(5, 2, (4, 1)))
    save(root / "masks" / "nucleus" / "b.png", plane(5, 2))
    save(root / "masks" / "cell" / "c.png", plane(2, 4))
    save(root / "masks" / "nucleus" / "c.png", plane(2, 4))


def audit_of(root, *, skip_bad=False, **options):
    layout = find_layout(DataConfig(root=str(root)))
    return audit_source(FileSource(layout, layout.records), layout.class_names, skip_bad=skip_bad, **options)


def test_audit_counts_what_one_can_count_by_hand(tmp_path):
    write_three(tmp_path)
    audit = audit_of(tmp_path)
    assert audit.ids == ("a", "b", "c")
    assert audit.class_names == ("cell", "nucleus")
    np.testing.assert_allclose(audit.prevalence, [(4 / 8 + 1 / 10 + 0) / 3, (3 / 8 + 0 + 0) / 3], rtol=1e-12)
    assert audit.num_empty == (1, 2)
    np.testing.assert_allclose(audit.overlap, [[1, 2 / 5], [2 / 3, 1]], atol=1e-6)
    assert (audit.smallest, audit.largest) == ((2, 2), (5, 4))
    assert audit.duplicates == (("a", "c"),)
    assert audit.bad == ()


def test_dark_images_are_found(tmp_path):
    """12 bits in a file of 16, and the same stretched; 31 and 32 of 255."""
    full = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    pixels = {"a": full, "b": full * 16, "c": np.full((2, 2), 31, np.uint8), "d": np.full((2, 2), 32, np.uint8)}
    for name, image in pixels.items():
        save(tmp_path / "images" / f"{name}.png", image)
        save(tmp_path / "masks" / "cell" / f"{name}.png", plane(*image.shape, (0, 0)))
    assert audit_of(tmp_path).dark == ("a", "c")


def test_audit_is_json(tmp_path):
    write_three(tmp_path)
    values = json.loads(json.dumps(audit_of(tmp_path).to_dict()))
    assert values["num_empty"] == [1, 2]
    assert values["duplicates"] == [["a", "c"]]


def test_soft_pixels_count_from_one_half_on(tmp_path):
    save(tmp_path / "images" / "a.png", np.zeros((1, 4), np.uint8))
    save(tmp_path / "masks" / "cell" / "a.png", np.array([[0, 127, 128, 255]], np.uint8))
    layout = find_layout(DataConfig(root=str(tmp_path)))
    source = FileSource(layout, layout.records, soft_masks=True)
    assert audit_source(source, ["cell"], skip_bad=False).prevalence == (0.5,)


def test_large_images_are_counted_exactly(tmp_path):
    """float32 has no odd number above 2**24 = 16,777,216: here are 4096 * 4608 - 1 = 18,874,367 pixels inside."""
    save(tmp_path / "images" / "a.png", np.zeros((1, 1), np.uint8))
    save(tmp_path / "masks" / "cell" / "a.png", np.zeros((1, 1), np.uint8))
    mask = np.full((4096, 4608, 1), 255, np.uint8)
    mask[0, 0] = 0
    layout = find_layout(DataConfig(root=str(tmp_path)))

    class LargeSource(FileSource):
        def __getitem__(self, index):
            return Sample(np.broadcast_to(np.uint8(0), (4096, 4608, 3)), mask)

    audit = audit_source(LargeSource(layout, layout.records), ["cell"], skip_bad=False)
    assert audit.prevalence == (18_874_367 / 18_874_368,)


def test_bad_samples_are_an_error_that_lists_files(tmp_path):
    write_three(tmp_path)
    save(tmp_path / "masks" / "cell" / "b.png", plane(5, 3))
    (tmp_path / "images" / "c.png").write_bytes(b"")
    with pytest.raises(InputError) as caught:
        audit_of(tmp_path)
    text = str(caught.value)
    assert text.startswith("2 of 3 samples cannot be used:")
    assert "masks/cell/b.png: is 3x5 pixels" in text
    assert "images/c.png: is not an image" in text
    assert "--data.on-bad-sample skip" in text


def test_bad_samples_are_skipped_counted_and_left_out_of_the_numbers(tmp_path):
    write_three(tmp_path)
    save(tmp_path / "masks" / "cell" / "b.png", plane(5, 3))
    audit = audit_of(tmp_path, skip_bad=True)
    assert audit.ids == ("a", "c")
    assert len(audit.bad) == 1
    assert "masks/cell/b.png" in audit.bad[0]
    np.testing.assert_allclose(audit.prevalence, [2 / 8, 3 / 16], rtol=1e-12)
    assert audit.largest == (2, 4)


def test_long_lists_of_bad_samples_are_cut(tmp_path):
    for i in range(12):
        save(tmp_path / "images" / f"{i:02d}.png", np.zeros((1, 4), np.uint8))
        save(tmp_path / "masks" / "cell" / f"{i:02d}.png", np.zeros((2, 4), np.uint8))
    with pytest.raises(InputError, match=r"12 of 12 samples(?s:.*)cell/09\.png(?s:.*)and 2 more"):
        audit_of(tmp_path)
    with pytest.raises(InputError, match=r"no sample can be used:(?s:.*)cell/00\.png"):
        audit_of(tmp_path, skip_bad=True)


def test_class_without_a_pixel_is_an_error_that_names_it(tmp_path):
    write_three(tmp_path)
    save(tmp_path / "masks" / "nucleus" / "a.png", plane(2, 4))
    with pytest.raises(InputError, match=r"class nucleus: no pixel in any of the 3 images.*--data\.classes"):
        audit_of(tmp_path)


@pytest.mark.parametrize("num_threads", [1, 3])
def test_progress_reaches_the_total(tmp_path, num_threads):
    write_three(tmp_path)
    save(tmp_path / "masks" / "cell" / "b.png", plane(5, 3))
    seen = []
    audit_of(tmp_path, skip_bad=True, num_threads=num_threads, on_progress=lambda *numbers: seen.append(numbers))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_wbc_facts_are_found():
    """Real data; shared/data/README.md: 300 images of 88 to 120 pixels, 112 and 139 identical, nucleus inside cell."""
    root = pathlib.Path(__file__).parent.parent.parent / "shared" / "data" / "wbc_d1"
    if not root.is_dir():
        pytest.skip(f"{root} is not there")
    audit = audit_of(root)
    assert len(audit.ids) == 300
    assert audit.duplicates == (("112", "139"),)
    assert (audit.smallest, audit.largest) == ((88, 88), (120, 120))
    assert audit.overlap[1][0] == 1.0


def write_splits(root):
    """train: a with cell and nucleus. val: b with a cell of one pixel. test: c with cell, d that cannot be read."""
    for id_ in "abcd":
        save(root / "images" / f"{id_}.png", np.full((8, 8), 40 + ord(id_), np.uint8))
        save(root / "masks" / "nucleus" / f"{id_}.png", plane(8, 8, *([(0, 0), (0, 1)] if id_ == "a" else [])))
    save(root / "masks" / "cell" / "a.png", plane(8, 8, (0, 0), (0, 1), (1, 0), (1, 1), (6, 6)))
    save(root / "masks" / "cell" / "b.png", plane(8, 8, (4, 4)))
    save(root / "masks" / "cell" / "c.png", plane(8, 8, (5, 5), (5, 6), (4, 5), (0, 7)))
    save(root / "masks" / "cell" / "d.png", plane(8, 9))


def square(side):
    return Fit((side, side))


SPLITS = {"train": ["a"], "val": ["b"], "test": ["c", "d"]}


def test_each_split_is_counted_at_both_sizes(tmp_path):
    """At 4x4, the pixel of column and row i is (2i + 1, 2i + 1) of 8x8, which is nearest to its centre 2i + 0.5.

    (Both 2i and 2i + 1 are half a pixel away; OpenCV's exact nearest neighbour takes the second.)
    """
    write_splits(tmp_path)
    audit = audit_of(tmp_path, splits=SPLITS, fit=square(4))
    train, val, test = (audit.splits[name] for name in ("train", "val", "test"))
    assert (train.num_images, val.num_images, test.num_images) == (1, 1, 1)
    assert (train.num_with, val.num_with, test.num_with) == ((1, 1), (1, 0), (1, 0))
    assert (train.num_seen, val.num_seen, test.num_seen) == ((1, 0), (0, 0), (1, 0))
    assert (train.num_objects, val.num_objects, test.num_objects) == ((2, 1), (1, 0), (2, 0))
    assert (train.num_vanished, val.num_vanished, test.num_vanished) == ((1, 1), (1, 0), (1, 0))
    assert audit.vanished == {"cell": ("b",), "nucleus": ("a",)}
    assert audit.enlarged == 2 * ("--data.image-size 8",) and audit.seen_at == "4x4"
    np.testing.assert_allclose(train.prevalence, [5 / 64, 2 / 64], rtol=1e-12)
    # What training uses does not depend on test.
    assert audit.ids == ("a", "b")
    np.testing.assert_allclose(audit.prevalence, [3 / 64, 1 / 64], rtol=1e-12)


def test_bad_samples_of_test_are_no_error_but_are_known(tmp_path):
    write_splits(tmp_path)
    audit = audit_of(tmp_path, splits=SPLITS)
    assert audit.bad == () and len(audit.bad_test) == 1 and "cell/d.png: is 9x8 pixels" in audit.bad_test[0]
    with pytest.raises(InputError, match=r"1 of 3 samples cannot be used:(?s:.*)cell/d.png"):
        audit_of(tmp_path, splits={"train": ["a"], "val": ["b", "d"], "test": ["c"]})


def test_without_a_size_nothing_vanishes(tmp_path):
    write_splits(tmp_path)
    audit = audit_of(tmp_path, splits=SPLITS)
    assert audit.vanished == {"cell": (), "nucleus": ()}
    assert audit.splits["train"].num_seen == audit.splits["train"].num_with


def test_a_rectangle_is_seen_with_its_own_height_and_width(tmp_path):
    """Of 8 columns none is lost, of 8 rows every second: 4x8 keeps a vertical line and loses row 0."""
    save(tmp_path / "images" / "a.png", np.full((8, 8), 99, np.uint8))
    save(tmp_path / "masks" / "line" / "a.png", plane(8, 8, *((row, 2) for row in range(8))))
    save(tmp_path / "masks" / "row" / "a.png", plane(8, 8, *((0, column) for column in range(8))))
    audit = audit_of(tmp_path, splits={"train": ["a"]}, fit=Fit((4, 8)))
    assert audit.splits["train"].num_seen == (1, 0) and audit.seen_at == "8x4"
    assert audit.enlarged == ("--data.image-size 4 8", "--data.image-size 8 16")


def planes(draw, sides=(1, 40)):
    height, width = draw(st.integers(*sides)), draw(st.integers(*sides))
    share = draw(st.sampled_from([0.03, 0.2, 0.5]))
    return np.random.default_rng(draw(st.integers(0, 2**32))).random((height, width)) < share


@given(st.composite(planes)(), st.tuples(st.integers(1, 24), st.integers(1, 24)))
def test_objects_and_what_vanishes_agree_with_resizing_each_object_alone(inside, size):
    """SciPy finds the objects; each is resized by itself with the function that makes the network's masks."""

    def num_left(height, width):
        alone = [(labels == i + 1).astype(np.uint8)[..., None] * np.uint8(255) for i in range(count)]
        return sum(bool((resize_mask(mask, height, width) >= 128).any()) for mask in alone)

    labels, count = ndimage.label(inside, np.ones((3, 3)))
    mask = inside[..., None].astype(np.uint8) * np.uint8(255)
    facts = facts_of(Sample(np.zeros((*inside.shape, 1), np.uint8), mask), Fit(size))
    assert facts.num_objects[0] == count
    assert facts.num_vanished[0] == count - num_left(*size)
    assert facts.num_seen[0] == (resize_mask(mask, *size) >= 128).sum()
    # The remedy works, and is a multiple of the size that the poolings divide.
    assert num_left(*(side * facts.growth_for_all[0] for side in size)) == count


@given(st.integers(0, 2**32), st.integers(2, 30))
def test_objects_vanish_bilinearly_as_each_does_alone(seed, size):
    """Objects too far from each other to touch the same pixel of the resized mask."""
    rng = np.random.default_rng(seed)
    corners = [(y, x) for y in (2, 32) for x in (2, 32)]
    mask = np.zeros((60, 60, 1), np.uint8)
    alone = []
    for y, x in corners:
        height, width = rng.integers(1, 12, 2)
        alone.append(np.zeros_like(mask))
        alone[-1][y : y + height, x : x + width] = 255
        mask |= alone[-1]
    facts = facts_of(Sample(np.zeros((60, 60, 3), np.uint8), mask), square(size), linear_masks=True)
    apart = size > 8  # 60 / 8 = 7.5: closer taps belong to one object only
    left = sum(bool((resize_mask(one, size, size, linear=True) >= 128).any()) for one in alone)
    if apart:
        assert facts.num_vanished[0] == len(corners) - left
    for_all = size * int(facts.growth_for_all[0])
    assert all((resize_mask(one, for_all, for_all, linear=True) >= 128).any() for one in alone)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_histograms_of_any_channels_and_depth(dtype, channels):
    white = np.iinfo(dtype).max
    image = np.random.default_rng(0).integers(0, white, (33, 21, channels), dtype, endpoint=True)
    image[0, 0, 0] = white
    facts = facts_of(Sample(image, np.zeros((33, 21, 1), np.uint8)), square(16))
    expected = [np.histogram(image[..., c], bins=256, range=(0, int(white) + 1))[0] for c in range(channels)]
    np.testing.assert_array_equal(facts.histogram, expected)
    assert facts.brightest == 255


def test_copies_are_found_by_pixels_in_files_of_any_kind_and_split(tmp_path):
    """PNG, BMP, TIFF and a PNG compressed in another way hold the same pixels; one more differs by 1 in one pixel."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    names = {"a": "a.png", "b": "b.bmp", "c": "c.tif", "d": "d.png"}
    for id_, name in names.items():
        save(tmp_path / "images" / name, pixels)
        save(tmp_path / "masks" / "cell" / f"{id_}.png", plane(6, 5, (0, 0)))
    Image.fromarray(pixels).save(tmp_path / "images" / "d.png", compress_level=0)
    other = pixels.copy()
    other[3, 3, 1] ^= 1
    save(tmp_path / "images" / "e.png", other)
    save(tmp_path / "masks" / "cell" / "e.png", plane(6, 5, (0, 0)))
    audit = audit_of(tmp_path, splits={"train": ["a", "e"], "val": ["b"], "test": ["c", "d"]})
    assert audit.duplicates == (("a", "b", "c", "d"),)
    assert audit.digests["a"] == audit.digests["c"] != audit.digests["e"]
    assert json.loads(json.dumps(audit.to_dict()))["digests"]["a"] == pixel_digest(pixels)


def test_digests_tell_shapes_and_depths_apart():
    row = np.arange(12, dtype=np.uint8)
    arrays = [row.reshape(3, 4, 1), row.reshape(4, 3, 1), row.reshape(2, 2, 3), row.view(np.uint16).reshape(2, 3, 1)]
    assert len({pixel_digest(array) for array in arrays}) == len(arrays)
    view = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)[:, ::2]
    assert pixel_digest(view) == pixel_digest(view.copy())


def problems(root, splits, *, skip_bad=False, fit=None):
    layout = find_layout(DataConfig(root=str(root)))
    source = FileSource(layout, layout.records)
    audit = summarise(survey_source(source, fit=fit), layout.class_names, splits)
    return audit, problems_of(audit, skip_bad=skip_bad)


def test_what_makes_training_impossible_is_said_all_at_once(tmp_path):
    write_splits(tmp_path)
    save(tmp_path / "masks" / "nucleus" / "a.png", plane(8, 8))
    _, found = problems(tmp_path, {"train": ["a"], "val": ["d"], "test": ["b"]})
    assert len(found) == 3
    assert "1 of 2 samples cannot be used" in found[0]
    assert "no sample of the split 'val' can be used" in found[1]
    assert "class nucleus: no pixel in any of the 1 images" in found[2]


def test_a_network_that_would_see_nothing_is_refused_with_the_size_that_helps(tmp_path):
    save(tmp_path / "images" / "a.png", np.full((8, 8), 99, np.uint8))
    save(tmp_path / "masks" / "cell" / "a.png", plane(8, 8, (0, 0)))
    _, found = problems(tmp_path, {"train": ["a"]}, fit=square(2))
    assert (
        len(found) == 1
        and "no pixel of any class is left in train at 2x2" in found[0]
        and "--data.image-size 8 keeps" in found[0]
    )
    assert problems(tmp_path, {"train": ["a"]}, fit=square(8))[1] == []


def test_val_without_objects_cannot_choose_a_checkpoint(tmp_path):
    write_splits(tmp_path)
    save(tmp_path / "masks" / "cell" / "d.png", plane(8, 8))
    audit, found = problems(tmp_path, {"train": ["a"], "val": ["d"]})
    assert found == [] and "no class has a pixel in val, so" in cannot_choose(audit)
    audit, _ = problems(tmp_path, {"train": ["a"], "val": ["b"]}, fit=square(4))
    assert "no class has a pixel in val at 4x4, the size that the network sees, so" in cannot_choose(audit)
    audit, _ = problems(tmp_path, {"train": ["a"], "val": ["b"]}, fit=square(8))
    assert cannot_choose(audit) == ""


@pytest.mark.parametrize(("num_full", "is_said"), [(18, False), (19, True), (20, True)])
def test_a_class_that_covers_most_of_nearly_every_image_is_said(tmp_path, num_full, is_said):
    """Of 20 images, 18 are 0.9 and not more; 91 of 100 pixels are more than 0.9 of them, 90 are not."""
    for i in range(20):
        mask = np.full((10, 10), 255, np.uint8)
        mask.flat[: 9 if i < num_full else 10] = 0
        save(tmp_path / "images" / f"{i}.png", np.full((10, 10), i, np.uint8))
        save(tmp_path / "masks" / "cell" / f"{i}.png", mask)
        save(tmp_path / "masks" / "rare" / f"{i}.png", 255 - mask)
    config = DataConfig(root=str(tmp_path))
    layout = find_layout(config)
    audit = audit_of(tmp_path)
    assert audit.num_covered == (num_full, 0)
    said = [line for line in remarks(audit, layout, {"train": list(audit.ids)}, config) if "covers" in line]
    expected = (
        f"WARNING: class cell covers more than 90% of the pixels in {num_full} of 20 images. If it should not, its "
        f"masks are inverted: save them again with white inside and black outside."
    )
    assert said == ([expected] if is_said else [])


def remarks_of(sizes, **settings):
    """Remarks that name sizes, about images of these heights and widths by id."""
    audit = dataclasses.replace(EMPTY, sizes=sizes, seen_at=fit_of(DataConfig(**settings)).text)
    layout = SimpleNamespace(records=(), bad=(), unread={})
    return remarks(audit, layout, {"train": list(sizes)}, DataConfig(**settings))


EMPTY = Audit(("a",), (), (), (), (), (8, 8), (8, 8), (), (), ())


def test_images_that_resizing_distorts_are_said():
    """100x149 at a square changes the ratio by 1.49, 100x151 by 1.51; at 100x150 both keep theirs."""
    sizes = {"a": (100, 149), "b": (100, 151), "c": (151, 100)}
    (line,) = remarks_of(sizes, image_size=64)
    assert "WARNING: 2 images are distorted at 64x64" in line and "the first is 'b' (151x100)" in line
    (line,) = remarks_of(sizes, image_size=(64, 96))
    assert "1 images are distorted at 96x64" in line and "'c' (100x151)" in line
    assert remarks_of(sizes, image_size=64, fit="crop") == []


def test_training_images_smaller_than_crops_are_said():
    sizes = {"a": (64, 64), "b": (63, 200), "c": (200, 63)}
    (line,) = remarks_of(sizes, image_size=64, fit="crop")
    assert "WARNING: 2 of 3 training images are smaller than crops of 64x64" in line and "'b' (200x63)" in line
    (line,) = remarks_of(sizes, image_size=(32, 64), fit="crop")
    assert line.startswith("1 of 3") and "'c' (63x200)" in line
    assert remarks_of(sizes, image_size=(32, 64), fit="crop", scale=2.0) == []
