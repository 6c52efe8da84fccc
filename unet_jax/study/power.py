"""Numbers of seeds and images that a study needs to tell a difference, from the spread in a finished (pilot) study.

The score of variant v, seed s and image i is taken as a sum: effects of v, s, i and (s, i) that all variants share and
that a paired difference does not contain, and interactions (v, s), (v, i), (v, s, i) with the variances that the pilot
shows. A difference of two variants has twice these variances. With folds, s is the run: the fold and seed.
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Float, Int
from rich.table import Table
from scipy import stats

from unet_jax._types import InputError
from unet_jax.study.compare import ALPHA, PRIMARY, has_score, run_means, with_mean
from unet_jax.study.results import Results

DIFFERENCES = (0.005, 0.01, 0.02)
POWER = 0.8
MOST_SEEDS = 50
_CAUTION = 0.8
_NUM_DRAWS = 4000


@dataclasses.dataclass(frozen=True)
class Spread:
    """Variances of the difference of two variants, by what causes them."""

    seed: float
    """Variance from seed to seed (with folds, from run to run), on all images alike."""
    image: float
    """Variance from image to image, for all seeds alike."""
    rest: float
    """Variance from seed to seed and image to image."""
    seed_upper: float
    """Upper limit of `seed` that it stays below with a confidence of 80 %."""
    num_free: int
    """Degrees of freedom of `seed`: (variants - 1) * (seeds - 1); with folds, runs in the place of seeds."""


def measure_spread(values: Float[np.ndarray, "v s n"]) -> Spread:
    """Estimate the variances of a difference by the method of moments of a three-way analysis of variance.

    Args:
      values: scores of v variants, s seeds and n images; each at least 2.

    Raises:
      InputError: there are fewer than two seeds or images.

    Reference:
      Searle, Casella, McCulloch, Variance Components, 1992.

    Example:
      >>> rng = np.random.default_rng(0)
      >>> values = 0.01 * rng.normal(size=(8, 60, 1)) + 0.02 * rng.normal(size=(8, 60, 40))
      >>> spread = measure_spread(values)  # of differences: 2 * 0.01^2 and 2 * 0.02^2
      >>> round(spread.seed, 4), round(spread.rest, 4), spread.num_free
      (0.0002, 0.0008, 413)
    """
    num_variants, num_seeds, num_images = values.shape
    if num_seeds < 2 or num_images < 2:
        raise InputError(
            f"the pilot has {num_seeds} seeds and {num_images} images, but at least 2 of each are needed to see how "
            f"far they move a score. Add seeds to the study, and run it again."
        )
    v_s, v_i = values.mean(axis=2), values.mean(axis=1)
    of_seed = v_s - v_s.mean(axis=0) - v_s.mean(axis=1, keepdims=True) + v_s.mean()
    of_image = v_i - v_i.mean(axis=0) - v_i.mean(axis=1, keepdims=True) + v_i.mean()
    own = values - values.mean(axis=0)  # without what all variants share
    own_seed, own_image = own.mean(axis=2, keepdims=True), own.mean(axis=1, keepdims=True)
    rest = own - own_seed - own_image + own.mean(axis=(1, 2), keepdims=True)
    v, s, i = num_variants - 1, num_seeds - 1, num_images - 1
    mean_rest = float((rest**2).sum()) / (v * s * i)
    mean_seed = num_images * float((of_seed**2).sum()) / (v * s)
    mean_image = num_seeds * (of_image**2).sum() / (v * i)
    most = mean_seed * v * s / float(stats.chi2.ppf(1.0 - _CAUTION, v * s))
    return Spread(
        seed=2.0 * max(0.0, mean_seed - mean_rest) / num_images,
        image=2.0 * max(0.0, mean_image - mean_rest) / num_seeds,
        rest=2.0 * float(mean_rest),
        seed_upper=2.0 * max(0.0, most - mean_rest) / num_images,
        num_free=v * s,
    )


def measure_fold_spread(values: Float[np.ndarray, "v s n"], folds: Int[np.ndarray, "s n"]) -> Spread:
    """Estimate the variances of a difference in a study with folds, by the method of moments.

    The variance over images within runs is that of images and rest, that of an image over seeds is that of runs and
    rest, and that of the means of runs is that of runs and the share of the first that few images leave.

    Args:
      values: scores of v variants, s seeds and n images; each at least 2.
      folds: fold that held out each image, by seed.

    Raises:
      InputError: there are fewer than two seeds or images.
    """
    num_variants, num_seeds, num_images = values.shape
    if num_seeds < 2 or num_images < 2:
        raise InputError(
            f"the pilot has {num_seeds} seeds and {num_images} images, but at least 2 of each are needed to see how "
            f"far they move a score. Add seeds to the study, and run it again."
        )
    own = values - values.mean(axis=0)
    own = own - own.mean(axis=(1, 2), keepdims=True)
    means = np.stack([run_means(of_variant, folds)[0] for of_variant in own])
    counts = run_means(own[0], folds)[1]
    v, j = num_variants - 1, len(counts) - 1
    squares = (own**2).sum() - float((means**2 @ counts).sum())
    within = squares / (v * (counts - 1).sum())
    total = float(((means - means.mean(axis=1, keepdims=True)) ** 2).sum()) / (v * j)
    over_seeds = float(own.var(axis=1, ddof=1).sum()) / (v * num_images)
    # Effects of images have the same mean in all seeds, so that they add less to the variance of runs than the rest.
    share, small = (j + 1 - num_seeds) / j, float((1.0 / counts).mean())
    left, own_share = small * (share * within + (1.0 - share) * over_seeds), 1.0 - small * (1.0 - share)
    run = max(0.0, (total - left) / own_share)
    rest = max(0.0, over_seeds - run)
    most = total * v * j / float(stats.chi2.ppf(1.0 - _CAUTION, v * j))
    return Spread(
        seed=2.0 * run,
        image=2.0 * max(0.0, within - rest),
        rest=2.0 * rest,
        seed_upper=2.0 * max(0.0, (most - left) / own_share),
        num_free=v * j,
    )


def power(
    spread: Spread, difference: float, num_seeds: int, num_images: int, num_compared: int, num_folds: int = 0
) -> float:
    """Return the share of studies in which a true difference is called better, by the rule of studies.

    The share is counted in simulated studies. In each, the mean difference must be further from 0 than the sign-flip
    test with Holm's correction allows (taken as normal, with the smallest of the corrected levels), and than Student's
    interval over seeds allows.

    Args:
      spread: variances of a difference, from `measure_spread`.
      difference: true difference, above 0.
      num_seeds: number of seeds, at least 2 (with folds 1).
      num_images: number of images, at least 2.
      num_compared: number of variants besides the baseline.
      num_folds: number of folds; 0: none. The corrected interval over folds and seeds takes the place of Student's.

    Example:
      >>> spread = Spread(seed=1e-6, image=1e-4, rest=1e-4, seed_upper=1e-6, num_free=8)
      >>> power(spread, 0.02, 5, 50, 3), power(spread, 0.0001, 5, 50, 3) < 0.05
      (1.0, True)
    """
    rng = np.random.default_rng((num_seeds, num_images))
    of_images = math.sqrt(spread.image / num_images) * rng.normal(size=(_NUM_DRAWS, 1))
    num_runs, of_mean = num_seeds, 1.0 / num_seeds
    if not num_folds:
        of_runs = math.sqrt(spread.seed + spread.rest / num_images) * rng.normal(size=(_NUM_DRAWS, num_seeds))
    else:
        num_runs = num_seeds * num_folds
        of_mean = 1.0 / num_runs + 1.0 / (num_folds - 1)
        # Each seed divides the same images: their effects differ between folds, and not in the mean over folds.
        shape = (_NUM_DRAWS, num_seeds, num_folds)
        apart = math.sqrt(spread.image * num_folds / num_images) * rng.normal(size=shape)
        apart -= apart.mean(axis=2, keepdims=True)
        noise = math.sqrt(spread.seed + spread.rest * num_folds / num_images) * rng.normal(size=shape)
        of_runs = (apart + noise).reshape(_NUM_DRAWS, num_runs)
    by_run = of_images + of_runs + difference
    mean = by_run.mean(axis=1)
    variance = (spread.image + spread.rest / num_seeds) * rng.chisquare(num_images - 1, _NUM_DRAWS) / (num_images - 1)
    image_limit = float(stats.norm.ppf(1.0 - ALPHA / num_compared / 2)) * np.sqrt(variance / num_images)
    run_limit = float(stats.t.ppf(1.0 - ALPHA / 2, num_runs - 1)) * by_run.std(axis=1, ddof=1) * math.sqrt(of_mean)
    return float(((mean > image_limit) & (mean > run_limit)).mean())


def seeds_needed(
    spread: Spread, difference: float, num_images: int, num_compared: int, num_folds: int = 0
) -> int | None:
    """Return the smallest number of seeds with a power of at least 80 %; None if 50 are too few."""
    if power(spread, difference, MOST_SEEDS, num_images, num_compared, num_folds) < POWER:
        return None
    low, high = 0 if num_folds else 1, MOST_SEEDS  # too few, enough
    while high - low > 1:
        middle = (low + high) // 2
        if power(spread, difference, middle, num_images, num_compared, num_folds) < POWER:
            low = middle
        else:
            high = middle
    return high


def power_table(results: Results) -> tuple[str, Table]:
    """Return a sentence about the spread in a finished study, and a table of the seeds that other studies need.

    Raises:
      InputError: the study has fewer than two seeds or images.
    """
    values, folds = with_mean(results.scores.values[PRIMARY])[..., -1], results.scores.folds
    num_folds = 0 if folds is None else int(folds.max()) + 1
    is_scored = has_score(values)
    values = values[..., is_scored]
    spread = measure_spread(values) if folds is None else measure_fold_spread(values, folds[:, is_scored])
    num_compared, num_images = len(values) - 1, values.shape[-1]
    of_folds = f" and {num_folds} folds" if num_folds else ""
    seed, image, rest = (math.sqrt(x) for x in (spread.seed, spread.image, spread.rest))
    said = (
        f"Pilot of {len(values)} variants, {values.shape[1]} seeds{of_folds.replace(' and', ',')} and {num_images} "
        f"images. The difference of two variants in {PRIMARY} has a standard deviation of {seed:.4f} from "
        f"{'run to run' if num_folds else 'seed to seed'} on all images alike ({spread.num_free} degrees of freedom), "
        f"{image:.4f} from image to image, and {rest:.4f} from both together."
    )
    title = f"seeds needed for a power of {POWER:.0%} with {num_compared + 1} variants{of_folds}"
    table = Table(title=title, title_justify="left")
    for column in ("difference", "images", "seeds", f"seeds, cautious ({_CAUTION:.0%} limit of the spread)"):
        table.add_column(column, justify="right")
    cautious = dataclasses.replace(spread, seed=spread.seed_upper)
    for difference in DIFFERENCES:
        for count in (num_images, 2 * num_images, 4 * num_images):
            needed = [seeds_needed(each, difference, count, num_compared, num_folds) for each in (spread, cautious)]
            cells = (f"more than {MOST_SEEDS}" if number is None else str(number) for number in needed)
            table.add_row(f"{difference:g}", str(count), *cells)
        table.add_section()
    return said, table
