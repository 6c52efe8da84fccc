"""An audit of the data set before training: every sample is decoded once, faults are reported with file names."""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from unet_jax._types import InputError
from unet_jax.data.layout import first_ten
from unet_jax.data.pixels import BadSampleError, read_bytes
from unet_jax.data.sources import FileSource

DARK = 32
"""Threshold for dark images: an image is dark if none of its values, 0 to 255, reaches this one."""
_ROWS_AT_ONCE = 2**20  # pixels per matrix product; float32 counts exactly up to 2**24


@dataclasses.dataclass(frozen=True)
class Audit:
    """Facts about the usable samples, and the reasons why the others cannot be used."""

    ids: tuple[str, ...]  # ids of the usable samples
    class_names: tuple[str, ...]
    prevalence: tuple[float, ...]  # per class: mean over images of the fraction of pixels inside it
    num_empty: tuple[int, ...]  # per class: number of images without a pixel of it
    overlap: tuple[tuple[float, ...], ...]  # [i][j]: fraction of class i's pixels that are also in class j
    smallest: tuple[int, int]  # smallest height and smallest width, in pixels
    largest: tuple[int, int]  # largest height and largest width, in pixels
    duplicates: tuple[tuple[str, ...], ...]  # groups of ids whose image files are byte for byte the same
    dark: tuple[str, ...]  # ids of images without a value of at least `DARK`
    bad: tuple[str, ...]  # one reason per sample that was left out, with file names

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as values that JSON can hold."""
        return dataclasses.asdict(self)


class _Facts(NamedTuple):
    """Facts about one usable sample."""

    size: tuple[int, int]  # height, width
    joint: np.ndarray  # [k k] float64: number of pixels in both classes
    num_pixels: int
    brightest: int  # largest value of the image, 0 to 255
    digest: str  # SHA-256 of the image file


def audit_source(
    source: FileSource,
    class_names: Sequence[str],
    *,
    skip_bad: bool,
    num_threads: int = 4,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Audit:
    """Decode every sample and collect facts about the data set.

    Args:
      source: samples at their own size.
      class_names: names of the k mask channels.
      skip_bad: leave samples out that cannot be used, instead of raising an error.
      num_threads: number of threads that decode.
      on_progress: called with (samples done, all samples) after each sample.

    Returns:
      Counts and lists over all usable samples.

    Raises:
      InputError: samples cannot be used and `skip_bad` is off (the message names the first ten), no sample can be
        used, or a class has no pixel in the whole set.
    """

    def facts_of(index: int) -> _Facts | str:
        try:
            image, mask = source[index]
            digest = hashlib.sha256(read_bytes(source.records[index].image)).hexdigest()
            return _Facts(image.shape[:2], _joint_counts(mask), mask[..., 0].size, int(image.max()), digest)
        except BadSampleError as error:
            return str(error)

    good: dict[str, _Facts] = {}
    bad: list[str] = []
    with ThreadPoolExecutor(num_threads) as pool:
        results = zip(source.ids, pool.map(facts_of, range(len(source))), strict=True)
        for done, (id_, facts) in enumerate(results, start=1):
            if isinstance(facts, str):
                bad.append(facts)
            else:
                good[id_] = facts
            on_progress(done, len(source))
    if bad and not skip_bad:
        shown = first_ten(bad)
        raise InputError(
            f"{len(bad)} of {len(source)} samples cannot be used:\n  {shown}\n"
            f"Correct these files, or leave the samples out with --data.on-bad-sample skip."
        )
    if not good:
        raise InputError("no sample can be used:\n  " + "\n  ".join(bad[:10]))
    return _summary(good, tuple(class_names), tuple(bad))


def _joint_counts(mask: np.ndarray) -> np.ndarray:
    """Count the pixels that are in class i and in class j, for all i and j: `[k k]` float64."""
    inside = (mask >= 128).reshape(-1, mask.shape[-1])
    joint = np.zeros((mask.shape[-1], mask.shape[-1]))
    for start in range(0, len(inside), _ROWS_AT_ONCE):
        rows = inside[start : start + _ROWS_AT_ONCE].astype(np.float32)
        joint += rows.T @ rows
    return joint


def _summary(good: dict[str, _Facts], class_names: tuple[str, ...], bad: tuple[str, ...]) -> Audit:
    """Summarise the facts of all usable samples; raise InputError if a class has no pixel in any of them."""
    shares = np.stack([np.diag(f.joint) / f.num_pixels for f in good.values()])
    joint = np.sum([f.joint for f in good.values()], axis=0)
    never = [name for name, total in zip(class_names, np.diag(joint), strict=True) if total == 0]
    if never:
        raise InputError(
            f"class {', '.join(never)}: no pixel in any of the {len(good)} images. Check the mask files (are they all "
            f"black?), or leave the class out with --data.classes."
        )
    by_digest: dict[str, list[str]] = {}
    for id_, facts in good.items():
        by_digest.setdefault(facts.digest, []).append(id_)
    overlap = joint / np.diag(joint)[:, None]
    heights, widths = zip(*(f.size for f in good.values()), strict=True)
    return Audit(
        ids=tuple(good),
        class_names=class_names,
        prevalence=tuple(float(p) for p in shares.mean(axis=0)),
        num_empty=tuple(int(n) for n in (shares == 0).sum(axis=0)),
        overlap=tuple(tuple(round(float(v), 6) for v in row) for row in overlap),
        smallest=(min(heights), min(widths)),
        largest=(max(heights), max(widths)),
        duplicates=tuple(tuple(ids) for ids in by_digest.values() if len(ids) > 1),
        dark=tuple(id_ for id_, facts in good.items() if facts.brightest < DARK),
        bad=bad,
    )
