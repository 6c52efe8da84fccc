"""Values, ranges and colours of index maps, from settings to masks."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from unet_jax._types import InputError
from unet_jax.config import DataConfig
from unet_jax.data.layout import find_layout
from unet_jax.data.masks.index_values import listed, parse_color, parse_numbers
from unet_jax.data.pixels import BadSampleError
from unet_jax.data.sources import FileSource

RED, GREEN, BLUE, PINK = (220, 20, 60), (0, 255, 0), (0, 0, 250), (255, 0, 128)


def masks_of(root, values, *, name="a.png", **settings):
    """Masks of one image of 3x4 pixels, whose index map holds the given array."""
    for folder in ("images", "labels"):
        (root / folder).mkdir(exist_ok=True)
    Image.fromarray(np.zeros((3, 4, 3), np.uint8)).save(root / "images" / "a.png")
    values = np.asarray(values)
    if name.endswith(".tif"):
        tifffile.imwrite(root / "labels" / name, values)
    elif name.endswith(".npy"):
        np.save(root / "labels" / name, values)
    else:
        Image.fromarray(values).save(root / "labels" / name)
    layout = find_layout(DataConfig(root=str(root), index_map=f"labels/{{id}}{name[1:]}", **settings))
    return dict(zip(layout.class_names, np.moveaxis(FileSource(layout, layout.records)[0].mask, -1, 0), strict=True))


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1", [1]),
        ("1,3-5", [1, 3, 4, 5]),
        (" 7 - 9 , 2", [7, 8, 9, 2]),
        ("-1", [-1]),
        ("-3--1,0", [-3, -2, -1, 0]),
        ("5-5", [5]),
    ],
)
def test_numbers_and_ranges(text, values):
    assert [v for numbers in parse_numbers(text, "field") for v in numbers] == values


@pytest.mark.parametrize("text", ["", "a", "1,", "5-3", "1-2-3", "1.5", "1;2", "٣"])
def test_texts_that_are_no_numbers_are_refused(text):
    with pytest.raises(
        InputError, match=r"field=.*must be numbers and ranges of numbers, as in cell=1,2 or cell=1-65535"
    ):
        parse_numbers(text, "field")


@pytest.mark.parametrize("text", ["", "1,2", "1,2,3,4", "256,0,0", "-1,0,0", "#ff0000", "1.0,2,3", "a,b,c"])
def test_texts_that_are_no_colours_are_refused(text):
    with pytest.raises(InputError, match=r"field=.*a colour is three numbers from 0 to 255, as in cell=128,64,128"):
        parse_color(text, "field")


def test_values_are_listed_as_earlier_versions_stored_them_in_caches():
    """They were sorted sets of numbers; only ranges and colours are new."""
    assert listed(parse_numbers("5,1,2,1", "")) == sorted({5, 1, 2})
    assert listed(parse_numbers("5,1-3", "")) == ["1-3", 5]
    assert listed(parse_color("1,2,3", ""), colors=True) == ["1,2,3"]


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "int32", "float32"])
@pytest.mark.parametrize("name", ["a.tif", "a.npy"])
def test_ranges_hold_all_numbers_between(tmp_path, dtype, name):
    """Cityscapes numbers its objects: class * 1000 + object."""
    values = np.array([[0, 26000, 26001, 26999], [27000, 24007, 24, 0], [26, 26500, 27999, 24999]]).astype(dtype)
    settings = {"index_values": ("car=26,26000-26999", "truck=27000-27999", "person=24,24000-24999")}
    masks = masks_of(tmp_path, values, name=name, **settings)
    for class_name, number in (("car", 26), ("truck", 27), ("person", 24)):
        is_inside = (values == number) | (values // 1000 == number)
        np.testing.assert_array_equal(masks[class_name], is_inside * 255)


def test_ranges_may_be_as_large_as_numbers_are(tmp_path):
    values = np.array([[0, 1, 2**31, 2**32 - 1]] * 3, np.uint32)
    masks = masks_of(tmp_path, values, name="a.tif", index_values=("cell=1-4294967295",))
    np.testing.assert_array_equal(masks["cell"], (values > 0) * 255)


def test_unknown_value_names_the_ranges_and_not_each_number(tmp_path):
    values = np.array([[0, 1, 2, 3]] * 2 + [[0, 0, 70, 0]], np.uint8)
    with pytest.raises(
        BadSampleError, match=r"has the value 70 \(row 2, column 2\), .* are 0, 1-65, 80\. Name the class"
    ):
        masks_of(tmp_path, values, index_values=("cell=1-65", "x=80"))


@pytest.mark.parametrize("palette", [False, True])
def test_colours_are_classes(tmp_path, palette):
    """A class may have several colours, and a colour may belong to several classes."""
    colors = [(0, 0, 0), RED, GREEN, BLUE, PINK]
    indices = np.array([[0, 1, 2, 3], [4, 4, 3, 0], [1, 1, 1, 1]], np.uint8)
    pixels = np.array(colors, np.uint8)[indices]
    (tmp_path / "labels").mkdir()
    entries = ("cell=220,20,60", "cell=0,255,0", "nucleus=0,255,0", "other= 0, 0, 250", "none=255,0,128")
    masks = masks_of(tmp_path, pixels, index_colors=entries, classes=("other", "cell", "nucleus"))
    if palette:
        picture = Image.fromarray(indices)
        picture.putpalette([c for color in colors for c in color])
        picture.save(tmp_path / "labels" / "a.png")
        layout = find_layout(
            DataConfig(root=str(tmp_path), index_map="labels/{id}.png", index_colors=entries, classes=tuple(masks))
        )
        masks = dict(zip(masks, np.moveaxis(FileSource(layout, layout.records)[0].mask, -1, 0), strict=True))
    assert list(masks) == ["other", "cell", "nucleus"]
    np.testing.assert_array_equal(masks["cell"], np.isin(indices, [1, 2]) * 255)
    np.testing.assert_array_equal(masks["nucleus"], (indices == 2) * 255)
    np.testing.assert_array_equal(masks["other"], (indices == 3) * 255)


def test_unknown_colour_names_colour_pixel_and_remedy(tmp_path):
    pixels = np.zeros((3, 4, 3), np.uint8)
    pixels[1, 2], pixels[0, 0] = PINK, RED
    message = (
        r"labels/a\.png: has the colour 255,0,128 \(row 1, column 2\), .* are 0,0,0, 220,20,60\. "
        r"Name its class there, CLASS=255,0,128"
    )
    with pytest.raises(BadSampleError, match=message):
        masks_of(tmp_path, pixels, index_colors=("cell=220,20,60",))


def test_white_background_is_a_class_that_is_not_chosen(tmp_path):
    pixels = np.full((3, 4, 3), 255, np.uint8)
    pixels[1, 2] = RED
    masks = masks_of(tmp_path, pixels, index_colors=("cell=220,20,60", "outside=255,255,255"), classes=("cell",))
    assert list(masks) == ["cell"]
    np.testing.assert_array_equal(masks["cell"], (pixels == RED).all(axis=-1) * 255)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"index_map": "x/{id}.png"}, "data.index_values"),
        ({"index_colors": ("a=1,2,3",)}, "given exactly when data.index_map is, unless data.index_colors"),
        ({"index_map": "{id}", "index_values": ("a=1",), "index_colors": ("a=1,2,3",)}, "data.index_colors"),
    ],
)
def test_index_maps_need_values_or_colours(settings, message):
    with pytest.raises(InputError, match=message):
        DataConfig(**settings)


def test_object_numbers_reach_the_reader(tmp_path):
    labels = np.array([[0, 1, 2, 3]] * 3, np.uint16)
    for folder in ("images", "masks/cell"):
        (tmp_path / folder).mkdir(parents=True)
        Image.fromarray(labels).save(tmp_path / folder / "a.png")
    for instances in (False, True):
        layout = find_layout(DataConfig(root=str(tmp_path), instance_masks=instances))
        source = FileSource(layout, layout.records)
        if instances:
            np.testing.assert_array_equal(source[0].mask[..., 0], (labels > 0) * 255)
        else:
            with pytest.raises(BadSampleError, match=r"has the gray levels 1, 2, 3, .*--data\.instance-masks"):
                source[0]
