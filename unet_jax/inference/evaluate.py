"""Scores of a trained run, compared with mask files at each image's own size."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Bool, Float

from unet_jax import metrics
from unet_jax._files import replace_text
from unet_jax._types import InputError, Sample
from unet_jax.config import DataConfig
from unet_jax.config.predict import PredictConfig
from unet_jax.data.images.format import read_as
from unet_jax.data.layout import find_layout
from unet_jax.data.records import SPLITS, Layout, Record
from unet_jax.data.sample_facts import pixel_digest
from unet_jax.data.sources import FileSource
from unet_jax.data.splits import assign_splits
from unet_jax.inference.predict import AS_TRAINED, finished_masks, predict_pairs, seen_masks
from unet_jax.metrics import Counts
from unet_jax.metrics.counts import num_counted
from unet_jax.metrics.image_scores import SURFACE_TOLERANCE
from unet_jax.metrics.score_sums import measure, need_probs
from unet_jax.metrics.scores import Scores
from unet_jax.runs.ensemble import Trained, image_formats, members_of

RULE = (
    "mean over images of the per-image score (dice_pooled: of all pixels together); a score whose denominator is 0 "
    "is 1: dice and iou where a class is absent and not predicted, precision where nothing is predicted, recall where "
    "nothing is there"
)
IGNORED_RULE = (
    "ignored pixels are not counted, and an image has no part in the mean of a class that it ignores everywhere"
)


def select_records(run: Trained, data: DataConfig, split: str | None) -> tuple[str, Layout, list[Record]]:
    """Select the samples of a split: by the file `data.splits` if it is given, otherwise as the run recorded them.

    Args:
      run: trained run or ensemble.
      data: settings of the data set.
      split: train, val, test or all; None is test, or val if there is no test split.

    Returns:
      Name of the split, layout of the data set, and samples of the split.

    Raises:
      InputError: there is no such split, none of its ids is in the data set, or some are missing and
        `data.on_bad_sample` is "error".
    """
    if split not in (*SPLITS, "all", None):
        raise InputError(f"--split is {split!r}, but must be one of {', '.join((*SPLITS, 'all'))}.")
    layout = find_layout(data)
    if split == "all":
        return split, layout, list(layout.records)
    split, splits = _named_split(run, split) if not data.splits else (split, assign_splits(layout, data))
    split = split or ("test" if splits["test"] else "val")
    wanted = set(splits[split])
    records = [r for r in layout.records if r.id in wanted]
    missing = sorted(wanted - {r.id for r in records})
    if missing and records and data.on_bad_sample == "error":
        raise InputError(
            f"{data.root}: {len(missing)} of the {len(wanted)} images of the split {split!r} are not there, the first "
            f"is {missing[0]!r}. Restore them, or say with --data.splits FILE what to score."
        )
    if not records:
        raise InputError(
            f"{data.root}: no sample of the split {split!r} was found. Name it in --data.splits FILE (columns "
            f"id,split), or use --split val (the images that chose the checkpoint) or --split all."
        )
    return split, layout, records


_TRUTH = (
    *("image_pattern", "image_patterns", "mask_patterns", "image_key", "index_map", "index_values", "index_colors"),
    *("ignore_values", "missing_masks", "mask_orientation", "mask_threshold", "soft_masks", "instance_masks"),
)
"""Settings of the data set that decide what the true masks are."""


def data_of(run: Trained) -> DataConfig:
    """Return the settings of the data set of a run, or of the first run of an ensemble.

    Raises:
      InputError: the runs of an ensemble would read other true masks.
    """
    first, *others = members_of(run)
    for other in others:
        for name in _TRUTH:
            found, of_first = getattr(other.config.data, name), getattr(first.config.data, name)
            if found != of_first:
                raise InputError(
                    f"{other.path}: data.{name} is {found!r}, but in {first.path} it is {of_first!r}, so that it is "
                    f"not clear what the true masks are. Score the runs separately."
                )
    return first.config.data


def _named_split(run: Trained, split: str | None) -> tuple[str, dict[str, list[str]]]:
    """Return the split to score and the splits that the run has recorded, which must agree for all of an ensemble.

    Raises:
      InputError: the runs of an ensemble have recorded other images for the split.
    """
    first, *others = members_of(run)
    split = split or ("test" if any(member.info.splits["test"] for member in members_of(run)) else "val")
    for other in others:
        if set(other.info.splits[split]) != set(first.info.splits[split]):
            raise InputError(
                f"{other.path}: has other images in the split {split!r} than {first.path}. Say with --data.splits FILE "
                f"what to score, or score the runs separately."
            )
    return split, first.info.splits


def probs_and_truths(
    run: Trained,
    layout: Layout,
    records: Sequence[Record],
    *,
    soft_masks: bool,
    how: PredictConfig = AS_TRAINED,
    on_open: Callable[[str, int, int], Any] = lambda id_, height, width: None,
) -> Iterator[tuple[Float[np.ndarray, "h w k"], Bool[np.ndarray, "h w k"], Bool[np.ndarray, "h w k"] | None]]:
    """Yield the probabilities of each image and the masks in its files, at the image's own size.

    The third array is True where a pixel is not ignored, or None if the data set ignores none.

    Args:
      run, layout, records, soft_masks, how, on_open: the same as in `evaluate_run`.
    """
    samples = samples_of(run, layout, records, soft_masks, on_open)
    pairs = ((image, truth_of(sample)) for image, sample in samples)
    return ((probs, truth, valid) for probs, (truth, valid) in predict_pairs(run, pairs, how))


def truth_of(sample: Sample) -> tuple[Bool[np.ndarray, "h w k"], Bool[np.ndarray, "h w k"] | None]:
    """Return the true masks, and where they are not ignored."""
    return sample.mask >= 128, None if sample.valid is None else sample.valid >= 128


def samples_of(
    run: Trained, layout: Layout, records: Sequence[Record], soft_masks: bool, on_open: Callable[[str, int, int], Any]
) -> Iterator[tuple[np.ndarray, Sample]]:
    """Read images as the networks see them, each with its sample in the first format, at their own size."""
    first, *others = image_formats(run)
    source = FileSource(layout, records, soft_masks=soft_masks, image_format=first)
    for i, record in enumerate(records):
        sample = source[i]
        on_open(record.id, *sample.image.shape[:2])
        views = [sample.image, *(read_as(record.images, image_format) for image_format in others)]
        yield views[0] if len(views) == 1 else np.concatenate(views, axis=-1), sample


def _digests(run: Trained, image: np.ndarray) -> tuple[str, ...]:
    """Return the digest of an image in each of the formats in which the networks see it."""
    return tuple(pixel_digest(view) for view in np.split(image, len(image_formats(run)), axis=-1))


def evaluate_run(
    run: Trained,
    layout: Layout,
    records: Sequence[Record],
    *,
    soft_masks: bool = False,
    how: PredictConfig = AS_TRAINED,
    score_names: Sequence[str] = (),
    tolerance: float = SURFACE_TOLERANCE,
    on_open: Callable[[str, int, int], Any] = lambda id_, height, width: None,
    on_progress: Callable[[int], Any] = lambda done: None,
) -> Scores:
    """Score the masks that `unet-jax predict` would write against the mask files, at each image's own size.

    Args:
      run: run from `load_run`, or runs from `load_ensemble`, whose calibration is used if they have one.
      layout: layout of the data set.
      records: samples to score.
      soft_masks: read the mask files as soft masks (`data.soft_masks`); a pixel is in the mask from 128 of 255 on.
      how: way of the images to the network, as in `unet_jax.predict_images`.
      score_names: scores to measure besides those of pixel counts, some of `unet_jax.metrics.score_sums.SCORES`.
      tolerance: distance of borders that the score "nsd" accepts, in pixels.
      on_open: function that is called with the id, height and width of each image.
      on_progress: function that is called with the number of finished images.

    Returns:
      Pixel counts per image and class, and the sums of `score_names`, from which all scores are computed.

    Example:
      >>> run = unet_jax.load_run("RUN")  # doctest: +SKIP
      >>> _, layout, records = select_records(run, run.config.data, "val")  # doctest: +SKIP
      >>> evaluate_run(run, layout, records).dice_mean  # doctest: +SKIP
      0.97
    """
    samples = samples_of(run, layout, records, soft_masks, on_open)
    pairs = ((image, (*truth_of(sample), _digests(run, image))) for image, sample in samples)
    parts, sums, ignored, digests = [], [], [], []
    predictions = predict_pairs(run, pairs, how) if need_probs(score_names) else seen_masks(run, pairs, how)
    for done, (values, (truth, valid, digest)) in enumerate(predictions, start=1):
        predicted = values if values.dtype == bool else finished_masks(run, values > run.threshold, how)
        parts.append(metrics.counts_from_masks(predicted, truth, valid))
        sums.append(measure(score_names, values, predicted, truth, valid, tolerance=tolerance))
        ignored.append(truth[..., 0].size - num_counted(parts[-1]))
        digests.append(digest)
        on_progress(done)
    counts = Counts(*(np.stack(arrays) for arrays in zip(*parts, strict=True)))
    num_ignored = np.stack(ignored) if any(part.any() for part in ignored) else None
    ids = tuple(record.id for record in records)
    stacked = {kind: np.stack([of_image[kind] for of_image in sums]) for kind in sums[0]}
    return Scores(ids, run.class_names, counts, digests=tuple(digests), num_ignored=num_ignored, sums=stacked)


def copies_of_training(run: Trained, scores: Scores) -> dict[str, list[str]] | None:
    """Find scored images with the same pixels as images that the run, or one of an ensemble, was trained on.

    Args:
      run: trained run or ensemble.
      scores: results of `evaluate_run`.

    Returns:
      Ids of the training images, by the id of each scored image that is a copy; images that were themselves trained on
      are left out. None if an earlier version began the run and stored no digests.
    """
    trained: dict[tuple[int, str], list[str]] = {}
    is_trained: set[str] = set()
    for member in members_of(run):
        stored = member.info.audit.get("digests")
        if stored is None:
            return None
        view = image_formats(run).index(member.info.image_format)
        for id_ in member.info.splits["train"]:
            ids = trained.setdefault((view, stored[id_]), [])
            if id_ not in ids:
                ids.append(id_)
        is_trained.update(member.info.splits["train"])
    copies: dict[str, list[str]] = {}
    for id_, digests in zip(scores.ids, scores.digests, strict=True):
        found = [trained_id for key in enumerate(digests) for trained_id in trained.get(key, ())]
        if found and id_ not in is_trained:
            copies[id_] = list(dict.fromkeys(found))
    return copies


def trained_on(run: Trained, scores: Scores) -> dict[str, list[str]]:
    """Return the scored images that each run was trained on, by the path of the run; runs without any are left out."""
    seen = {str(m.path): sorted(set(m.info.splits["train"]) & set(scores.ids)) for m in members_of(run)}
    return {path: ids for path, ids in seen.items() if ids}


def summary(scores: Scores, *, split: str, threshold: float | dict[str, float]) -> dict[str, Any]:
    """Return the scores as `unet-jax evaluate` prints them in JSON.

    Args:
      scores: results of `evaluate_run`.
      split: name of the split.
      threshold: probability above which a pixel belongs to a class: one number, or one for each class by name.
    """
    return {
        "split": split,
        "num_images": len(scores.ids),
        "dice": _or_none(scores.per_image(metrics.dice)),
        "dice_mean": None if np.isnan(scores.dice_mean) else scores.dice_mean,
        "iou": _or_none(scores.per_image(metrics.iou)),
        "precision": _or_none(scores.per_image(metrics.precision)),
        "recall": _or_none(scores.per_image(metrics.recall)),
        "accuracy": _or_none(scores.per_image(metrics.accuracy)),
        "dice_pooled": _or_none(scores.pooled(metrics.dice)),
        "threshold": threshold,
        "absent_classes": list(scores.absent),
        "reduction": RULE if scores.num_ignored is None else f"{RULE}; {IGNORED_RULE}",
        **({} if scores.num_ignored is None else {"annotated": scores.annotated, "images_unknown": scores.num_unknown}),
    }


def _or_none(values: dict[str, float]) -> dict[str, float | None]:
    """Replace NaN, which JSON does not have, by None."""
    return {name: None if np.isnan(value) else value for name, value in values.items()}


def write_csv(path: epath.Path, scores: Scores, names: Sequence[str] = ("dice", "iou")) -> None:
    """Write a CSV file with these scores of each image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, scores.to_csv(names))
