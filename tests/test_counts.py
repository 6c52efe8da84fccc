import hypothesis
import hypothesis.extra.numpy as hnp
import jax
import numpy as np
import pytest

from unet_jax import metrics
from unet_jax.metrics import Counts, counts_from_logits, counts_from_masks

# predicted 1 1 0 0, true 1 0 1 0: one of each.
ONE_OF_EACH = Counts(np.array([[1]]), np.array([[1]]), np.array([[1]]), np.array([[1]]))


def test_scores_by_hand():
    assert metrics.dice(ONE_OF_EACH) == 0.5
    assert metrics.iou(ONE_OF_EACH) == pytest.approx(1 / 3)
    assert metrics.precision(ONE_OF_EACH) == 0.5
    assert metrics.recall(ONE_OF_EACH) == 0.5
    assert metrics.accuracy(ONE_OF_EACH) == 0.5


def test_empty_class_rule():
    nothing = Counts(*(np.array([n]) for n in (0, 0, 0, 9)))
    claimed = Counts(*(np.array([n]) for n in (0, 2, 0, 7)))
    assert metrics.dice(nothing) == metrics.iou(nothing) == metrics.precision(nothing) == metrics.recall(nothing) == 1
    assert metrics.dice(claimed) == metrics.iou(claimed) == metrics.precision(claimed) == 0
    assert metrics.recall(claimed) == 1


def test_counts_from_logits_equal_counts_from_masks():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 6, 5, 2)).astype(np.float32)
    labels = rng.integers(0, 256, logits.shape, np.uint8)
    on_device = jax.jit(lambda x, y: counts_from_logits(x, y, threshold=0.3))(logits, labels)
    probs = 1.0 / (1.0 + np.exp(-np.float64(logits)))
    on_host = counts_from_masks(probs > 0.3, labels >= 128)
    jax.tree.map(np.testing.assert_array_equal, on_device, on_host)
    assert on_device.tp.dtype == np.int32 and on_host.tp.dtype == np.int64


masks = hnp.arrays(bool, (2, 4, 4, 3))


@hypothesis.given(masks, masks)
def test_counts_add_up_to_all_pixels_and_dice_follows_from_iou(predicted, truth):
    counts = counts_from_masks(predicted, truth)
    np.testing.assert_array_equal(sum(counts), np.full((2, 3), 16))
    iou = metrics.iou(counts)
    np.testing.assert_allclose(metrics.dice(counts), 2 * iou / (1 + iou))


@hypothesis.given(masks, masks)
def test_summed_counts_do_not_depend_on_the_batch_size(predicted, truth):
    whole = metrics.sum_counts(counts_from_masks(predicted, truth))
    parts = [counts_from_masks(predicted[i : i + 1], truth[i : i + 1]) for i in range(2)]
    joined = metrics.sum_counts(Counts(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True))))
    jax.tree.map(np.testing.assert_array_equal, whole, joined)


def test_sums_do_not_overflow_int32():
    counts = Counts(*(np.full((3, 1), 2**30, np.int32) for _ in range(4)))
    assert metrics.sum_counts(counts).tp[0] == 3 * 2**30
    assert metrics.dice(Counts(*(np.full(1, 2**30, np.int32) for _ in range(4)))) == 0.5
