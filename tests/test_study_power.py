"""Power: variances that are put in are found, predicted shares are those of simulated studies, claims hold up."""

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from unet_jax import InputError
from unet_jax.study.compare import compare, find_winner
from unet_jax.study.power import Spread, measure_spread, power, seeds_needed
from unet_jax.study.scores import SCORES, ScoreTable

# Standard deviations of one variant's score by seed, image, and both; and what all variants share. As in the studies
# that this repository has: networks of other seeds differ by half a point of Dice on all images.
SEED, IMAGE, REST = 0.005, 0.01, 0.015
TRUE = Spread(2 * SEED**2, 2 * IMAGE**2, 2 * REST**2, 2 * SEED**2, 100)


def simulate(rng, num_variants, num_seeds, num_images, effects=0.0):
    """Scores `[v s n]` of a study, and the means that its intervals are about: over images, and over seeds."""
    shared = rng.normal(0.8, 0.1, num_images) + rng.normal(0, 0.02, (num_seeds, 1)) + rng.normal(
        0, 0.02, (num_seeds, num_images)
    )  # fmt: skip
    by_seed = rng.normal(0, SEED, (num_variants, num_seeds, 1))
    by_image = rng.normal(0, IMAGE, (num_variants, 1, num_images))
    rest = rng.normal(0, REST, (num_variants, num_seeds, num_images))
    effects = np.broadcast_to(effects, num_variants)[:, None, None]
    return shared + effects + by_seed + by_image + rest, effects[:, 0, 0], by_seed, by_image


def test_the_variances_that_were_put_in_are_found():
    rng = np.random.default_rng(0)
    found = [measure_spread(simulate(rng, 4, 3, 30, [0, 0.01, 0.02, 0.0])[0]) for _ in range(300)]
    for name in ("seed", "image", "rest"):
        assert np.mean([getattr(f, name) for f in found]) == pytest.approx(getattr(TRUE, name), rel=0.06), name
    assert found[0].num_free == 3 * 2
    assert 0.75 < np.mean([f.seed_upper > TRUE.seed for f in found]) < 0.88  # 80 % by definition
    with pytest.raises(InputError, match="the pilot has 1 seeds and 30 images"):
        measure_spread(np.zeros((3, 1, 30)))


def predicted_and_found(difference, num_seeds, num_images, num_studies):
    """The power that is predicted, and the share of simulated studies whose rule calls the variant better."""
    rng = np.random.default_rng(1)
    verdicts = []
    for repeat in range(num_studies):
        values = simulate(rng, 3, num_seeds, num_images, [0.0, difference, 0.0])[0]
        verdicts.append(compare(values, 0, more_is_better=True, seed=repeat)[1].verdict)
    return power(TRUE, difference, num_seeds, num_images, 2), np.mean([v == "better" for v in verdicts])


def test_the_predicted_power_is_that_of_the_rule():
    predicted, found = predicted_and_found(0.012, 5, 25, 60)
    assert 0.5 < predicted < 0.9 and abs(predicted - found) < 4 * math.sqrt(0.25 / 60)


@pytest.mark.slow  # a thousand studies, each with its bootstrap
@pytest.mark.parametrize(("difference", "num_seeds", "num_images"), [(0.012, 5, 25), (0.008, 8, 60), (0.02, 3, 40)])
def test_the_predicted_power_is_that_of_a_thousand_studies(difference, num_seeds, num_images):
    predicted, found = predicted_and_found(difference, num_seeds, num_images, 1000)
    assert abs(predicted - found) < 0.05


def test_seeds_needed():
    more = [seeds_needed(TRUE, difference, 40, 3) for difference in (0.02, 0.01, 0.005)]
    assert more[0] < more[1] < (more[2] or 51)
    n = more[1]
    assert power(TRUE, 0.01, n, 40, 3) >= 0.8 > power(TRUE, 0.01, n - 1, 40, 3)
    # With a spread from image to image that few images cannot average out, seeds do not help.
    assert seeds_needed(dataclasses.replace(TRUE, image=1.0), 0.01, 40, 3) is None
    # With a spread over images alone, the mean over its standard error has a noncentral t distribution.
    images = Spread(seed=0.0, image=1e-4, rest=0.0, seed_upper=0.0, num_free=1)
    expected = stats.nct.sf(stats.norm.ppf(1 - 0.05 / 2 / 2), 24, 0.004 / math.sqrt(1e-4 / 25))
    assert power(images, 0.004, 3, 25, 2) == pytest.approx(expected, abs=0.03)
    # By hand: without any spread but over seeds, Student's limit with one degree of freedom is 12.7 standard errors.
    alone = Spread(seed=1e-6, image=0.0, rest=0.0, seed_upper=1e-6, num_free=1)
    assert seeds_needed(alone, 0.1, 40, 3) == 2 and power(alone, 0.001, 2, 40, 3) < 0.15


def claims(num_studies, num_variants=4, num_seeds=3, num_images=40):
    """Shares over studies without any difference: intervals over images and over seeds that hold the truth, winners."""
    rng = np.random.default_rng(2)
    over_images, over_seeds, winners, called = [], [], [], []
    names = tuple("abcd"[:num_variants])
    for repeat in range(num_studies):
        values, _, by_seed, by_image = simulate(rng, num_variants, num_seeds, num_images)
        for v, c in enumerate(compare(values, 0, more_is_better=True, seed=repeat)[1:], start=1):
            truth = (by_seed[v] - by_seed[0]).mean()  # other images, these networks
            over_images.append(c.low <= truth <= c.high)
            truth = (by_image[v] - by_image[0]).mean()  # other seeds, these images
            over_seeds.append(c.seed_low <= truth <= c.seed_high)
            called.append(c.verdict != "unclear")
        table = {name: np.full((*values.shape, 1), 0.5) for name in SCORES} | {"dice": values[..., None]}
        found = find_winner(names, ScoreTable(tuple(map(str, range(num_images))), ("x",), table))
        winners.append(found.name is not None)
    return np.mean(over_images), np.mean(over_seeds), np.mean(winners), np.mean(called)


def test_without_a_difference_there_is_hardly_a_winner():
    *_, winners, called = claims(12)
    assert winners <= 1 / 12 and called <= 4 / 36


@pytest.mark.slow  # a thousand studies, each with its bootstrap
def test_claims_of_a_thousand_studies():
    over_images, over_seeds, winners, called = claims(1000)
    assert 0.93 < over_images < 0.97 and 0.93 < over_seeds < 0.97
    assert winners < 0.05 and called < 0.05
