"""Findings of an audit as lines of text: for the beginning of a run, for `unet-jax audit`, and for its page."""

from collections.abc import Iterator, Mapping, Sequence

from unet_jax.config import DataConfig
from unet_jax.data.audit import DARK, MOST, Audit
from unet_jax.data.fit import fit_of
from unet_jax.data.images.intensity import FoundFormat
from unet_jax.data.listing import describe_endings
from unet_jax.data.records import SPLITS, Layout
from unet_jax.data.splits import shared_groups

NUM_SHOWN = 10
"""Number of entries of each kind that are shown, before the number of the others."""
WARNING = "WARNING"
"""Beginning of the lines that somebody should read before training."""
_DISTORTED = 1.5  # change of the ratio of an image's sides that is said


def overview(audit: Audit, splits: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the number and the sizes of the images; a line per class: share of the pixels, overlaps, absence; and the
    Dice that constant masks have on val.

    Args:
      audit: findings.
      splits: ids of each split.
    """
    sizes = "x".join(map(str, audit.smallest[::-1]))
    if audit.largest != audit.smallest:
        sizes += " to " + "x".join(map(str, audit.largest[::-1]))
    counts = ", ".join(f"{len(ids)} {name}" for name, ids in splits.items())
    lines = [f"data: {counts}; {sizes} pixels"]
    for k, name in enumerate(audit.class_names):
        others = [
            f"{share:.0%} also {other}"
            for other, share in zip(audit.class_names, audit.overlap[k], strict=True)
            if other != name and share > 0
        ]
        empty = f", absent from {audit.num_empty[k]} images" if audit.num_empty[k] else ""
        overlaps = f" ({', '.join(others)})" if others else ""
        known = audit.annotated[k] if audit.annotated else 1.0
        pixels = f"the annotated pixels, which are {percent(known)} of all" if known < 1 else "the pixels"
        unknown = f", unknown in {audit.num_unknown[k]} images" if audit.num_unknown and audit.num_unknown[k] else ""
        share = percent(audit.prevalence[k])
        lines.append(f"  channel {k} = {name}: {share} of {pixels}{overlaps}{empty}{unknown}")
    val = audit.splits.get("val")
    constant = zip(audit.class_names, val.constant_dice, val.num_seen, strict=True) if val and val.constant_dice else ()
    by_class = ", ".join(f"{name} {dice:.2f}" for name, dice, num_seen in constant if num_seen)
    if by_class:
        lines.append(f"  to beat: Dice on val of the best masks that are the same for every image: {by_class}")
    return lines


def percent(share: float) -> str:
    """Format a share in percent, small ones with two digits that are not 0.

    Example:
      >>> percent(0.3127), percent(0.00042), percent(0.0)
      ('31.3%', '0.042%', '0.0%')
    """
    return f"{share:.1%}" if share >= 0.01 or share == 0 else f"{100 * share:.2g}%"


def format_lines(found: FoundFormat) -> list[str]:
    """Return what was found about channels and intensities of the images; those to be read begin with `WARNING`."""
    lines = [found.description] if found.description else []
    if found.rotated:
        lines.append(
            f"{len(found.rotated)} images carry an orientation (EXIF or TIFF) and are read as viewers show them; the "
            f"first is {found.rotated[0]}. So are masks that carry one; for the others see data.mask_orientation."
        )
    return lines


def remarks(audit: Audit, layout: Layout, splits: Mapping[str, Sequence[str]], config: DataConfig) -> list[str]:
    """Return what somebody should know before training, one line each. Lines that begin with `WARNING` come first.

    Args:
      audit: findings.
      layout: layout of the data set.
      splits: ids of the usable samples of each split.
      config: settings of the data set.
    """
    lines = [
        *_absent_classes(audit),
        *_little_annotated(audit),
        *_covering_classes(audit),
        *_vanished_objects(audit),
        *_distorted_images(audit, config),
        *_small_images(audit, splits, config),
        *_dark_images(audit),
        *_copies(audit, splits),
        *_groups(splits, config),
        *_unused(audit, layout, splits, config),
    ]
    return sorted(lines, key=lambda line: not line.startswith(WARNING))


def _absent_classes(audit: Audit) -> Iterator[str]:
    """Yield a warning for each class without a pixel in a split, at the images' own size or at the network's."""
    consequences = {
        "train": "it cannot be learned",
        "val": "its Dice on val does not take part in the choice of the checkpoint",
        "test": "evaluate cannot tell how well it is found there",
    }
    for split, facts in audit.splits.items():
        of_classes = zip(audit.class_names, facts.num_with, facts.num_seen, facts.annotated, strict=True)
        for name, num_with, num_seen, annotated in of_classes:
            if not facts.num_images:
                continue
            if not annotated:
                yield f"{WARNING}: class {name} has no annotated pixel in {split}: {consequences[split]}."
            elif not num_with:
                yield f"{WARNING}: class {name} has no pixel in {split}: {consequences[split]}."
            elif not num_seen and split != "test":  # test is scored at the images' own size
                yield (
                    f"{WARNING}: class {name} has no pixel in {split} at {audit.seen_at}, the size that the network "
                    f"sees: {consequences[split]}."
                )


def _little_annotated(audit: Audit) -> Iterator[str]:
    """Yield warnings about images without an annotated pixel, and about classes with few annotated pixels."""
    if audit.unknown:
        yield (
            f"{WARNING}: {len(audit.unknown)} images have no annotated pixel of any class, the first is "
            f"{audit.unknown[0]!r}. They only take part in the statistics of batch normalisation: leave them out, "
            f"unless that is meant."
        )
    for name, share in zip(audit.class_names, audit.annotated, strict=False):
        if 0 < share < 1 - MOST:
            yield (
                f"{WARNING}: only {percent(share)} of the pixels are annotated for class {name}. If that is not meant, "
                f"the masks in ignore/ are inverted: inside is ignored."
            )


def _covering_classes(audit: Audit) -> Iterator[str]:
    """Yield a warning for each class that covers most of nearly every image."""
    for name, num_covered in zip(audit.class_names, audit.num_covered, strict=True):
        if num_covered > MOST * len(audit.ids):
            yield (
                f"{WARNING}: class {name} covers more than {MOST:.0%} of the pixels in {num_covered} of "
                f"{len(audit.ids)} images. If it should not, its masks are inverted: save them again with white inside "
                f"and black outside."
            )


def _vanished_objects(audit: Audit) -> Iterator[str]:
    """Yield a line for each class with objects that have no pixel at the network's size."""
    for k, name in enumerate(audit.class_names):
        num_objects = sum(facts.num_objects[k] for facts in audit.splits.values())
        num_vanished = sum(facts.num_vanished[k] for facts in audit.splits.values())
        if not num_vanished:
            continue
        images = audit.vanished[name]
        whole = f"; in {len(images)} images no object is left, the first is {images[0]!r}" if images else ""
        serious = images or num_vanished >= 0.01 * num_objects
        yield (
            f"{WARNING + ': ' if serious else ''}{num_vanished} of {num_objects} objects of class {name} vanish at "
            f"{audit.seen_at}, the size that the network sees{whole}. {audit.enlarged[k]} keeps all of them, a smaller "
            f"increase some{audit.alternative}."
        )


def _distorted_images(audit: Audit, config: DataConfig) -> Iterator[str]:
    """Yield a warning if resizing changes the ratio of the sides of images much."""
    if config.fit != "stretch":
        return
    (height, width), changed = config.height_and_width, []
    for id_, size in audit.sizes.items():
        ratio = (height * size[1]) / (width * size[0])
        if not 1 / _DISTORTED < ratio < _DISTORTED:
            changed.append((id_, size))
    if changed:
        id_, size = changed[0]
        yield (
            f"{WARNING}: {len(changed)} images are distorted at {audit.seen_at}: the ratio of their sides changes by a "
            f"factor of more than {_DISTORTED:g}; the first is {id_!r} ({size[1]}x{size[0]}). Give --data.image-size "
            f"HEIGHT WIDTH, or use --data.fit pad or crop."
        )


def _small_images(audit: Audit, splits: Mapping[str, Sequence[str]], config: DataConfig) -> Iterator[str]:
    """Yield a line if training images are smaller than the crops that are cut from them."""
    if config.fit != "crop":
        return
    fit, (height, width) = fit_of(config), config.height_and_width
    sizes = {id_: fit.size_of(*audit.sizes[id_]) for id_ in splits.get("train", ()) if id_ in audit.sizes}
    small = [id_ for id_, size in sizes.items() if size[0] < height or size[1] < width]
    if small:
        size = sizes[small[0]]
        yield (
            f"{WARNING + ': ' if 2 * len(small) > len(sizes) else ''}{len(small)} of {len(sizes)} training images are "
            f"smaller than crops of {width}x{height} at {fit.text}; the first is {small[0]!r} ({size[1]}x{size[0]}). "
            f"What is missing is their mirror image, which is ignored. Use a smaller --data.image-size if most of a "
            f"crop is missing."
        )


def _dark_images(audit: Audit) -> Iterator[str]:
    if audit.dark:
        yield (
            f"{WARNING}: the network sees {len(audit.dark)} images nearly black, no value above {DARK / 255:.0%} of "
            f"white; the first is {audit.dark[0]!r}. If they hold more, choose what is white by --data.intensity: "
            f"image-percentiles (of each image), or limits."
        )


def _copies(audit: Audit, splits: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Yield lines about images with the same pixels; those in different splits first, as warnings."""
    split_of = split_of_ids(splits)
    within, across = [], []
    for group in audit.duplicates:
        names = {split_of.get(id_, "no split") for id_ in group}
        (across if len(names) > 1 else within).append(group)
    for group in across[:NUM_SHOWN]:
        ids = ", ".join(f"{id_} ({split_of.get(id_, 'no split')})" for id_ in group[:NUM_SHOWN])
        yield (
            f"{WARNING}: images with the same pixels are in different splits: {ids}{_more(group)}. Scores are too good "
            f"with them: remove the copies, or put them into one split with --data.splits."
        )
    if len(across) > NUM_SHOWN:
        yield f"{WARNING}: {len(across) - NUM_SHOWN} more sets of images with the same pixels are in different splits."
    for group in within[:NUM_SHOWN]:
        yield f"identical images: {', '.join(group[:NUM_SHOWN])}{_more(group)}"
    if len(within) > NUM_SHOWN:
        yield f"{len(within) - NUM_SHOWN} more sets of identical images"


def split_of_ids(splits: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return the split of each id; one that is in train and val (data.validate_on_train) counts as train."""
    return {id_: name for name in reversed(SPLITS) for id_ in splits.get(name, ())}


def _more(entries: Sequence[str]) -> str:
    return f" and {len(entries) - NUM_SHOWN} more" if len(entries) > NUM_SHOWN else ""


def _groups(splits: Mapping[str, Sequence[str]], config: DataConfig) -> Iterator[str]:
    """Yield a warning about groups of images (data.group_key) that are in several splits."""
    shared = shared_groups(splits, config)
    if shared:
        listed = ", ".join(f"{group} ({' and '.join(names)})" for group, names in list(shared.items())[:NUM_SHOWN])
        yield (
            f"{WARNING}: {len(shared)} groups of data.group_key are in different splits: {listed}"
            f"{_more(list(shared))}. Scores are too good with them: put each into one split."
        )


def _unused(audit: Audit, layout: Layout, splits: Mapping[str, Sequence[str]], config: DataConfig) -> Iterator[str]:
    """Yield lines about samples that are left out or in no split, files that are not read, and val that is train."""
    if config.validate_on_train:
        yield f"{WARNING}: val is train (data.validate_on_train), so its scores say nothing about other images."
    if audit.bad_test:
        yield (
            f"{WARNING}: {len(audit.bad_test)} samples outside of train and val cannot be used, the first: "
            f"{audit.bad_test[0]}"
        )
    left_out = (*layout.bad, *audit.bad) if config.on_bad_sample == "skip" else ()  # else they are errors
    for reason in left_out[:NUM_SHOWN]:
        yield f"left out: {reason}"
    if left_out:
        yield f"{len(left_out)} left out in all"
    num_unused = len({record.id for record in layout.records} - {id_ for ids in splits.values() for id_ in ids})
    if num_unused > len(audit.bad):
        yield f"{num_unused - len(audit.bad)} samples are in no split and are not used"
    if layout.unread:
        yield f"files not read, because of their ending: {describe_endings(layout.unread)}"
