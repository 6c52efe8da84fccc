"""Rules for objects of masks against SciPy, fitted rules against trying all; what is not certain is not kept."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from unet_jax import metrics
from unet_jax.metrics.object_rules import FEWEST_IMAGES, ObjectRules, apply_rules, apply_to_classes, fit_rules, packed

BLOCK, CROSS = np.ones((3, 3), int), ndimage.generate_binary_structure(2, 1)
LARGE = 10**6


def without_small(mask, limit):
    labels, count = ndimage.label(mask, BLOCK)  # type: ignore[misc]
    kept = [i for i in range(1, count + 1) if (labels == i).sum() >= limit]
    return np.isin(labels, kept)


def without_holes(mask, limit):
    labels, count = ndimage.label(~mask, CROSS)  # type: ignore[misc]
    border = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    filled = [i for i in range(1, count + 1) if i not in border and (labels == i).sum() < limit]
    return mask | np.isin(labels, filled)


def largest(mask):
    labels, count = ndimage.label(mask, BLOCK)  # type: ignore[misc]
    return labels == 1 + np.argmax([(labels == i).sum() for i in range(1, count + 1)]) if count else mask


@given(seed=st.integers(0, 10**6), limit=st.integers(1, 9), share=st.sampled_from([0.2, 0.5, 0.8]))
def test_rules_are_those_of_scipy(seed, limit, share):
    rng = np.random.default_rng(seed)
    mask = rng.random(tuple(rng.integers(1, 14, 2))) < share
    np.testing.assert_array_equal(apply_rules(mask, ObjectRules(smallest_object=limit)), without_small(mask, limit))
    filled = without_holes(mask, limit)
    np.testing.assert_array_equal(apply_rules(mask, ObjectRules(smallest_hole=limit)), filled)
    every = apply_rules(mask, ObjectRules(smallest_hole=LARGE))
    np.testing.assert_array_equal(every, ndimage.binary_fill_holes(mask))
    np.testing.assert_array_equal(
        apply_rules(mask, ObjectRules(largest_only=True)), largest(mask)
    )  # scan order of ties
    together = apply_rules(mask, ObjectRules(limit, limit, True))
    np.testing.assert_array_equal(together, largest(without_small(filled, limit)))
    # At twice the size, with the same size for the network, the same objects.
    doubled = apply_rules(np.kron(mask, np.ones((2, 2), bool)), ObjectRules(limit, limit, True), mask.size)
    np.testing.assert_array_equal(doubled, np.kron(together, np.ones((2, 2), bool)))


def test_classes_have_rules_of_their_own():
    masks = np.zeros((5, 5, 9), bool)
    masks[2, 2] = True
    rules = [ObjectRules()] * 8 + [ObjectRules(smallest_object=2)]
    found = apply_to_classes(masks, rules, 25)
    np.testing.assert_array_equal(found[..., :8], masks[..., :8])
    assert not found[..., 8].any() and apply_to_classes(masks, rules[:8], 25) is masks


def images(count=12, seed=0):
    """Squares with holes of 1 to 4 pixels and specks of 1 to 6 beside them, of which few are true."""
    rng, made = np.random.default_rng(seed), []
    for i in range(count):
        truth = np.zeros((40, 40 + i), bool)
        truth[10:30, 10:30] = True
        predicted = truth.copy()
        for y in (12, 17, 22):
            predicted[y, 15 : 15 + rng.integers(1, 5)] = False
        for y in (2, 5, 35):
            predicted[y, 5 : 5 + rng.integers(1, 7)] = True
            truth[y, 5] = rng.random() < 0.1
        made.append((predicted[..., None], truth[..., None], None, truth.size))
    return made


def dice_of(made, rules):
    masks = [(apply_rules(p[..., 0], rules, seen), t[..., 0], v) for p, t, v, seen in made]
    counts = [metrics.counts_from_masks(p[..., None], t[..., None], v) for p, t, v in masks]
    return np.array([metrics.dice(c)[0] for c in counts])


def test_the_best_certain_rules_are_found():
    made = images()
    rules, tried = fit_rules([packed(*one) for one in made], 0)
    assert [one.rule for one in tried] == ["smallest_hole", "smallest_object", "largest_only"]
    assert all(one.is_kept for one in tried[:2]) and rules.smallest_hole == 8 and rules.smallest_object == 8
    areas = [2**i for i in range(2, 12)]
    no_rule = ObjectRules()
    for one, before in zip(tried, (no_rule, ObjectRules(8), ObjectRules(8, 8)), strict=True):
        scores = dice_of(made, before)
        values = areas if one.rule != "largest_only" else [True]
        all_ = {value: dice_of(made, dataclasses.replace(before, **{one.rule: value})) for value in values}
        best = max(values, key=lambda value, all_=all_: all_[value].mean())
        assert one.dice[0] == pytest.approx(scores.mean(), abs=1e-12)
        assert one.dice[1] == pytest.approx(max(scores.mean(), all_[best].mean()), abs=1e-12)
        assert one.value == (best if all_[best].mean() > scores.mean() else 0)
        gains = all_[best] - scores
        assert not one.is_kept or one.interval[0] < gains.mean() < one.interval[1]
    assert not tried[2].is_kept and tried[2].value == 0  # specks are gone already: nothing to gain


def test_what_is_not_certain_is_not_kept():
    made = images()
    few, _ = fit_rules([packed(*one) for one in made[: FEWEST_IMAGES - 1]], 0)
    assert few == ObjectRules()
    clean = [(truth, truth, None, seen) for _, truth, _, seen in made]
    one_bad = [packed(p, t, v, seen) for p, t, v, seen in (made[0], *clean[1:])]
    rules, tried = fit_rules(one_bad, 0)
    assert rules == ObjectRules() and tried[0].dice[1] > tried[0].dice[0] and tried[0].interval[0] <= 0.0
    absent = [packed(predicted, np.zeros_like(truth), None, seen) for predicted, truth, _, seen in made]
    assert fit_rules(absent, 0)[0] == ObjectRules()  # to remove everything would be best
    ignored = []
    for predicted, truth, _, seen in made:  # holes and specks in ignored pixels count nowhere
        valid = predicted == truth
        ignored.append(packed(predicted, truth & valid, valid, seen))
    assert fit_rules(ignored, 0)[0] == ObjectRules()
    unknown = [packed(one[0], one[1], np.zeros_like(one[1]), one[3]) for one in made]
    rules, tried = fit_rules(unknown, 0)
    assert rules == ObjectRules() and np.isnan(tried[0].dice[0])
    np.testing.assert_array_equal(one_bad[0].of_class(0)[0], made[0][0][..., 0])  # packed and unpacked
