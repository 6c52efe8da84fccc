"""What is in a data set and what is wrong with it, read once before training, with file names."""

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
"""An image without a value of at least this, of 255, is called dark."""
_ROWS_AT_ONCE = 2**20  # float32 counts exactly up to 2**24


@dataclasses.dataclass(frozen=True)
class Audit:
    """Facts about the samples that can be used, and the reasons why the others cannot."""

    ids: tuple[str, ...]  # of usable samples
    class_names: tuple[str, ...]
    prevalence: tuple[float, ...]  # per class: mean over images of the share of its pixels
    num_empty: tuple[int, ...]  # per class: images without a pixel of it
    overlap: tuple[tuple[float, ...], ...]  # [i][j]: part of class i's pixels that are also class j
    smallest: tuple[int, int]  # height, width
    largest: tuple[int, int]
    duplicates: tuple[tuple[str, ...], ...]  # groups of ids whose image files are byte for byte the same
    dark: tuple[str, ...]  # ids of images with no value of at least `DARK`
    bad: tuple[str, ...]  # why samples were left out, with file names

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


class _Facts(NamedTuple):
    size: tuple[int, int]
    joint: np.ndarray  # [k k] float64, pixels in both classes
    num_pixels: int
    brightest: int
    digest: str


def audit_source(
    source: FileSource,
    class_names: Sequence[str],
    *,
    skip_bad: bool,
    num_threads: int = 4,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Audit:
    """Decodes every sample and reports.

    Raises:
      InputError: samples cannot be used and `skip_bad` is off (names the first ten), none can be used, or a class has
        no pixel in the whole set.
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
            f"Correct them, or leave them out with --data.on-bad-sample skip."
        )
    if not good:
        raise InputError("no sample can be used:\n  " + "\n  ".join(bad[:10]))
    return _summary(good, tuple(class_names), tuple(bad))


def _joint_counts(mask: np.ndarray) -> np.ndarray:
    """`[k k]` float64: [i, j] pixels in class i and in class j."""
    inside = (mask >= 128).reshape(-1, mask.shape[-1])
    joint = np.zeros((mask.shape[-1], mask.shape[-1]))
    for start in range(0, len(inside), _ROWS_AT_ONCE):
        rows = inside[start : start + _ROWS_AT_ONCE].astype(np.float32)
        joint += rows.T @ rows
    return joint


def _summary(good: dict[str, _Facts], class_names: tuple[str, ...], bad: tuple[str, ...]) -> Audit:
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
