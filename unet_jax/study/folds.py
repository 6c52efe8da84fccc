"""Folds of a study: each seed divides the images into folds, and each fold is held out from one run of every variant.

OUT/folds/seedN-foldM.csv holds the splits of these runs. Images of a test split of the data set are in no fold.
"""

from etils import epath

from unet_jax._files import replace_text
from unet_jax._types import InputError
from unet_jax.data.folds import held_out_rows, make_folds
from unet_jax.data.layout import find_layout
from unet_jax.data.splits import assign_splits, group_of, splits_text
from unet_jax.study.config import Study


def plan_folds(study: Study) -> tuple[dict[epath.Path, str], int]:
    """Return the text of the file of splits of each fold, and the number of images that are in no fold.

    Args:
      study: a study; without folds there are no files.

    Raises:
      InputError: there are too few images or groups, or a file of other folds is there.
    """
    if not study.folds:
        return {}, 0
    data = study.config.data
    splits = assign_splits(find_layout(data), data)
    groups = {id_: group_of(id_, data) for id_ in sorted({*splits["train"], *splits["val"]})}
    files: dict[epath.Path, str] = {}
    for seed in study.seeds:
        folds = make_folds(groups, study.folds, seed)
        for fold in range(study.folds):
            rows = held_out_rows(folds, fold, data, seed)
            missing = {"train"} if data.validate_on_train else {"train", "val"}
            missing -= {split for _, split in rows}
            if missing:
                raise InputError(
                    f"study.folds is {study.folds}, which leaves no image for {' and '.join(sorted(missing))} beside a "
                    f"fold: the {len(groups)} images are {len(set(groups.values()))} groups. Use more images, or leave "
                    f"folds out."
                )
            path = epath.Path(str(study.data_of(seed, fold).splits))
            files[path] = splits_text(rows)
            if path.exists() and path.read_text() != files[path]:
                raise InputError(
                    f"{path}: holds other folds than those of these images and settings (study.folds, data.group_key, "
                    f"data.val_fraction, data.split_seed). Restore them, or choose another study.out."
                )
    return files, len(splits["test"])


def write_folds(study: Study) -> int:
    """Write the files of splits of all folds, which the runs read, and return the number of images in no fold."""
    files, num_left_out = plan_folds(study)
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, text)
    return num_left_out
