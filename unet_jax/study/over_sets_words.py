"""Sentences about a study on several data sets, and its tables for pages and papers."""

import math
from collections.abc import Sequence

from unet_jax.report.estimates_table import p_equals, p_text
from unet_jax.study.compare import MIN_SEEDS, PRIMARY
from unet_jax.study.config import Study
from unet_jax.study.over_sets import FEW_SETS, RULE_OVER_SETS, ResultsOverSets
from unet_jax.study.tuning_words import tuned_how
from unet_jax.study.words import TITLES, length, network, sizes_words

_REFERENCES = """\
- Comparisons over data sets: J. Demsar. Statistical comparisons of classifiers over multiple data sets. JMLR 7, 2006.
- Test of ranks: R. L. Iman, J. M. Davenport. Approximations of the critical region of the Friedman statistic.
  Communications in Statistics 9, 1980.
- Signed ranks: F. Wilcoxon. Individual comparisons by ranking methods. Biometrics Bulletin 1, 1945; with the rule for
  differences of 0 of J. W. Pratt, JASA 54, 1959.
- Correction for several comparisons: S. Holm. A simple sequentially rejective multiple test procedure. Scandinavian
  Journal of Statistics 6, 1979.
"""


def few_sets(results: ResultsOverSets) -> str:
    """Say what so few data sets cannot tell; empty if all verdicts are possible."""
    count, num_compared = len(results.datasets), len(results.names) - 1
    if count >= results.sets_needed:
        return ""
    smallest = min(1.0, 2.0 / 2**count)
    corrected = min(1.0, num_compared * smallest)
    after = f", and {corrected:.3g} after Holm's correction for {num_compared} variants" if num_compared > 1 else ""
    return (
        f"With {count} data sets nothing can be concluded over data sets: even if all agreed, Wilcoxon's p-value would "
        f"be {smallest:.3g}{after}. At least {results.sets_needed} data sets are needed. What holds on each data set "
        f"stands in the table."
    )


def conclusion_over_sets(study: Study, results: ResultsOverSets) -> str:
    """Say what holds over data sets, and on how many of them each variant is better or worse than the baseline.

    Args:
      study: study of any of the data sets.
      results: results over all of them.
    """
    winner, title, base = results.winner, TITLES[PRIMARY], study.baseline
    if few_sets(results):
        first = few_sets(results)
    elif winner.name is not None:
        first = f"Over {len(results.datasets)} data sets, {winner.name} is better in {title} than every other variant."
    else:
        first = (
            f"No winner over {len(results.datasets)} data sets. {winner.leader} has the best average rank in {title}, "
            f"but cannot be distinguished from {', '.join(winner.rivals)}."
        )
    parts = [first]
    if not few_sets(results):
        for verdict in ("better", "worse"):
            compared = zip(results.names, results.scores[PRIMARY].comparisons, strict=True)
            found = [name for name, c in compared if c is not None and c.verdict == verdict]
            parts.append(f"{verdict.capitalize()} than {base} over data sets: {', '.join(found) or 'none'}.")
    single = [_on_single_sets(results, name, base) for name in results.names if name != base]
    return " ".join([*parts, *filter(None, single)])


def _on_single_sets(results: ResultsOverSets, variant: str, baseline: str) -> str:
    """Say on which single data sets a variant is better or worse than the baseline; empty if on none."""
    verdicts = [row.comparison.verdict if row.comparison else "" for row in results.rows_of(variant)]
    said = []
    for verdict in ("better", "worse"):
        where = [name for name, found in zip(results.datasets, verdicts, strict=True) if found == verdict]
        if where:
            said.append(f"{verdict} on {', '.join(where)}")
    return f"{variant}, against {baseline} on single data sets: {'; '.join(said)}." if said else ""


def caveats_over_sets(studies: Sequence[Study], results: ResultsOverSets) -> list[str]:
    """Return the rule of verdicts over data sets and their limits, as sentences."""
    lines = [
        RULE_OVER_SETS,
        *filter(None, [few_sets(results), tuned_how(studies[0])]),
        "On a single data set, a variant is called better or worse by the rule of that data set's own page, over its "
        "images and seeds. Images of several data sets are never pooled: a large one would decide alone, and scores of "
        "different tasks have different scales.",
        "Ranks over data sets, Friedman's test and Nemenyi's critical difference use one mean for each data set too.",
        "What holds over these data sets holds for other ones only as far as these are a fair sample of them. Data "
        "sets that resemble each other count less than their number says.",
    ]
    if len(results.datasets) < FEW_SETS:
        lines.append(
            f"{len(results.datasets)} data sets are few: only a difference with the same sign on nearly all of them "
            f"can be seen."
        )
    if len(studies[0].units) < MIN_SEEDS:
        lines.append(
            f"With {len(studies[0].units)} runs of a variant on each data set, the means there depend on chance."
        )
    return lines


def friedman_words(results: ResultsOverSets) -> str:
    """Return the result of Friedman's test in the primary score as a sentence; empty for two variants."""
    p_value = results.scores[PRIMARY].friedman_p
    if math.isnan(p_value):
        return ""
    how = "by permutations" if len(results.datasets) < FEW_SETS else "with the correction of Iman and Davenport"
    return f"Friedman's test, {how}, of whether any variants differ in rank: {p_equals(p_value)}."


def cells_over_sets(results: ResultsOverSets) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of the main table as text, the best average rank first."""
    score = results.scores[PRIMARY]
    header = ["variant", "average rank", "p (Holm)", "sets better", *results.datasets, "over sets"]
    rows = []
    for v in sorted(range(len(results.names)), key=lambda v: (score.ranks[v], v)):
        name, c = results.names[v], score.comparisons[v]
        cells = [name, f"{score.ranks[v]:.2f}"]
        cells += ["", ""] if c is None else [p_text(c.p_holm), f"{c.num_better} of {len(results.datasets)}"]
        for row in results.rows_of(name):
            mark = {"better": "+", "worse": "-", "unclear": ""}[row.comparison.verdict] if row.comparison else ""
            cells.append(f"{row.mean:.4f}{mark and f' {mark}'}")
        rows.append([*cells, "baseline" if c is None else c.verdict])
    return header, rows


def methods_over_sets(studies: Sequence[Study], results: ResultsOverSets) -> str:
    """Return methods and results over data sets in prose, as Markdown."""
    first, title = studies[0], TITLES[PRIMARY]
    sets = "; ".join(
        f"{study.dataset} ({sizes_words(study, part)}{'' if study.folds else ' images'}; "
        f"classes {', '.join(part.scores.class_names)}; {network(study)}; {length(study)})"
        for study, part in zip(studies, results.parts, strict=True)
    )
    methods = (
        f"We compared {len(results.names)} variants ({', '.join(results.names)}) on {len(results.datasets)} data sets: "
        f"{sets}. Each variant was trained on each data set with "
        f"{f'{first.folds} folds and ' if first.folds else ''}the seeds {', '.join(map(str, first.seeds))}. "
        f"{tuned_how(first)} Methods and results on each data set stand in sets/NAME/methods.md."
    )
    score = results.scores[PRIMARY]
    friedman = f" {friedman_words(results)}".rstrip()
    statistics = (
        f"Over data sets, each data set was one observation: the mean {title} of a variant over classes, images and "
        f"seeds. Images were not pooled. Variants were ranked on each data set, and the ranks averaged "
        f"(critical difference of Nemenyi's test at 5 %: {results.critical_difference:.2f}).{friedman} Variants were "
        f"compared with {first.baseline} by Wilcoxon's signed-rank test over data sets, with Holm's correction for "
        f"{len(results.names) - 1} comparisons."
    )
    found = " ".join(
        f"{name} had an average rank of {score.ranks[v]:.2f}"
        + (
            "."
            if c is None
            else f" and a median difference of {c.median_difference:+.4f} to {first.baseline} ({p_equals(c.p_holm)})."
        )
        for v, (name, c) in enumerate(zip(results.names, score.comparisons, strict=True))
    )
    body = f"## Methods\n\n{methods}\n\n{statistics}\n\n## Results\n\n{found}\n\n"
    return f"{body}{conclusion_over_sets(first, results)}\n\n## References\n\n{_REFERENCES}"
