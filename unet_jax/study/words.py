"""Sentences of a study: titles of scores, the conclusion, and its limits."""

import numpy as np

from unet_jax.metrics.image_scores import NUM_BINS, SURFACE_TOLERANCE
from unet_jax.metrics.statistics import NUM_RESAMPLES
from unet_jax.study.compare import PRIMARY, RULE, few_seeds
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
        first = " ".join(filter(None, (few_seeds(len(study.seeds)), first)))
    base, better_names, worse_names = study.baseline, ", ".join(better) or "none", ", ".join(worse) or "none"
    last = f" {not_held_out(study)}" if not_held_out(study) else ""
    return f"{first} Better than {base}: {better_names}. Worse than {base}: {worse_names}.{last}"


def caveats(study: Study, results: Results) -> list[str]:
    """Return the rule of verdicts and the limits of the study, as sentences."""
    lines = [
        RULE,
        tuned_how(study),
        *tuning_limits(results.tuning),
        f"Intervals over images are from the BCa bootstrap with {NUM_RESAMPLES} resamples of the images. The p-values "
        "are from the sign-flip permutation test over images. Holm's correction is for the number of variants, "
        "separately in each score and class. There are many scores and classes below, so some differences look "
        "significant by chance.",
        "Intervals over images say what to expect of these trained networks on other images like these. Intervals over "
        "seeds say what to expect of other seeds on these images. Neither says anything about other data sets.",
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
    return f"All runs of one seed {' and '.join(equal)}." if equal else "Runs of one seed have the same images."


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
