"""A source of samples as a folder of files, which is written once and found again."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tifffile
from etils import epath

from unet_jax._files import csv_text, unfinished_folder
from unet_jax._types import InputError, Sample
from unet_jax.data.array_source import as_sample
from unet_jax.data.listing import check_name
from unet_jax.data.pixels import write_png
from unet_jax.data.sample_facts import pixel_digest

_CONTENT = "samples.json"


class SampleSource(Protocol):
    """Anything with a length whose items are samples: `Sample(image, mask, valid)`, or two or three arrays.

    It may also have `ids` (names of the samples) and `class_names`.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


def names_of_classes(source: SampleSource) -> tuple[str, ...]:
    """Return the names of a source's classes: its `class_names`, or class0, class1, ..."""
    names = tuple(getattr(source, "class_names", ()))
    return names or tuple(f"class{k}" for k in range(_sample(source, 0, "0").mask.shape[-1]))


def write_sources(folder: Path, sources: Mapping[str, SampleSource], class_names: Sequence[str]) -> None:
    """Write the samples of each split as files, or check that the folder holds the same samples already.

    The folder then has `images/ID`, `masks/CLASS/ID.png`, `ignore/CLASS/ID.png` where pixels are ignored, and
    `splits.csv`. It appears when it is complete.

    Args:
      folder: local folder to write.
      sources: source of each split: train, and val and test if they are given.
      class_names: names of the classes, in the order of the masks' channels.

    Raises:
      InputError: a sample cannot be used, two have the same id, or the folder holds other samples.
    """
    if folder.exists():
        _check_same(folder, sources, class_names)
        return
    content: dict[str, dict[str, str]] = {}
    with unfinished_folder(folder, replace=False) as new:
        for split, id_, sample in _samples(sources, class_names):
            content.setdefault(split, {})[id_] = _digest(sample)
            _write_image(new / "images", id_, sample.image)
            for k, name in enumerate(class_names):
                write_png(epath.Path(new / "masks" / name / f"{id_}.png"), np.ascontiguousarray(sample.mask[..., k]))
                if sample.valid is not None and not sample.valid[..., k].all():
                    write_png(epath.Path(new / "ignore" / name / f"{id_}.png"), ~sample.valid[..., k])
        rows = [(id_, split) for split, digests in content.items() for id_ in digests]
        (new / "splits.csv").write_text(csv_text(("id", "split"), rows))
        (new / _CONTENT).write_text(json.dumps({"class_names": list(class_names), "samples": content}))


def _check_same(folder: Path, sources: Mapping[str, SampleSource], class_names: Sequence[str]) -> None:
    """Raise `InputError` unless the folder was written from the same samples."""
    remedy = "Give the samples that the run began with, or choose another `out`."
    try:
        content = json.loads((folder / _CONTENT).read_text())
        names, known = list(content["class_names"]), dict(content["samples"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder}: was not written from a source ({error}). Choose another `out`.") from error
    if names != list(class_names):
        raise InputError(f"{folder}: has the classes {names}, but the sources have {list(class_names)}. {remedy}")
    given = {split: len(source) for split, source in sources.items()}
    if given != {split: len(digests) for split, digests in known.items()}:
        counts = ", ".join(f"{len(digests)} {split}" for split, digests in known.items())
        now = ", ".join(f"{count} {split}" for split, count in given.items())
        raise InputError(f"{folder}: has {counts} samples, but the sources have {now}. {remedy}")
    for split, id_, sample in _samples(sources, class_names):
        if known[split].get(id_) != _digest(sample):
            raise InputError(f"{folder}: the sample {id_!r} of {split} was another one when the run began. {remedy}")


def _samples(sources: Mapping[str, SampleSource], class_names: Sequence[str]) -> Iterable[tuple[str, str, Sample]]:
    """Yield split, id and sample of every sample, checked."""
    seen: dict[str, str] = {}
    for split, source in sources.items():
        own_ids = [str(id_) for id_ in getattr(source, "ids", ())]
        for index in range(len(source)):
            id_ = f"{split}-{own_ids[index] if own_ids else f'{index:06d}'}"
            check_name(epath.Path(id_))
            if "/" in id_ or "\\" in id_:
                raise InputError(f"the id {id_!r} has a slash, but must be the name of a file. Rename it.")
            if id_.casefold() in seen:
                raise InputError(f"the ids {seen[id_.casefold()]!r} and {id_!r} are the same: rename one of them.")
            seen[id_.casefold()] = id_
            sample = _sample(source, index, id_)
            if sample.mask.shape[-1] != len(class_names):
                raise InputError(
                    f"the mask of {id_!r} has {sample.mask.shape[-1]} channels, but there are {len(class_names)} "
                    f"classes ({', '.join(class_names)})."
                )
            yield split, id_, sample


def _sample(source: SampleSource, index: int, name: str) -> Sample:
    """Return one item of a source as a sample."""
    item = source[index]
    if not isinstance(item, tuple | list) or not 2 <= len(item) <= 3:
        raise InputError(
            f"the sample {name!r} is a {type(item).__name__}, but must be (image, mask) or (image, mask, valid)."
        )
    return as_sample(item[0], item[1], name, item[2] if len(item) == 3 else None)


def _digest(sample: Sample) -> str:
    """Return a digest of image, masks, and what is ignored in them."""
    of_valid = "" if sample.valid is None else pixel_digest(sample.valid)
    return pixel_digest(sample.image) + pixel_digest(sample.mask) + of_valid


def _write_image(folder: Path, id_: str, image: np.ndarray) -> None:
    """Write an image without loss: 8-bit gray or RGB as PNG, everything else as TIFF."""
    if image.dtype == np.uint8 and image.shape[-1] in (1, 3):
        write_png(
            epath.Path(folder / f"{id_}.png"), np.ascontiguousarray(image[..., 0] if image.shape[-1] == 1 else image)
        )
        return
    folder.mkdir(parents=True, exist_ok=True)
    planes = np.ascontiguousarray(np.moveaxis(image, -1, 0))
    # ImageJ's form says which axis holds the channels, so that no reader takes them for pages or for alpha.
    tifffile.imwrite(folder / f"{id_}.tif", planes, photometric="minisblack", metadata={"axes": "CYX"})
