"""Splits of a data set: train for training, val for choosing the checkpoint, test for the final score."""

import csv
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence

from etils import epath

from unet_jax._types import InputError
from unet_jax.config import DataConfig
from unet_jax.data.listing import first_group, normal_id
from unet_jax.data.records import SPLITS, Layout, split_of_name


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
        id_, split = normal_id(row.get("id", "")), split_of_name(row.get("split", ""))
        if split is None:
            raise InputError(
                f"{path}, line {reader.line_num}: split is {row.get('split', '')!r}, but must be one of "
                f"{', '.join(SPLITS)} (or training, valid, validation, dev, testing)."
            )
        if splits.get(id_, split) != split:
            raise InputError(
                f"{path}, line {reader.line_num}: {id_!r} is in {splits[id_]} and in {split}. Keep one; to validate on "
                f"the training images, name no val at all and use --data.validate-on-train."
            )
        splits[id_] = split
    return splits


def splits_text(rows: Iterable[tuple[str, str]]) -> str:
    """Return the text of a CSV file that `read_splits` reads, from pairs of id and split.

    Ids are written as they are: what is meant for a spreadsheet would change an id that begins with "=" or "-".
    """
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([("id", "split"), *rows])
    return file.getvalue()


def assign_splits(layout: Layout, config: DataConfig) -> dict[str, list[str]]:
    """Return the sorted ids of "train", "val" and "test".

    They come from the CSV file data.splits if it is given, else from train/ val/ test/ folders if there are any; else
    all ids are train. Where there is a train but no val split, the part data.val_fraction of train (by default 20 %)
    becomes val, chosen by hashed id or group (data.group_key); with data.validate_on_train, val is all of train. The
    test split is never changed.

    Raises:
      InputError: the CSV file or data.group_key cannot be used, or data.validate_on_train is on and there is a val.
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
    if config.validate_on_train:
        if splits["val"]:
            raise InputError(
                f"data.validate_on_train is on, but {config.splits or config.root} names {len(splits['val'])} val "
                f"images. Leave --data.validate-on-train out, or name no val."
            )
        splits["val"] = list(splits["train"])
    elif splits["train"] and not splits["val"]:
        splits["train"], splits["val"] = hashed_split(splits["train"], config)
    return splits


def group_of(id_: str, config: DataConfig) -> str:
    """Return the group that an image belongs to (data.group_key); without that setting, every image is its own.

    Raises:
      InputError: data.group_key is not a valid regular expression, or finds no group in the id.

    Example:
      >>> group_of("p07_left", DataConfig(group_key="^([^_]*)_")), group_of("p07_left", DataConfig())
      ('p07', 'p07_left')
    """
    return first_group(config.group_key, id_, "data.group_key", "the group") if config.group_key else id_


def shared_groups(splits: Mapping[str, Sequence[str]], config: DataConfig) -> dict[str, list[str]]:
    """Return the splits of each group whose images are in several, which makes scores too good.

    Only data.splits and train/ val/ test/ folders can do that. Images that data.validate_on_train puts into two splits
    do not count as that.
    """
    if not config.group_key:
        return {}
    splits_of: dict[str, list[str]] = {}
    for split, ids in splits.items():
        if not (split == "val" and config.validate_on_train):
            for group in sorted({group_of(id_, config) for id_ in ids}):
                splits_of.setdefault(group, []).append(split)
    return {group: names for group, names in splits_of.items() if len(names) > 1}


def empty_split(splits: dict[str, list[str]], name: str, config: DataConfig) -> str:
    """Return why a split without images cannot be used, and the remedy; an empty text if it has images.

    Args:
      splits: ids of each split.
      name: train or val.
      config: settings of the data set.
    """
    if splits[name]:
        return ""
    counts = ", ".join(f"{split} {len(ids)}" for split, ids in splits.items())
    remedy = "Give it images, or correct --data.splits."
    if name == "val":
        remedy += " With very few images, --data.validate-on-train uses those of train as val."
    return f"{config.root}: the split {name!r} is empty ({counts} samples). {remedy}"


def hashed_split(ids: list[str], config: DataConfig) -> tuple[list[str], list[str]]:
    """Divide ids into train and val by comparing the hashed fraction of each id's group with data.val_fraction.

    Each group is decided independently of the others, so new images do not move old ones. The exception is a part that
    would be empty: it gets the one group whose fraction is nearest to it.
    """
    groups = {id_: group_of(id_, config) for id_ in ids}
    fractions = {group: hashed_fraction(group, config.split_seed) for group in groups.values()}
    if len(fractions) < 2:
        if len(ids) > 1:
            raise InputError(
                f"data.group_key is {config.group_key!r}, which puts all {len(ids)} training images into one group, "
                f"{groups[ids[0]]!r}, so that no val can be split off. Use another expression, say the splits with "
                f"--data.splits, or validate on the training images with --data.validate-on-train."
            )
        return ids, []
    val = {group for group, fraction in fractions.items() if fraction < config.val_fraction}
    val = val or {min(fractions, key=fractions.__getitem__)}
    if len(val) == len(fractions):
        val.remove(max(fractions, key=fractions.__getitem__))
    return [i for i in ids if groups[i] not in val], [i for i in ids if groups[i] in val]
