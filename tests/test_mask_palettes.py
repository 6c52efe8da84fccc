"""Masks with a palette or a transparent colour, as Pillow writes them."""

import zlib

import numpy as np
import pytest
from etils import epath
from mask_samples import BLACK, GREEN, INSIDE, RED, SHAPE, WHITE, save, save_palette, stored
from PIL import Image

from unet_jax.data.masks.read import read_class_numbers, read_mask
from unet_jax.data.pixels import BadSampleError


def test_coloured_palette_is_read_by_index(tmp_path):
    path = save_palette(tmp_path / "voc.png", SHAPE, [(0, 0, 0), (128, 0, 0), (0, 128, 0)])
    np.testing.assert_array_equal(read_mask(path, soft=False), INSIDE)


def test_gray_palette_in_odd_order_is_read_by_colour(tmp_path):
    path = save_palette(tmp_path / "odd.png", np.where(SHAPE, 0, 1), [(255, 255, 255), (0, 0, 0)])
    np.testing.assert_array_equal(read_mask(path, soft=False), INSIDE)


def test_palette_of_black_and_white_among_colours_is_read_by_colour(tmp_path):
    path = save(tmp_path / "web.png", np.repeat(INSIDE[..., None], 3, -1), mode="P")
    assert set(np.unique(stored(path)[1])) != {0, 1}
    np.testing.assert_array_equal(read_mask(path, soft=False), INSIDE)


def test_class_numbers_of_a_coloured_palette_are_indices_even_where_only_grays_are_used(tmp_path):
    """Class 7 of Pascal VOC's palette is gray (128, 128, 128)."""
    colors = [(0, 0, 0), (128, 0, 0)] + [(0, 0, 1)] * 5 + [(128, 128, 128)]
    path = save_palette(tmp_path / "voc.png", SHAPE * 7, colors)
    np.testing.assert_array_equal(read_class_numbers(path), SHAPE * 7)


def test_class_numbers_of_a_gray_palette_are_its_grays(tmp_path):
    path = save_palette(tmp_path / "gray.png", SHAPE * 2, [(0, 0, 0), (9, 9, 9), (3, 3, 3)])
    np.testing.assert_array_equal(read_class_numbers(path), SHAPE * 3)


@pytest.mark.parametrize(
    ("colors", "values", "options", "inside"),
    [
        ([RED, BLACK], [0, 1], {}, [255, 0]),
        ([BLACK, RED], [0, 1], {}, [0, 255]),
        ([RED, BLACK, BLACK], [0, 1, 2], {}, [255, 0, 0]),
        ([RED, BLACK], [1, 1], {}, [0, 0]),
        ([RED, BLACK], [0, 0], {}, [255, 255]),
        ([BLACK, RED] + [GREEN] * 5 + [(128, 128, 128)], [0, 7], {}, [0, 255]),
        ([GREEN, RED], [0, 1], {"transparency": 0}, [0, 255]),
        ([GREEN, RED], [0, 0], {"transparency": 0}, [0, 0]),
        ([GREEN, RED], [1, 1], {"transparency": 0}, [255, 255]),
        ([WHITE, RED], [0, 0], {"transparency": 0}, [0, 0]),
        ([GREEN, RED], [0, 1], {"transparency": bytes([255, 0])}, [255, 0]),
        ([BLACK, RED], [0, 1], {"transparency": bytes([0, 128])}, [0, 255]),
        ([BLACK, RED], [0, 1], {"transparency": bytes([0, 0])}, [0, 255]),
        ([BLACK, GREEN, RED], [0, 1, 2], {"transparency": bytes([0, 0])}, [0, 0, 255]),
        ([WHITE, BLACK], [0, 1], {}, [255, 0]),
    ],
)
@pytest.mark.parametrize("soft", [False, True])
def test_palette_is_read_by_colour_and_transparency(tmp_path, colors, values, options, inside, soft):
    if soft and (128, 128, 128) in colors:
        inside = [0, 128]  # gray levels were asked for
    path = save_palette(tmp_path / "m.png", np.array([values]), colors, **options)
    np.testing.assert_array_equal(read_mask(path, soft=soft), [inside])


@pytest.mark.parametrize(
    ("colors", "values", "options", "message"),
    [
        (
            [WHITE, RED],
            [0, 1],
            {},
            r"colours \(220, 20, 10\), \(255, 255, 255\), so that .* cannot be told.*=220,20,10",
        ),
        ([RED, GREEN], [0, 0], {}, r"the colours \(220, 20, 10\), so that inside and outside cannot be told"),
        ([BLACK, RED, GREEN], [0, 1, 2], {}, r"2 colours inside .*--data.index-colors class1=10,200,30"),
        ([BLACK, RED, GREEN], [0, 1, 2], {}, r"--data.instance-masks"),
        ([BLACK, RED], [0, 1], {"transparency": 1}, "cannot be told apart"),
        ([WHITE, BLACK], [0, 1], {"transparency": 0}, "is partly transparent"),
        ([WHITE, WHITE, BLACK, RED], [0, 3], {"transparency": bytes([0, 0, 0, 0])}, "cannot be told apart"),
        ([(i, i, i) for i in range(255, -1, -1)], [0, 255], {}, "inverting look-up table"),
    ],
)
def test_palette_that_does_not_say_what_is_outside_is_refused(tmp_path, colors, values, options, message):
    path = save_palette(tmp_path / "m.png", np.array([values]), colors, **options)
    with pytest.raises(BadSampleError, match=rf"m\.png: .*{message}"):
        read_mask(path)


def test_background_of_a_gif_counts_only_where_somebody_chose_it(tmp_path):
    """Every GIF with a palette has the field, and 0 where nobody cared."""
    for background in (0, 1):
        path = save_palette(tmp_path / f"{background}.gif", SHAPE, [RED, GREEN], background=background)
        with Image.open(path) as picture:
            assert picture.info["background"] == background
    np.testing.assert_array_equal(read_mask(path), 255 - INSIDE)
    with pytest.raises(BadSampleError, match="cannot be told apart"):
        read_mask(epath.Path(tmp_path / "0.gif"))


@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_level_that_a_png_declares_transparent_must_be_black(tmp_path, mode):
    picture = Image.fromarray(INSIDE).convert(mode)
    for name, level in (("black", 0), ("white", 255)):
        picture.save(tmp_path / f"{name}.png", transparency=(level,) * 3 if mode == "RGB" else level)
    np.testing.assert_array_equal(read_mask(epath.Path(tmp_path / "black.png")), INSIDE)
    with pytest.raises(BadSampleError, match=r"white\.png: is partly transparent \(row 0, column 1 has alpha 0\)"):
        read_mask(epath.Path(tmp_path / "white.png"))


@pytest.mark.parametrize("background", [0, 1])
def test_background_of_a_png_tells_which_of_two_colours_is_outside(tmp_path, background):
    """GIMP writes the chunk; Pillow does not read it, so it is put in by hand after the palette."""
    path = save_palette(tmp_path / "a.png", SHAPE, [RED, GREEN])
    with pytest.raises(BadSampleError, match="inside and outside cannot be told apart"):
        read_mask(path)
    data = path.read_bytes()
    content = b"bKGD" + bytes([background])
    chunk = (1).to_bytes(4, "big") + content + zlib.crc32(content).to_bytes(4, "big")
    position = data.index(b"IDAT") - 4
    path.write_bytes(data[:position] + chunk + data[position:])
    np.testing.assert_array_equal(read_mask(path), INSIDE if background == 0 else 255 - INSIDE)
