"""Folds of a data set for cross-validation: each image is in val once, or in test once."""

import dataclasses
from collections.abc import Mapping, Sequence

from unet_jax._types import InputError
from unet_jax.config import DataConfig
from unet_jax.data.splits import hashed_fraction, hashed_split


def make_folds(groups: Mapping[str, str], num_folds: int, seed: int) -> list[list[str]]:
    """Divide images into folds of about equal size, in which groups stay whole.

    The groups are taken in the order of a hash of their names, and each goes to the fold with the fewest images so far.
    With groups of one image, the sizes of folds differ by one at most.

    Args:
      groups: group of each image, by id; images of one group, such as a patient's, stay together.
      num_folds: number of folds.
      seed: seed of the hash.

    Returns:
      Sorted ids of each fold.

    Raises:
      InputError: there are fewer than 2 folds, or more than groups.

    Example:
      >>> make_folds({"a1": "a", "a2": "a", "b1": "b", "c1": "c"}, 2, seed=0)
      [['a1', 'a2'], ['b1', 'c1']]
    """
    members: dict[str, list[str]] = {}
    for id_, group in groups.items():
        members.setdefault(group, []).append(id_)
    if num_folds < 2:
        raise InputError(f"the number of folds is {num_folds}, but must be at least 2.")
    if num_folds > len(members):
        what = "images" if len(members) == len(groups) else f"groups of {len(groups)} images"
        raise InputError(f"{num_folds} folds of {len(members)} {what} would leave some empty: use at most that many.")
    folds: list[list[str]] = [[] for _ in range(num_folds)]
    for group in sorted(members, key=lambda name: (hashed_fraction(name, seed), name)):
        min(folds, key=len).extend(members[group])
    return [sorted(fold) for fold in folds]


def fold_rows(folds: Sequence[Sequence[str]], number: int, test: Sequence[str]) -> list[tuple[str, str]]:
    """Return id and split of every image in one fold: it is val, the other folds are train, and test stays test.

    Example:
      >>> fold_rows([["a"], ["b", "c"]], 0, test=["t"])
      [('a', 'val'), ('b', 'train'), ('c', 'train'), ('t', 'test')]
    """
    rows = [(id_, "val" if i == number else "train") for i, fold in enumerate(folds) for id_ in fold]
    return sorted([*rows, *((id_, "test") for id_ in test)])


def held_out_rows(folds: Sequence[Sequence[str]], number: int, config: DataConfig, seed: int) -> list[tuple[str, str]]:
    """Return id and split of every image where one fold is held out as test, and the others are train and val.

    The val images choose the checkpoint, so they cannot be those that are scored. They are the part data.val_fraction
    of the other folds. Which ones depends on the seed and the fold, so that they are not the same in all. With
    data.validate_on_train, all of the others are train.

    Args:
      folds: ids of each fold, from `make_folds`.
      number: fold that is held out.
      config: settings of the data set.
      seed: seed of the folds.

    Raises:
      InputError: the other folds are one group, so that no val can be split off.

    Example:
      >>> held_out_rows([["a"], ["b", "c"]], 0, DataConfig(), seed=0)
      [('a', 'test'), ('b', 'val'), ('c', 'train')]
    """
    others = sorted(id_ for i, fold in enumerate(folds) if i != number for id_ in fold)
    rows = [(id_, "test") for id_ in folds[number]]
    if config.validate_on_train:
        return sorted([*rows, *((id_, "train") for id_ in others)])
    own_seed = config.split_seed + 1 + seed * len(folds) + number
    train, val = hashed_split(others, dataclasses.replace(config, split_seed=own_seed))
    return sorted([*rows, *((id_, "train") for id_ in train), *((id_, "val") for id_ in val)])
