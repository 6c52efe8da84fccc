"""A study's runs read back: scores, comparisons, ranks and costs."""

import dataclasses

import numpy as np
from jaxtyping import Float

from unet_jax._types import InputError
from unet_jax.runs.info import RunInfo, load_info
from unet_jax.study import statistics
from unet_jax.study.compare import PRIMARY, Row, Winner, columns_of, find_winner, summarize, with_mean
from unet_jax.study.config import Study
from unet_jax.study.cost import Cost, read_costs
from unet_jax.study.run import scores_path
from unet_jax.study.scores import SCORES, ScoreTable, read_scores, stack_scores


@dataclasses.dataclass(frozen=True)
class Results:
    """A finished study in numbers."""

    names: tuple[str, ...]
    scores: ScoreTable
    """With the axes `[variant seed image class]`."""
    rows: list[Row]
    winner: Winner
    ranks: Float[np.ndarray, " v"]
    """Average over images, in the primary score, averaged over classes and seeds; 1 is the best."""
    critical_difference: float
    friedman_p: float
    costs: dict[str, Cost]
    """By variant, where they were measured."""
    info: RunInfo
    """Of the first run."""

    def primary_rows(self) -> list[Row]:
        """One row for each variant: the primary score, averaged over classes."""
        last = columns_of(self.scores.class_names)[-1]
        return [row for row in self.rows if (row.score, row.class_name) == (PRIMARY, last)]

    def ranked_rows(self) -> list[Row]:
        """`primary_rows`, the best first."""
        return sorted(self.primary_rows(), key=lambda row: -row.mean if SCORES[PRIMARY] else row.mean)


def read_results(study: Study) -> Results:
    """Reads what the runs left, and computes the rest.

    Raises:
      InputError: a run is not done yet.
    """
    for variant in study.variants:
        for seed in study.seeds:
            path = scores_path(study, variant, seed)
            if not path.exists():
                raise InputError(f"{path}: is not there yet: run the study to its end first.")
    names = tuple(variant.name for variant in study.variants)
    scores = stack_scores([[read_scores(scores_path(study, v, seed)) for seed in study.seeds] for v in study.variants])
    by_image = with_mean(scores.values[PRIMARY])[..., -1].mean(axis=1).T  # [n v]
    return Results(
        names,
        scores,
        summarize(names, scores, study.baseline),
        find_winner(names, scores),
        statistics.average_ranks(by_image, more_is_better=SCORES[PRIMARY]),
        statistics.critical_difference(*by_image.shape[::-1]),
        statistics.friedman_p_value(by_image),
        read_costs(study),
        load_info(study.run_path(study.variants[0], study.seeds[0])),
    )
