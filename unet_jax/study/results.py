"""`Results`, a finished study in numbers, and `read_results`, which computes it from the files of the runs."""

import dataclasses

import numpy as np
from jaxtyping import Float

from unet_jax._types import InputError
from unet_jax.metrics import rank_tests
from unet_jax.runs.info import RunInfo, load_info
from unet_jax.study.compare import PRIMARY, Row, Winner, columns_of, find_winner, scored_images, summarize, with_mean
from unet_jax.study.config import Study
from unet_jax.study.cost import Cost, read_costs
from unet_jax.study.run import with_split
from unet_jax.study.scores import SCORES, ScoreTable, read_table, scores_path
from unet_jax.study.tuning import Tuned, read_tuning


@dataclasses.dataclass(frozen=True)
class Results:
    """Scores, comparisons, ranks and costs of a finished study.

    `write_results` returns it. The docstring of `unet_jax.study` has an example.
    """

    names: tuple[str, ...]
    """Names of the v variants."""
    scores: ScoreTable
    """Scores with the axes `[v s n k]`: variant, seed, image, class."""
    rows: list[Row]
    """Means and comparisons with the baseline, one row for each score, class and variant."""
    winner: Winner
    """The winner in the primary score, if there is one, and the variants that it cannot be distinguished from."""
    ranks: Float[np.ndarray, " v"]
    """Ranks in the primary score (averaged over classes and seeds), averaged over images; 1 is the best."""
    critical_difference: float
    """Difference of average ranks below which two variants cannot be distinguished (Nemenyi's test at 5 %)."""
    friedman_p: float
    """P-value of Friedman's test that all variants have the same average rank; nan for fewer than three variants."""
    costs: dict[str, Cost]
    """Time and memory of a training step, by name of the variant; empty if they were not measured."""
    tuning: tuple[Tuned, ...]
    """Result of the tuning of each variant; empty if the study is not tuned."""
    info: RunInfo
    """Description of the first run: splits, class names, versions."""

    def primary_rows(self) -> list[Row]:
        """Return one row for each variant: the primary score, averaged over classes."""
        return self.mean_rows(PRIMARY)

    def mean_rows(self, score: str) -> list[Row]:
        """Return one row for each variant: a score, averaged over classes; none if all images ignore all pixels."""
        last = columns_of(self.scores.class_names)[-1]
        return [row for row in self.rows if (row.score, row.class_name) == (score, last)]

    def ranked_rows(self) -> list[Row]:
        """Return `primary_rows`, the best first."""
        return sorted(self.primary_rows(), key=lambda row: -row.mean if SCORES[PRIMARY] else row.mean)


def read_results(study: Study) -> Results:
    """Read the scores of all runs, and compute comparisons and ranks.

    Raises:
      InputError: a run is not done yet.
    """
    study = with_split(study)
    for variant in study.variants:
        for unit in study.units:
            path = scores_path(study, variant, *unit)
            if not path.exists():
                raise InputError(f"{path}: is not there yet. Run the study to its end first.")
    names = tuple(variant.name for variant in study.variants)
    scores = read_table(study)
    if np.isnan(scores.values[PRIMARY]).all():
        raise InputError(
            f"{study.out}: no image of the split {study.split!r} has an annotated pixel. Start a new study in another "
            f"folder with another split."
        )
    by_image = scored_images(with_mean(scores.values[PRIMARY])[..., -1]).mean(axis=1).T  # [n v]
    return Results(
        names,
        scores,
        summarize(names, scores, study.baseline),
        find_winner(names, scores),
        rank_tests.average_ranks(by_image, more_is_better=SCORES[PRIMARY]),
        rank_tests.critical_difference(*by_image.shape[::-1]),
        rank_tests.friedman_p_value(by_image),
        read_costs(study),
        read_tuning(study),
        load_info(study.run_path(study.variants[0], *study.units[0])),
    )
