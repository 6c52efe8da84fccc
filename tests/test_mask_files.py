"""Files of masks by other programs, of every format, depth, compression and size."""

import os
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from etils import epath
from mask_samples import BLACK, FILES, INSIDE, LABELS, RED, save
from PIL import Image

from unet_jax.data.masks.read import read_class_numbers, read_mask
from unet_jax.data.memory import _free_memory
from unet_jax.data.pixels import BadSampleError

NEEDS_IMAGECODECS = ("lerc.tif", "jpeg2000.tif")


@pytest.mark.parametrize(
    "path", sorted((FILES / "masks").glob("*/*")), ids=lambda path: f"{path.parent.name}-{path.name}"
)
def test_masks_written_by_other_programs_are_the_mask_that_was_written(path):
    np.testing.assert_array_equal(read_mask(path), (LABELS > 0) * 255)


def test_without_imagecodecs_common_tiff_files_are_read_and_others_name_the_package():
    """In a process of its own, because tifffile looks for imagecodecs when it is imported."""
    script = f"""
import sys
sys.modules["imagecodecs"] = None
import numpy as np
from etils import epath
from unet_jax.data.masks.read import read_mask
from unet_jax.data.pixels import BadSampleError
for path in sorted(epath.Path({str(FILES / "masks")!r}).glob("*/*.tif")):
    try:
        print(path.parent.name, path.name, np.packbits(read_mask(path) > 0).tobytes().hex())
    except BadSampleError as error:
        print(path.parent.name, path.name, error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    expected = np.packbits(LABELS > 0).tobytes().hex()
    lines = done.stdout.splitlines()
    assert len(lines) > 20
    for line in lines:
        folder, name, result = line.split(" ", 2)
        if name in NEEDS_IMAGECODECS:
            assert "needs the package imagecodecs: pip install imagecodecs (or 'unet_jax[tiff]')" in result
        else:
            assert result == expected, (folder, name)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int16", "int32", "float32"])
@pytest.mark.parametrize(
    "options",
    [{}, {"compression": "zlib"}, {"compression": "lzw", "tile": (16, 16)}, {"rowsperstrip": 3}],
)
@pytest.mark.parametrize("byteorder", "<>")
def test_class_numbers_of_a_tiff_are_those_that_tifffile_reads(tmp_path, dtype, options, byteorder):
    largest = {"uint8": 255, "int16": 32767}.get(dtype, 65535)
    numbers = np.random.default_rng(0).integers(0, largest + 1, (37, 21)).astype(dtype)
    tifffile.imwrite(tmp_path / "m.tif", numbers, byteorder=byteorder, **options)
    result = read_class_numbers(epath.Path(tmp_path / "m.tif"))
    np.testing.assert_array_equal(result, tifffile.imread(tmp_path / "m.tif"))
    assert result.dtype.isnative


@pytest.mark.parametrize("options", [{"metadata": None}, {"software": False}, {"description": "mine"}])
@pytest.mark.parametrize("dtype", ["bool", "uint8"])
def test_tifffile_is_known_by_any_of_its_tags(tmp_path, options, dtype):
    tifffile.imwrite(tmp_path / "m.tif", LABELS.astype(bool).astype(dtype), photometric="miniswhite", **options)
    np.testing.assert_array_equal(read_mask(epath.Path(tmp_path / "m.tif")), (LABELS > 0) * 255)
    with tifffile.TiffWriter(tmp_path / "other.tif") as tif:
        tif.write(LABELS > 0, photometric="miniswhite", software=False, metadata=None)
    with pytest.raises(BadSampleError, match=r"other\.tif: is a TIFF in which 0 is white"):
        read_mask(epath.Path(tmp_path / "other.tif"))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_tiff_masks_are_turned_as_their_tag_says(tmp_path, orientation):
    """TIFF 6.0, Orientation: the side of the picture that the first row is, and the one that the first column is."""
    shown = LABELS  # first row is the top, first column is the left side
    stored = {
        1: shown,
        2: shown[:, ::-1],  # top, right
        3: shown[::-1, ::-1],  # bottom, right
        4: shown[::-1],  # bottom, left
        5: shown.T,  # left, top
        6: shown.T[::-1],  # right, top: the first row is the right column
        7: shown.T[::-1, ::-1],  # right, bottom
        8: shown.T[:, ::-1],  # left, bottom
    }[orientation]
    tifffile.imwrite(tmp_path / "m.tif", stored, extratags=[(274, "H", 1, orientation, True)])
    np.testing.assert_array_equal(read_class_numbers(epath.Path(tmp_path / "m.tif")), shown)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_class_numbers_of_few_bits_are_not_stretched(tmp_path, bits):
    """Pillow turns 1 of 4 bits into 17, 255 / 15, also where it writes."""
    numbers = np.arange(16, dtype=np.uint8).reshape(2, 8) & np.uint8(2**bits - 1)
    picture = Image.fromarray(numbers * np.uint8(255 // (2**bits - 1)))
    picture.convert("1" if bits == 1 else "L").save(tmp_path / "m.png", bits=bits)
    assert (tmp_path / "m.png").read_bytes()[24] == bits
    np.testing.assert_array_equal(read_class_numbers(epath.Path(tmp_path / "m.png")), numbers)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("stack_of_pages.tif", "holds 5 pictures"),
        ("stack_imagej.tif", "holds 5 pictures"),
        ("stack.ome.tif", "holds 5 pictures"),
        ("polarity.tif", "0 is white.*cannot be told apart. Save it as PNG, white inside"),
    ],
)
def test_tiff_files_that_cannot_be_understood_are_refused(name, message):
    for instances in (False, True):
        with pytest.raises(BadSampleError, match=rf"{name}: .*{message}"):
            read_mask(FILES / "other_masks" / name, instances=instances)


def test_tiff_whose_strips_are_not_there_is_refused(tmp_path):
    """tifffile reads what is not there as 0. GDAL leaves out strips that are 0, and says that it wrote the file."""
    with tifffile.TiffFile(FILES / "masks/tifffile/uint32.tif") as tif:
        offset = tif.pages[0].tags["StripByteCounts"].valueoffset
    data = bytearray((FILES / "masks/tifffile/uint32.tif").read_bytes())
    data[offset : offset + 4] = bytes(4)
    (tmp_path / "m.tif").write_bytes(data)
    with pytest.raises(BadSampleError, match=r"m\.tif: is not a readable image \(it is cut off"):
        read_mask(epath.Path(tmp_path / "m.tif"))


@pytest.mark.parametrize("suffix", [".png", ".gif", ".bmp", ".tif"])
def test_pillows_limit_of_pixels_does_not_count_and_stays_as_it_is(tmp_path, monkeypatch, suffix):
    path = save(tmp_path / f"m{suffix}", INSIDE)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(path)
    np.testing.assert_array_equal(read_mask(path), INSIDE)
    assert Image.MAX_IMAGE_PIXELS == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["one_bit.png", "palette.png", "tiles.tif"])
def test_masks_of_200_megapixels_are_read(tmp_path, name):
    pixels = np.zeros((14143, 14142), np.uint8)
    pixels[14000:14100, 5:9] = 1
    path = epath.Path(tmp_path / name)
    if name == "tiles.tif":
        tifffile.imwrite(path, pixels, tile=(256, 256), compression="zlib", bigtiff=True)
    else:
        picture = Image.fromarray(pixels.astype(bool) if name == "one_bit.png" else pixels)
        if name == "palette.png":
            picture.putpalette([*BLACK, *RED])
        picture.save(path)
    np.testing.assert_array_equal(read_mask(path), pixels * np.uint8(255))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_mask_that_needs_more_memory_than_there_is_is_refused(tmp_path, monkeypatch, suffix):
    """2000 x 2000 pixels of 8 bits, three times, are 11.4 MiB."""
    path = save(tmp_path / f"m{suffix}", np.zeros((2000, 2000), np.uint8))
    monkeypatch.setattr("unet_jax.data.memory._MUCH", 2**20)
    monkeypatch.setattr("unet_jax.data.memory._free_memory", lambda: 12_100_000)
    assert not read_mask(path).any()
    monkeypatch.setattr("unet_jax.data.memory._free_memory", lambda: 11_900_000)
    with pytest.raises(BadSampleError, match=rf"m\{suffix}: needs 0.0 GiB of memory .*Cut image and mask into parts"):
        read_mask(path)


def test_free_memory_is_some_of_the_machines():
    """/proc/meminfo in kB; psutil is not needed for that."""
    free = _free_memory()
    if free is None:
        pytest.skip("only on Linux")
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 2**20 < free <= pages
