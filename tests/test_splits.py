"""Groups that stay on one side, and val that is train. (test_layout.py has the other rules of splits.)"""

import hashlib

import pytest
from etils import epath
from hypothesis import given
from hypothesis import strategies as st

from unet_jax._types import InputError
from unet_jax.config import DataConfig
from unet_jax.data.records import Layout, Record
from unet_jax.data.splits import assign_splits, group_of, shared_groups

PATIENT = "^(p[0-9]+)_"


def splits_of(ids, **settings):
    layout = Layout(tuple(Record(i, (epath.Path(f"{i}.png"),), ()) for i in sorted(ids)), ("cell",))
    return assign_splits(layout, DataConfig(root="somewhere", **settings))


def write_csv(tmp_path, text):
    (tmp_path / "splits.csv").write_text(text)
    return str(tmp_path / "splits.csv")


def test_a_group_is_decided_by_its_own_hash():
    """The rule written out: the first 8 bytes of SHA-256 of "seed:group", as a fraction, are below val_fraction."""
    ids = [f"p{patient:02d}_{frame}" for patient in range(40) for frame in range(3)]
    splits = splits_of(ids, group_key=PATIENT, split_seed=7, val_fraction=0.3)
    for id_ in ids:
        digest = hashlib.sha256(f"7:{id_[:3]}".encode()).digest()
        is_val = int.from_bytes(digest[:8], "big") / 2**64 < 0.3
        assert id_ in splits["val" if is_val else "train"]


@given(st.sets(st.tuples(st.integers(0, 12), st.integers(0, 5)), min_size=2), st.integers(0, 3))
def test_groups_stay_together_and_both_sides_have_some(pairs, seed):
    ids = [f"p{patient}_{frame}" for patient, frame in pairs]
    patients = {patient for patient, _ in pairs}
    if len(patients) == 1:
        with pytest.raises(InputError, match=r"puts all \d+ training images into one group, 'p\d+'"):
            splits_of(ids, group_key=PATIENT, split_seed=seed)
        return
    splits = splits_of(ids, group_key=PATIENT, split_seed=seed)
    sides = [{id_.split("_")[0] for id_ in splits[name]} for name in ("train", "val")]
    assert sides[0] and sides[1] and not sides[0] & sides[1]
    assert sorted(splits["train"] + splits["val"]) == sorted(ids)


def test_new_images_and_new_groups_do_not_move_old_ones():
    ids = [f"p{patient:02d}_{frame}" for patient in range(20) for frame in range(2)]
    before = splits_of(ids, group_key=PATIENT)
    after = splits_of([*ids, "p03_9", "p77_0"], group_key=PATIENT)
    assert set(before["val"]) <= set(after["val"]) and set(before["train"]) <= set(after["train"])


def test_a_group_key_that_finds_nothing_is_an_error():
    for key, message in [
        ("^(x)", r"data.group_key is '\^\(x\)', which finds no group in the id 'p1_a'"),
        ("p1", "finds no group.*Put parentheses around the part that names the group"),
        ("(", "is not a valid regular expression"),
    ]:
        with pytest.raises(InputError, match=message):
            splits_of(["p1_a", "p2_a"], group_key=key)


def test_groups_that_a_file_or_folders_divide_are_found(tmp_path):
    path = write_csv(tmp_path, "id,split\np1_a,train\np1_b,test\np2_a,train\np2_b,train\np3_a,val\np3_b,test\n")
    config = DataConfig(root="somewhere", splits=path, group_key=PATIENT)
    splits = splits_of(["p1_a", "p1_b", "p2_a", "p2_b", "p3_a", "p3_b"], splits=path, group_key=PATIENT)
    assert shared_groups(splits, config) == {"p1": ["train", "test"], "p3": ["val", "test"]}
    assert shared_groups(splits, DataConfig(root="somewhere")) == {}
    assert group_of("p1_b", config) == "p1"


def test_val_may_be_train_on_request():
    """So that one image can be trained on."""
    assert splits_of(["a"]) == {"train": ["a"], "val": [], "test": []}
    assert splits_of(["a"], validate_on_train=True) == {"train": ["a"], "val": ["a"], "test": []}
    assert splits_of(["b", "a"], validate_on_train=True) == {"train": ["a", "b"], "val": ["a", "b"], "test": []}


def test_val_that_is_train_is_no_shared_group_but_test_is(tmp_path):
    path = write_csv(tmp_path, "id,split\np1_a,train\np1_b,test\np2_a,train\n")
    settings = {"splits": path, "group_key": PATIENT, "validate_on_train": True}
    splits = splits_of(["p1_a", "p1_b", "p2_a"], **settings)
    assert splits == {"train": ["p1_a", "p2_a"], "val": ["p1_a", "p2_a"], "test": ["p1_b"]}
    assert shared_groups(splits, DataConfig(root="somewhere", **settings)) == {"p1": ["train", "test"]}


def test_val_cannot_be_named_and_be_train(tmp_path):
    path = write_csv(tmp_path, "id,split\na,train\nb,val\n")
    with pytest.raises(InputError, match=r"validate_on_train is on, but .*splits\.csv names 1 val images"):
        splits_of("ab", splits=path, validate_on_train=True)
    path = write_csv(tmp_path, "id,split\na,train\na,val\n")
    with pytest.raises(InputError, match=r"'a' is in train and in val. Keep one; .*--data.validate-on-train"):
        splits_of("a", splits=path)
