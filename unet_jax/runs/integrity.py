"""Digests of the files of checkpoints, which tell damaged bytes from those that were saved.

Storage and copies damage files without a word, and a checkpoint with some other bytes may still load. The digests of
all files of a checkpoint are in `digests.json` beside it, written after the checkpoint is committed.
"""

import hashlib
from typing import Any

from etils import epath

from unet_jax._files import replace_text
from unet_jax._types import InputError
from unet_jax.runs.versioned_json import read_versioned, versioned_text

Digests = dict[str, str]
"""Digest of each file, by its path below the checkpoint's folder."""

_FORMAT = 1
_CHUNK = 2**20


def digests_path(folder: epath.Path) -> epath.Path:
    """Return the path of the digests of the checkpoints in a folder."""
    return folder / "digests.json"


def record_digests(folder: epath.Path, step: int, kept: list[int]) -> None:
    """Compute the digests of a checkpoint's files, and write them beside those of the checkpoints that are kept.

    Args:
      folder: folder of the checkpoints.
      step: step of a checkpoint that is committed.
      kept: steps of all checkpoints that are there.
    """
    try:
        known = read_digests(folder)
    except InputError:  # damaged: those of the older checkpoints are lost, which `verify` says
        known = {}
    known = {s: digests for s, digests in known.items() if s in kept} | {step: file_digests(folder / str(step))}
    values = {"checkpoints": {str(s): known[s] for s in sorted(known)}}
    replace_text(digests_path(folder), versioned_text(_FORMAT, values))


def read_digests(folder: epath.Path) -> dict[int, Digests]:
    """Return the digests of the checkpoints in a folder, by step; empty if an earlier version saved them.

    Raises:
      InputError: the file of digests is damaged.
    """
    path = digests_path(folder)
    if not path.exists():
        return {}
    remedy = "Restore it, or delete it: checkpoints then load unchecked."
    return read_versioned(path, _FORMAT, ("checkpoints",), _parsed, remedy)


def _parsed(values: Any) -> dict[int, Digests]:
    """Return the digests in the content of digests.json."""
    return {int(step): _checked(digests) for step, digests in values["checkpoints"].items()}


def damaged_files(folder: epath.Path, step: int) -> list[str] | None:
    """Return the files of a checkpoint that are not as they were saved, each with what is wrong.

    Args:
      folder: folder of the checkpoints.
      step: step of the checkpoint.

    Returns:
      Names below the checkpoint's folder; None if there are no digests of this checkpoint.

    Raises:
      InputError: the file of digests is damaged.
    """
    saved = read_digests(folder).get(step)
    if saved is None:
        return None
    found = file_digests(folder / str(step))
    changed = [
        f"{name} is not there" if name not in found else f"{name} has other bytes than when it was saved"
        for name in saved
    ]
    changed = [text for name, text in zip(saved, changed, strict=True) if found.get(name) != saved[name]]
    return changed + [f"{name} was not there" for name in found if name not in saved]


def file_digests(folder: epath.Path) -> Digests:
    """Return the digests of all files below a folder."""
    return {str(path.relative_to(folder)): _digest(path) for path in sorted(_files(folder))}


def _files(folder: epath.Path) -> list[epath.Path]:
    """Return all files below a folder."""
    files: list[epath.Path] = []
    for path in folder.iterdir():
        files += _files(path) if path.is_dir() else [path]
    return files


def _digest(path: epath.Path) -> str:
    """Return the digest of a file, which is read piece by piece. Python computes it without holding its lock."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def _checked(digests: Any) -> Digests:
    if not all(isinstance(text, str) for text in (*digests.keys(), *digests.values())):
        raise TypeError("digests are not texts")
    return digests
