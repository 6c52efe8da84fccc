"""Splits of a data set: train for training, val for choosing the checkpoint, test for the final score."""

import csv
import hashlib
import io

from etils import epath

from unet_jax._types import InputError
from unet_jax.config import DataConfig
from unet_jax.data.layout import SPLITS, Layout, normal_id


def hashed_fraction(id_: str, seed: int) -> float:
    """Return a number in [0, 1) that depends on nothing but id and seed, and is the same on every machine."""
    digest = hashlib.sha256(f"{seed}:{id_}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def read_splits(path: epath.Path) -> dict[str, str]:
    """Read the split of each id from a CSV file with the columns id,split.

    Raises:
      InputError: the file is missing or not UTF-8, or has other columns, an unknown split, or an id in two splits.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such file, but --data.splits names it.")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text ({error}). Save it as CSV in UTF-8.") from error
    reader = csv.reader(io.StringIO(text, newline=""))
    columns = [name.strip() for name in next(reader, [])]
    if not {"id", "split"} <= set(columns):
        raise InputError(
            f"{path}: has the columns {columns}, but needs id and split in its first line, separated by a comma."
        )
    splits: dict[str, str] = {}
    for cells in reader:
        if not cells:
            continue
        row = dict(zip(columns, (cell.strip() for cell in cells), strict=False))
        id_, split = normal_id(row.get("id", "")), row.get("split", "")
        if split not in SPLITS:
            raise InputError(
                f"{path}, line {reader.line_num}: split is {split!r}, but must be one of {', '.join(SPLITS)}."
            )
        if splits.get(id_, split) != split:
            raise InputError(f"{path}, line {reader.line_num}: {id_!r} is in {splits[id_]} and in {split}. Keep one.")
        splits[id_] = split
    return splits


def assign_splits(layout: Layout, config: DataConfig) -> dict[str, list[str]]:
    """Return the sorted ids of "train", "val" and "test".

    They come from the CSV file data.splits if it is given, else from train/ val/ test/ folders if there are any; else
    all ids are train. Where there is a train but no val split, the part data.val_fraction of train (by default 20 %)
    becomes val, chosen by hashed id. The test split is never changed.

    Raises:
      InputError: the CSV file cannot be used.
    """
    ids = [r.id for r in layout.records]
    if config.splits:
        path = epath.Path(config.splits)
        given = read_splits(path)
        unknown = sorted(set(given) - set(ids))
        if len(unknown) > len(layout.bad):  # so they cannot all be samples that were left out
            raise InputError(
                f"{path}: names {len(unknown)} ids that are not in {config.root}, the first is {unknown[0]!r} (ids "
                f"there look like {ids[0]!r}). An id is the file name without its suffix."
            )
        splits = {name: sorted(i for i in ids if given.get(i) == name) for name in SPLITS}
    elif any(r.split for r in layout.records):
        splits = {name: [r.id for r in layout.records if r.split == name] for name in SPLITS}
    else:
        splits = {"train": ids, "val": [], "test": []}
    if splits["train"] and not splits["val"]:
        splits["train"], splits["val"] = _hashed_split(splits["train"], config)
    return splits


def _hashed_split(ids: list[str], config: DataConfig) -> tuple[list[str], list[str]]:
    """Divide ids into train and val by comparing each id's hashed fraction with data.val_fraction.

    Each id is decided independently of the others, so new images do not move old ones. The exception is a part that
    would be empty: it gets the one id whose fraction is nearest to it.
    """
    if len(ids) < 2:
        return ids, []
    fractions = {id_: hashed_fraction(id_, config.split_seed) for id_ in ids}
    val = {id_ for id_ in ids if fractions[id_] < config.val_fraction} or {min(ids, key=fractions.__getitem__)}
    if len(val) == len(ids):
        val.remove(max(ids, key=fractions.__getitem__))
    return [i for i in ids if i not in val], [i for i in ids if i in val]
