"""Polygons, ellipses and run lengths against pycocotools, plain inequalities and hand-derived values."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from unet_jax.interop.annotations import pixel_runs
from unet_jax.interop.annotations.polygons import ellipse_runs, polygon_runs
from unet_jax.interop.annotations.regions import ellipse, polygon
from unet_jax.interop.annotations.rle import decode_brush, decode_counts, runs_of_counts, runs_of_pairs

# pycocotools 2.0 warns about its own use of NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def drawn(runs, height, width):
    return pixel_runs.fill(runs, height, width) > 0


def by_pycocotools(points, height, width):
    return coco_mask.decode(coco_mask.frPyObjects([np.ravel(points).tolist()], height, width))[..., 0] > 0


def some_polygon(rng, kind):
    """Corners inside, around and far outside of the image, on whole and on tenth pixels, some twice."""
    height, width, count = rng.integers(1, 60, 3)
    points = (
        rng.uniform(-0.7, 1.7, (count + 3, 2)) if kind in ("around", "tenths") else rng.uniform(0, 1, (count + 3, 2))
    )
    points = points * [width, height]
    if kind == "whole":
        points = np.round(points)
    if kind == "tenths":
        points = np.round(points, 1)
    if rng.random() < 0.3:
        points[rng.integers(len(points))] = points[0]
    return points, int(height), int(width)


@pytest.mark.parametrize("kind", ["inside", "around", "whole", "tenths"])
def test_polygons_are_those_of_pycocotools_bit_for_bit(kind):
    rng = np.random.default_rng(0)
    for _ in range(400):
        points, height, width = some_polygon(rng, kind)
        want = by_pycocotools(points, height, width)
        np.testing.assert_array_equal(drawn(polygon_runs(points, height, width), height, width), want, str(points))


def test_a_pixel_is_inside_if_its_centre_is():
    square = np.array([[1, 1], [3, 1], [3, 4], [1, 4]], np.float64)
    mask = drawn(polygon_runs(square, 5, 5), 5, 5)
    want = np.zeros((5, 5), bool)
    want[1:4, 1:3] = True
    np.testing.assert_array_equal(mask, want)
    assert not drawn(polygon_runs(square * 0.1, 5, 5), 5, 5).any()  # from 0.1 to 0.4: no centre


def test_a_polygon_that_crosses_itself_is_inside_by_even_and_odd():
    pentagram = 10 + 9 * np.stack([np.sin(np.arange(5) * 4 * np.pi / 5), np.cos(np.arange(5) * 4 * np.pi / 5)], axis=1)
    mask = drawn(polygon_runs(pentagram, 20, 20), 20, 20)
    assert not mask[10, 10]  # passed around twice
    np.testing.assert_array_equal(mask, by_pycocotools(pentagram, 20, 20))


def test_holes_are_cut_out_and_never_filled_in():
    outer = np.array([[0, 0], [10, 0], [10, 10], [0, 10]], np.float64)
    holes = [outer * 0.4 + 2, outer * 0.4 + 4, outer + 8]  # two overlap, one lies mostly outside
    mask = drawn(polygon(outer, holes)(12, 12).runs, 12, 12)
    want = np.zeros((12, 12), bool)
    want[:10, :10] = True
    want[2:6, 2:6] = False
    want[4:8, 4:8] = False
    want[8:, 8:] = False
    np.testing.assert_array_equal(mask, want)


@pytest.mark.parametrize("angle", [0.0, 0.5, -1.3, np.pi / 2])
@pytest.mark.parametrize(
    "center,radii", [((11.3, 8.2), (6.1, 3.3)), ((-1.2, 15.1), (9.7, 4.2)), ((9.1, 9.4), (0.7, 30.2))]
)
def test_ellipses_are_the_centres_that_fulfil_the_inequality(center, radii, angle):
    y, x = np.mgrid[:17, :23] + 0.5
    along = (x - center[0]) * np.cos(angle) + (y - center[1]) * np.sin(angle)
    across = -(x - center[0]) * np.sin(angle) + (y - center[1]) * np.cos(angle)
    want = (along / radii[0]) ** 2 + (across / radii[1]) ** 2 <= 1
    assert want.any()
    np.testing.assert_array_equal(drawn(ellipse_runs(center, radii, angle, 17, 23), 17, 23), want)


def test_an_ellipse_knows_how_far_it_reaches():
    quarter = ellipse((10.0, 5.0), (8.0, 2.0), np.pi / 2)(20, 20)  # upright: 2 wide, 8 high
    assert quarter.beyond == pytest.approx(3.0) and not quarter.is_outside
    assert ellipse((30.0, 5.0), (8.0, 2.0), 0.0)(20, 20).is_outside
    assert not len(ellipse((5.0, 5.0), (0.0, 0.0))(20, 20).runs)


@hypothesis.given(st.integers(0, 2**32 - 1))
def test_sets_of_runs_are_sets_of_pixels(seed):
    rng = np.random.default_rng(seed)
    height, width = (int(n) for n in rng.integers(1, 9, 2))
    masks = rng.random((3, height, width)) < rng.choice([0.0, 0.2, 0.7, 1.0])
    runs = [pixel_runs.from_bitmap(mask) for mask in masks]
    for mask, each in zip(masks, runs, strict=True):
        np.testing.assert_array_equal(drawn(each, height, width), mask)
        assert pixel_runs.count(each) == mask.sum()
    np.testing.assert_array_equal(drawn(pixel_runs.union(runs), height, width), masks.any(axis=0))
    rest = pixel_runs.without(pixel_runs.union(runs[:1]), pixel_runs.union(runs[1:]))
    np.testing.assert_array_equal(drawn(rest, height, width), masks[0] & ~masks[1] & ~masks[2])


@pytest.mark.parametrize("x,y", [(0, 0), (3, 2), (-1, -2), (6, 7), (9, 0), (-5, 0)])
def test_bitmaps_are_placed_and_cut_off(x, y):
    bitmap = np.random.default_rng(1).random((4, 3)) < 0.6
    want = np.zeros((40, 40), bool)
    want[10 + y : 14 + y, 10 + x : 13 + x] = bitmap
    mask = drawn(pixel_runs.from_bitmap(bitmap, x, y, (8, 9)), 8, 9)
    np.testing.assert_array_equal(mask, want[10:18, 10:19])


@pytest.mark.parametrize("density", [0.0, 0.001, 0.1, 0.6, 1.0])
def test_counts_of_coco_are_those_of_pycocotools(density):
    rng = np.random.default_rng(3)
    for height, width in ((1, 1), (1, 7), (13, 1), (37, 53), (400, 300)):
        mask = rng.random((height, width)) < density
        text = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
        np.testing.assert_array_equal(drawn(runs_of_counts(decode_counts(text), height, width), height, width), mask)


@pytest.mark.parametrize("text,reason", [("5 2", "character ' ' at position 1"), ("52P", "end within a number")])
def test_broken_texts_of_counts_are_refused(text, reason):
    with pytest.raises(ValueError, match=reason):
        decode_counts(text)


@pytest.mark.parametrize(
    "counts,reason",
    [([1, 2], "add up to 3 pixels, but 2x3 are 6"), ([7, -1], "from 0 up"), ([1.5, 4.5], "whole numbers")],
)
def test_wrong_counts_are_refused(counts, reason):
    with pytest.raises(ValueError, match=reason):
        runs_of_counts(counts, 3, 2)


def test_pairs_of_kaggle_count_from_one_down_the_columns():
    # Hand-derived: 4 rows, 3 columns; pixels 2, 3 (column 0, rows 1 and 2) and 8, 9 (column 1, row 3; column 2, row 0).
    want = [[0, 0, 1], [1, 0, 0], [1, 0, 0], [0, 1, 0]]
    assert drawn(runs_of_pairs("2 2 8 2", 4, 3, "columns"), 4, 3).astype(int).tolist() == want
    # Along the rows of the same image: pixels 2, 3 are row 0, columns 1 and 2; 8, 9 are row 2, columns 1 and 2.
    want = [[0, 1, 1], [0, 0, 0], [0, 1, 1], [0, 0, 0]]
    assert drawn(runs_of_pairs("2 2 8 2", 4, 3, "rows"), 4, 3).astype(int).tolist() == want
    assert not len(runs_of_pairs(" ", 4, 3, "columns")) and not len(runs_of_pairs("-1", 4, 3, "columns"))


@pytest.mark.parametrize(
    "text,reason",
    [
        ("1 2 3", "3 numbers are no pairs"),
        ("0 2", "first pixel is number 1"),
        ("12 2", "ends at pixel 13, but 3x4 are 12"),
        ("5 3 6 2", "before the one before it ends"),
        ("a b", "not pairs of whole numbers"),
        ("1.5 2", "not pairs of whole numbers"),
    ],
)
def test_wrong_pairs_are_refused(text, reason):
    with pytest.raises(ValueError, match=reason):
        runs_of_pairs(text, 4, 3, "columns")


# mask2rle of label-studio-converter 0.0.59 for a mask of 3x5 pixels: 255 where MASK has 1.
MASK = [[0, 0, 1, 1, 0], [0, 1, 1, 1, 0], [0, 0, 0, 0, 1]]
BRUSH = [0, 0, 0, 60, 57, 27, 252, 224, 19, 255, 206, 1, 111, 255, 9, 128, 71, 254]

COLOURED = [
    0,
    0,
    0,
    60,
    57,
    27,
    248,
    31,
    224,
    3,
    194,
    0,
    7,
    248,
    0,
    240,
    128,
    1,
    254,
    0,
    56,
    0,
    16,
    255,
    128,
    14,
    0,
    4,
    63,
    224,
    3,
    194,
    0,
    7,
    248,
    0,
    240,
    128,
    1,
    254,
    0,
    56,
    0,
    16,
    255,
    128,
    14,
    0,
    4,
    63,
    224,
    3,
    128,
    1,
    15,
    248,
    0,
    240,
    128,
    1,
    254,
    0,
    60,
    32,
    0,
    127,
    128,
    15,
    8,
    0,
    31,
    224,
    3,
    194,
    0,
    7,
    248,
    0,
    224,
    0,
    0,
    180,
    7,
    248,
    0,
    224,
    0,
    1,
    254,
]


def test_brushes_are_those_of_label_studio():
    np.testing.assert_array_equal(decode_brush(BRUSH, 3, 5), np.array(MASK, np.uint8) * 255)


def test_brushes_are_the_opacity_of_a_coloured_picture():
    """encode_rle of red 255, green 7, blue 0 everywhere, and MASK as opacity but for 90 in row 2, column 3."""
    want = np.array(MASK, np.uint8) * 255
    want[2, 3] = 90
    np.testing.assert_array_equal(decode_brush(COLOURED, 3, 5), want)


@pytest.mark.parametrize(
    "data,reason",
    [
        (BRUSH[:9], "ends too early"),
        (BRUSH[:3], "ends too early"),
        ([*BRUSH[:3], 61, *BRUSH[4:]], "holds 61 values, but 5x3 pixels have 60"),
        ([300], "from 0 to 255"),
        (["a"], "from 0 to 255"),
    ],
)
def test_broken_brushes_are_refused(data, reason):
    with pytest.raises(ValueError, match=reason):
        decode_brush(data, 3, 5)


def test_coordinates_of_another_unit_are_refused():
    with pytest.raises(ValueError, match="far outside of the image's 20x10 pixels"):
        polygon(np.array([[0, 0], [5e4, 0], [5e4, 5e4]], np.float64))(10, 20)
