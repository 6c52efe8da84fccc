"""Damaged bytes, several pictures and impossible sizes, in images and masks, whatever the ending of the name."""

import io
import struct
import time
import zlib

import numpy as np
import pytest
import tifffile
from etils import epath
from PIL import Image

from unet_jax._types import InputError
from unet_jax.cli.main import main
from unet_jax.data.images.files import read_channels, read_image, read_pixels
from unet_jax.data.masks.files import read_mask_file
from unet_jax.data.pixels import BadSampleError

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 16), np.uint8)
READERS = (read_image, read_pixels, read_mask_file)


def encoded(pixels, kind, **settings):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **settings)
    return file.getvalue()


def as_tiff(*pages, **settings):
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for page in pages:
            writer.write(page, contiguous=False, metadata=None, **settings)
    return file.getvalue()


def check_refused(tmp_path, name, data, message):
    path = epath.Path(tmp_path / name)
    path.write_bytes(data)
    for read in READERS:
        with pytest.raises(BadSampleError, match=rf"{name}: .*{message}"):
            read(path)


def test_a_flipped_bit_of_a_png_is_refused_wherever_it_is(tmp_path):
    """In every byte from the header to the end of the pixels; without checksums some flips are another picture."""
    data = encoded(np.stack([PIXELS // 64 * 64] * 3, -1), "PNG")
    for place in range(8, len(data) - 12, 7):
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        check_refused(tmp_path, "m.png", bytes(damaged), "(is damaged: its chunk|not an image)")


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def test_a_png_is_read_with_a_damaged_text_and_not_with_a_damaged_orientation(tmp_path):
    data = encoded(PIXELS, "PNG")
    header = data[:33]
    for kind, is_read in ((b"tEXt", True), (b"eXIf", False), (b"tRNS", False)):
        other = chunk(kind, b"ab")
        (tmp_path / "m.png").write_bytes(header + other[:-1] + bytes([other[-1] ^ 1]) + data[33:])
        if is_read:
            np.testing.assert_array_equal(read_pixels(tmp_path / "m.png")[..., 0], PIXELS)
        else:
            with pytest.raises(BadSampleError, match=f"its chunk {kind.decode()}"):
                read_pixels(tmp_path / "m.png")


def test_deflated_tiff_with_another_checksum_is_refused(tmp_path):
    data = bytearray(as_tiff(PIXELS // 50, compression="zlib"))
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as tif:
        data[tif.pages[0].dataoffsets[0] + tif.pages[0].databytecounts[0] - 1] ^= 1
    check_refused(tmp_path, "m.tif", bytes(data), "(check|BAD_DATA)")


@pytest.mark.parametrize("ending", ["png", "jpg", "bmp"])
def test_several_pictures_are_refused_under_any_ending(tmp_path, ending):
    more = {"save_all": True, "append_images": [Image.fromarray(255 - PIXELS)]}
    for data in (encoded(PIXELS, "PNG", **more), encoded(PIXELS, "GIF", **more), as_tiff(PIXELS, 255 - PIXELS)):
        check_refused(tmp_path, f"m.{ending}", data, "holds 2 pictures")


def test_an_animation_of_one_picture_is_a_picture(tmp_path):
    data = encoded(PIXELS, "PNG")
    (tmp_path / "m.png").write_bytes(data[:33] + chunk(b"acTL", struct.pack(">II", 1, 0)) + data[33:])
    np.testing.assert_array_equal(read_pixels(tmp_path / "m.png")[..., 0], PIXELS)
    np.testing.assert_array_equal(read_mask_file(epath.Path(tmp_path / "m.png")).values, PIXELS)


def declared(kind):
    """A small file that says that it holds more than a gigabyte."""
    if kind == "png":
        data = encoded(PIXELS, "PNG")
        return data[:8] + chunk(b"IHDR", struct.pack(">II", 40_000, 30_000) + data[24:29]) + data[33:]
    data = bytearray(encoded(PIXELS, {"bmp": "BMP", "gif": "GIF", "jpg": "JPEG"}[kind]))
    if kind == "jpg":
        place = data.index(b"\xff\xc0") + 5
        data[place : place + 4] = struct.pack(">HH", 30_000, 40_000)
    else:
        data[18:26] = struct.pack("<ii", 40_000, 30_000) if kind == "bmp" else data[18:26]
        data[6:10] = struct.pack("<HH", 40_000, 30_000) if kind == "gif" else data[6:10]
    return bytes(data)


@pytest.mark.parametrize("kind", ["png", "bmp", "gif", "jpg"])
def test_a_small_file_does_not_ask_for_gigabytes(tmp_path, kind):
    check_refused(tmp_path, f"m.{kind}", declared(kind), "says that its pixels are .* GiB, but it has")


def test_a_small_tiff_does_not_ask_for_gigabytes(tmp_path):
    data = bytearray(as_tiff(PIXELS, rowsperstrip=24))
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as tif:
        for name in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            place = tif.pages[0].tags[name].valueoffset
            data[place : place + 2] = struct.pack("<H", 40_000)
    check_refused(tmp_path, "m.tif", bytes(data), "says that its pixels are .* GiB, but it has")


def test_pages_are_not_counted_to_the_end(tmp_path):
    """Of 2,000 pages and 50,001 the same number is looked at: the time does not grow with the file."""
    data = as_tiff(*[PIXELS[:1, :1]] * 2000)
    start = time.process_time()
    check_refused(tmp_path, "m.tif", data, "holds (at least 100 pictures|more than 512 pages)")
    assert time.process_time() - start < 5.0


def test_too_little_memory_is_one_line_with_the_file(tmp_path, monkeypatch, capsys):
    def no_memory(*arguments, **options):
        raise MemoryError("Unable to allocate 9 GiB")

    np.save(tmp_path / "m.npy", PIXELS)
    (tmp_path / "m.png").write_bytes(encoded(PIXELS, "PNG"))
    monkeypatch.setattr("numpy.load", no_memory)
    monkeypatch.setattr("cv2.imdecode", no_memory)
    for read, name in (
        (read_pixels, "m.npy"),
        (read_mask_file, "m.npy"),
        (read_image, "m.png"),
        (read_pixels, "m.png"),
    ):
        with pytest.raises(BadSampleError, match=rf"{name}: there is not enough memory to decode it"):
            read(epath.Path(tmp_path / name))
    monkeypatch.setattr("unet_jax.cli.main._run", no_memory)
    with pytest.raises(SystemExit) as ended:
        main(["info", "RUN"])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said == "unet-jax: there is not enough memory. Unable to allocate 9 GiB\n"


def test_no_channel_is_no_image():
    with pytest.raises(InputError, match="read_channels was given no file"):
        read_channels([])
