"""Calibration and border scores against MONAI, torchmetrics, loops, and by hand."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

from unet_jax.metrics.image_scores import brier, calibration_error, hausdorff95, surface_dice
from unet_jax.study.scores import SCORES, image_scores

GOLDEN = json.loads((Path(__file__).parent / "golden" / "image_scores.json").read_text())


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=range(len(GOLDEN["cases"])))
def test_against_monai_and_torchmetrics(case):
    shape = tuple(case["shape"])
    probs = np.frombuffer(bytes.fromhex(case["levels"]), np.uint8).reshape(shape) / np.float32(256)
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(case["truth"]), np.uint8), count=math.prod(shape))
    truth, predicted = bits.reshape(shape).astype(bool), probs > 0.5
    assert hausdorff95(predicted, truth) == pytest.approx(case["hausdorff95"], rel=1e-6)
    assert surface_dice(predicted, truth) == pytest.approx(case["surface_dice"], rel=1e-6)
    assert calibration_error(probs, truth) == pytest.approx(case["calibration_error"], abs=1e-6)


def square(size, top, left, side):
    mask = np.zeros((size, size), bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_a_shifted_square_by_hand():
    a, b = square(20, 5, 5, 4), square(20, 5, 8, 4)  # borders of 12 pixels, three columns apart
    # The near column of each border lies on the other's first or last column (0); the far one is 3 away; of the two
    # columns between, top and bottom pixels are 1 and 2 away.
    assert hausdorff95(a, b) == 3.0
    assert surface_dice(a, b) == (8 + 8) / 24
    assert surface_dice(a, b, tolerance=3.0) == 1.0
    assert (hausdorff95(a, a), surface_dice(a, a)) == (0.0, 1.0)


def test_points_by_brute_force():
    rng = np.random.default_rng(0)
    a, b = (rng.random((9, 7)) < 0.1 for _ in range(2))
    a[0, 0] = b[8, 6] = True
    # So few pixels that each is its own border: the distances are those between all pairs.
    between = np.array([[math.dist(p, q) for q in np.argwhere(b)] for p in np.argwhere(a)])
    there, back = between.min(1), between.min(0)
    for x in (a, b):
        assert not any(
            x[i, j] and x[i - 1 : i + 2, j].sum() + x[i, j - 1 : j + 2].sum() == 6 for i, j in np.ndindex(9, 7)
        )
    assert hausdorff95(a, b) == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)))
    near = (there <= 2).sum() + (back <= 2).sum()
    assert surface_dice(a, b) == pytest.approx(near / (len(there) + len(back)))


def test_empty_masks_have_the_documented_scores():
    empty, full = np.zeros((30, 40), bool), square(40, 1, 1, 5)[:30]
    assert (hausdorff95(empty, empty), surface_dice(empty, empty)) == (0.0, 1.0)
    for pair in itertools.permutations((empty, full)):
        assert (hausdorff95(*pair), surface_dice(*pair)) == (50.0, 0.0)


def test_calibration_by_hand():
    truth = np.array([[True, False, False, False]])
    assert brier(np.full((1, 4), 0.25, np.float32), truth) == pytest.approx((0.75**2 + 3 * 0.25**2) / 4)
    assert calibration_error(np.full((1, 4), 0.25, np.float32), truth) == pytest.approx(0.0)
    assert calibration_error(np.full((1, 4), 0.75, np.float32), truth) == pytest.approx(0.5)
    # Two bins: three quarters of the pixels say 0.125 and are right by 0.125, one says 0.5 where all is true.
    probs = np.array([[0.5, 0.125, 0.125, 0.125]], np.float32)
    assert calibration_error(probs, truth) == pytest.approx(0.25 * 0.5 + 0.75 * 0.125)
    assert calibration_error(truth.astype(np.float32), truth) == 0.0 == brier(truth.astype(np.float32), truth)


def test_calibration_by_a_loop():
    rng = np.random.default_rng(1)
    probs, truth = rng.random((13, 11)).astype(np.float32), rng.random((13, 11)) < 0.4
    for num_bins in (1, 5, 15):
        error = 0.0
        for k in range(num_bins):
            inside = (probs > k / num_bins) & (probs <= (k + 1) / num_bins)
            if inside.any():
                error += inside.mean() * abs(probs[inside].astype(float).mean() - truth[inside].mean())
        assert calibration_error(probs, truth, num_bins) == pytest.approx(error, abs=1e-9)


def test_each_score_of_an_image_is_that_of_its_name_and_class():
    truth = np.stack([square(20, 5, 5, 4), np.zeros((20, 20), bool)], axis=-1)
    predicted = np.stack([square(20, 5, 8, 4), np.zeros((20, 20), bool)], axis=-1)
    scores = image_scores(np.where(predicted, 0.75, 0.25).astype(np.float32), truth, 0.5)
    # 4 pixels in both squares of 16; 12 false and 12 missed at an error of 0.75, the other 376 at 0.25.
    expected = {
        "dice": (8 / 32, 1.0),
        "iou": (4 / 28, 1.0),
        "surface_dice": (16 / 24, 1.0),
        "hd95": (3.0, 0.0),
        "brier": ((24 * 0.75**2 + 376 * 0.25**2) / 400, 0.0625),
        # 16 pixels say 0.75 where 4 are true; 384 say 0.25 where 12 are.
        "ece": ((16 * 0.5 + 384 * (0.25 - 12 / 384)) / 400, 0.25),
    }
    assert scores.keys() == expected.keys() == SCORES.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(scores[name], values, rtol=1e-6, err_msg=name)
    assert image_scores(np.full((4, 4, 1), 0.6, np.float32), np.ones((4, 4, 1), bool), 0.7)["dice"] == 0.0
