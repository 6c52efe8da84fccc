"""What is drawn, and what it does, by properties and values that one can work out."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unet_jax._types import Sample
from unet_jax.config import AugmentConfig
from unet_jax.data.augment import add_noise, apply_change, augment, warp
from unet_jax.data.augment_color import tone_table
from unet_jax.data.augment_draws import Change, draw_change, noise_factor, spline_weights
from unet_jax.data.warp_matrix import Geometry, geometry_matrix, grid_unit, snapped

NOTHING = {"color_prob": 0.0, "geometry_prob": 0.0, "horizontal_flip_prob": 0.0}
SPECKLE = (np.random.default_rng(0).random((1, 130, 130)) < 0.5).astype(np.uint8) * np.uint8(255)

geometries = st.builds(
    Geometry, st.floats(-180, 180), st.floats(0.5, 2.0), st.just(1.0), st.integers(-50, 50), st.integers(-50, 50)
)


def inverse(geometry, size):
    return np.asarray(cv2.invert(geometry_matrix(geometry, size, size))[1])


@given(geometries, st.integers(16, 130))
def test_snapped_coordinates_are_exact_and_never_half_way(geometry, size):
    matrix = snapped(inverse(geometry, size), size, size)
    unit = grid_unit(matrix) / 2
    numbers = matrix[:2] / unit
    assert (numbers == np.rint(numbers)).all()
    assert (numbers[:, :2] % 2 == 0).all()
    assert (numbers[:, 2] % 2 == 1).all()
    y, x = np.mgrid[:size, :size]
    for row in matrix[:2]:
        a, b, c = row.astype(np.float32)
        x32, y32 = x.astype(np.float32), y.astype(np.float32)
        exact = row[0] * x + row[1] * y + row[2]
        for rounded in ((a * x32 + b * y32) + c, a * x32 + (b * y32 + c), (c + a * x32) + b * y32):
            np.testing.assert_array_equal(rounded, exact)
        assert (exact % 1 != 0.5).all()


@given(geometries, st.integers(16, 130))
def test_snapping_moves_no_pixel_far(geometry, size):
    before = inverse(geometry, size)
    corners = np.array([[0, 0, 1], [size - 1, 0, 1], [0, size - 1, 1], [size - 1, size - 1, 1]]).T
    moved = snapped(before, size, size)[:2] @ corners - before[:2] @ corners
    assert np.abs(moved).max() < 0.1


@given(geometries, st.sampled_from([1, 2, 5]))
def test_nearest_pixels_are_those_of_whole_numbers(geometry, channels):
    """OpenCV against a computation in 64-bit integers."""
    size = SPECKLE.shape[1]
    matrix = snapped(inverse(geometry, size), size, size)
    unit = grid_unit(matrix) / 2
    y, x = np.mgrid[:size, :size]
    one = round(1 / unit)
    numbers = np.rint(matrix[:2] / unit).astype(np.int64)
    column, row = ((n[0] * x + n[1] * y + n[2] + one // 2) // one for n in numbers)
    inside = (column >= 0) & (column < size) & (row >= 0) & (row < size)
    expected = np.where(inside, SPECKLE[0][row.clip(0, size - 1), column.clip(0, size - 1)], 0)
    pixels = np.repeat(SPECKLE[0][..., None], channels, axis=-1)
    warped = warp(pixels, matrix, linear=False, border="constant")
    np.testing.assert_array_equal(warped, np.repeat(expected[..., None], channels, axis=-1))


def test_shift_by_whole_pixels_stays_one_when_snapped():
    matrix = snapped(np.array([[1.0, 0, -3], [0, 1, 5], [0, 0, 1]]), 130, 130)
    moved = warp(SPECKLE[0][..., None], matrix, linear=False, border="constant")[..., 0]
    np.testing.assert_array_equal(moved[:-5, 3:], SPECKLE[0][5:, :-3])


def rare_sample(rng, size=64):
    """Class 0 covers a half; class 1 has nine pixels."""
    mask = np.zeros((size, size, 2), np.uint8)
    mask[: size // 2, :, 0] = 255
    y, x = rng.integers(0, size - 3, 2)
    mask[y : y + 3, x : x + 3, 1] = 255
    return Sample(np.full((size, size, 3), 100, np.uint8), mask)


def test_crops_around_foreground_show_a_rare_class_far_more_often():
    share = {}
    for foreground in (0.0, 1.0):
        config = AugmentConfig(
            **(NOTHING | {"geometry_prob": 0.5}), crop_prob=1.0, crop_size=0.25, crop_foreground=foreground
        )
        seen = 0
        for trial in range(200):
            rng = np.random.default_rng(trial)
            seen += augment(rng, rare_sample(rng), config).mask[..., 1].any()
        share[foreground] = seen / 200
    # Each class is chosen in half of the crops; a random crop has 0.25 to 1 of a side, so 0.44 of the area.
    assert 0.3 < share[0.0] < 0.6
    assert 0.65 < share[1.0] < 0.9
    only = AugmentConfig(**NOTHING, crop_prob=1.0, crop_size=0.25, crop_foreground=1.0)
    for trial in range(100):
        rng = np.random.default_rng(trial)
        sample = rare_sample(rng)
        sample.mask[..., 0] = 0
        assert augment(rng, sample, only).mask[..., 1].any()


def test_crop_without_any_foreground_is_anywhere():
    config = AugmentConfig(**NOTHING, crop_prob=1.0, crop_size=0.5, crop_foreground=1.0)
    mask = np.zeros((40, 40, 2), np.uint8)
    for trial in range(20):
        change = draw_change(np.random.default_rng(trial), config, mask, linear_masks=True)
        scale, x, y = change.matrix[0, 0], change.matrix[0, 2], change.matrix[1, 2]
        assert 0.5 <= scale <= 1.0
        for start in (x, y):  # the outer edges of the first and last pixel stay inside the image
            assert start - scale / 2 >= -0.5 - 1e-9
            assert start + 39 * scale + scale / 2 <= 39.5 + 1e-9


@pytest.mark.parametrize("far", [False, True])
def test_outermost_crops_end_at_the_images_edge(far):
    """A pixel of a crop of half the size is half a pixel wide, and the image reaches from -0.5 to 39.5."""
    config = AugmentConfig(**NOTHING, crop_prob=1.0, crop_size=0.5, crop_foreground=0.0)
    extreme = SimpleNamespace(random=lambda: 0.5, uniform=lambda low, high: high if far and low == 0.0 else low)
    matrix = draw_change(extreme, config, np.zeros((40, 40, 1), np.uint8), linear_masks=True).matrix
    edges = matrix[:2] @ np.array([[-0.5, -0.5, 1.0], [39.5, 39.5, 1.0]]).T
    np.testing.assert_allclose(edges, [[19.5, 39.5]] * 2 if far else [[-0.5, 19.5]] * 2)


@pytest.mark.parametrize(("size", "points"), [(16, 4), (100, 7), (33, 12)])
def test_spline_weights_are_a_partition_of_one(size, points):
    weights = spline_weights(size, points)
    assert (weights >= 0).all()
    np.testing.assert_array_equal(weights.sum(axis=1), 1.0)
    np.testing.assert_array_equal(weights * 64, np.rint(weights * 64))
    # A cubic B-spline of a straight line of control points is that line.
    line = weights @ (np.arange(points) - 1.0)
    np.testing.assert_allclose(line, (np.arange(size) + 0.5) / size * (points - 3), atol=0.04)


@pytest.mark.parametrize("soft", [False, True])
def test_equal_displacements_are_a_shift(soft):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (130, 130, 3), dtype=np.uint8)
    elastic = np.broadcast_to(np.array([3.0, -2.0], np.float32)[:, None, None], (2, 7, 7)).copy()
    matrix = np.eye(3) if soft else snapped(np.eye(3), 130, 130)
    sample = Sample(image, SPECKLE[0][..., None])
    after = apply_change(sample, Change(matrix=matrix, elastic=elastic), AugmentConfig(), linear_masks=soft)
    np.testing.assert_array_equal(after.mask[2:, :-3], sample.mask[:-2, 3:])
    np.testing.assert_allclose(after.image[2:, :-3].astype(int), image[:-2, 3:], atol=1)


def test_elastic_moves_pixels_by_its_standard_deviation():
    config = AugmentConfig(**NOTHING, elastic_prob=1.0, elastic=0.02)
    moves = []
    for trial in range(40):
        change = draw_change(
            np.random.default_rng(trial), config, np.zeros((100, 100, 1), np.uint8), linear_masks=False
        )
        moves.append(change.elastic)
    assert abs(np.std(moves) - 2.0) < 0.05
    assert abs(np.mean(moves)) < 0.1


def test_tone_tables():
    np.testing.assert_array_equal(tone_table(0.0, 1.0, 1.0), np.arange(256))
    np.testing.assert_array_equal(tone_table(0.2, 1.0, 1.0), np.minimum(np.arange(256) + 51, 255))
    np.testing.assert_array_equal(tone_table(-0.2, 1.0, 1.0), np.maximum(np.arange(256) - 51, 0))
    np.testing.assert_array_equal(tone_table(0.0, 1.0, 2.0), np.rint(np.arange(256) ** 2 / 255))
    half = tone_table(0.0, 0.5, 1.0)
    assert (half[0], half[255]) == (64, 191)
    assert tone_table(0.0, 1.0, 0.5)[64] == round(255 * (64 / 255) ** 0.5)


@pytest.mark.parametrize("noise", [0.01, 0.05, 0.2])
def test_noise_has_its_standard_deviation_and_no_pattern(noise):
    image = np.full((128, 128, 3), 128, np.uint8)
    added = add_noise(image, noise_factor(noise), 5).astype(float) - 128
    inside = noise <= 0.1  # a fifth is clipped at 0 and 255
    assert abs(added.mean()) < 0.02 * 255 * noise + 0.1
    if inside:
        np.testing.assert_allclose(added.std(), np.hypot(noise * 255, 12**-0.5), rtol=0.02)
    other = add_noise(image, noise_factor(noise), 6).astype(float) - 128
    for a, b in (
        (added, other),
        (added[1:], added[:-1]),
        (added[:, 1:], added[:, :-1]),
        (added[..., 0], added[..., 1]),
    ):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.03
    np.testing.assert_array_equal(add_noise(image, noise_factor(noise), 5) - 128.0, added)


def test_blur_spreads_a_point_by_its_standard_deviation():
    image = np.zeros((41, 41, 3), np.uint8)
    image[20, 20] = 255
    after = apply_change(
        Sample(image, image[..., :1]), Change(blur=1.5), AugmentConfig(blur=2.0), linear_masks=False
    ).image.astype(float)
    place = np.arange(41) - 20
    variance = (after[..., 0].sum(axis=0) * place**2).sum() / after[..., 0].sum()
    assert abs(variance**0.5 - 1.5) < 0.15
    assert abs(after[..., 0].sum() - 255) < 40  # rounding of many small numbers


@pytest.mark.parametrize("transposed", [False, True])
def test_cutout_blackens_the_image_and_leaves_the_mask(transposed):
    config = AugmentConfig(**NOTHING, cutout_prob=1.0, cutout=0.5, transpose_prob=float(transposed))
    height, width = (80, 60) if transposed else (60, 80)
    sizes, covered = [], np.zeros((height, width), bool)
    for trial in range(100):
        sample = Sample(np.full((60, 80, 3), 9, np.uint8), np.full((60, 80, 1), 255, np.uint8))
        after = augment(np.random.default_rng(trial), sample, config)
        assert after.mask.shape == (height, width, 1)
        assert (after.mask == 255).all()
        black = (after.image == 0).all(axis=-1)
        rows, columns = black.any(axis=1), black.any(axis=0)
        np.testing.assert_array_equal(black, rows[:, None] & columns)
        assert rows.sum() <= height / 2 + 1
        assert columns.sum() <= width / 2 + 1
        sizes.append(black.mean())
        covered |= black
    assert covered.mean() > 0.95
    assert 0.02 < np.mean(sizes) < 0.1


def test_new_changes_leave_the_drawn_color_warp_and_flips_as_they_are():
    mask = np.zeros((64, 64, 1), np.uint8)
    more = dict.fromkeys(("elastic_prob", "gamma_prob", "noise_prob", "blur_prob", "cutout_prob"), 1.0)
    for trial in range(20):
        plain, changed = (
            draw_change(np.random.default_rng(trial), AugmentConfig(**settings), mask, linear_masks=True)
            for settings in ({}, more)
        )
        assert plain.color == changed.color
        assert plain.flips == changed.flips
        if plain.matrix is not None:
            np.testing.assert_array_equal(plain.matrix, changed.matrix)
