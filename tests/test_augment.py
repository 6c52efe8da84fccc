"""Augmentation against a transcription of the original's functions, and by its properties."""

import colorsys
import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unet_jax._types import Sample
from unet_jax.config import AugmentConfig
from unet_jax.data.augment import augment
from unet_jax.data.augment import warp as warp_by_inverse
from unet_jax.data.augment_color import shift_color
from unet_jax.data.augment_draws import draw_geometry
from unet_jax.data.warp_matrix import Geometry, geometry_matrix

NOTHING = {"color_prob": 0.0, "geometry_prob": 0.0, "horizontal_flip_prob": 0.0}
SEED = {"hue": 50.0, "saturation": 5.0, "value": 15.0, "circular_hue": False, "shift": 0.0625, "scale": 0.1}


def warp(pixels, matrix, *, linear, border):
    """By a matrix that says where pixels go."""
    return warp_by_inverse(pixels, cv2.invert(matrix)[1], linear=linear, border=border)


def random_sample(rng, height, width, channels):
    image = cv2.resize(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8), (width, height))
    mask = cv2.resize(rng.integers(0, 256, (4, 4), dtype=np.uint8), (width, height)) > 128
    masks = [np.roll(mask, k, axis=1) ^ (rng.random(mask.shape) > 0.95) for k in range(channels)]
    return Sample(image, np.stack(masks, axis=-1).astype(np.uint8) * np.uint8(255))


def original_hue_saturation_value(image, rng, hue_limit, sat_limit, val_limit, u=0.5):
    """On BGR. The shift is a float that OpenCV 2 to 5 round half to even before they add and saturate; this is
    written out here, and `test_cv2_add_of_a_float_rounds_half_to_even` says when a release does otherwise."""
    if rng.random() < u:
        image = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
        h, s, v = cv2.split(image)
        hue_shift = rng.uniform(hue_limit[0], hue_limit[1])
        h = saturating_add(h, hue_shift)
        sat_shift = rng.uniform(sat_limit[0], sat_limit[1])
        s = saturating_add(s, sat_shift)
        val_shift = rng.uniform(val_limit[0], val_limit[1])
        v = saturating_add(v, val_shift)
        image = cv2.merge((h, s, v))
        image = cv2.cvtColor(image, cv2.COLOR_HSV2BGR)
    return image


def saturating_add(plane, shift):
    return np.clip(plane.astype(np.int64) + int(np.rint(shift)), 0, 255).astype(np.uint8)


def original_shift_scale_rotate(image, mask, rng, shift_limit, scale_limit, rotate_limit, aspect_limit, u=0.5):
    if rng.random() < u:
        height, width, _ = image.shape
        angle = rng.uniform(rotate_limit[0], rotate_limit[1])
        scale = rng.uniform(1 + scale_limit[0], 1 + scale_limit[1])
        aspect = rng.uniform(1 + aspect_limit[0], 1 + aspect_limit[1])
        sx = scale * aspect / (aspect**0.5)
        sy = scale / (aspect**0.5)
        dx = round(rng.uniform(shift_limit[0], shift_limit[1]) * width)
        dy = round(rng.uniform(shift_limit[0], shift_limit[1]) * height)
        cc = math.cos(angle / 180 * math.pi) * sx
        ss = math.sin(angle / 180 * math.pi) * sy
        rotate_matrix = np.array([[cc, -ss], [ss, cc]])
        box0 = np.array([[0, 0], [width, 0], [width, height], [0, height]])
        box1 = box0 - np.array([width / 2, height / 2])
        box1 = np.dot(box1, rotate_matrix.T) + np.array([width / 2 + dx, height / 2 + dy])
        mat = cv2.getPerspectiveTransform(box0.astype(np.float32), box1.astype(np.float32))
        image, mask = (
            cv2.warpPerspective(
                pixels,
                mat,
                (width, height),
                flags=cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_CONSTANT,
                borderValue=(0, 0, 0),
            )
            for pixels in (image, mask)
        )
    return image, mask


def original_horizontal_flip(image, mask, rng, u=0.5):
    if rng.random() < u:
        image, mask = cv2.flip(image, 1), cv2.flip(mask, 1)
    return image, mask


def test_cv2_add_of_a_float_rounds_half_to_even():
    """What the transcription assumes of OpenCV; seen true in 5.0.0."""
    plane = np.array([[0, 1, 100, 254, 255]], np.uint8)
    for shift in (0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 10.49, 10.51, -300.0, 300.0):
        np.testing.assert_array_equal(cv2.add(plane, shift), saturating_add(plane, shift), err_msg=str(shift))


@pytest.mark.parametrize("rotate", [0.0, 45.0])
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_augmentation_is_the_originals_bit_for_bit(rotate, channels):
    config = AugmentConfig(**SEED, rotate=rotate)
    num_changed = 0
    for trial in range(200):
        sizes = np.random.default_rng((trial, channels))
        sample = random_sample(sizes, *sizes.integers(2, 60, 2).tolist(), channels)
        ours = augment(np.random.default_rng(trial), sample, config, linear_masks=True)
        bgr = np.ascontiguousarray(sample.image[..., ::-1])
        for k in range(channels):
            rng = np.random.default_rng(trial)
            image = original_hue_saturation_value(bgr, rng, (-50, 50), (-5, 5), (-15, 15))
            plane = np.ascontiguousarray(sample.mask[..., k])
            image, plane = original_shift_scale_rotate(
                image, plane, rng, (-0.0625, 0.0625), (-0.1, 0.1), (-rotate, rotate), (0, 0)
            )
            image, plane = original_horizontal_flip(image, plane, rng)
            np.testing.assert_array_equal(ours.mask[..., k], plane)
        np.testing.assert_array_equal(ours.image, image[..., ::-1])
        num_changed += not np.array_equal(ours.image, sample.image)
    assert num_changed > 150  # 7 of 8 draws change something


@pytest.mark.parametrize("border", ["constant", "reflect"])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("channels", [1, 2, 5, 6, 17])
def test_many_masks_move_as_each_alone(channels, soft, border):
    config = AugmentConfig(rotate=20.0, border=border, geometry_prob=1.0, transpose_prob=0.5)
    for trial in range(20):
        sample = random_sample(np.random.default_rng((trial, channels)), 21, 34, channels)
        together = augment(np.random.default_rng(trial), sample, config, linear_masks=soft)
        for k in range(channels):
            alone = Sample(sample.image, sample.mask[..., k : k + 1])
            alone = augment(np.random.default_rng(trial), alone, config, linear_masks=soft)
            np.testing.assert_array_equal(together.mask[..., k : k + 1], alone.mask)


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 17])
def test_constant_border_is_zero_in_every_channel(channels, linear):
    matrix = np.array([[1.0, 0, 3], [0, 1, -2], [0, 0, 1]])
    pixels = np.full((9, 8, channels), 255, np.uint8)
    expected = np.zeros_like(pixels)
    expected[:7, 3:] = 255
    np.testing.assert_array_equal(warp(pixels, matrix, linear=linear, border="constant"), expected)


def test_reflected_border_leaves_out_the_edge_row():
    matrix = np.array([[1.0, 0, 3], [0, 1, 0], [0, 0, 1]])
    row = np.arange(8, dtype=np.uint8)[None, :, None]
    warped = warp(row.repeat(5, axis=0), matrix, linear=False, border="reflect")
    np.testing.assert_array_equal(warped[2, :, 0], [3, 2, 1, 0, 1, 2, 3, 4])


def test_probabilities_of_0_change_nothing():
    sample = random_sample(np.random.default_rng(0), 17, 23, 2)
    for seed in range(20):
        after = augment(np.random.default_rng(seed), sample, AugmentConfig(**NOTHING))
        np.testing.assert_array_equal(after.image, sample.image)
        np.testing.assert_array_equal(after.mask, sample.mask)


def test_probabilities_are_kept():
    """1000 draws at 0.3: standard deviation 14.5."""
    sample = random_sample(np.random.default_rng(0), 4, 6, 1)
    config = AugmentConfig(**(NOTHING | {"horizontal_flip_prob": 0.3}))
    rng = np.random.default_rng(1)
    flipped = sum(not np.array_equal(augment(rng, sample, config).image, sample.image) for _ in range(1000))
    assert abs(flipped - 300) < 58


def test_input_is_left_alone():
    config = AugmentConfig(color_prob=1.0, geometry_prob=1.0, horizontal_flip_prob=1.0, transpose_prob=1.0)
    sample = random_sample(np.random.default_rng(0), 16, 16, 3)
    for array in sample[:2]:
        array.flags.writeable = False
    image, mask = sample.image.copy(), sample.mask.copy()
    after = augment(np.random.default_rng(0), sample, config)
    np.testing.assert_array_equal(sample.image, image)
    np.testing.assert_array_equal(sample.mask, mask)
    assert after.image.flags.c_contiguous
    assert after.mask.flags.c_contiguous


def test_equal_random_numbers_give_equal_samples():
    config = AugmentConfig(rotate=30.0, vertical_flip_prob=0.5, transpose_prob=0.5)
    sample = random_sample(np.random.default_rng(0), 16, 16, 3)
    seen = set()
    for seed in range(20):
        first, second = (augment(np.random.default_rng(seed), sample, config) for _ in range(2))
        np.testing.assert_array_equal(first.image, second.image)
        np.testing.assert_array_equal(first.mask, second.mask)
        seen.add(first.image.tobytes())
    assert len(seen) > 15


@pytest.mark.parametrize(("shift", "expected_hue"), [(-10, 170), (10, 10), (170, 170), (-170, 10), (180, 0)])
def test_circular_hue_wraps_at_red(shift, expected_hue):
    """Pure red has hue 0 of 180; colorsys counts hue from 0 to 1."""
    red = np.full((1, 1, 3), (255, 0, 0), np.uint8)
    expected = [round(255 * v) for v in colorsys.hsv_to_rgb(expected_hue / 180, 1, 1)]
    np.testing.assert_allclose(shift_color(red, (shift, 0, 0), circular_hue=True)[0, 0], expected, atol=1)


def test_hue_that_is_not_circular_stops_at_red_below_and_wraps_above():
    red, almost_red = (np.full((1, 1, 3), color, np.uint8) for color in ((255, 0, 0), (255, 0, 34)))
    np.testing.assert_array_equal(shift_color(red, (-10, 0, 0), circular_hue=False), red)
    expected = [round(255 * v) for v in colorsys.hsv_to_rgb(6 / 180, 1, 1)]  # 176 + 10 = 186
    np.testing.assert_allclose(shift_color(almost_red, (10, 0, 0), circular_hue=False)[0, 0], expected, atol=1)


def test_color_shift_saturates_and_leaves_zero_alone():
    pixels = np.array([[[250, 250, 250], [3, 3, 3], [100, 50, 50]]], np.uint8)
    brighter, darker = (shift_color(pixels, (0, 0, v), circular_hue=True) for v in (10.0, -10.0))
    np.testing.assert_array_equal(brighter[0, :2, 0], [255, 13])
    np.testing.assert_array_equal(darker[0, :2, 0], [240, 0])
    np.testing.assert_array_equal(shift_color(pixels, (0.4, -0.4, 0.5), circular_hue=True), pixels)


def test_shift_and_flips_and_transpose_are_what_numpy_says():
    sample = random_sample(np.random.default_rng(0), 12, 9, 2)
    for name, expect in {
        "horizontal_flip_prob": lambda a: a[:, ::-1],
        "vertical_flip_prob": lambda a: a[::-1],
        "transpose_prob": lambda a: a.transpose(1, 0, 2),
    }.items():
        after = augment(np.random.default_rng(0), sample, AugmentConfig(**(NOTHING | {name: 1.0})))
        np.testing.assert_array_equal(after.image, expect(sample.image))
        np.testing.assert_array_equal(after.mask, expect(sample.mask))
    moved = warp(sample.mask, geometry_matrix(Geometry(0.0, 1.0, 1.0, 2, -3), 12, 9), linear=False, border="constant")
    np.testing.assert_array_equal(moved[:-3, 2:], sample.mask[3:, :-2])


def test_flips_and_transpose_reach_all_eight_symmetries_of_the_square():
    probs = {"horizontal_flip_prob": 0.5, "vertical_flip_prob": 0.5, "transpose_prob": 0.5}
    sample = random_sample(np.random.default_rng(0), 7, 7, 1)
    rng = np.random.default_rng(0)
    seen = {augment(rng, sample, AugmentConfig(**(NOTHING | probs))).image.tobytes() for _ in range(200)}
    squares = [turned for a in (sample.image, sample.image[::-1]) for turned in (np.rot90(a, k) for k in range(4))]
    assert seen == {np.ascontiguousarray(a).tobytes() for a in squares}


def test_rotation_is_clockwise_about_half_the_size():
    """As in the original, pixel (x, y) turns about (width / 2, height / 2), so one row leaves the image."""
    sample = random_sample(np.random.default_rng(0), 16, 16, 1)
    matrix = geometry_matrix(Geometry(90.0, 1.0, 1.0, 0, 0), 16, 16)
    turned = warp(sample.mask, matrix, linear=False, border="constant")
    np.testing.assert_array_equal(turned[:, 1:], np.rot90(sample.mask, -1)[:, :-1])
    assert not turned[:, 0].any()


def test_aspect_changes_the_ratio_of_width_to_height():
    """An aspect of 4 makes a box twice as wide and half as high; turned by 90 degrees, twice as high."""
    pixels = np.zeros((64, 64, 1), np.uint8)
    pixels[24:40, 24:40] = 255
    for angle, expected in ((0.0, (8, 32)), (90.0, (32, 8))):
        matrix = geometry_matrix(Geometry(angle, 1.0, 4.0, 0, 0), 64, 64)
        warped = warp(pixels, matrix, linear=True, border="constant")[..., 0] > 127
        extent = (np.ptp(np.flatnonzero(warped.any(axis=1))) + 1, np.ptp(np.flatnonzero(warped.any(axis=0))) + 1)
        np.testing.assert_allclose(extent, expected, atol=1)


def test_scale_is_a_factor_of_the_size():
    pixels = np.zeros((64, 64, 1), np.uint8)
    pixels[16:48, 16:48] = 255
    for scale in (0.5, 1.5):
        matrix = geometry_matrix(Geometry(0.0, scale, 1.0, 0, 0), 64, 64)
        area = (warp(pixels, matrix, linear=False, border="constant") > 0).sum()
        assert abs(math.sqrt(area) - 32 * scale) < 1.01


def test_drawn_geometry_stays_within_its_limits_and_reaches_them():
    config = AugmentConfig(shift=0.1, scale=0.2, rotate=30.0, aspect=0.3)
    rng = np.random.default_rng(0)
    drawn = np.array([draw_geometry(rng, config, 100, 50) for _ in range(2000)])
    low, high = drawn.min(axis=0), drawn.max(axis=0)
    limits = np.array([[-30, 0.8, 0.7, -5, -10], [30, 1.2, 1.3, 5, 10]])
    assert (low >= limits[0]).all()
    assert (high <= limits[1]).all()
    assert (abs(np.array([low, high]) - limits) <= [0.3, 0.01, 0.01, 0, 0]).all()


@pytest.mark.parametrize("soft", [False, True])
def test_image_and_mask_move_together(soft):
    """The mask is the image's bright part, before and after, but for pixels on the outline."""
    config = AugmentConfig(
        color_prob=0.0, geometry_prob=1.0, rotate=45.0, aspect=0.2, vertical_flip_prob=0.5, transpose_prob=0.5
    )
    blob = cv2.GaussianBlur(np.random.default_rng(3).random((64, 64)), (0, 0), 7)
    mask = (blob > np.median(blob)).astype(np.uint8) * np.uint8(255)
    sample = Sample(np.stack([mask] * 3, axis=-1), mask[..., None])
    edge = cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)).mean() / 255
    for seed in range(50):
        after = augment(np.random.default_rng(seed), sample, config, linear_masks=soft)
        disagree = ((after.image[..., 0] > 127) != (after.mask[..., 0] > 127)).mean()
        assert disagree == 0 if soft else disagree < edge / 4
        shifted = ((after.image[:, 2:, 0] > 127) != (after.mask[:, :-2, 0] > 127)).mean()
        assert shifted > edge / 4  # the bound above would notice two pixels


@settings(deadline=None)
@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 9),
    st.booleans(),
    st.sampled_from(["constant", "reflect"]),
    st.integers(0, 2**32),
)
def test_any_size_keeps_shape_and_hard_masks(height, width, channels, transpose, border, seed):
    config = AugmentConfig(rotate=45.0, aspect=0.3, border=border, transpose_prob=float(transpose))
    rng = np.random.default_rng(seed)
    after = augment(rng, random_sample(rng, height, width, channels), config)
    shape = (width, height) if transpose else (height, width)
    assert after.image.shape == (*shape, 3)
    assert after.mask.shape == (*shape, channels)
    assert after.image.dtype == after.mask.dtype == np.uint8
    assert set(np.unique(after.mask)) <= {0, 255}
