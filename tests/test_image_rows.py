"""Images in blocks of rows: the same pixels as decoding at once, in every kind of storage; scaling; files in rows."""

from pathlib import Path

import cv2
import hypothesis.strategies as st
import numpy as np
import pytest
import tifffile
from etils import epath
from hypothesis import given
from PIL import Image

from unet_jax.data.fit import scaled_size
from unet_jax.data.images import rows as image_rows
from unet_jax.data.images.files import read_pixels
from unet_jax.data.images.format import ImageFormat
from unet_jax.data.images.rows import ImageRows, open_rows
from unet_jax.data.images.scaling import resize_rows, scaled
from unet_jax.data.images.tiff_rows import open_tiff_rows
from unet_jax.data.pixels import BadSampleError, resize_image, resize_probs
from unet_jax.metrics.objects import ObjectFinder
from unet_jax.report.row_files import NpyRows, PngRows, TiffRows

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (101, 73, 3), np.uint8)
DEEP = RNG.integers(0, 65536, (101, 73), np.uint16)
PAGES = RNG.integers(0, 65536, (4, 101, 73), np.uint16)
ZLIB = {"compression": "zlib"}

STORED = {
    "one strip": (RGB, {"photometric": "rgb"}),
    "strips": (RGB, {"photometric": "rgb", "rowsperstrip": 16, **ZLIB}),
    "tiles": (RGB, {"photometric": "rgb", "tile": (32, 16), "predictor": True, **ZLIB}),
    "plain tiles": (RGB, {"photometric": "rgb", "tile": (32, 16)}),
    "lzw": (RGB, {"photometric": "rgb", "rowsperstrip": 50, "compression": "lzw"}),
    "jpeg": (RGB, {"photometric": "rgb", "tile": (32, 32), "compression": "jpeg"}),
    "alpha": (
        np.dstack([RGB, RGB[..., :1]]),
        {"photometric": "rgb", "extrasamples": ["unassalpha"], "rowsperstrip": 9, **ZLIB},
    ),
    "deep": (DEEP, {"rowsperstrip": 7, **ZLIB}),
    "big endian": (DEEP, {"byteorder": ">"}),
    "big endian strips": (DEEP, {"byteorder": ">", "rowsperstrip": 30, **ZLIB}),
    "float": (RNG.random((101, 73), np.float32), {"rowsperstrip": 32, "predictor": True, **ZLIB}),
    "planes": (np.moveaxis(RGB, -1, 0).copy(), {"photometric": "rgb", "planarconfig": "separate"}),
    "pages": (PAGES, {"photometric": "minisblack", "rowsperstrip": 32, **ZLIB}),
    "ome": (PAGES, {"photometric": "minisblack", "ome": True, "metadata": {"axes": "CYX"}, "tile": (32, 32), **ZLIB}),
}
WHOLE = {
    "planes in strips": (np.moveaxis(RGB, -1, 0).copy(), {"photometric": "rgb", "planarconfig": "separate", **ZLIB}),
    "white is 0": (DEEP, {"photometric": "miniswhite"}),
    "rotated": (RGB, {"photometric": "rgb", "extratags": [(274, 3, 1, 6, True)]}),
}


def test_pages_of_a_large_array_do_not_stay_in_memory(tmp_path, monkeypatch):
    status = Path("/proc/self/status")
    if not status.exists() or "RssFile" not in status.read_text():
        pytest.skip("needs Linux, which tells how much of mapped files is in memory")

    def mapped_mib():
        return int(status.read_text().split("RssFile:")[1].split()[0]) / 1024

    monkeypatch.setattr(image_rows, "LARGE_BYTES", 2**20)
    np.save(tmp_path / "image.npy", np.full((8000, 1000, 4), 7, np.uint8))
    image = open_rows((epath.Path(tmp_path / "image.npy"),), ImageFormat((0, 1, 2, 3), 4))
    before, most, total = mapped_mib(), 0.0, 0
    for block in image.blocks():
        most, total = max(most, mapped_mib() - before), total + int(block.sum(dtype=np.int64))
    assert total == 7 * 32_000_000 and most < 8  # of 31 MiB


@pytest.mark.parametrize("name", [*STORED, *WHOLE])
def test_tiff_files_come_in_rows_as_they_are_decoded_at_once(tmp_path, name):
    pixels, options = (STORED | WHOLE)[name]
    path = epath.Path(tmp_path / "image.tif")
    tifffile.imwrite(path, pixels, **options)
    found = open_tiff_rows(path, pages="channels", least_bytes=0)
    assert (found is None) == (name in WHOLE)
    if found is None:
        return
    expected = read_pixels(path, pages="channels")
    got = np.concatenate(list(found.blocks()))
    assert (found.height, found.width) == expected.shape[:2] and got.dtype == expected.dtype
    np.testing.assert_array_equal(got, expected)
    assert open_tiff_rows(path, pages="channels", least_bytes=10**9) is None


def test_files_are_opened_in_the_run_s_format(tmp_path, monkeypatch):
    """Against `ImageFormat.read`, which decodes at once."""
    monkeypatch.setattr(image_rows, "LARGE_BYTES", 0)
    monkeypatch.setattr(image_rows, "_BLOCK_BYTES", 3000)
    limits = ImageFormat((1, 0), 2, 16, (10.0, 0.0), (60000.0, 50000.0))
    two = np.moveaxis(PAGES[:2], 0, -1)
    for name, pixels, image_format in (
        ("c.npy", np.ascontiguousarray(two), limits),
        ("fortran.npy", np.asfortranarray(two), limits),
        ("big.npy", two.astype(">u2"), limits),
        ("gray.npy", RGB[..., 0], ImageFormat()),
        ("rgb.tif", RGB, ImageFormat()),
        ("percentiles.tif", RGB, ImageFormat(bits=16, percentiles=(1.0, 99.0))),
    ):
        path = epath.Path(tmp_path / name)
        if name.endswith(".npy"):
            np.save(path, pixels)
        else:
            tifffile.imwrite(path, pixels, photometric="rgb")
        image = open_rows((path,), image_format)
        assert (len(list(image.blocks())) > 1) == name.endswith(".npy")
        np.testing.assert_array_equal(image.whole(), image_format.read((path,)))
    with pytest.raises(BadSampleError, match=r"rgb.tif: has 3 channels, but this run's images have 2"):
        open_rows((epath.Path(tmp_path / "rgb.tif"),), limits).whole()
    with pytest.raises(BadSampleError, match=r"none.tif: cannot be read"):
        open_rows((epath.Path(tmp_path / "none.tif"),), limits)
    np.save(tmp_path / "nan.npy", np.where(np.arange(2000)[:, None, None] == 1700, np.nan, np.ones((2000, 2, 2))))
    with pytest.raises(BadSampleError, match=r"nan.npy: has a value that is not finite .nan at row 1700, column 0"):
        open_rows((epath.Path(tmp_path / "nan.npy"),), limits).whole()


def test_damaged_files_say_from_which_row_on(tmp_path):
    path = tmp_path / "cut.tif"
    for options, message in (
        ({"rowsperstrip": 16, **ZLIB}, r"cut.tif: cannot be decoded from row \d\d on"),
        ({}, r"cut.tif: is cut off"),
    ):
        tifffile.imwrite(path, RGB, photometric="rgb", **options)
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
        with pytest.raises(BadSampleError, match=message):
            list(open_tiff_rows(epath.Path(path), pages="error", least_bytes=0).blocks())  # type: ignore[union-attr]


SIDE = st.integers(1, 80)


@given(SIDE, SIDE, st.sampled_from([0.05, 0.25, 0.3, 0.5, 0.77, 1.0, 1.3, 2.0, 3.1]), st.integers(1, 20))
def test_scaled_rows_are_opencv_s_whole_resize(height, width, scale, block):
    image = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
    rows = ImageRows(height, width, lambda: (image[i : i + block] for i in range(0, height, block)))
    expected = resize_image(image, *scaled_size(height, width, scale))
    got = scaled(rows, scale)
    assert (got.height, got.width) == expected.shape[:2]
    assert np.abs(got.whole().astype(int) - expected.astype(int)).max() <= 1  # half a gray value is rounded either way


@given(SIDE, SIDE, SIDE, SIDE, st.integers(1, 20))
def test_resized_rows_of_probabilities_are_opencv_s(height, width, new_height, new_width, block):
    probs = np.random.default_rng(height).random((height, width, 5), np.float32)
    blocks = (probs[i : i + block] for i in range(0, height, block))
    got = np.concatenate(list(resize_rows(blocks, height, new_height, new_width)))
    np.testing.assert_allclose(got, resize_probs(probs, new_height, new_width), atol=2e-5)


@given(SIDE, SIDE, st.floats(0.0, 1.0), st.integers(1, 20))
def test_objects_across_blocks_are_those_of_the_whole_mask(height, width, share, block):
    """Against SciPy's labels of the whole mask."""
    from scipy import ndimage

    mask = np.random.default_rng(width).random((height, width)) < share
    finder = ObjectFinder()
    for i in range(0, height, block):
        finder.add(mask[i : i + block])
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    expected = []
    for k, (y, x) in enumerate(ndimage.find_objects(labels), start=1):
        box = (y.start, x.start, y.stop - y.start, x.stop - x.start)
        center = ndimage.center_of_mass(mask, labels, k)
        expected.append((*box, int((labels == k).sum()), *np.round(center, 6).tolist()))
    found = finder.objects()
    got = zip(found.box.tolist(), found.area.tolist(), found.centroid.round(6).tolist(), strict=True)
    assert count == len(found.area) and sorted((*b, a, *c) for b, a, c in got) == sorted(expected)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (257, 190)])
def test_files_written_in_rows_hold_the_pixels(tmp_path, size):
    """Read by Pillow, OpenCV and NumPy."""
    height, width = size
    mask = (RNG.random(size) < 0.3).astype(np.uint8) * np.uint8(255)
    probs = RNG.integers(0, 65536, size, np.uint16)
    cube = RNG.random((*size, 3), np.float32)
    files = {
        "mask.png": (PngRows(tmp_path / "mask.png", height, width), mask),
        "mask.tif": (TiffRows(tmp_path / "mask.tif", height, width, np.uint8, []), mask),
        "probs.tif": (TiffRows(tmp_path / "probs.tif", height, width, np.uint16, []), probs),
        "probs.npy": (NpyRows(tmp_path / "probs.npy", cube.shape, np.float32), cube),
    }
    for file, pixels in files.values():
        for start in range(0, height, 40):
            file.write(pixels[start : start + 40])
        file.close()
    assert {path.name for path in tmp_path.iterdir()} == set(files)
    for name, (_, pixels) in files.items():
        if name.endswith(".npy"):
            np.testing.assert_array_equal(np.load(tmp_path / name), pixels)
            continue
        np.testing.assert_array_equal(cv2.imread(str(tmp_path / name), cv2.IMREAD_UNCHANGED), pixels)
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / name)), pixels)
