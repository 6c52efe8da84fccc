"""The audit's numbers on files small enough to count by hand."""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from unet_jax._types import InputError, Sample
from unet_jax.config import DataConfig
from unet_jax.data.audit import audit_source
from unet_jax.data.layout import find_layout
from unet_jax.data.sources import FileSource


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
