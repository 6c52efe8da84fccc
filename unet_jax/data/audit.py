"""An audit of the data set before training: counts over all samples, and faults with the names of their files."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from unet_jax._types import InputError
from unet_jax.data.constant_masks import constant_dice
from unet_jax.data.fit import Fit
from unet_jax.data.records import SPLITS, first_ten
from unet_jax.data.sample_facts import SampleFacts
from unet_jax.data.sources import FileSource
from unet_jax.data.survey import Survey, survey_source

DARK = 32
"""Threshold for dark images: an image is dark if none of its values, 0 to 255, reaches this one."""
MOST = 0.9
"""Share of an image's pixels, and of the images, above which a class is odd: its masks may be inverted."""


@dataclasses.dataclass(frozen=True)
class SplitAudit:
    """Facts about the usable samples of one split; the tuples have one number per class."""

    num_images: int
    num_with: tuple[int, ...]  # images with a pixel of the class, at their own size
    num_seen: tuple[int, ...]  # images with a pixel of the class at the network's size
    prevalence: tuple[float, ...]  # mean over images of the fraction of annotated pixels inside the class
    num_objects: tuple[int, ...]  # connected objects, at the images' own size
    num_vanished: tuple[int, ...]  # how many of them have no pixel at the network's size
    constant_dice: tuple[float, ...] = ()  # mean per-image Dice of the best mask that is the same for all images
    annotated: tuple[float, ...] = ()  # fraction of all pixels that are not ignored


@dataclasses.dataclass(frozen=True)
class Audit:
    """Facts about the usable samples, and the reasons why the others cannot be used.

    Samples of the test split count in `splits`, `duplicates`, `digests` and `vanished` only: nothing that training uses
    depends on them.
    """

    ids: tuple[str, ...]  # ids of the usable samples of train and val
    class_names: tuple[str, ...]
    prevalence: tuple[float, ...]  # per class: mean over images of the fraction of annotated pixels inside it
    num_empty: tuple[int, ...]  # per class: number of images without a pixel of it, but with annotated pixels
    overlap: tuple[tuple[float, ...], ...]  # [i][j]: fraction of class i's pixels, annotated for j, that are also in j
    smallest: tuple[int, int]  # smallest height and smallest width, in pixels
    largest: tuple[int, int]  # largest height and largest width, in pixels
    duplicates: tuple[tuple[str, ...], ...]  # groups of ids, of all splits, whose images have the same pixels
    dark: tuple[str, ...]  # ids of images without a value of at least `DARK`
    bad: tuple[str, ...]  # one reason per sample of train and val that was left out, with file names
    bad_test: tuple[str, ...] = ()  # one reason per sample of test that cannot be used
    seen_at: str = ""  # size that the network sees, in words; empty: the images' own size
    splits: Mapping[str, SplitAudit] = dataclasses.field(default_factory=dict)
    vanished: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    """Ids, by class, of images that have pixels of the class, but none at the network's size."""
    sizes: Mapping[str, tuple[int, int]] = dataclasses.field(default_factory=dict)  # height and width of each image
    classes: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    """Numbers of the classes that the network sees in each image."""
    enlarged: tuple[str, ...] = ()  # per class: the flag with which no object vanishes
    enlarged_for_all: str = ""  # the flag with which no object of any class vanishes
    alternative: str = ""  # another remedy (`Fit.alternative`)
    digests: Mapping[str, str] = dataclasses.field(default_factory=dict)  # digest of each image's pixels, by id
    num_covered: tuple[int, ...] = ()  # per class: number of images of which it covers more than `MOST`
    annotated: tuple[float, ...] = ()  # per class: fraction of all pixels that are not ignored
    num_unknown: tuple[int, ...] = ()  # per class: number of images without an annotated pixel
    unknown: tuple[str, ...] = ()  # ids of images without an annotated pixel of any class

    @property
    def is_partial(self) -> bool:
        """True if some pixels are ignored."""
        return any(share < 1 for facts in self.splits.values() for share in facts.annotated)

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as values that JSON can hold."""
        return dataclasses.asdict(self)


def audit_source(
    source: FileSource,
    class_names: Sequence[str],
    *,
    skip_bad: bool,
    splits: Mapping[str, Sequence[str]] | None = None,
    fit: Fit | None = None,
    linear_masks: bool = False,
    num_threads: int = 4,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Audit:
    """Decode every sample and collect facts about the data set.

    Args:
      source: samples at their own size.
      class_names: names of the k mask channels.
      skip_bad: leave samples out that cannot be used, instead of raising an error.
      splits: ids of train, val and test; without them, all samples are train.
      fit: size at which the network sees images, or None for the images' own size.
      linear_masks: whether masks are resized bilinearly (`data.mask_interpolation`).
      num_threads: number of threads that decode.
      on_progress: called with (samples done, all samples) after each sample.

    Returns:
      Counts and lists over all usable samples.

    Raises:
      InputError: the data set cannot be trained on; see `problems_of`.
    """
    survey = survey_source(source, fit=fit, linear_masks=linear_masks, num_threads=num_threads, on_progress=on_progress)
    audit = summarise(survey, class_names, splits or {"train": source.ids})
    problems = problems_of(audit, skip_bad=skip_bad)
    if problems:
        raise InputError("\n".join(problems))
    return audit


def summarise(survey: Survey, class_names: Sequence[str], splits: Mapping[str, Sequence[str]]) -> Audit:
    """Summarise the facts about all samples.

    Args:
      survey: facts about each sample.
      class_names: names of the k mask channels.
      splits: ids of train, val and test. An id may be in two of them.
    """
    used = {id_ for name in ("train", "val") for id_ in splits.get(name, ())}
    good = {id_: facts for id_, facts in survey.good.items() if id_ in used}
    joint, known = (
        np.sum([getattr(facts, name) for facts in good.values()], axis=0) if good else np.zeros((len(class_names),) * 2)
        for name in ("joint", "known")
    )
    shares = _shares(good, len(class_names))
    sizes = [facts.size for facts in good.values()] or [(0, 0)]
    heights, widths = zip(*sizes, strict=True)
    everyone = survey.good.values()
    by_digest: dict[str, list[str]] = {}
    for id_, facts in survey.good.items():
        by_digest.setdefault(facts.digest, []).append(id_)
    growth = tuple(max((int(f.growth_for_all[k]) for f in everyone), default=1) for k in range(len(class_names)))
    return Audit(
        ids=tuple(good),
        class_names=tuple(class_names),
        prevalence=_means(shares),
        num_empty=tuple((shares == 0).sum(axis=0).tolist()),
        overlap=tuple(map(tuple, (joint / np.maximum(known, 1)).round(6).tolist())),
        smallest=(min(heights), min(widths)),
        largest=(max(heights), max(widths)),
        duplicates=tuple(tuple(ids) for ids in by_digest.values() if len(ids) > 1),
        dark=tuple(id_ for id_, facts in good.items() if facts.brightest < DARK),
        bad=tuple(reason for id_, reason in survey.bad.items() if id_ in used),
        bad_test=tuple(reason for id_, reason in survey.bad.items() if id_ not in used),
        seen_at=survey.fit.text if survey.fit else "",
        splits={
            name: _split_audit(survey, class_names, splits[name], splits.get("train", ()))
            for name in SPLITS
            if splits.get(name)
        },
        vanished={
            name: tuple(
                id_ for id_, facts in survey.good.items() if facts.num_objects[k] > 0 and facts.num_seen[k] == 0
            )
            for k, name in enumerate(class_names)
        },
        sizes={id_: facts.size for id_, facts in survey.good.items()},
        classes={id_: tuple(np.flatnonzero(facts.num_seen).tolist()) for id_, facts in survey.good.items()},
        enlarged=tuple(survey.fit.enlarged_by(g) for g in growth) if survey.fit else (),
        alternative=survey.fit.alternative if survey.fit else "",
        enlarged_for_all=survey.fit.enlarged_by(max(growth)) if survey.fit else "",
        digests={id_: facts.digest for id_, facts in survey.good.items()},
        num_covered=tuple((shares > MOST).sum(axis=0).tolist()),
        annotated=_annotated(good, len(class_names)),
        num_unknown=tuple(np.isnan(shares).sum(axis=0).tolist()),
        unknown=tuple(id_ for id_, facts in good.items() if not facts.num_annotated.any()),
    )


def _shares(facts: Mapping[str, SampleFacts], num_classes: int) -> np.ndarray:
    """Return the fraction of each image's annotated pixels inside each class: `[n k]` float64; NaN without any."""
    rows = [
        np.where(f.num_annotated > 0, np.diag(f.joint) / np.maximum(f.num_annotated, 1), np.nan) for f in facts.values()
    ]
    return np.stack(rows) if rows else np.zeros((0, num_classes))


def _means(shares: np.ndarray) -> tuple[float, ...]:
    """Return the means over images, without those that are NaN; 0 if there are none."""
    counted = np.where(np.isnan(shares), 0.0, shares)
    return tuple((counted.sum(axis=0) / np.maximum((~np.isnan(shares)).sum(axis=0), 1)).tolist())


def _constant_dice(train: Sequence[SampleFacts], facts: Sequence[SampleFacts]) -> tuple[float, ...]:
    """Return the Dice of each class's best constant mask, made from the training masks."""
    shares = np.array([np.diag(f.joint) / f.num_pixels for f in facts])
    train_known, known = ([f.known_map for f in part if f.known_map is not None] or None for part in (train, facts))
    return constant_dice([f.share_map for f in train], [f.share_map for f in facts], shares, train_known, known)


def _annotated(facts: Mapping[str, SampleFacts], num_classes: int) -> tuple[float, ...]:
    """Return the fraction of the pixels of all images that are not ignored, per class."""
    total = sum(f.num_pixels for f in facts.values())
    counted = sum((f.num_annotated for f in facts.values()), np.zeros(num_classes, np.int64))
    return tuple((counted / max(total, 1)).tolist())


def _split_audit(
    survey: Survey, class_names: Sequence[str], ids: Sequence[str], train_ids: Sequence[str]
) -> SplitAudit:
    """Summarise the usable samples of one split. Its constant masks are made from the training masks."""
    good = {id_: survey.good[id_] for id_ in ids if id_ in survey.good}
    train = [survey.good[id_] for id_ in train_ids if id_ in survey.good]
    shares = _shares(good, len(class_names))
    seen, objects, vanished = (
        np.array([getattr(f, name) for f in good.values()], np.int64).reshape(-1, len(class_names))
        for name in ("num_seen", "num_objects", "num_vanished")
    )
    return SplitAudit(
        num_images=len(good),
        num_with=tuple((shares > 0).sum(axis=0).tolist()),
        num_seen=tuple((seen > 0).sum(axis=0).tolist()),
        prevalence=_means(shares),
        num_objects=tuple(objects.sum(axis=0).tolist()),
        num_vanished=tuple(vanished.sum(axis=0).tolist()),
        constant_dice=_constant_dice(train, list(good.values())),
        annotated=_annotated(good, len(class_names)),
    )


def problems_of(audit: Audit, *, skip_bad: bool) -> list[str]:
    """Return why the data set cannot be trained on, one text per reason; none if it can be.

    Samples of train or val cannot be used and `skip_bad` is off (the text names the first ten), none can be used, a
    class has no pixel in both, or the network would see no pixel of any class in train.
    """
    num_images = len(audit.ids)
    problems = []
    if audit.bad and not skip_bad:
        skip = "leave the samples out with --data.on-bad-sample skip"
        others = skip if num_images else "use the flags that are named"
        problems.append(
            f"{len(audit.bad)} of {num_images + len(audit.bad)} samples cannot be used:\n  {first_ten(audit.bad)}\n"
            f"Correct these files, or {others}."
        )
    if not audit.ids:
        return problems or ["no sample can be used:\n  " + first_ten(audit.bad)]
    for name in ("train", "val"):
        if name in audit.splits and not audit.splits[name].num_images:
            problems.append(f"no sample of the split {name!r} can be used:\n  {first_ten(audit.bad)}")
    train = audit.splits.get("train")
    unknown = audit.num_unknown or (0,) * len(audit.class_names)
    never = [
        name
        for name, empty, ignored in zip(audit.class_names, audit.num_empty, unknown, strict=True)
        if empty + ignored == num_images
    ]
    if never:
        problems.append(
            f"class {', '.join(never)}: no pixel in any of the {num_images} images. Check the mask files (are they all "
            f"black?), or leave the class out with --data.classes."
        )
    elif train and train.num_images and not any(train.num_with):
        problems.append("no class has a pixel in train, only in val. Give train images with objects.")
    elif train and train.num_images and not any(train.num_seen):
        problems.append(
            f"no pixel of any class is left in train at {audit.seen_at}, the size that the network sees. "
            f"{audit.enlarged_for_all} keeps all objects{audit.alternative}."
        )
    return problems


def cannot_choose(audit: Audit) -> str:
    """Return why Dice on val cannot choose a checkpoint, or an empty text: the network sees no class in val."""
    val = audit.splits.get("val")
    if val is None or not val.num_images or any(val.num_seen):
        return ""
    at = f" at {audit.seen_at}, the size that the network sees" if any(val.num_with) else ""
    return (
        f"no class has a pixel in val{at}, so that Dice on val cannot choose a checkpoint. Give val images with "
        f"objects (--data.splits, or another --data.split-seed){', use a larger --data.image-size' if at else ''}, or "
        f"choose by --train.monitor loss."
    )
