"""Scores of objects, skeletons and borders against MONAI and panoptica, their intervals against SciPy, and by hand."""

import json
import math
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from scipy import stats

from unet_jax import InputError, metrics
from unet_jax.cli.options import ScoreName, ScoreOptions, groups_of
from unet_jax.metrics.estimates import MEAN, estimate_scores
from unet_jax.metrics.objects import match_objects
from unet_jax.metrics.score_sums import DEFAULT, NAMES, OBJECT_SCORES, SCORES, check_scores, measure
from unet_jax.metrics.scores import Scores
from unet_jax.metrics.statistics import bootstrap_intervals, sum_intervals
from unet_jax.report.estimates_table import estimates_json, explanation

GOLDEN = json.loads((Path(__file__).parent / "golden" / "object_scores.json").read_text())
ALL = check_scores(NAMES)


def scores_of(predicted, truth, valid=None, probs=None, names=ALL, tolerance=2.0):
    """Scores of images `[n h w k]`."""
    probs = predicted.astype(np.float64) if probs is None else probs
    valid = [None] * len(truth) if valid is None else valid
    counts, sums = [], []
    for p, mask, t, v in zip(probs, predicted, truth, valid, strict=True):
        counts.append(metrics.counts_from_masks(mask, t, v))
        sums.append(measure(names, p, mask, t, v, tolerance=tolerance))
    stacked = {kind: np.stack([part[kind] for part in sums]) for kind in sums[0]}
    joined = metrics.Counts(*(np.stack(arrays) for arrays in zip(*counts, strict=True)))
    classes = tuple("abc"[: truth.shape[-1]])
    return Scores(tuple(map(str, range(len(truth)))), classes, joined, sums=stacked)


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=range(len(GOLDEN["cases"])))
def test_against_monai_and_panoptica(case):
    shape = tuple(case["shape"])
    predicted, truth = (
        np.unpackbits(np.frombuffer(bytes.fromhex(case[name]), np.uint8), count=math.prod(shape)).reshape(shape) > 0
        for name in ("predicted", "truth")
    )
    assert list(match_objects(predicted, truth)[:3]) == case["counts"]
    scores = scores_of(predicted[None, ..., None], truth[None, ..., None])
    for name in (*OBJECT_SCORES, "cldice"):
        assert scores.values(name)[0, 0] == pytest.approx(case[name], rel=1e-9), name
    assert scores.values("panoptic_quality")[0, 0] == pytest.approx(case["monai_panoptic_quality"], rel=1e-5)
    for tolerance, expected in zip(GOLDEN["tolerances"], case["surface_dice"], strict=True):
        nsd = scores_of(predicted[None, ..., None], truth[None, ..., None], names=["nsd"], tolerance=tolerance)
        assert nsd.values("nsd")[0, 0] == pytest.approx(expected, rel=1e-5)


def row(text):
    """A mask of one row; # is in it."""
    return np.array([[c == "#" for c in text]])


def test_objects_by_hand():
    # Exactly half is no match: two true objects could otherwise be matched by one predicted object.
    assert match_objects(row("##......"), row("####....")) == (0, 1, 1, 0)
    assert match_objects(row("###....."), row("####....")) == (1, 0, 0, 0.75)
    # One prediction over two true objects of 3 and 1 pixels: 3 of 5 is a match, and the small one is missed.
    assert match_objects(row("#####..."), row("###.#...")) == (1, 0, 1, 0.6)
    assert match_objects(row("........"), row("........")) == (0, 0, 0, 0)
    corner = np.array([[1, 0], [0, 1]], bool)
    assert match_objects(corner, corner) == (1, 0, 0, 1.0)


# (predicted, true): value of each score, by the rules that docs/metrics.md lists.
EMPTY = {"dice": 1, "iou": 1, "precision": 1, "recall": 1, "accuracy": 1, "nsd": 1, "hd95": 0, "cldice": 1} | {
    "brier": 0,
    "ece": 0,
    "object_precision": 1,
    "object_recall": 1,
    "object_f1": 1,
    "panoptic_quality": 1,
}
MISSED = {"dice": 0, "iou": 0, "precision": 1, "recall": 0, "accuracy": 0.75, "nsd": 0, "hd95": 5, "cldice": 0} | {
    "brier": 0.25,
    "ece": 0.25,
    "object_precision": 1,
    "object_recall": 0,
    "object_f1": 0,
    "panoptic_quality": 0,
}
FALSE = MISSED | {"precision": 0, "recall": 1, "object_precision": 0, "object_recall": 1}


def test_empty_masks_follow_the_rules_that_are_printed():
    empty, some = np.zeros((1, 3, 4, 1), bool), np.zeros((1, 3, 4, 1), bool)
    some[0, :, 1] = True
    for predicted, truth, expected in ((empty, empty, EMPTY), (empty, some, MISSED), (some, empty, FALSE)):
        scores = scores_of(predicted, truth)
        assert {name: scores.values(name)[0, 0] for name in ALL} == expected
    assert EMPTY.keys() == set(ALL) == set(SCORES)
    said = explanation(ALL, 30, None)
    assert all(f"{name}" in said[-1] for name in ALL) and not any("WARNING" in line for line in said)
    assert "WARNING: 3 groups are few" in explanation(DEFAULT, 30, 3)[1]


@pytest.fixture(scope="module")
def blobs():
    """Scores of 24 images of two classes; image 0 ignores class b, and image 1 has nothing of class a."""
    rng = np.random.default_rng(3)
    coarse = rng.random((24, 5, 6, 2))
    field = coarse.repeat(4, axis=1).repeat(4, axis=2)
    truth = field > 0.55
    truth[1, ..., 0] = False
    probs = np.clip(0.5 + 1.2 * (field - 0.55) + rng.normal(0.0, 0.15, size=field.shape), 0.0, 1.0)
    valid = np.ones(truth.shape, bool)
    valid[0, ..., 1] = False
    return scores_of(probs > 0.5, truth, valid, probs)


def test_means_and_pooled_scores(blobs):
    found = {(e.score, e.class_name): e for e in estimate_scores(blobs, ALL, num_resamples=50)}
    assert len(found) == 14 * 3
    for name in ALL:
        values = blobs.values(name)
        assert np.isnan(values[0, 1]) and np.isnan(values).sum() == 1
        means = [found[name, column].mean.value for column in ("a", "b", MEAN)]
        assert means == pytest.approx([values[:, 0].mean(), values[1:, 1].mean(), np.mean(means[:2])])
    assert found["hd95", "a"].pooled is None
    tp, fp, fn, tn = (count[:, 0].sum() for count in blobs.counts)
    assert found["dice", "a"].pooled.value == pytest.approx(2 * tp / (2 * tp + fp + fn))
    assert found["accuracy", "a"].pooled.value == pytest.approx((tp + tn) / (24 * 20 * 24))
    hits, wrong, missed, overlap = blobs.sums["objects"][:, 0].sum(axis=0)
    assert found["object_f1", "a"].pooled.value == pytest.approx(hits / (hits + (wrong + missed) / 2))
    assert found["panoptic_quality", "a"].pooled.value == pytest.approx(overlap / (hits + (wrong + missed) / 2))
    # All images have equally many pixels, so that the pooled Brier score is the mean, and the calibration error is not.
    assert found["brier", "a"].pooled.value == pytest.approx(found["brier", "a"].mean.value)
    assert found["ece", "a"].pooled.value < 0.8 * found["ece", "a"].mean.value


def test_a_class_that_all_images_ignore_has_no_score():
    truth = np.ones((3, 4, 4, 2), bool)
    valid = truth.copy()
    valid[..., 1] = False
    rows = {e.class_name: e for e in estimate_scores(scores_of(truth, truth, valid), ["dice"], num_resamples=50)}
    assert math.isnan(rows["b"].mean.value) and math.isnan(rows["b"].pooled.value)
    assert rows["a"].mean == rows[MEAN].mean == rows["a"].pooled == (1.0, 1.0, 1.0)
    values = estimates_json(list(rows.values()))["dice"]
    assert values["b"] == dict.fromkeys(("mean", "low", "high", "pooled", "pooled_low", "pooled_high"))
    assert json.loads(json.dumps(values, allow_nan=False))["a"]["high"] == 1.0


def scipys(parts, statistic):
    """The BCa interval of `scipy.stats.bootstrap`, which resamples rows of all columns together."""
    found = stats.bootstrap(
        tuple(parts.T),
        lambda *columns, axis: statistic(np.stack([column.sum(axis=axis) for column in columns], axis=-1)),
        paired=True,
        vectorized=True,
        n_resamples=4000,
        method="BCa",
        rng=np.random.default_rng(8),
    )
    return found.confidence_interval


@pytest.mark.parametrize("grouped", [False, True])
def test_intervals_are_scipys(blobs, grouped):
    """A mean and a ratio of sums, over images and over groups of unequal sizes."""
    groups = [f"p{int(math.sqrt(i))}" if i < 16 else f"q{i}" for i in range(24)] if grouped else None
    (dice,) = (e for e in estimate_scores(blobs, ["dice"], groups) if e.class_name == "a")
    sums = np.concatenate([blobs.sums_of("dice")[:, 0], blobs.values("dice")[:, :1], np.ones((24, 1))], axis=1)
    if groups is not None:
        sums = np.stack([sums[[g == name for g in groups]].sum(axis=0) for name in sorted(set(groups))])
        assert len(sums) == 12
    statistics = (lambda s: SCORES["dice"].value(s[..., :4]), lambda s: s[..., 4] / s[..., 5])
    for mine, statistic in zip((dice.pooled, dice.mean), statistics, strict=True):
        theirs = scipys(sums, statistic)
        width = mine.high - mine.low
        assert 0.0 < width < 0.2 and mine.low < mine.value < mine.high
        assert (mine.low, mine.high) == pytest.approx((theirs.low, theirs.high), abs=0.05 * width)


def test_a_mean_has_the_interval_of_studies():
    x = np.random.default_rng(1).exponential(size=(25, 1))
    found = sum_intervals(np.concatenate([x, np.ones_like(x)], axis=1), [lambda s: s[..., 0] / s[..., 1]])
    np.testing.assert_allclose(found, bootstrap_intervals(x), rtol=1e-9)


def test_grouped_intervals_are_wider_where_images_of_a_group_resemble_each_other():
    by_group = np.random.default_rng(0).normal(size=20)
    x = by_group.repeat(5)[:, None]
    parts, mean = np.concatenate([x, np.ones_like(x)], axis=1), [lambda s: s[..., 0] / s[..., 1]]
    (low,), (high,) = sum_intervals(parts, mean, [str(i // 5) for i in range(100)])
    (narrow_low,), (narrow_high,) = sum_intervals(parts, mean)
    assert (high - low) / (narrow_high - narrow_low) == pytest.approx(math.sqrt(5), rel=0.05)
    assert sum_intervals(parts, mean, ["one"] * 100) == (-math.inf, math.inf)


def test_options_of_scores():
    assert get_args(ScoreName) == NAMES
    assert ScoreOptions().scores == DEFAULT and ScoreOptions(nsd_tolerance=3, scores=("nsd",)).tolerance == 3
    for options, said in (
        ({"nsd_tolerance": 1.0}, "no effect without the score nsd"),
        ({"scores": ("nsd",), "nsd_tolerance": -1.0}, "nsd-tolerance is -1.0"),
        ({"scores": ()}, "--scores is empty"),
    ):
        with pytest.raises(InputError, match=said):
            ScoreOptions(**options).check()
    assert groups_of("", ["a_1"]) is None and groups_of("^([^_]*)_", ["a_1", "b_1", "a_2"]) == ["a", "b", "a"]
    with pytest.raises(InputError, match=r"--group-key is '.*', which finds no group in the id 'b'"):
        groups_of("^([^_]*)_", ["a_1", "b"])
    with pytest.raises(InputError, match="--scores has 'dise'"):
        check_scores(["dise"])
