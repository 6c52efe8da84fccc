"""The command `unet-jax folds`: write a file of splits for each fold of a cross-validation."""

import dataclasses
from collections.abc import Sequence

import tyro
from etils import epath

from unet_jax._files import replace_text
from unet_jax._types import InputError
from unet_jax.config import DataConfig
from unet_jax.config.placeholders import Dir, Regex
from unet_jax.data.folds import fold_rows, make_folds
from unet_jax.data.layout import find_layout
from unet_jax.data.splits import assign_splits, group_of, splits_text


@dataclasses.dataclass(frozen=True)
class _Folds:
    """Divide a data set into folds, and write a file for --data.splits for each: that fold is val, the others train.

    Images of a test split (folders, or --data.splits) are in no fold and stay test.
    """

    root: tyro.conf.Positional[Dir]
    """Folder of the data set (docs/data.md)."""
    num_folds: tyro.conf.Positional[int]
    """Number of folds."""
    out: Dir = "folds"
    """Folder to write fold0.csv, fold1.csv ... to."""
    group_key: Regex = ""
    """Regular expression whose first group in an id names what must stay together, such as a patient: '^([^_]*)_'."""
    seed: int = 0
    """Seed that decides which image is in which fold."""
    data: DataConfig = dataclasses.field(default_factory=DataConfig)


def folds(args: Sequence[str]) -> None:
    """Run `unet-jax folds`."""
    options = tyro.cli(_Folds, args=args, prog="unet-jax folds", config=(tyro.conf.FlagCreatePairsOff,))
    for name, instead in (("root", "DATA"), ("group_key", "--group-key REGEX")):
        if getattr(options.data, name):
            raise InputError(f"--data.{name.replace('_', '-')} is not used here: give {instead}.")
    config = dataclasses.replace(options.data, root=options.root, group_key=options.group_key)
    splits = assign_splits(find_layout(config), config)
    ids = sorted({*splits["train"], *splits["val"]})
    parts = make_folds({id_: group_of(id_, config) for id_ in ids}, options.num_folds, options.seed)
    out = epath.Path(options.out)
    files = {
        out / f"fold{number}.csv": splits_text(fold_rows(parts, number, splits["test"]))
        for number in range(options.num_folds)
    }
    for path, text in files.items():
        if path.exists() and path.read_text() != text:
            raise InputError(f"{path}: is there already, and has other splits. Remove it, or give another --out.")
    out.mkdir(parents=True, exist_ok=True)
    for (path, text), part in zip(files.items(), parts, strict=True):
        replace_text(path, text)
        print(f"{path}: {len(part)} val, {len(ids) - len(part)} train, {len(splits['test'])} test")
    print(f"for each: unet-jax train auto --data.root {options.root} --data.splits {out}/fold0.csv --out RUN0")
