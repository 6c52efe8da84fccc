"""Two runs on the same images: differences by hand, what is refused, and what the words say."""

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from unet_jax import InputError, metrics
from unet_jax.config import Config
from unet_jax.config.dicts import replace
from unet_jax.inference.pair import (
    ONE_SEED,
    check_paired,
    check_same_images,
    check_training_images,
    compare_scores,
    conclusion,
    image_means,
    most_different,
    pairs_csv,
)
from unet_jax.metrics.estimates import MEAN
from unet_jax.metrics.scores import Scores

NAMES = ("RUN1", "RUN2")


def scores_of(hits, classes=("a", "b")):
    """Images of 100 pixels with 50 true ones, of which `hits` `[n k]` are found; -1: all pixels are ignored."""
    hits = np.array(hits)
    ignored = hits < 0
    counts = [np.where(ignored, 0, count) for count in (hits, 0 * hits, 50 - hits, 50 + 0 * hits)]
    ids = tuple(f"i{n:02}" for n in range(len(hits)))
    return Scores(ids, classes[: hits.shape[1]], metrics.Counts(*counts), digests=tuple(f"d{id_}" for id_ in ids))


@pytest.fixture
def pair():
    rng = np.random.default_rng(1)
    hits = rng.integers(20, 40, size=(12, 2))
    return scores_of(hits), scores_of(hits + rng.integers(-2, 10, size=hits.shape))


def test_differences_are_those_of_the_images(pair):
    first, second = pair
    found = {(p.score, p.class_name): p for p in compare_scores(first, second, ["recall", "dice"])}
    assert list(found) == [(score, name) for score in ("recall", "dice") for name in ("a", "b", MEAN)]
    d = second.values("recall") - first.values("recall")
    for name, column in (("a", d[:, 0]), ("b", d[:, 1]), (MEAN, d.mean(axis=1))):
        p = found["recall", name]
        assert p.difference.value == pytest.approx(column.mean()) == pytest.approx(p.second - p.first)
        theirs = stats.permutation_test((column,), np.mean, permutation_type="samples", n_resamples=np.inf)
        assert p.p_value == pytest.approx(theirs.pvalue)
        boot = stats.bootstrap((column,), np.mean, method="BCa", rng=np.random.default_rng(0)).confidence_interval
        width = boot.high - boot.low
        assert p.difference[1:] == pytest.approx((boot.low, boot.high), abs=0.05 * width)
    lines = pairs_csv(first, second, ["recall"]).splitlines()
    assert lines[0] == "id,class,score,first,second,difference" and len(lines) == 1 + 24
    numbers = [float(x) for x in lines[1].split(",")[3:]]
    assert numbers == pytest.approx([first.values("recall")[0, 0], second.values("recall")[0, 0], d[0, 0]], abs=1e-6)
    far = most_different(first, second, "recall", count=3)
    sizes = [abs(b - a) for _, a, b in far]
    assert sizes == pytest.approx(sorted(np.abs(d.mean(axis=1)), reverse=True)[:3])
    assert all(b - a == pytest.approx(d.mean(axis=1)[first.ids.index(id_)]) for id_, a, b in far)
    assert most_different(first, first, "recall") == []


def test_groups_are_flipped_as_wholes(pair):
    groups = ["one", "two", "three"] * 4
    p = compare_scores(*pair, ["recall"], groups)[0]
    d = (pair[1].values("recall") - pair[0].values("recall"))[:, 0]
    sums = [d[i::3].sum() for i in range(3)]
    assert p.difference.value == pytest.approx(d.mean())
    signed = [abs(sum((1 - 2 * s) * x for s, x in zip(signs, sums, strict=True))) for signs in np.ndindex(2, 2, 2)]
    assert p.p_value == pytest.approx(np.mean([x >= abs(sum(sums)) - 1e-12 for x in signed]))


def test_ignored_images_have_no_part():
    first, second = scores_of([[10, -1], [20, 30]]), scores_of([[15, -1], [20, 40]])
    a, b, mean = compare_scores(first, second, ["recall"])
    assert (a.difference.value, b.difference.value) == pytest.approx((0.05, 0.2)) and b.p_value == 1.0
    assert mean.difference.value == pytest.approx(0.125) and mean.first == pytest.approx((0.3 + 0.6) / 2)
    assert (b.difference.low, b.difference.high) == (-math.inf, math.inf)
    nothing = compare_scores(*(scores_of([[-1], [-1]], ("a",)) for _ in range(2)), ["dice"])[0]
    assert math.isnan(nothing.p_value) and "cannot be compared" in conclusion(
        NAMES, (Config(), Config()), nothing, "2 images", same_images=True
    )
    assert image_means(np.array([[1.0, np.nan], [0.0, 0.4]])).mean() == pytest.approx(0.45)


def test_what_is_refused(pair):
    first, second = pair
    check_paired(NAMES, first, second)
    wrong = {
        "their classes are a, b and a, c": {"class_names": ("a", "c")},
        "2 images are in the split of one of them only, the first is 'i00' of RUN1": {"ids": ("x", *first.ids[1:])},
        "pixels of 1 images differ, the first is 'i03'": {"digests": (*first.digests[:3], "other", *first.digests[4:])},
        "masks of 1 images differ, the first is 'i11'": {
            "counts": second.counts._replace(fn=second.counts.fn + np.eye(12, dtype=int)[11][:, None])
        },
    }
    for said, change in wrong.items():
        with pytest.raises(InputError, match=said):
            check_paired(NAMES, first, dataclasses.replace(second, **change))
    with pytest.raises(InputError, match="1 images are in the split of one of them only, the first is 'b' of RUN2"):
        check_same_images(NAMES, ["a"], ["a", "b"])
    assert check_training_images(NAMES, ["a", "b"], (["a", "x"], ["y", "a"])) == 1
    with pytest.raises(InputError, match="1 of them were used to train RUN2 only, the first is 'b'"):
        check_training_images(NAMES, ["a", "b"], (["a"], ["a", "b"]))


def test_words(pair):
    base = Config()
    other, seeded = replace(base, {"model.norm": "group"}), replace(base, {"seed": 5})
    (mean,) = (p for p in compare_scores(*pair, ["dice"]) if p.class_name == MEAN)
    assert mean.difference.low > 0.0 and mean.p_value < 0.05

    def said(configs, pair=mean, same=True):
        return conclusion(NAMES, configs, pair, "12 images", same_images=same)

    assert said((base, other)).startswith("RUN2 has a better dice (mean of classes) than RUN1 on images like these 12")
    assert ONE_SEED in said((base, other)) and "differ in model.norm;" in said((base, other))
    assert "only in the seed" in said((base, seeded)) and "same settings and seed" in said((base, base))
    assert "the images they were trained on" in said((base, base), same=False)
    worse = dataclasses.replace(mean, score="brier")
    assert said((base, other), worse).startswith("RUN1 has a better brier")
    unclear = dataclasses.replace(mean, difference=mean.difference._replace(low=-0.1))
    assert said((base, other), unclear).startswith("RUN2 cannot be distinguished from RUN1 in dice")
