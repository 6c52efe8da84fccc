"""Intervals, p-values and ranks against SciPy, published tables, and by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from unet_jax.metrics.rank_tests import (
    average_ranks,
    critical_difference,
    friedman_p_value,
    friedman_permutation_p_value,
    iman_davenport_p_value,
    num_sets_needed,
    wilcoxon_p_values,
)
from unet_jax.metrics.statistics import bootstrap_intervals, holm, seed_interval, sign_flip_p_values
from unet_jax.study.compare import MEAN, compare, find_winner, summarize
from unet_jax.study.over_sets import compare_over_sets
from unet_jax.study.scores import SCORES, ScoreTable


@pytest.mark.parametrize("skew", [False, True])
def test_bootstrap_interval_is_scipys(skew):
    rng = np.random.default_rng(3)
    x = rng.exponential(size=(25, 2)) if skew else rng.normal(size=(25, 2))
    low, high = bootstrap_intervals(x, num_resamples=20_000, seed=1)
    for j in range(2):
        found = stats.bootstrap((x[:, j],), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(2))
        width = high[j] - low[j]
        assert low[j] == pytest.approx(found.confidence_interval.low, abs=0.02 * width)
        assert high[j] == pytest.approx(found.confidence_interval.high, abs=0.02 * width)
    percentile = stats.bootstrap(
        (x[:, 0],), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(2)
    )
    if skew:  # so that the correction is seen
        assert abs(high[0] - percentile.confidence_interval.high) > 0.03 * (high[0] - low[0])


def test_bootstrap_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(5)
    low, high = bootstrap_intervals(rng.normal(0.3, 1.0, size=(40, 1000)), num_resamples=1000)
    # Of 1000 intervals of nominal 95 % about 930 to 960 hold the true mean (n = 40 is a little short of 95 %).
    assert 0.915 < ((low <= 0.3) & (high >= 0.3)).mean() < 0.97


def test_bootstrap_interval_of_what_has_no_spread():
    low, high = bootstrap_intervals(np.array([[0.25, 0.0]] * 6))
    np.testing.assert_array_equal([low, high], [[0.25, 0.0]] * 2)
    low, high = bootstrap_intervals(np.array([[0.25]]))
    assert (low[0], high[0]) == (-np.inf, np.inf)


def test_the_same_seed_gives_the_same_interval_and_another_another():
    x = np.random.default_rng(0).normal(size=(20, 3))
    np.testing.assert_array_equal(bootstrap_intervals(x, seed=4), bootstrap_intervals(x, seed=4))
    assert (bootstrap_intervals(x, seed=4)[0] != bootstrap_intervals(x, seed=5)[0]).all()


def test_sign_flips_by_hand():
    # All of one sign: only the two patterns of equal signs are as far out. 2 / 2^5.
    assert sign_flip_p_values(np.array([[0.1, 0.2, 0.3, 0.1, 0.4]]).T) == pytest.approx([2 / 32])
    # 1, 1, -1: the sum 1 is reached by all eight patterns' sizes 1 and 3.
    assert sign_flip_p_values(np.array([[1.0, 1.0, -1.0]]).T) == pytest.approx([1.0])
    # 3, 1, 1, -1: sizes of at least 4 are those where two or three of the others have 3's sign: 2 (3 + 1) of 16.
    assert sign_flip_p_values(np.array([[3.0, 1.0, 1.0, -1.0]]).T) == pytest.approx([8 / 16])
    assert sign_flip_p_values(np.zeros((30, 1))) == pytest.approx([1.0])


def test_sign_flips_are_scipys():
    x = np.random.default_rng(7).normal(0.4, 1.0, size=(12, 3))
    exact = [
        stats.permutation_test((x[:, j],), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
        for j in range(3)
    ]
    np.testing.assert_allclose(sign_flip_p_values(x), exact, rtol=1e-12)
    drawn = sign_flip_p_values(x, num_flips=4000)  # fewer than 2^12
    assert (drawn != exact).any()
    np.testing.assert_allclose(drawn, exact, atol=4 * math.sqrt(0.25 / 4000))


def test_a_random_p_value_is_never_zero():
    assert sign_flip_p_values(np.full((50, 1), 0.1), num_flips=999) == pytest.approx([0.001])


def test_holm_by_hand():
    # 4 x 0.01, 3 x 0.02, 2 x 0.03, and 0.04, which may not be less than the one before.
    np.testing.assert_allclose(holm(np.array([0.04, 0.01, 0.03, 0.02])), [0.06, 0.04, 0.06, 0.06])
    np.testing.assert_allclose(holm(np.array([0.6, 0.001, 0.7])), [1.0, 0.003, 1.0])
    # 10 x 0.01, 9 x 0.013, 8 x 0.014 = 0.112 raised to 0.117, 7 x 0.19 cut to 1.
    p = np.array([0.01, 0.013, 0.014, 0.19, 0.35, 0.5, 0.63, 0.67, 0.75, 0.81])
    np.testing.assert_allclose(holm(p), [0.1, 0.117, 0.117, *[1.0] * 7])


def test_ranks_by_hand():
    values = np.array([[0.9, 0.8, 0.7], [0.5, 0.5, 0.1]])
    np.testing.assert_allclose(average_ranks(values, more_is_better=True), [1.25, 1.75, 3.0])
    np.testing.assert_allclose(average_ranks(values, more_is_better=False), [2.75, 2.25, 1.0])
    assert math.isnan(friedman_p_value(values[:, :2])) and math.isnan(friedman_p_value(np.ones((4, 3))))
    assert friedman_p_value(np.arange(12.0).reshape(4, 3)) == pytest.approx(math.exp(-4))  # chi2 is 8, 2 degrees


def test_iman_davenport_by_hand():
    # Sums of ranks 10, 8 and 6 on four data sets: chi square is 12 / 48 * 200 - 48 = 2, F is 3 * 2 / (8 - 2) = 1, and
    # the share of F(2, 6) above 1 is (1 + 2 / 6)^-3 = 27 / 64.
    values = np.array([[3.0, 2.0, 1.0], [3.0, 1.0, 2.0], [3.0, 2.0, 1.0], [1.0, 3.0, 2.0]])
    assert iman_davenport_p_value(values) == pytest.approx(27 / 64)
    assert iman_davenport_p_value(-values) == pytest.approx(27 / 64)
    assert iman_davenport_p_value(np.arange(12.0).reshape(4, 3)) == 0.0  # all alike
    assert math.isnan(iman_davenport_p_value(values[:, :2])) and math.isnan(iman_davenport_p_value(np.ones((4, 3))))
    assert math.isnan(iman_davenport_p_value(values[:1]))
    # It is less cautious than Friedman's own test, which is too cautious where n is small: shares of false alarms.
    ranks = np.random.default_rng(0).random((200, 6, 4))
    shares = [np.mean([test(x) < 0.05 for x in ranks]) for test in (friedman_p_value, iman_davenport_p_value)]
    assert shares[0] <= shares[1] < 0.09


def test_friedman_by_permutations_is_the_published_table():
    """Friedman 1937 (and Siegel's table N): three variants, four data sets; chi squares of 2, 6.5 and 8."""
    values = np.array([[3.0, 2.0, 1.0], [3.0, 1.0, 2.0], [3.0, 2.0, 1.0], [1.0, 3.0, 2.0]])
    assert friedman_permutation_p_value(values) == pytest.approx(0.431, abs=0.015)
    one_swapped = np.array([[3.0, 2.0, 1.0]] * 3 + [[3.0, 1.0, 2.0]])
    assert stats.friedmanchisquare(*one_swapped.T).statistic == pytest.approx(6.5)
    assert friedman_permutation_p_value(one_swapped) == pytest.approx(0.042, abs=0.006)
    assert friedman_permutation_p_value(np.arange(12.0).reshape(4, 3)) == pytest.approx(0.0046, abs=0.002)
    # Two data sets that agree: 1 / 6. The approximation for many data sets says 0.
    agree = np.arange(6.0).reshape(2, 3)
    assert friedman_permutation_p_value(agree) == pytest.approx(1 / 6, abs=0.01)
    assert iman_davenport_p_value(agree) == 0.0
    assert friedman_permutation_p_value(np.ones((4, 3))) == 1.0 and math.isnan(
        friedman_permutation_p_value(agree[:, :2])
    )


def test_wilcoxon_is_scipys():
    x = np.random.default_rng(1).normal(0.5, 1.0, size=(9, 3))
    exact = [stats.wilcoxon(x[:, j], method="exact").pvalue for j in range(3)]
    np.testing.assert_allclose(wilcoxon_p_values(x), exact, rtol=1e-12)
    # Equal sizes and zeros, for which SciPy's exact method has no rule but that of permutations.
    y = np.array([[0.2, 0.2, -0.1, 0.0, 0.3, 0.3, 0.4, 0.0]]).T
    found = stats.wilcoxon(y[:, 0], zero_method="pratt", method=stats.PermutationMethod(n_resamples=np.inf)).pvalue
    assert wilcoxon_p_values(y) == pytest.approx([found])
    assert wilcoxon_p_values(np.zeros((5, 1))) == pytest.approx([1.0])


@pytest.mark.parametrize("num_compared", [1, 2, 3, 5, 13])
def test_the_number_of_sets_that_are_needed_is_the_smallest_that_can_be_significant(num_compared):
    needed = num_sets_needed(num_compared)
    for n in (needed - 1, needed):
        means = np.repeat(np.arange(1.0, n + 1)[:, None], num_compared + 1, axis=1)
        means[:, 1:] += 0.1 * np.arange(1, num_compared + 1)  # all better on all data sets
        verdicts = {c.verdict for c in compare_over_sets(means, 0, more_is_better=True) if c is not None}
        assert verdicts == ({"better"} if n == needed else {"unclear"})


def test_verdicts_over_sets_follow_the_signs_and_not_the_sizes():
    rng = np.random.default_rng(4)
    base = rng.uniform(0.2, 0.9, 12)
    outlier = base - 0.001 * np.arange(1, 13)
    outlier[3] += 5.0  # a mean of differences would call it better
    means = np.stack([base, base + 0.001 * np.arange(1, 13), base, base + rng.normal(0, 0.01, 12)], axis=1)
    better, same, noise = compare_over_sets(means, 0, more_is_better=True)[1:]
    assert (better.verdict, better.num_better, better.num_worse) == ("better", 12, 0)
    assert better.median_difference == pytest.approx(0.0065) and better.p_value == pytest.approx(2 / 2**12)
    assert better.p_holm == pytest.approx(3 * 2 / 2**12)
    assert (same.verdict, same.p_value, same.num_better, same.num_worse) == ("unclear", 1.0, 0, 0)
    assert noise.verdict == "unclear"
    flipped = compare_over_sets(means, 0, more_is_better=False)[1:]
    assert [c.verdict for c in flipped] == ["worse", "unclear", "unclear"]
    worse = compare_over_sets(np.stack([base, outlier], axis=1), 0, more_is_better=True)[1]
    assert (worse.verdict, worse.num_better, worse.num_worse) == ("worse", 1, 11) and outlier.mean() > base.mean()


def test_where_nothing_differs_over_sets_few_are_called_better():
    rng = np.random.default_rng(8)
    false = 0
    for _ in range(200):
        means = rng.uniform(0.3, 0.9, (8, 1)) + rng.normal(0, 0.02, (8, 4))
        false += any(c.verdict != "unclear" for c in compare_over_sets(means, 0, more_is_better=True)[1:])
    assert false / 200 < 0.08  # 5 % are allowed


@pytest.mark.parametrize(("num_variants", "q"), [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (10, 3.164)])
def test_critical_difference_is_that_of_the_published_table(num_variants, q):
    """Demsar 2006, table 5 (a), q at 0.05."""
    expected = q * math.sqrt(num_variants * (num_variants + 1) / (6 * 14))
    assert critical_difference(num_variants, 14) == pytest.approx(expected, abs=1e-3)


def table_of(dice):
    """A table whose Dice is given, `[v s n k]`, and whose other scores are 0.5."""
    values = {name: np.full(dice.shape, 0.5) for name in SCORES} | {"dice": dice}
    return ScoreTable(tuple(map(str, range(dice.shape[2]))), ("a", "b")[: dice.shape[3]], values)


@pytest.fixture
def dice():
    """Baseline; 0.05 better on every image; as good but for noise; 0.05 worse. Three seeds, 40 images, two classes."""
    rng = np.random.default_rng(2)
    image = rng.uniform(0.3, 0.9, size=(1, 1, 40, 2))
    noise = rng.normal(0.0, 0.01, size=(4, 3, 40, 2))
    return image + noise + np.array([0.0, 0.05, 0.0, -0.05])[:, None, None, None]


NAMES = ("base", "good", "same", "bad")


def test_verdicts_and_numbers_of_the_table(dice):
    rows = {(r.variant, r.score, r.class_name): r for r in summarize(NAMES, table_of(dice), "base")}
    assert len(rows) == 4 * len(SCORES) * 3
    for class_name in ("a", "b", MEAN):
        verdicts = [rows[name, "dice", class_name].comparison for name in NAMES]
        assert verdicts[0] is None and [c.verdict for c in verdicts[1:]] == ["better", "unclear", "worse"]
        assert [c.seeds_better for c in verdicts[1::2]] == [3, 0]
    good = rows["good", "dice", "b"]
    means = dice[1, :, :, 1].mean(-1)
    assert good.mean == pytest.approx(means.mean()) and good.std == pytest.approx(np.std(means, ddof=1))
    assert good.comparison.difference == pytest.approx((dice[1] - dice[0])[..., 1].mean())
    assert good.comparison.low < 0.05 < good.comparison.high and good.comparison.high - good.comparison.low < 0.02
    assert rows["good", "dice", MEAN].mean == pytest.approx(dice[1].mean())
    flat = rows["good", "hd95", "a"].comparison
    assert (flat.difference, flat.p_value, flat.verdict) == (0.0, 1.0, "unclear")


def test_where_less_is_better_the_verdict_turns(dice):
    values = dice[..., 0]
    assert [c.verdict for c in compare(values, 0, more_is_better=True)[1:]] == ["better", "unclear", "worse"]
    assert [c.verdict for c in compare(values, 0, more_is_better=False)[1:]] == ["worse", "unclear", "better"]


def test_a_winner_must_be_better_than_all_others(dice):
    found = find_winner(NAMES, table_of(dice))
    assert (found.name, found.leader, found.rivals) == ("good", "good", ())
    dice[2] = dice[1] + np.random.default_rng(0).normal(0.0, 0.01, size=dice[1].shape) + 1e-4
    found = find_winner(NAMES, table_of(dice))
    assert found.name is None and {found.leader, *found.rivals} == {"good", "same"}


def test_nobody_wins_where_seeds_disagree(dice):
    dice[1, 2] = dice[0, 2] - 0.001  # two seeds are much better, one is a little worse
    comparison = compare(dice[..., 0], 0, more_is_better=True)[1]
    assert comparison.low > 0.0 and comparison.p_holm < 0.05 and comparison.seeds_better == 2
    assert comparison.seed_low < 0.0 < comparison.seed_high
    assert comparison.verdict == "unclear"


def test_nobody_wins_with_one_seed(dice):
    assert [c.verdict for c in compare(dice[:, :1, :, 0], 0, more_is_better=True)[1:]] == ["unclear"] * 3


def test_training_noise_is_no_difference():
    """Runs that differ only by chance, as trained networks do on all images at once: few may be called better."""
    rng = np.random.default_rng(4)
    called, excluded = [], []
    for repeat in range(100):
        run = rng.normal(0.5, 0.02, size=(3, 3, 1)) + rng.normal(0.0, 0.02, size=(3, 3, 30))
        found = compare(run, 0, more_is_better=True, seed=repeat)[1:]
        called += [c.verdict != "unclear" for c in found]
        excluded += [c.low > 0.0 or c.high < 0.0 for c in found]
    assert np.mean(excluded) > 0.4  # what the images alone would claim
    assert np.mean(called) < 0.09  # 5 % are expected; of 200 dependent ones not more than this


def test_seed_interval_is_students():
    x = np.array([0.1, 0.3, 0.2, 0.5])
    expected = stats.ttest_1samp(x, 0.0).confidence_interval(0.95)
    np.testing.assert_allclose(seed_interval(x), [expected.low, expected.high])
    # By hand: the mean of 1 and 3 is 2, its standard error 1, and t with one degree of freedom is 12.706.
    np.testing.assert_allclose(seed_interval(np.array([1.0, 3.0])), [2 - 12.706, 2 + 12.706], rtol=1e-4)
    assert seed_interval(np.array([0.1])) == (-math.inf, math.inf)


def test_many_comparisons_cost_certainty():
    """Of 20 variants that do not differ, hardly any may be called better."""
    rng = np.random.default_rng(11)
    values = rng.normal(0.5, 0.1, size=(20, 1, 30))
    comparisons = compare(values, 0, more_is_better=True)[1:]
    assert all(c.verdict == "unclear" for c in comparisons)
    assert all(c.p_holm >= c.p_value for c in comparisons)


def test_one_seed_has_no_spread_and_one_class_no_mean(dice):
    rows = summarize(NAMES, table_of(dice[:, :1, :, :1]), "base")
    assert len(rows) == 4 * len(SCORES) and all(math.isnan(row.std) for row in rows)
