"""`methods_text`, the paragraph of a paper that says what a study did and found, with its numbers filled in."""

import math

from unet_jax.metrics.statistics import NUM_RESAMPLES
from unet_jax.report.estimates_table import p_equals
from unet_jax.study.compare import PRIMARY, Row
from unet_jax.study.config import Study
from unet_jax.study.results import Results
from unet_jax.study.tuning_words import tuned_how, tuning_found
from unet_jax.study.words import (
    TITLES,
    conclusion,
    data_name,
    folds_words,
    kind,
    length,
    network,
    not_held_out,
    scored_words,
    sizes_words,
    what_is_equal,
)

_REFERENCES = """\
- BCa bootstrap: B. Efron. Better bootstrap confidence intervals. JASA 82, 1987.
- Correction for several comparisons: S. Holm. A simple sequentially rejective multiple test procedure. Scandinavian
  Journal of Statistics 6, 1979.
- Ranks: J. Demsar. Statistical comparisons of classifiers over multiple data sets. JMLR 7, 2006.
- Names of scores: L. Maier-Hein, A. Reinke et al. Metrics reloaded. Nature Methods 21, 2024.
"""
_FOLD_REFERENCES = """\
- Training sets that share images: C. Nadeau, Y. Bengio. Inference for the generalization error. Machine Learning 52,
  2003.
- Repeated cross-validation: R. Bouckaert, E. Frank. Evaluating the replicability of significance tests for comparing
  learning algorithms. PAKDD 2004.
"""


def methods_text(study: Study, results: Results) -> str:
    """Return methods and results of a finished study in prose, as Markdown.

    Args:
      study: a study whose runs are done, with its split resolved.
      results: its results.
    """
    train, optim, versions = study.config.train, study.config.optim, results.info.versions
    units = results.scores.units
    names = ", ".join(results.names)
    classes = results.scores.class_names
    averaged = f", averaged over the {len(classes)} classes ({', '.join(classes)})" if len(classes) > 1 else ""
    chosen = "mean validation Dice" if train.monitor == "dice" else "validation loss"
    num_compared = len(results.names) - 1
    tuned = " ".join(filter(None, (tuned_how(study), tuning_found(results.tuning))))
    one = len(study.seeds) == 1
    seeds = f"{'one seed' if one else f'{len(study.seeds)} seeds'} ({', '.join(map(str, study.seeds))})"
    if study.folds:
        seeds = f"{study.folds} folds and {seeds}"
    over_units = (
        "Student's 95 % interval of the difference over seeds says how far other seeds may move it."
        if units == "seeds"
        else f"The 95 % interval of the difference over {units} is Student's with the variance of Nadeau and Bengio, "
        f"s^2 (1 / {len(study.units)} + 1 / {study.folds - 1}), because training sets of folds share images."
    )
    methods = (
        f"We compared {len(results.names)} {kind(study)} ({names}) on the data set {data_name(study)} "
        f"({_images(study, results)}). The network was a "
        f"{network(study)}. Each variant was trained with {seeds} for {length(study)} in batches of "
        f"{train.batch_size} with the optimizer {optim.name} (learning rate {optim.learning_rate:g}), with unet_jax "
        f"{versions.get('unet_jax', '?')} and jax {versions.get('jax', '?')}. {what_is_equal(study)} "
        f"{'Settings that a variant names replace these. ' if kind(study) == 'variants' else ''}{tuned} "
        f"{folds_words(study)}{' ' if study.folds else ''}The checkpoint with the best {chosen} was scored on the "
        f"{scored_words(study, results)}, at each image's own size. {not_held_out(study)}"
    ).rstrip()
    statistics = (
        f"The primary score was the per-image {TITLES[PRIMARY]}{averaged}, averaged over images and seeds. Differences "
        f"to {study.baseline} were computed on each image and averaged over seeds. Their 95 % intervals are from the "
        f"bias-corrected and accelerated (BCa) bootstrap over images ({NUM_RESAMPLES} resamples), their p-values from "
        f"the sign-flip permutation test over images with Holm's correction for {num_compared} "
        f"{'comparison' if num_compared == 1 else 'comparisons'}. {over_units} A variant was called better or worse "
        f"only if both intervals excluded 0 and the corrected p-value was below 0.05."
    )
    found = " ".join(_result(row, study.baseline, units) for row in results.ranked_rows())
    body = f"## Methods\n\n{methods}\n\n{statistics}\n\n## Results\n\n{found}\n\n{conclusion(study, results)}\n"
    return f"{body}\n## References\n\n{_REFERENCES}{_FOLD_REFERENCES if study.folds else ''}"


def _images(study: Study, results: Results) -> str:
    """Return the numbers of images as text."""
    if study.folds:
        return sizes_words(study, results)
    sizes = {name: len(ids) for name, ids in results.info.splits.items()}
    return f"{sizes['train']} training, {sizes['val']} validation and {sizes['test']} test images"


def _result(row: Row, baseline: str, units: str) -> str:
    """Return the sentence of one variant."""
    title = TITLES[PRIMARY]
    spread = "" if math.isnan(row.std) else f" (standard deviation over {units} {row.std:.4f})"
    first = f"{row.variant} reached a mean {title} of {row.mean:.4f}{spread}"
    c = row.comparison
    if c is None:
        return f"{first}."
    parts = [f"95 % interval over images {c.low:+.4f} to {c.high:+.4f}"] if math.isfinite(c.low) else []
    parts += [f"over {units} {c.seed_low:+.4f} to {c.seed_high:+.4f}"] if math.isfinite(c.seed_low) else []
    parts.append(p_equals(c.p_holm))
    verdict = {
        "better": f"and was better than {baseline}",
        "worse": f"and was worse than {baseline}",
        "unclear": f"and could not be distinguished from {baseline}",
    }[c.verdict]
    return f"{first}, a difference of {c.difference:+.4f} ({'; '.join(parts)}), {verdict}."
