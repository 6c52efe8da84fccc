"""What is inside in masks of every kind, and what is refused."""

import struct
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from etils import epath
from mask_samples import BLACK, BLUE, FILES, GREEN, INSIDE, LABELS, RED, SHAPE, WHITE, save, save_palette, stored
from PIL import Image

from unet_jax.data.masks.read import read_colors, read_mask
from unet_jax.data.pixels import BadSampleError


def big_endian_tiff(pixels):
    """A 16-bit TIFF as Macintosh and microscope software writes it (TIFF 6.0, sections 2 and 4)."""
    height, width = pixels.shape
    data = pixels.astype(">u2").tobytes()
    tags = [(256, 4, width), (257, 4, height), (258, 3, 16), (259, 3, 1), (262, 3, 1)]
    tags += [(273, 4, 8 + 2 + 9 * 12 + 4), (277, 3, 1), (278, 4, height), (279, 4, len(data))]
    entries = b"".join(
        struct.pack(">HHI", tag, kind, 1) + struct.pack(">I" if kind == 4 else ">Hxx", value)
        for tag, kind, value in tags
    )
    return b"MM\x00*" + struct.pack(">I", 8) + struct.pack(">H", len(tags)) + entries + struct.pack(">I", 0) + data


def empty_png_of(width, height):
    """A header that promises many pixels, and nearly none behind it."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("suffix", [".png", ".tif", ".gif", ".bmp"])
@pytest.mark.parametrize("foreground", [1, 255])
def test_mask_of_8_bits_holds_0_and_1_or_0_and_255(tmp_path, suffix, foreground):
    path = save(tmp_path / f"m{suffix}", SHAPE.astype(np.uint8) * np.uint8(foreground))
    np.testing.assert_array_equal(read_mask(path, soft=False), INSIDE)


@pytest.mark.parametrize(("level", "expected"), [(0, 0), (1, 255), (255, 255)])
@pytest.mark.parametrize("soft", [False, True])
def test_mask_of_one_level_is_empty_or_full(tmp_path, level, expected, soft):
    path = save(tmp_path / "m.png", np.full((3, 4), level, np.uint8))
    mask = read_mask(path, soft=soft)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, np.full((3, 4), expected))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_mask_of_1_bit(tmp_path, suffix):
    path = save(tmp_path / f"m{suffix}", SHAPE)
    assert stored(path)[0] == "1"
    np.testing.assert_array_equal(read_mask(path, soft=False), INSIDE)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_mask_with_equal_channels(tmp_path, mode):
    path = save(tmp_path / "m.png", INSIDE, mode=mode)
    assert stored(path)[0] == mode
    np.testing.assert_array_equal(read_mask(path, soft=False), INSIDE)


def test_rgba_tiff_mask(tmp_path):
    path = save(tmp_path / "m.TIFF", INSIDE, mode="RGBA")
    np.testing.assert_array_equal(read_mask(path, soft=False), INSIDE)


@pytest.mark.parametrize("background", ["black", "white"])
@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_mask_painted_on_a_transparent_layer_is_refused(tmp_path, mode, background):
    gray = np.full(SHAPE.shape, 0 if background == "black" else 255, np.uint8)
    pixels = np.stack([gray] * (1 if mode == "LA" else 3) + [INSIDE], axis=-1)
    path = save(tmp_path / "m.png", pixels)
    with pytest.raises(BadSampleError, match=r"m\.png: is partly transparent \(row 0, column 0 has alpha 0\).*Save it"):
        read_mask(path, soft=False)


@pytest.mark.parametrize("alpha", [INSIDE, np.zeros_like(INSIDE)])
def test_alpha_that_says_nothing_else_than_the_grays_is_dropped(tmp_path, alpha):
    path = save(tmp_path / "m.png", np.stack([INSIDE] * 3 + [alpha], axis=-1))
    np.testing.assert_array_equal(read_mask(path, soft=False), INSIDE)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("foreground", [1, 255, 65535])
def test_mask_of_16_bits(tmp_path, suffix, foreground):
    path = save(tmp_path / f"m{suffix}", SHAPE.astype(np.uint16) * np.uint16(foreground))
    assert stored(path)[0].startswith("I")
    np.testing.assert_array_equal(read_mask(path, soft=False), INSIDE)


def test_mask_of_16_bits_in_big_endian_order(tmp_path):
    path = epath.Path(tmp_path / "m.tif")
    path.write_bytes(big_endian_tiff(SHAPE * 65535))
    np.testing.assert_array_equal(read_mask(path, soft=False), INSIDE)


def test_mask_of_32_bits(tmp_path):
    path = save(tmp_path / "m.tif", SHAPE.astype(np.int32) * np.int32(255))
    np.testing.assert_array_equal(read_mask(path, soft=False), INSIDE)
    path = save(tmp_path / "large.tif", SHAPE.astype(np.int32) * np.int32(70000))
    with pytest.raises(BadSampleError, match=r"large\.tif: has the gray level 70000, .*--data\.instance-masks"):
        read_mask(path, soft=False)


@pytest.mark.parametrize("foreground", [1, 255, 65535])
def test_whole_floats_are_read_as_integers(tmp_path, foreground):
    path = save(tmp_path / "m.tif", SHAPE.astype(np.float32) * foreground)
    assert stored(path)[0] == "F"
    np.testing.assert_array_equal(read_mask(path), INSIDE)


def test_colour_mask_error_names_the_pixel(tmp_path):
    pixels = np.repeat(INSIDE[..., None], 3, -1)
    pixels[1, 2] = (255, 254, 255)
    path = save(tmp_path / "m.png", pixels)
    with pytest.raises(
        BadSampleError, match=r"m\.png: .*row 1, column 2 is \(255, 254, 255\).*one gray file per class"
    ):
        read_mask(path, soft=True)


def test_gray_level_in_between_error_names_value_and_remedy(tmp_path):
    pixels = INSIDE.copy()
    pixels[0, 0], pixels[1, 0] = 77, 3
    path = save(tmp_path / "m.png", pixels)
    with pytest.raises(BadSampleError, match=r"m\.png: has the gray levels 3, 77,.*--data\.soft-masks"):
        read_mask(path, soft=False)


@pytest.mark.parametrize("quality", [30, 75, 95])
def test_mask_threshold_reads_what_was_drawn_from_a_jpeg(tmp_path, quality):
    drawn = np.zeros((60, 80), np.uint8)
    cv2.circle(drawn, (30, 30), 17, 255, -1)
    cv2.rectangle(drawn, (55, 5), (70, 50), 255, -1)
    path = tmp_path / "m.jpg"
    Image.fromarray(drawn).convert("RGB").save(path, quality=quality)  # gray as RGB, as most programs write it
    assert len(np.unique(np.asarray(Image.open(path)))) > 2
    with pytest.raises(BadSampleError, match=r"m\.jpg: .*which JPEG makes.*--data\.mask-threshold 0\.5"):
        read_mask(path)
    np.testing.assert_array_equal(read_mask(path, threshold=0.5), drawn)


@pytest.mark.parametrize(
    ("name", "levels", "inside"),
    [
        ("m.png", np.array([[0, 100, 128, 254]], np.uint8), [0, 0, 255, 255]),
        ("m.tif", np.array([[0, 20_000, 40_000, 65_535]], np.uint16), [0, 0, 255, 255]),
        ("m.npy", np.array([[0.0, 0.49, 0.51, 1.0]], np.float32), [0, 0, 255, 255]),
        ("m.png", np.array([[0, 1, 1, 0]], np.uint8), [0, 255, 255, 0]),  # 1 is inside without larger values
    ],
)
def test_mask_threshold_is_a_share_of_white(tmp_path, name, levels, inside):
    path = tmp_path / name
    if name.endswith("npy"):
        np.save(path, levels)
    else:
        save(path, levels)
    np.testing.assert_array_equal(read_mask(epath.Path(path), threshold=0.5), [inside])


def test_mask_threshold_refuses_class_numbers(tmp_path):
    (tmp_path / "masks" / "cell").mkdir(parents=True)
    numbers = np.kron(np.array([[0, 1], [2, 3]], np.uint8), np.ones((8, 8), np.uint8))
    path = save(tmp_path / "masks" / "cell" / "m.png", numbers)
    with pytest.raises(BadSampleError, match=r"--data\.instance-masks instead of --data\.mask-threshold"):
        read_mask(path, threshold=0.5)
    flags = r"--data\.index-map 'masks/cell/\{id\}\.png' --data\.index-values class1=1 class2=2 class3=3 if"
    with pytest.raises(BadSampleError, match=flags):
        read_mask(path)


def test_many_gray_levels_are_counted_not_listed(tmp_path):
    path = save(tmp_path / "m.png", np.arange(256, dtype=np.uint8).reshape(16, 16))
    with pytest.raises(BadSampleError, match=r"levels 1, 2, 3, 4, 5 and 249 more,"):
        read_mask(path, soft=False)


def test_mixed_1_and_255_is_refused(tmp_path):
    path = save(tmp_path / "m.png", np.array([[0, 1, 255]], np.uint8))
    with pytest.raises(BadSampleError, match="has the gray level 1,"):
        read_mask(path, soft=False)


def test_soft_mask_keeps_8_bit_values(tmp_path):
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "m.png", levels), soft=True), levels)


def test_soft_mask_scales_16_bits(tmp_path):
    """65535 / 257 = 255; 128 and 129 lie on either side of half a step."""
    path = save(tmp_path / "m.png", np.array([[0, 128, 129, 257, 32896, 65535]], np.uint16))
    np.testing.assert_array_equal(read_mask(path, soft=True), [[0, 0, 1, 1, 128, 255]])


def test_soft_mask_of_8_bits_in_a_16_bit_file_keeps_its_values(tmp_path):
    """0 and 255 in 16 bits are a full mask, so 0, 100 and 255 cannot be an almost empty one."""
    path = save(tmp_path / "m.png", np.array([[0, 100, 255]], np.uint16))
    np.testing.assert_array_equal(read_mask(path, soft=True), [[0, 100, 255]])


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("labels_uint16", "uint16"),
        ("labels_uint32", "uint32"),
        ("labels_int32", "int32"),
        ("labels_float32", "float32"),
    ],
)
def test_objects_of_label_images_are_inside_where_it_is_said_that_they_are_objects(name, dtype):
    path = FILES / "other_masks" / f"{name}.tif"
    assert tifffile.imread(path).dtype == dtype
    np.testing.assert_array_equal(read_mask(path, instances=True), (LABELS > 0) * 255)
    with pytest.raises(BadSampleError, match=rf"{name}\.tif: has the gray levels .*--data\.instance-masks"):
        read_mask(path)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16", "uint32", "int8", "int64", "float32", "float64"])
def test_objects_of_npy_files_of_any_type(tmp_path, dtype):
    np.save(tmp_path / "m.npy", LABELS.astype(dtype))
    np.testing.assert_array_equal(read_mask(epath.Path(tmp_path / "m.npy"), instances=True), (LABELS > 0) * 255)


@pytest.mark.parametrize(("dtype", "largest"), [("uint8", 1), ("uint8", 255), ("uint16", 256), ("uint16", 65535)])
def test_objects_of_a_png(tmp_path, dtype, largest):
    path = save(tmp_path / "m.png", np.array([[0, 1, largest], [largest, 0, 0]], dtype))
    np.testing.assert_array_equal(read_mask(path, instances=True), [[0, 255, 255], [255, 0, 0]])


def test_objects_of_palettes_and_colours(tmp_path):
    """QuPath writes labels with a palette whose first colour, that of the outside, is often white."""
    path = save_palette(tmp_path / "qupath.png", LABELS, [WHITE, RED, GREEN])
    np.testing.assert_array_equal(read_mask(path, instances=True), (LABELS > 0) * 255)
    path = save_palette(tmp_path / "usual.png", LABELS, [BLACK, RED, BLACK])
    np.testing.assert_array_equal(read_mask(path, instances=True), (LABELS > 0) * 255)
    path = save(tmp_path / "rgb.png", np.array([BLACK, RED, BLUE], np.uint8)[LABELS])
    np.testing.assert_array_equal(read_mask(path, instances=True), (LABELS > 0) * 255)
    path = save_palette(tmp_path / "odd.png", LABELS, [RED, BLACK, GREEN])
    with pytest.raises(BadSampleError, match=r"odd\.png: .*index 1 is black or transparent"):
        read_mask(path, instances=True)
    path = save_palette(tmp_path / "clear.png", LABELS, [WHITE, RED, GREEN], transparency=2)
    with pytest.raises(BadSampleError, match=r"clear\.png: .*index 2 is black or transparent"):
        read_mask(path, instances=True)
    path = save(tmp_path / "white.png", np.array([WHITE, RED, BLUE], np.uint8)[LABELS])
    with pytest.raises(BadSampleError, match=r"white\.png: has no black pixel"):
        read_mask(path, instances=True)


def test_numbers_that_cannot_be_objects_are_refused(tmp_path):
    np.save(tmp_path / "negative.npy", LABELS.astype(np.int32) - 1)
    np.save(tmp_path / "fraction.npy", LABELS * np.float32(0.5))
    np.save(tmp_path / "nan.npy", np.where(LABELS == 2, np.nan, LABELS))
    np.save(tmp_path / "inf.npy", np.where(LABELS == 2, np.inf, LABELS))
    save(tmp_path / "m.jpg", LABELS, quality=100)
    for name, message in {
        "negative.npy": "has the value -1, but outside is 0",
        "fraction.npy": r"has the value 0.5 \(row 2, column 3\), but numbers of classes and objects are whole",
        "nan.npy": r"has the value nan \(row 8, column 13\)",
        "inf.npy": r"has the value inf \(row 8, column 13\)",
        "m.jpg": "is compressed like JPEG, which changes the numbers",
    }.items():
        with pytest.raises(BadSampleError, match=rf"{name}: {message}"):
            read_mask(epath.Path(tmp_path / name), instances=True)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 5, 2), np.uint8), r"an array \[4, 5, 2\] of uint8.*Save one file per class"),
        (np.zeros((4,), np.uint8), r"an array \[4\]"),
        (np.zeros((4, 5), np.complex64), "complex64"),
        (np.zeros((0, 5)), r"an array \[0, 5\]"),
        (np.array({"masks": np.zeros((4, 5))}), "a Python object, such as cellpose's _seg.npy"),
    ],
)
def test_arrays_that_are_no_mask_are_refused(tmp_path, array, message):
    np.save(tmp_path / "m.npy", array)
    with pytest.raises(BadSampleError, match=rf"m\.npy: .*{message}"):
        read_mask(epath.Path(tmp_path / "m.npy"))


@pytest.mark.parametrize("suffix", [".npy", ".tif"])
def test_floats_between_are_a_soft_mask(tmp_path, suffix):
    """0.5 * 255 = 127.5, which rounds to the even 128; 0.25 * 255 = 63.75."""
    pixels = np.array([[0.0, 0.25, 0.5, 1.0]], np.float32)
    path = epath.Path(tmp_path / f"m{suffix}")
    np.save(path, pixels) if suffix == ".npy" else tifffile.imwrite(path, pixels)
    np.testing.assert_array_equal(read_mask(path, soft=True), [[0, 64, 128, 255]])
    with pytest.raises(BadSampleError, match=r"has the value 0.25 \(row 0, column 1, float32\).*--data\.soft-masks"):
        read_mask(path)
    np.save(tmp_path / "large.npy", pixels * 2)
    with pytest.raises(BadSampleError, match=r"large\.npy: has the value 2 \(row 0, column 3, float32\).* is 0 to 1"):
        read_mask(epath.Path(tmp_path / "large.npy"), soft=True)


@pytest.mark.parametrize(
    "kind", ["rgb.png", "rgba.png", "palette.png", "palette.tif", "rgb.tif", "rgb16.png", "rgb.bmp"]
)
def test_colours_of_a_label_map(tmp_path, kind):
    colors = np.array([BLACK, RED, BLUE], np.uint8)
    path = epath.Path(tmp_path / kind)
    if kind.startswith("palette"):
        save_palette(path, LABELS, colors.tolist())
    elif kind == "rgb16.png":
        cv2.imwrite(str(path), colors[LABELS][..., ::-1].astype(np.uint16) * 257)
    else:
        save(path, colors[LABELS], mode="RGBA" if kind == "rgba.png" else None)
    expected = np.array([0, 220 * 65536 + 20 * 256 + 10, 250])[LABELS]
    np.testing.assert_array_equal(read_colors(path), expected)


@pytest.mark.parametrize("kind", ["1", "L"])
def test_gray_levels_are_colours_too(tmp_path, kind):
    path = save(tmp_path / "m.png", INSIDE, mode=kind)
    np.testing.assert_array_equal(read_colors(path), SHAPE * 0xFFFFFF)


def test_colours_that_are_not_certain_are_refused(tmp_path):
    path = save(tmp_path / "m.jpg", np.array([BLACK, RED, BLUE], np.uint8)[LABELS])
    with pytest.raises(BadSampleError, match=r"m\.jpg: is compressed like JPEG"):
        read_colors(path)
    path = save(tmp_path / "m.png", LABELS.astype(np.uint16))
    with pytest.raises(BadSampleError, match=r"m\.png: has values of uint16, but colours have 8 bits"):
        read_colors(path)
    path = save(
        tmp_path / "clear.png", np.dstack([np.array([WHITE, RED, BLUE], np.uint8)[LABELS], (LABELS > 0) * np.uint8(9)])
    )
    with pytest.raises(BadSampleError, match=r"clear\.png: is partly transparent"):
        read_colors(path)
