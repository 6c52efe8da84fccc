"""Every kind of file that people keep masks and images in, written by Pillow and read back."""

import struct
import zlib

import cv2
import numpy as np
import pytest
from etils import epath
from PIL import Image

from unet_jax.data.images.files import read_image
from unet_jax.data.masks.read import read_mask
from unet_jax.data.pixels import (
    BadSampleError,
    by_channel_groups,
    resize_image,
    resize_mask,
    resize_probs,
    write_png,
)

SHAPE = np.array([[0, 1, 1], [0, 0, 1]], bool)  # not square, not symmetric: a turned or mirrored result differs
INSIDE = SHAPE.astype(np.uint8) * np.uint8(255)


def save(path, pixels, mode=None, **options):
    picture = Image.fromarray(pixels)
    (picture.convert(mode) if mode else picture).save(path, **options)
    return epath.Path(path)


def stored(path):
    """Mode and array as the file has them."""
    with Image.open(path) as picture:
        return picture.mode, np.asarray(picture)


def empty_png_of(width, height):
    """A header that promises many pixels, and nearly none behind it."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("content", [b"", b"id,split\n1,train\n", b"\x89PNG\r\n\x1a\n"])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_file_that_is_no_image_is_named(tmp_path, content, suffix):
    path = epath.Path(tmp_path / f"broken{suffix}")
    path.write_bytes(content)
    for read in (read_image, lambda p: read_mask(p, soft=False)):
        with pytest.raises(BadSampleError, match=rf"broken\{suffix}: .*\({len(content)} bytes|; {len(content)} bytes"):
            read(path)


def test_missing_file_is_named(tmp_path):
    for read in (read_image, lambda p: read_mask(p, soft=False)):
        with pytest.raises(BadSampleError, match=r"gone\.png: cannot be read"):
            read(epath.Path(tmp_path / "gone.png"))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".gif", ".bmp"])
def test_cut_off_file_is_refused(tmp_path, suffix):
    path = save(tmp_path / f"cut{suffix}", np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:-500])
    for read in (read_image, lambda p: read_mask(p, soft=True)):
        with pytest.raises(BadSampleError, match="cut"):
            read(path)


def test_too_many_pixels_is_an_error_of_that_file(tmp_path):
    path = epath.Path(tmp_path / "huge.png")
    path.write_bytes(empty_png_of(100_000, 100_000))
    for read in (read_image, lambda p: read_mask(p, soft=False)):
        with pytest.raises(BadSampleError, match=r"huge\.png: "):
            read(path)


@pytest.mark.parametrize("suffix", [".tif", ".gif"])
def test_stack_of_pictures_is_refused(tmp_path, suffix):
    """Reading the first slice of thirty and being silent about the rest would be worse."""
    more = [Image.fromarray(~INSIDE), Image.fromarray(INSIDE)]
    path = save(tmp_path / f"stack{suffix}", INSIDE, save_all=True, append_images=more)
    for read in (read_image, lambda p: read_mask(p, soft=False)):
        with pytest.raises(BadSampleError, match=rf"stack\{suffix}: holds 3 pictures"):
            read(path)


def test_thumbnail_in_a_tiff_is_no_stack(tmp_path):
    path = save(tmp_path / "m.tif", INSIDE, save_all=True, append_images=[Image.fromarray(INSIDE[:1, :1])])
    np.testing.assert_array_equal(read_mask(path, soft=False), INSIDE)
    np.testing.assert_array_equal(read_image(path), np.repeat(INSIDE[..., None], 3, -1))


COLORS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [10, 20, 30]], [[1, 2, 3], [4, 5, 6]]], np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".tif", ".bmp"])
def test_image_is_rgb_in_that_order(tmp_path, suffix):
    np.testing.assert_array_equal(read_image(save(tmp_path / f"i{suffix}", COLORS)), COLORS)


def test_gray_image_is_repeated(tmp_path):
    np.testing.assert_array_equal(read_image(save(tmp_path / "i.png", INSIDE)), np.repeat(INSIDE[..., None], 3, -1))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_alpha_of_an_image_is_dropped(tmp_path, suffix):
    pixels = np.concatenate([COLORS, np.full((3, 2, 1), 255, np.uint8)], axis=-1)
    np.testing.assert_array_equal(read_image(save(tmp_path / f"i{suffix}", pixels)), COLORS)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_image_becomes_8_bits(tmp_path, suffix):
    gray = np.array([[0, 257, 257 * 128, 65535]], np.uint16)
    np.testing.assert_array_equal(read_image(save(tmp_path / f"i{suffix}", gray))[..., 1], [[0, 1, 128, 255]])


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_exif_rotation_is_applied_to_image_and_mask_alike(tmp_path, suffix, orientation):
    """EXIF 2.32: 3 is turned by 180 degrees, 6 is to be turned by 90 degrees clockwise, 8 by 270."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    as_stored = np.zeros((16, 24), np.uint8)
    as_stored[:8, :8] = 255
    path = save(tmp_path / f"i{suffix}", as_stored, exif=exif, **({"quality": 100} if suffix == ".jpg" else {}))
    expected = np.rot90(as_stored, {1: 0, 3: 2, 6: -1, 8: 1}[orientation])
    np.testing.assert_array_equal(read_image(path)[..., 0] > 128, expected > 128)
    np.testing.assert_array_equal(read_mask(path, soft=True) > 128, expected > 128)


def test_written_png_is_read_back(tmp_path):
    path = epath.Path(tmp_path) / "new" / "folder" / "i.png"
    write_png(path, COLORS)
    np.testing.assert_array_equal(stored(path)[1], COLORS)
    write_png(path, INSIDE)
    np.testing.assert_array_equal(stored(path)[1], INSIDE)


def planes_resized(pixels, height, width, interpolation):
    planes = [
        cv2.resize(np.ascontiguousarray(p), (width, height), interpolation=interpolation)
        for p in np.moveaxis(pixels, -1, 0)
    ]
    return np.stack(planes, axis=-1)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 6, 17])
def test_channels_are_resized_each_by_itself(channels):
    rng = np.random.default_rng(channels)
    pixels = rng.integers(0, 256, (13, 22, channels), dtype=np.uint8)
    mask = (pixels > 128).astype(np.uint8) * np.uint8(255)
    probs = rng.random((13, 22, channels), dtype=np.float32)
    for height, width in ((7, 11), (29, 31), (5, 40)):
        area = cv2.INTER_AREA if (height, width) == (7, 11) else cv2.INTER_LINEAR
        expected = {
            "image": planes_resized(pixels, height, width, area),
            "mask": planes_resized(mask, height, width, cv2.INTER_NEAREST_EXACT),
            "soft mask": planes_resized(mask, height, width, cv2.INTER_LINEAR),
            "probs": planes_resized(probs, height, width, cv2.INTER_LINEAR),
        }
        np.testing.assert_array_equal(resize_image(pixels, height, width), expected["image"])
        np.testing.assert_array_equal(resize_mask(mask, height, width), expected["mask"])
        np.testing.assert_array_equal(resize_mask(mask, height, width, linear=True), expected["soft mask"])
        np.testing.assert_allclose(resize_probs(probs, height, width), expected["probs"], rtol=0, atol=1e-6)
        assert set(np.unique(resize_mask(mask, height, width))) <= {0, 255}


def test_nearest_takes_the_pixel_under_the_centre():
    mask = np.array([10, 20, 30, 40, 50, 60], np.uint8)[None, :, None]
    np.testing.assert_array_equal(resize_mask(mask, 1, 2)[0, :, 0], [20, 50])
    np.testing.assert_array_equal(resize_mask(mask, 1, 12)[0, :, 0], np.repeat(mask[0, :, 0], 2))


def test_image_shrunk_by_area_is_the_mean_of_blocks():
    pixels = np.array([[0, 4, 100, 104], [8, 12, 108, 112]], np.uint8)[..., None]
    np.testing.assert_array_equal(resize_image(pixels, 1, 2)[0, :, 0], [6, 106])


def test_channel_groups_are_never_of_two():
    """In cv2.warpPerspective (OpenCV 5) two channels come out otherwise than each alone."""
    for channels in range(1, 19):
        sizes = []
        by_channel_groups(lambda part, sizes=sizes: (sizes.append(part.shape[-1]), part)[1], np.zeros((2, 2, channels)))
        assert sum(sizes) == channels
        assert set(sizes) <= {1, 3, 4}
