"""Samples of a data set as files and classes, and what makes a list of them usable."""

import collections
import dataclasses
import functools
from collections.abc import Iterable, Sequence

from etils import epath

from unet_jax._types import InputError
from unet_jax.config import DataConfig
from unet_jax.data.listing import IMAGE_SUFFIXES, describe_endings
from unet_jax.data.masks.index_values import Values
from unet_jax.data.masks.placement import MaskOrientation

SPLITS = ("train", "val", "test")
_SPLIT_NAMES = {
    **{name: name for name in SPLITS},
    "training": "train",
    **dict.fromkeys(("valid", "validation", "validate", "dev", "development"), "val"),
    "testing": "test",
}


def split_of_name(name: str) -> str | None:
    """Return the split that people call by this name, in capital letters or not; None if there is none.

    Example:
      >>> split_of_name("Validation"), split_of_name("fold1")
      ('val', None)
    """
    return _SPLIT_NAMES.get(name.lower())


@dataclasses.dataclass(frozen=True)
class Record:
    """Files of one sample."""

    id: str
    images: tuple[epath.Path, ...]  # one file; or one for each channel (data.image_patterns)
    masks: tuple[tuple[epath.Path, ...], ...]  # files of each class, or of one index map; none: the mask is empty
    split: str = ""  # train, val or test, if the data set has folders of these names
    ignored: tuple[tuple[epath.Path, ...], ...] = ()  # files of ignored pixels: of all classes, then of each class

    @property
    def image(self) -> epath.Path:
        """Image file, or that of the first channel, by which messages name the sample."""
        return self.images[0]

    @property
    def files(self) -> tuple[epath.Path | None, ...]:
        """Image files, and the files of each class's mask and ignored pixels, or None for a class without any."""
        return (*self.images, *(path for paths in (*self.masks, *self.ignored) for path in paths or (None,)))


@dataclasses.dataclass(frozen=True)
class Layout:
    """Files and classes of a data set, known before any pixel is read."""

    records: tuple[Record, ...]  # sorted by id
    class_names: tuple[str, ...]
    index_values: tuple[Values, ...] = ()  # per class, if masks are one index map
    known_values: Values = ()  # values that the index map may hold, also of classes not chosen
    has_colors: bool = False  # the index values are colours, red * 65536 + green * 256 + blue
    ignore_values: Values = ()  # values of the index map that mean that a pixel was not annotated
    has_objects: bool = False  # the values in mask files are numbers of objects
    mask_threshold: float = 0.0  # share of white from which a pixel of a mask file is inside; 0: none between
    mask_orientation: MaskOrientation = "shown"  # pixels that masks were drawn on, where an image is shown turned
    channel_names: tuple[str, ...] = ()  # names of the channels, if each is in a file of its own
    missing_is_unknown: bool = False  # a class without a file was not annotated in that image
    bad: tuple[str, ...] = ()  # one reason per sample that was left out because a file is missing
    unread: tuple[tuple[str, int], ...] = ()  # endings that are not read, and how many files have them

    @functools.cached_property
    def has_ignored(self) -> bool:
        """True if pixels may be ignored, so that samples say which (`Sample.valid`)."""
        is_unknown = self.missing_is_unknown and any(not paths for r in self.records for paths in r.masks)
        return bool(self.ignore_values) or is_unknown or any(r.ignored for r in self.records)


def first_ten(reasons: Sequence[str]) -> str:
    """Join the first ten reasons, one a line, and the number of the others. A remedy is said once."""
    more = [f"and {len(reasons) - 10} more"] if len(reasons) > 10 else []
    return "\n  ".join(remedies_once(reasons[:10]) + more)


def remedies_once(reasons: Iterable[str]) -> list[str]:
    """Return reasons without the last sentence where an earlier reason ends in the same one.

    Example:
      >>> remedies_once(["a.png: is cut off. Replace it.", "b.png: is cut off. Replace it."])
      ['a.png: is cut off. Replace it.', 'b.png: is cut off.']
    """
    lines: list[str] = []
    said: set[str] = set()
    for reason in reasons:
        fact, _, remedy = reason.rpartition(". ")
        is_known = remedy in said and ": " not in remedy  # what names a file is no remedy
        lines.append(f"{fact}." if is_known else reason)
        said.add(remedy)
    return lines


def unmatched(bad: Sequence[str]) -> str:
    """Return a text on files without a partner, and what may be done.

    Args:
      bad: one reason per sample that lacks a file.
    """
    count = "1 file has" if len(bad) == 1 else f"{len(bad)} files have"
    return (
        f"{count} no matching image or mask:\n  {first_ten(bad)}\n"
        f"Add or remove files; or use --data.missing-masks empty (an image without a mask file has no object) or "
        f"unknown (nobody annotated it); or --data.on-bad-sample skip (leave these out)."
    )


def checked_layout(
    records: list[Record],
    class_names: tuple[str, ...],
    config: DataConfig,
    *,
    bad: list[str],
    unread: Iterable[tuple[str, int]] = (),
    hint: str = "",
) -> Layout:
    """Return the layout of these records; raise InputError if it cannot be used.

    Args:
      records: samples that have all their files.
      class_names: names of the classes.
      config: settings of the data set.
      bad: one reason per sample that lacks a file.
      unread: endings that are not read, each with a number of files; an ending may occur again.
      hint: sentence, without a full stop, that the message ends with if no sample was found.
    """
    if bad and config.on_bad_sample == "error":
        raise InputError(f"{config.root}: {unmatched(bad)}{f' {hint}.' if hint else ''}")
    endings: collections.Counter[str] = collections.Counter()
    for ending, count in unread:
        endings[ending] += count
    if "overlay" in class_names:
        raise InputError("a class is named 'overlay', which is where prediction writes its overlays. Rename the class.")
    if not records:
        why = f"All {len(bad)} are bad, the first: {bad[0]}." if bad else f"Images end in {', '.join(IMAGE_SUFFIXES)}."
        if endings:
            why += f" Files of other endings: {describe_endings(endings.most_common())}."
        why += f" {hint}." if hint else ""
        raise InputError(f"{config.root}: no sample was found. {why}")
    ids: dict[str, Record] = {}
    for record in records:
        if record.id in ids:
            raise InputError(
                f"{record.image}: has the same id {record.id!r} as {ids[record.id].image}. Rename one of them, and "
                f"its masks."
            )
        ids[record.id] = record
    return Layout(
        tuple(ids[i] for i in sorted(ids)),
        class_names,
        bad=tuple(bad),
        unread=tuple(endings.most_common()),
        has_objects=config.instance_masks,
        mask_threshold=config.mask_threshold,
        mask_orientation=config.mask_orientation,
        missing_is_unknown=config.missing_masks == "unknown",
    )
