"""Sentences of a study: titles of scores, the conclusion, and its limits."""

import numpy as np

from unet_jax.metrics.image_scores import NUM_BINS, SURFACE_TOLERANCE
from unet_jax.metrics.statistics import NUM_RESAMPLES
from unet_jax.study.compare import PRIMARY, few_seeds, rule
from unet_jax.study.config import Study
from unet_jax.study.results import Results
from unet_jax.study.scores import SCORES
from unet_jax.study.tuning_words import tuned_how, tuning_limits

TITLES = {
    "dice": "Dice",
    "iou": "IoU",
    "surface_dice": f"Normalized surface distance (NSD, surface Dice) at a tolerance of {SURFACE_TOLERANCE:g} pixels",
    "hd95": "95 % Hausdorff distance (HD95) in pixels",
    "brier": "Brier score",
    "ece": f"Expected calibration error with {NUM_BINS} bins",
}


def not_held_out(study: Study) -> str:
    """Say that the scored images were used for the runs; empty for the split test."""
    if study.split == "test":
        return ""
    used = "the best checkpoints were chosen by them" if study.split == "val" else "the networks were trained on them"
    return f"The scored images are those of the split {study.split} and were not held out: {used}."


def conclusion(study: Study, results: Results) -> str:
    """Say whether there is a winner, and which variants are better or worse than the baseline.

    With fewer than three seeds, the first sentence says why there can be none.
    """
    winner, score = results.winner, TITLES[PRIMARY]
    compared = [row for row in results.primary_rows() if row.comparison is not None]
    better, worse = (
        [row.variant for row in compared if row.comparison and row.comparison.verdict == verdict]
        for verdict in ("better", "worse")
    )
    if winner.name is not None:
        first = f"{winner.name} has the best {score} and is better than every other variant."
    else:
        rivals = ", ".join(winner.rivals)
        extreme = "highest" if SCORES[PRIMARY] else "lowest"
        first = f"No winner. {winner.leader} has the {extreme} mean {score}, but cannot be distinguished from {rivals}."
        first = " ".join(filter(None, (few_seeds(len(study.seeds), study.folds), first)))
    base, better_names, worse_names = study.baseline, ", ".join(better) or "none", ", ".join(worse) or "none"
    last = f" {not_held_out(study)}" if not_held_out(study) else ""
    return f"{first} Better than {base}: {better_names}. Worse than {base}: {worse_names}.{last}"


def caveats(study: Study, results: Results) -> list[str]:
    """Return the rule of verdicts and the limits of the study, as sentences."""
    units = results.scores.units
    over_units = (
        "Intervals over seeds say what to expect of other seeds on these images."
        if units == "seeds"
        else fold_limits(study)
    )
    lines = [
        rule(units),
        tuned_how(study),
        *tuning_limits(results.tuning),
        f"Intervals over images are from the BCa bootstrap with {NUM_RESAMPLES} resamples of the images. The p-values "
        "are from the sign-flip permutation test over images. Holm's correction is for the number of variants, "
        "separately in each score and class. There are many scores and classes below, so some differences look "
        "significant by chance.",
        f"Intervals over images say what to expect of these trained networks on other images like these. {over_units} "
        f"Neither says anything about other data sets.",
    ]
    if len(results.scores.ids) < 20:
        lines.append(f"{len(results.scores.ids)} images are few for a bootstrap: the intervals are too narrow.")
    num_unknown = np.isnan(results.scores.values[PRIMARY][0, 0]).sum(axis=0)
    unknown = [
        f"{count} for {name}" for count, name in zip(num_unknown, results.scores.class_names, strict=True) if count
    ]
    if unknown:
        lines.append(
            f"Ignored pixels are not scored. Images that ignore a class everywhere have no part in its scores: "
            f"{', '.join(unknown)}."
        )
    return [*lines, *filter(None, [not_held_out(study)])]


def fold_limits(study: Study) -> str:
    """Say what the intervals over folds and seeds cover, and what they do not."""
    num_runs, one_less = len(study.units), study.folds - 1
    other = "other seeds" if len(study.seeds) > 1 else "with one seed they see nothing of other first weights"
    return (
        f"Intervals over folds and seeds say what to expect of networks that are trained in the same way on other "
        f"images like these, as many as each run had ({other}). The training sets of two folds share images, so that "
        f"the runs are not independent, and Student's interval would be too narrow. The variance of the mean of the "
        f"{num_runs} runs is therefore taken as s^2 (1 / {num_runs} + 1 / {one_less}) in the place of s^2 / "
        f"{num_runs}, with weights where folds differ, as Nadeau and Bengio propose (Machine Learning 52, 2003; "
        f"for repeated cross-validation Bouckaert and Frank, PAKDD 2004). This is an approximation: the variance of a "
        f"cross-validation cannot be estimated without bias (Bengio and Grandvalet, JMLR 5, 2004)."
    )


def folds_words(study: Study) -> str:
    """Say how the folds were made; empty for a study without folds."""
    if not study.folds:
        return ""
    data = study.config.data
    whole = " (images of one group stay together)" if data.group_key else ""
    val = (
        "the others were train, which chose the checkpoint too"
        if data.validate_on_train
        else f"about {data.val_fraction:.0%} of the others were val, which chose the checkpoint, and the rest train"
    )
    anew = ", anew for each seed" if len(study.seeds) > 1 else ""
    begun = study.config.init_from or any(variant.settings.get("init_from") for variant in study.variants)
    unless = ", unless the network was that gave the first weights (init_from)" if begun else ""
    return (
        f"The images were divided into {study.folds} folds{whole}{anew}. Each fold was held out from one run of every "
        f"variant; {val}. So every image was scored once for each seed, by a network that was not trained on it"
        f"{unless}."
    )


def runs_words(study: Study) -> str:
    """Return the numbers of variants, folds and seeds as text."""
    folds = f" x {study.folds} folds" if study.folds else ""
    return f"{len(study.variants)} variants{folds} x {len(study.seeds)} seeds ({', '.join(map(str, study.seeds))})"


def scored_words(study: Study, results: Results) -> str:
    """Say which images were scored."""
    count = len(results.scores.ids)
    return (
        f"{count} images, each in the fold that held it out"
        if study.folds
        else f"{count} images of the split {study.split}"
    )


def sizes_words(study: Study, results: Results) -> str:
    """Return the numbers of images in each split; with folds, those of all and of the first run."""
    sizes = {name: len(ids) for name, ids in results.info.splits.items()}
    if study.folds:
        return (
            f"{sum(sizes.values())} images in {study.folds} folds; in the first run {sizes['train']} train, "
            f"{sizes['val']} val and {sizes['test']} held out"
        )
    return ", ".join(f"{count} {name}" for name, count in sizes.items())


def kind(study: Study) -> str:
    """Return what the study compares."""
    return "variants" if any(variant.settings for variant in study.variants) else "losses"


def what_is_equal(study: Study) -> str:
    """Say what the runs of one seed have in common."""
    names = {name for variant in study.variants for name in variant.settings}
    weights, batches = "began with the same weights", "saw the same batches with the same augmentation"
    equal = [] if any(name.startswith(("model.", "init_from", "data.channels")) for name in names) else [weights]
    if not any(name.startswith(("data.", "augment.", "train.")) for name in names):
        equal.append(batches)
    of = "one fold and seed" if study.folds else "one seed"
    return f"All runs of {of} {' and '.join(equal)}." if equal else f"Runs of {of} have the same images."


def data_name(study: Study) -> str:
    """Return the name of the data set: the one in the study's file, or that of its folder, without the path to it."""
    return study.dataset or study.config.data.root.rstrip("/").rpartition("/")[2]


def network(study: Study) -> str:
    """Describe the network of the study's own settings."""
    model = study.config.model
    size = study.config.data.image_size
    pixels = f"{size}x{size}" if isinstance(size, int) else "x".join(map(str, size))
    encoder = f"the encoder {model.encoder}"
    if model.encoder == "none":
        widths = ", ".join(map(str, model.widths))
        encoder = f"encoder widths {widths}, {model.center_width} channels at the lowest resolution"
    norm = "no" if model.norm == "none" else model.norm
    return f"U-Net with {encoder}, {norm} normalisation, inputs of {pixels} pixels"


def length(study: Study) -> str:
    """Return how long the runs are trained, by the study's own settings."""
    train = study.config.train
    return f"{train.num_steps} updates" if train.num_steps else f"{train.num_epochs} epochs"
