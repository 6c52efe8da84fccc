"""Folds: a partition, groups whole, sizes balanced; files that training reads."""

import csv

import pytest
from etils import epath
from hypothesis import given
from hypothesis import strategies as st

from unet_jax import InputError
from unet_jax.cli.main import main
from unet_jax.config import DataConfig
from unet_jax.data.folds import make_folds
from unet_jax.data.layout import find_layout
from unet_jax.data.splits import assign_splits, read_splits, splits_text


@given(sizes=st.lists(st.integers(1, 6), min_size=2, max_size=40), num_folds=st.integers(2, 8), seed=st.integers(0, 9))
def test_folds_are_a_partition_with_whole_groups_and_like_sizes(sizes, num_folds, seed):
    groups = {f"g{g}_{i}": f"g{g}" for g, size in enumerate(sizes) for i in range(size)}
    if num_folds > len(sizes):
        with pytest.raises(InputError, match=f"{num_folds} folds of {len(sizes)}"):
            make_folds(groups, num_folds, seed)
        return
    folds = make_folds(groups, num_folds, seed)
    assert sorted(id_ for fold in folds for id_ in fold) == sorted(groups)
    homes = {(groups[id_], i) for i, fold in enumerate(folds) for id_ in fold}
    assert len(homes) == len(sizes)  # each group has one fold
    assert max(map(len, folds)) - min(map(len, folds)) <= max(sizes)
    assert make_folds(dict(reversed(groups.items())), num_folds, seed) == folds


def test_another_seed_makes_other_folds_and_one_fold_is_none():
    groups = {str(i): str(i) for i in range(40)}
    assert make_folds(groups, 4, 0) != make_folds(groups, 4, 1)
    with pytest.raises(InputError, match="at least 2"):
        make_folds(groups, 1, 0)


def test_the_command_writes_files_that_training_reads(synthetic_root, tmp_path, capsys):
    """Of 30 images, the file of splits names test images, which are in no fold."""
    out = tmp_path / "folds"
    splits = f"{synthetic_root}/splits.csv"
    main(["folds", str(synthetic_root), "3", "--out", str(out), "--data.splits", splits])
    before = assign_splits(find_layout(DataConfig(root=str(synthetic_root))), DataConfig(splits=splits))
    val = []
    for path in sorted(out.iterdir()):
        config = DataConfig(root=str(synthetic_root), splits=str(path))
        now = assign_splits(find_layout(config), config)
        assert now["test"] == before["test"] and not set(now["train"]) & set(now["val"])
        assert sorted([*now["train"], *now["val"]]) == sorted([*before["train"], *before["val"]])
        val += now["val"]
    assert sorted(val) == sorted([*before["train"], *before["val"]])
    assert "fold2.csv: " in capsys.readouterr().out
    main(["folds", str(synthetic_root), "3", "--out", str(out), "--data.splits", splits])  # the same again


def test_ids_that_a_spreadsheet_would_compute_are_written_as_they_are(tmp_path):
    splits = {"=1+1": "train", "-a,b": "val", "täst": "test", '"q"': "train"}
    path = epath.Path(tmp_path / "splits.csv")
    path.write_text(splits_text(splits.items()))
    assert read_splits(path) == splits


def test_groups_stay_whole_and_other_files_are_not_overwritten(synthetic_root, tmp_path, capsys):
    out = tmp_path / "folds"
    main(["folds", str(synthetic_root), "3", "--group-key", "^(...)", "--out", str(out)])  # by tens
    with (out / "fold1.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len({row["id"][:3] for row in rows if row["split"] == "val"}) == 1
    for arguments, said in (
        (["2", "--out", str(out)], "has other splits"),
        (["4", "--group-key", "^(...)"], "4 folds of 3 groups of 30 images"),
        (["2", "--data.root", "x"], "--data.root is not used here: give DATA"),
    ):
        with pytest.raises(SystemExit):
            main(["folds", str(synthetic_root), *arguments])
        assert said in capsys.readouterr().err
