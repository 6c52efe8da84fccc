"""The file data.json: the identity of each file that a run reads, which tells whether the data are still the same."""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from etils import epath

from unet_jax._files import replace_text
from unet_jax._types import Sample
from unet_jax.data.file_identity import identity, same_content
from unet_jax.data.records import Record
from unet_jax.data.sources import FileSource
from unet_jax.runs.versioned_json import digest_of, read_versioned

_FORMAT = 1

Identities = dict[str, list[Any]]
"""Identity of each file of a sample (`unet_jax.data.file_identity`), None for a class without any, by the sample's id.
Samples of the data set that the run does not use have an empty list."""


class RememberingSource(FileSource):
    """Source that keeps the identity of the files of every sample that it reads."""

    identities: Identities

    def __getitem__(self, index: int) -> Sample:
        record = self.records[index]
        found = identities_of(record)
        sample = super().__getitem__(index)
        vars(self).setdefault("identities", {})[record.id] = found
        return sample


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Difference between the files of a data set and those that a run began with; ids are sorted."""

    changed: dict[str, epath.Path]
    """File whose content is another one, or a sample's image if it has other files, by id."""
    vanished: tuple[str, ...]
    """Ids of samples that are not there any more."""
    new: tuple[str, ...]
    """Ids of samples that were not there."""
    identities: Identities
    """Identities of now, of all samples but the vanished and the new ones."""


def data_path(path: epath.Path) -> epath.Path:
    """Return the path of data.json in a run directory."""
    return path / "data.json"


def identities_of(record: Record) -> list[Any]:
    """Return the identities of the files of a sample."""
    return [identity(path) if path else None for path in record.files]


def save_identities(path: epath.Path, root: str, identities: Mapping[str, list[Any]]) -> None:
    """Write data.json.

    Args:
      path: run directory.
      root: folder of the data set.
      identities: identities of the files of each sample, by id.
    """
    where = root if "://" in root else os.path.abspath(root)
    # One sample a line, so that a person can look for one.
    lines = ",\n".join(f"  {json.dumps(id_)}: {json.dumps(identities[id_])}" for id_ in sorted(identities))
    digest = digest_of({"format": _FORMAT, "root": where, "files": dict(identities)})
    head = f'"format": {_FORMAT},\n "digest": "{digest}",\n "root": {json.dumps(where)}'
    text = f'{{\n {head},\n "files": {{\n{lines}\n }}\n}}\n'
    replace_text(data_path(path), text)


def load_identities(path: epath.Path) -> tuple[str, Identities] | None:
    """Read data.json: the folder of the data set, and the identities. None if an earlier version began the run.

    Raises:
      InputError: the file is damaged.
    """
    file = data_path(path)
    if not file.exists():
        return None
    remedy = "Restore it; or delete it, and the run takes the files that are there now for the right ones."
    return read_versioned(file, _FORMAT, ("root", "files"), _parsed, remedy)


def _parsed(values: Any) -> tuple[str, Identities]:
    """Return the root and the identities in the content of data.json."""
    root, files = values["root"], values["files"]
    fine = isinstance(root, str) and all(isinstance(x, list) and all(map(_is_identity, x)) for x in files.values())
    if not fine:
        raise ValueError("it does not hold identities of files")
    return root, files


def _is_identity(value: Any) -> bool:
    return value is None or (
        isinstance(value, list) and [type(part) for part in value] == [int, int, int, str] and len(value[3]) > 0
    )


def compare_files(
    stored: Identities,
    records: Sequence[Record],
    *,
    num_threads: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Comparison:
    """Compare the files of a data set with those that a run began with.

    The content is read only where size or times differ, as after a copy.

    Args:
      stored: identities of the samples that the run uses.
      records: all samples of the data set.
      num_threads: number of threads that read.
      on_progress: called with (samples done, all samples).
    """
    used = [record for record in records if stored.get(record.id)]

    def look_at(record: Record) -> tuple[list[Any], epath.Path | None]:
        before = stored[record.id]
        files = record.files
        if len(files) != len(before) or any(
            (path is None) != (x is None) for path, x in zip(files, before, strict=True)
        ):
            return identities_of(record), record.image
        now = [same_content(path, x) if path else None for path, x in zip(files, before, strict=True)]
        changed = (path for path, x, y in zip(files, before, now, strict=True) if path and x and y and x[3] != y[3])
        return now, next(changed, None)

    changed, identities = {}, {}
    with ThreadPoolExecutor(num_threads) as pool:
        for done, (record, (now, path)) in enumerate(zip(used, pool.map(look_at, used), strict=True), start=1):
            identities[record.id] = now
            if path is not None:
                changed[record.id] = path
            on_progress(done, len(used))
    known = {record.id for record in records}
    vanished = tuple(sorted(id_ for id_, of_sample in stored.items() if of_sample and id_ not in known))
    identities |= {id_: [] for id_ in stored if id_ not in identities and id_ not in vanished}
    return Comparison(changed, vanished, tuple(sorted(known - set(stored))), identities)
