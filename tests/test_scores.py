"""Which classes choose a checkpoint, and how truth that resizing took away counts; numbers by hand."""

import numpy as np
import pytest

from unet_jax import metrics
from unet_jax.metrics import Counts
from unet_jax.metrics.scores import Scores, count_lost


def scores_of(rows, lost=None):
    """Scores from (tp, fp, fn) by image and class; images of 100 pixels."""
    tp, fp, fn = np.moveaxis(np.array(rows), -1, 0)
    counts = Counts(tp, fp, fn, 100 - tp - fp - fn)
    lost = None if lost is None else np.array(lost)
    names = tuple("abc"[: tp.shape[1]])
    return Scores(tuple(map(str, range(len(tp)))), names, counts if lost is None else count_lost(counts, lost), lost)


def test_a_class_without_a_true_pixel_does_not_choose():
    """Class a: 2 * 4 / (8 + 2) = 0.8 and 2 * 3 / 6 = 1. Class b is nowhere: its Dice is 1, and then 0."""
    silent = scores_of([[(4, 2, 0), (0, 0, 0)], [(3, 0, 0), (0, 0, 0)]])
    loud = scores_of([[(4, 2, 0), (0, 9, 0)], [(3, 0, 0), (0, 1, 0)]])
    for scores, dice_of_b in ((silent, 1.0), (loud, 0.0)):
        assert scores.absent == ("b",)
        assert scores.choosing_dice == pytest.approx(0.9)
        assert scores.per_image(metrics.dice) == pytest.approx({"a": 0.9, "b": dice_of_b})
        assert scores.dice_mean == pytest.approx((0.9 + dice_of_b) / 2)


def test_all_classes_choose_where_each_has_a_true_pixel():
    scores = scores_of([[(4, 2, 0), (0, 0, 0)], [(3, 0, 0), (0, 0, 1)]])
    assert scores.absent == ()
    assert scores.choosing_dice == scores.dice_mean == pytest.approx((0.8 + 1.0 + 1.0 + 0.0) / 4)


def test_truth_that_resizing_took_away_is_never_right():
    """Image 0 had class b in its file; at the network's size it has none, and nothing is predicted. Image 1 has b."""
    rows = [[(5, 0, 0), (0, 0, 0)], [(5, 0, 0), (6, 0, 0)]]
    assert scores_of(rows).per_image(metrics.dice) == {"a": 1.0, "b": 1.0}
    scores = scores_of(rows, lost=[[False, True], [False, False]])
    for score in (metrics.dice, metrics.iou, metrics.recall):
        assert scores.per_image(score) == {"a": 1.0, "b": 0.5}
    assert scores.choosing_dice == pytest.approx(0.75)
    assert scores.pooled(metrics.dice)["b"] == pytest.approx(12 / 13)  # one missed pixel among the 6
    assert sum(int(count[0, 1]) for count in scores.counts) == 100


def test_a_class_whose_truth_is_all_lost_does_not_choose():
    scores = scores_of([[(5, 0, 0), (0, 0, 0)]], lost=[[False, True]])
    assert scores.absent == ("b",)
    assert scores.choosing_dice == 1.0 and scores.per_image(metrics.dice)["b"] == 0.0


def test_where_nothing_is_true_all_classes_count():
    scores = scores_of([[(0, 0, 0), (0, 3, 0)]])
    assert scores.absent == ("a", "b")
    assert scores.choosing_dice == scores.dice_mean == 0.5
