"""Which files become which samples, and which samples which split. No pixel is read here: files may be empty."""

import hashlib
import os
import unicodedata

import pytest
from etils import epath
from hypothesis import given, settings
from hypothesis import strategies as st

from unet_jax._types import InputError
from unet_jax.config import DataConfig
from unet_jax.data.layout import find_layout
from unet_jax.data.records import Layout, Record
from unet_jax.data.splits import assign_splits, hashed_fraction, read_splits


def make(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def layout_of(root, **settings):
    return find_layout(DataConfig(root=str(root), **settings))


def joined(layout, root):
    """id -> image and masks as text, relative to the root."""
    return {
        r.id: (str(r.image.relative_to(root)), *(m and str(m.relative_to(root)) for m in r.files[1:]))
        for r in layout.records
    }


def records(ids):
    return Layout(tuple(Record(i, (epath.Path(f"{i}.png"),), ()) for i in ids), ("cell",))


def splits_of(ids, **settings):
    return assign_splits(records(ids), DataConfig(root="somewhere", **settings))


def write_csv(tmp_path, content):
    path = tmp_path / "splits.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def test_masks_are_joined_by_id_whatever_the_order_and_the_suffix(tmp_path):
    make(tmp_path, "images/b.JPG", "images/a.png", "images/c.tiff")
    make(tmp_path, "masks/nucleus/c.png", "masks/nucleus/b.gif", "masks/nucleus/a.bmp")
    make(tmp_path, "masks/cell/a.PNG", "masks/cell/c.png", "masks/cell/b.png")
    layout = layout_of(tmp_path)
    assert layout.class_names == ("cell", "nucleus")
    assert joined(layout, tmp_path) == {
        "a": ("images/a.png", "masks/cell/a.PNG", "masks/nucleus/a.bmp"),
        "b": ("images/b.JPG", "masks/cell/b.png", "masks/nucleus/b.gif"),
        "c": ("images/c.tiff", "masks/cell/c.png", "masks/nucleus/c.png"),
    }


def test_class_order_is_the_one_asked_for(tmp_path):
    make(tmp_path, "images/a.png", "masks/cell/a.png", "masks/nucleus/a.png", "masks/other/a.png")
    layout = layout_of(tmp_path, classes=("nucleus", "cell"))
    assert layout.class_names == ("nucleus", "cell")
    assert joined(layout, tmp_path) == {"a": ("images/a.png", "masks/nucleus/a.png", "masks/cell/a.png")}


def test_ids_in_subfolders_are_paths(tmp_path):
    make(tmp_path, "images/day 1/a.png", "images/day 2/a.png", "masks/cell/day 1/a.png", "masks/cell/day 2/a.png")
    assert joined(layout_of(tmp_path), tmp_path) == {
        "day 1/a": ("images/day 1/a.png", "masks/cell/day 1/a.png"),
        "day 2/a": ("images/day 2/a.png", "masks/cell/day 2/a.png"),
    }


def test_ids_with_dots_spaces_and_letters_of_any_language(tmp_path):
    ids = {"a.b", "a.b.c", "two words", "细胞", "β-1"}
    make(tmp_path, *(f"images/{i}.jpg" for i in ids), *(f"masks/cell/{i}.png" for i in ids))
    assert set(joined(layout_of(tmp_path), tmp_path)) == ids


def test_composed_and_decomposed_letters_are_the_same_id(tmp_path):
    """macOS archives hold 'e' and an accent where other programs write one letter."""
    image, mask = unicodedata.normalize("NFD", "café"), unicodedata.normalize("NFC", "café")
    assert image != mask
    make(tmp_path, f"images/{image}.png", f"masks/cell/{mask}.png")
    assert [r.id for r in layout_of(tmp_path).records] == [mask]
    path = write_csv(tmp_path, f"id,split\n{image},test\n")
    assert read_splits(epath.Path(path)) == {mask: "test"}


def test_hidden_and_other_files_are_no_samples(tmp_path):
    make(tmp_path, "images/a.png", "images/.a.png", "images/Thumbs.db", "images/.ipynb_checkpoints/a-checkpoint.png")
    make(tmp_path, "masks/cell/a.png", "masks/cell/._a.png", "masks/.cache/a.png", "masks/readme.txt")
    layout = layout_of(tmp_path)
    assert layout.class_names == ("cell",)
    assert set(joined(layout, tmp_path)) == {"a"}


def test_missing_mask_is_an_error_that_names_it(tmp_path):
    make(tmp_path, "images/a.png", "images/b.png", "masks/cell/a.png", "masks/cell/b.png", "masks/nucleus/a.png")
    with pytest.raises(InputError, match=r"masks/nucleus/b\.\* is missing.*images/b\.png") as caught:
        layout_of(tmp_path)
    assert "--data.missing-masks empty" in str(caught.value)


def test_mask_without_image_is_an_error_that_names_it(tmp_path):
    make(tmp_path, "images/a.png", "masks/cell/a.png", "masks/cell/b.png")
    with pytest.raises(InputError, match=r"masks/cell/b\.png: there is no image of this id in .*images"):
        layout_of(tmp_path)


def test_names_that_differ_in_capital_letters_or_zeros_are_named(tmp_path):
    make(tmp_path, "images/a.png", "images/B007.png", "masks/cell/a.png", "masks/cell/b7.png")
    with pytest.raises(InputError) as caught:
        layout_of(tmp_path)
    lines = str(caught.value).splitlines()
    assert lines[1].endswith("'b7' is there, but names must be equal: rename it")
    assert lines[2].endswith("'B007' is there, but names must be equal: rename it")


def test_long_lists_of_bad_files_are_cut(tmp_path):
    make(tmp_path, "images/a.png", "masks/cell/a.png", *(f"masks/cell/x{i:02d}.png" for i in range(13)))
    with pytest.raises(InputError, match=r"13 files have no matching image or mask:(?s:.*)x09\.png(?s:.*)and 3 more"):
        layout_of(tmp_path)


def test_missing_mask_may_mean_empty(tmp_path):
    make(tmp_path, "images/a.png", "images/b.png", "masks/cell/a.png", "masks/nucleus/b.png")
    layout = layout_of(tmp_path, missing_masks="empty")
    assert joined(layout, tmp_path) == {
        "a": ("images/a.png", "masks/cell/a.png", None),
        "b": ("images/b.png", None, "masks/nucleus/b.png"),
    }
    assert layout.bad == ()


def test_bad_samples_are_skipped_and_counted(tmp_path):
    make(tmp_path, "images/a.png", "images/b.png", "masks/cell/a.png", "masks/cell/c.png")
    layout = layout_of(tmp_path, on_bad_sample="skip")
    assert set(joined(layout, tmp_path)) == {"a"}
    assert len(layout.bad) == 2
    assert "images/b.png" in layout.bad[0]
    assert "masks/cell/c.png" in layout.bad[1]


def test_nothing_left_after_skipping_says_why(tmp_path):
    make(tmp_path, "images/a.png", "masks/cell/b.png")
    with pytest.raises(InputError, match=r"no sample was found. All 2 are bad, the first: .*masks/cell/a\.\*"):
        layout_of(tmp_path, on_bad_sample="skip")


def test_unknown_class_error_lists_what_is_there(tmp_path):
    make(tmp_path, "images/a.png", "masks/cell/a.png")
    with pytest.raises(InputError, match=r"masks/nuclei: there is no such folder.*found \['cell'\]"):
        layout_of(tmp_path, classes=("cell", "nuclei"))


def test_missing_folders_are_named(tmp_path):
    with pytest.raises(InputError, match=r"data.root is empty"):
        layout_of("")
    with pytest.raises(InputError, match=r"nowhere: is not a folder"):
        layout_of(tmp_path / "nowhere")
    make(tmp_path, "data.zip")
    with pytest.raises(InputError, match=r"data\.zip: is not a folder\. Unpack it first"):
        layout_of(tmp_path / "data.zip")
    with pytest.raises(InputError, match=r"/images: there is no such folder"):
        layout_of(tmp_path)
    make(tmp_path, "images/a.png")
    with pytest.raises(InputError, match=r"/masks: there is no such folder.*--data.mask-patterns"):
        layout_of(tmp_path)
    (tmp_path / "masks").mkdir()
    with pytest.raises(InputError, match=r"/masks: has no class folders"):
        layout_of(tmp_path)


def test_empty_folders_are_an_error_that_lists_the_endings(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "masks" / "cell").mkdir(parents=True)
    with pytest.raises(InputError, match=r"no sample was found. Images end in \.png"):
        layout_of(tmp_path)


@pytest.mark.parametrize("folder", ["images", "masks/cell"])
def test_one_id_in_two_files_is_an_error(tmp_path, folder):
    make(tmp_path, "images/a.png", "masks/cell/a.png", f"{folder}/a.jpg")
    with pytest.raises(InputError, match=r"has the same id 'a' as .*a\.\w+\. Rename one"):
        layout_of(tmp_path)


def test_folders_say_the_split(tmp_path):
    make(tmp_path, "train/images/a.png", "train/masks/cell/a.png", "train/images/b.png", "train/masks/cell/b.png")
    make(tmp_path, "val/images/c.png", "val/masks/cell/c.png", "test/images/d.png", "test/masks/cell/d.png")
    config = DataConfig(root=str(tmp_path))
    layout = find_layout(config)
    assert joined(layout, tmp_path)["d"] == ("test/images/d.png", "test/masks/cell/d.png")
    assert assign_splits(layout, config) == {"train": ["a", "b"], "val": ["c"], "test": ["d"]}


def test_split_folders_must_agree_on_classes_and_ids(tmp_path):
    make(tmp_path, "train/images/a.png", "train/masks/cell/a.png", "val/images/b.png", "val/masks/nucleus/b.png")
    with pytest.raises(InputError, match=r"val/masks: has the classes \['nucleus'\], but .*train has \['cell'\]"):
        layout_of(tmp_path)
    make(tmp_path, "test/images/a.png", "test/masks/cell/a.png")
    (tmp_path / "val" / "images" / "b.png").rename(tmp_path / "val" / "b.png")
    (tmp_path / "val" / "images").rmdir()
    with pytest.raises(InputError, match=r"test/images/a.png: has the same id 'a' as .*train/images/a.png. Rename"):
        layout_of(tmp_path)


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", "valid", "test"),
        ("Train", "VALIDATION", "Testing"),
        ("TRAINING", "Val", "TEST"),
        ("train", "dev", "test"),
    ],
)
def test_split_folders_have_the_names_that_people_give_them(tmp_path, train, val, test):
    for i, folder in enumerate((train, val, test)):
        make(tmp_path, f"{folder}/images/{i}.png", f"{folder}/masks/cell/{i}.png")
    config = DataConfig(root=str(tmp_path))
    assert assign_splits(find_layout(config), config) == {"train": ["0"], "val": ["1"], "test": ["2"]}


def test_no_folder_with_images_is_ignored(tmp_path):
    for folder in ("train", "holdout"):
        make(tmp_path, f"{folder}/images/{folder}.png", f"{folder}/masks/cell/{folder}.png")
    with pytest.raises(InputError, match=r"holdout/ holds images/, but is no split\. .*validation/.*move it elsewhere"):
        layout_of(tmp_path)
    (tmp_path / "holdout").rename(tmp_path / ".holdout")
    make(tmp_path, "notes/readme.txt")
    assert set(joined(layout_of(tmp_path), tmp_path)) == {"train"}


def test_two_folders_of_one_split_are_an_error(tmp_path):
    for folder in ("train", "val", "Valid"):
        make(tmp_path, f"{folder}/images/{folder}.png", f"{folder}/masks/cell/{folder}.png")
    with pytest.raises(InputError, match=r"Valid/ and val/ are both val|val/ and Valid/ are both val"):
        layout_of(tmp_path)


def test_two_layouts_at_once_are_an_error(tmp_path):
    make(tmp_path, "images/a.png", "masks/cell/a.png", "Test/images/b.png", "Test/masks/cell/b.png")
    with pytest.raises(InputError, match=r"has images/ itself, and Test/images/ as well\. Keep one layout"):
        layout_of(tmp_path)


def test_the_folder_above_the_data_set_names_the_right_one(tmp_path):
    make(tmp_path, "stage1/images/a.png", "stage1/masks/cell/a.png")
    with pytest.raises(InputError, match=rf"stage1/images/ is there\. Use --data.root {tmp_path}/stage1"):
        layout_of(tmp_path)


def test_images_and_masks_may_be_written_in_capitals(tmp_path):
    make(tmp_path, "Train/Images/a.png", "Train/Masks/Cell/a.png", "val/images/b.png", "val/MASKS/Cell/b.png")
    layout = layout_of(tmp_path)
    assert joined(layout, tmp_path) == {
        "a": ("Train/Images/a.png", "Train/Masks/Cell/a.png"),
        "b": ("val/images/b.png", "val/MASKS/Cell/b.png"),
    }


@pytest.mark.parametrize(
    ("image", "mask"),
    [("a.ome.tif", "a.png"), ("a.OME.TIFF", "a.ome.tif"), ("a.ome.tiff", "a.ome.png"), ("a.tif", "a.ome.tif")],
)
def test_ome_tif_is_one_ending(tmp_path, image, mask):
    make(tmp_path, f"images/{image}", f"masks/cell/{mask}")
    assert joined(layout_of(tmp_path), tmp_path) == {"a": (f"images/{image}", f"masks/cell/{mask}")}


def test_files_that_are_not_read_are_counted_and_named_where_a_partner_is_missing(tmp_path):
    make(tmp_path, "images/im001.png", "images/im002.png", "images/im003.xyz", "images/im004.XYZ", "images/Thumbs.db")
    make(tmp_path, "masks/cell/im001.png", "masks/cell/im002.nii.gz", "masks/cell/im003.png", "masks/cell/im004.xyz")
    with pytest.raises(InputError) as caught:
        layout_of(tmp_path)
    lines = str(caught.value).splitlines()
    assert "masks/cell/im002.* is missing" in lines[1]
    assert lines[1].endswith("; im002.nii.gz is there, but .nii.gz is not read: convert it to TIFF or PNG")
    assert lines[2].endswith(f"{tmp_path}/images; im003.xyz is there, but .xyz is not read: convert it to TIFF or PNG")
    layout = layout_of(tmp_path, on_bad_sample="skip")
    assert set(joined(layout, tmp_path)) == {"im001"}
    assert dict(layout.unread) == {".xyz": 3, ".nii.gz": 1, ".db": 1}


def test_a_mask_that_is_there_but_not_read_does_not_count_as_empty(tmp_path):
    make(tmp_path, "images/a.png", "images/b.png", "images/c.png", "masks/cell/a.png", "masks/cell/b.json")
    with pytest.raises(InputError, match=r"1 file has no matching(?s:.*)b\.json is there, but \.json is not read: try"):
        layout_of(tmp_path, missing_masks="empty")
    (tmp_path / "masks" / "cell" / "b.json").unlink()
    assert set(joined(layout_of(tmp_path, missing_masks="empty"), tmp_path)) == {"a", "b", "c"}


def test_images_that_patterns_miss_because_of_their_ending_are_named(tmp_path):
    make(tmp_path, "images/a.png", "images/b.xyz", "m/a_cell.png", "m/b_cell.png")
    with pytest.raises(InputError, match=r"its image images/b\.\* is missing; b\.xyz is there, but \.xyz is not read"):
        layout_of(tmp_path, mask_patterns=("cell=m/{id}_cell.png",))


def test_a_data_set_of_another_ending_says_so(tmp_path):
    make(tmp_path, "images/a.xyz", "images/b.xyz", "masks/cell/a.xyz", "masks/cell/b.xyz")
    with pytest.raises(InputError, match=r"no sample was found.*Files of other endings: 4 \.xyz"):
        layout_of(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (b"a\xff.png", r"a\udcff.png: the name is not UTF-8 text. Rename it."),
        (b"a\nb.png", r"a\nb.png: the name holds a control character ('\n'). Rename it."),
        (b"a\x1b[31m.png", r"a\x1b[31m.png: the name holds a control character ('\x1b'). Rename it."),
        ("a\u2028b.png".encode(), r"a\u2028b.png: the name holds a control character ('\u2028'). Rename it."),
    ],
)
@pytest.mark.parametrize("settings", [{}, {"mask_patterns": ("cell=masks/cell/{id}.png",)}])
def test_names_that_cannot_be_printed_are_refused_in_one_line(tmp_path, name, message, settings):
    make(tmp_path, "images/b.png", "masks/cell/b.png")
    for folder in ("images", "masks/cell"):
        (tmp_path / folder / os.fsdecode(name)).write_bytes(b"")
    with pytest.raises(InputError) as caught:
        layout_of(tmp_path, **settings)
    text = str(caught.value)
    assert text.endswith(message) and len(text.splitlines()) == 1
    text.encode()  # it can be printed


def test_folders_and_classes_that_cannot_be_printed_are_refused(tmp_path):
    make(tmp_path, "images/b.png", "masks/cell/b.png")
    strange = tmp_path / "masks" / "two\nlines"
    strange.mkdir()
    with pytest.raises(InputError, match=r"masks/two\\nlines: the name holds a control character"):
        layout_of(tmp_path)
    strange.rename(tmp_path / "images" / os.fsdecode(b"\xe9"))
    with pytest.raises(InputError, match=r"images/\\udce9: the name is not UTF-8"):
        layout_of(tmp_path)
    with pytest.raises(InputError, match=r"\\udce9: the name is not UTF-8"):
        layout_of(tmp_path / os.fsdecode(b"\xe9") / "data")


def test_other_strange_names_are_ids(tmp_path):
    ids = {"$HOME", "a$b$", "~", "-rf", "100%", "[red]", "<b>", "a'b\"c", "a\\b", "..c", "x ", "{id}", "a*", "a\u200cb"}
    ids -= {name for name in ids if name.startswith(".")}
    make(tmp_path, *(f"images/{i}.png" for i in ids), *(f"masks/$class$/{i}.png" for i in ids))
    layout = layout_of(tmp_path)
    assert set(joined(layout, tmp_path)) == ids
    assert layout.class_names == ("$class$",)


def test_links_that_lead_in_a_circle_are_named(tmp_path):
    make(tmp_path, "images/a.png", "masks/cell/a.png")
    loop = tmp_path / "images" / "loop"
    loop.symlink_to("..")
    with pytest.raises(InputError, match=rf"images/loop: is a symbolic link to {tmp_path}, a folder that contains it"):
        layout_of(tmp_path)
    loop.unlink()
    for here, there in (("x", "y"), ("y", "x")):
        (tmp_path / "images" / here).mkdir()
        (tmp_path / "images" / here / "link").symlink_to(f"../{there}")
    with pytest.raises(InputError, match=r"images/([xy])/link/link: is a symbolic link to .*images/\1, a folder that"):
        layout_of(tmp_path)


def test_links_to_other_places_and_links_to_nothing_are_files_like_others(tmp_path):
    make(tmp_path, "images/a.png", "masks/cell/a.png", "elsewhere/b.png", "masks/cell/day/b.png")
    (tmp_path / "images" / "day").symlink_to("../elsewhere")
    assert set(joined(layout_of(tmp_path), tmp_path)) == {"a", "day/b"}
    (tmp_path / "images" / "itself").symlink_to("itself")  # no folder, and no ending that is read
    assert set(joined(layout_of(tmp_path), tmp_path)) == {"a", "day/b"}


def test_val_is_carved_from_a_train_folder_and_test_untouched(tmp_path):
    make(tmp_path, *(f"train/images/{i}.png" for i in range(9)), *(f"train/masks/cell/{i}.png" for i in range(9)))
    make(tmp_path, "test/images/t.png", "test/masks/cell/t.png")
    config = DataConfig(root=str(tmp_path))
    splits = assign_splits(find_layout(config), config)
    assert splits["test"] == ["t"]
    assert splits["val"]
    assert sorted(splits["train"] + splits["val"]) == [str(i) for i in range(9)]


def test_csv_says_the_split(tmp_path):
    path = write_csv(tmp_path, "id,split\nd,test\na,train\nc,val\nb,train\n")
    assert splits_of("abcd", splits=path) == {"train": ["a", "b"], "val": ["c"], "test": ["d"]}


@pytest.mark.parametrize(
    "content",
    [
        "id,split\r\na,train\r\nsub/b c,test\r\n",
        b"\xef\xbb\xbfid,split\r\na,train\r\nsub/b c,test\r\n",
        " id , split\n a , train\n\nsub/b c,test",
        'number,split,id\n1,train,a\n2,test,"sub/b c"\n',
        "id,split\na,train\na,train\nsub/b c,test,more\n",
    ],
)
def test_csv_of_any_program_is_read(tmp_path, content):
    assert read_splits(epath.Path(write_csv(tmp_path, content))) == {"a": "train", "sub/b c": "test"}


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [("Train", "valid", "TEST"), ("training", "Validation", "testing"), ("train", "DEV", "test")],
)
def test_csv_calls_splits_as_people_do(tmp_path, train, val, test):
    path = write_csv(tmp_path, f"id,split\na,{train}\nb,{val}\nc,{test}\n")
    assert splits_of("abc", splits=path) == {"train": ["a"], "val": ["b"], "test": ["c"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name,split\na,train\n", r"splits\.csv: has the columns \['name', 'split'\], but needs id and split"),
        ("id;split\na;train\n", r"has the columns \['id;split'\].*separated by a comma"),
        ("", r"has the columns \[\]"),
        (
            "id,split\na,train\n\nb,holdout\n",
            r"splits\.csv, line 4: split is 'holdout', but must be one of train, val, test \(or training, valid",
        ),
        ("id,split\na\n", "line 2: split is ''"),
        ("id,split\na,train\na,test\n", r"line 3: 'a' is in train and in test. Keep one"),
        ("id,split\nä,train\n".encode("latin-1"), r"splits\.csv: is not UTF-8 text.*Save it"),
    ],
)
def test_csv_errors_name_the_line_and_the_value(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        splits_of("ab", splits=write_csv(tmp_path, content))


def test_csv_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.csv: there is no such file, but --data.splits names it"):
        splits_of("ab", splits=str(tmp_path / "none.csv"))


def test_csv_with_unknown_id_shows_how_ids_look(tmp_path):
    path = write_csv(tmp_path, "id,split\na.png,train\nb.png,val\n")
    with pytest.raises(InputError, match=r"names 2 ids that are not in .*first is 'a.png' \(ids there look like 'a'\)"):
        splits_of("ab", splits=path)


def test_csv_may_name_samples_that_were_left_out_but_no_others(tmp_path):
    path = write_csv(tmp_path, "id,split\na,train\nb,train\nbroken,val\n")
    config = DataConfig(root="somewhere", splits=path)
    one_bad = Layout(records("ab").records, ("cell",), bad=("images/broken.png has no mask",))
    assert assign_splits(one_bad, config)["test"] == []
    write_csv(tmp_path, "id,split\na.png,train\nb.png,train\nbroken.png,val\n")
    with pytest.raises(InputError, match="names 3 ids"):
        assign_splits(one_bad, config)


def test_csv_without_val_carves_it_from_train_and_leaves_test(tmp_path):
    ids = [f"{i:03d}" for i in range(100)]
    path = write_csv(tmp_path, "id,split\n" + "".join(f"{i},{'test' if i < '030' else 'train'}\n" for i in ids))
    splits = splits_of(ids, splits=path)
    assert splits["test"] == ids[:30]
    assert sorted(splits["train"] + splits["val"]) == ids[30:]
    assert 5 <= len(splits["val"]) <= 25


def test_hashed_fraction_is_the_head_of_sha256():
    digest = hashlib.sha256(b"7:img_1").hexdigest()
    assert hashed_fraction("img_1", 7) == int(digest[:16], 16) / 2**64


def test_hashed_split_has_about_the_share_asked_for():
    """Binomial: 2000 ids at 0.3 have a standard deviation of 20.5."""
    splits = splits_of([str(i) for i in range(2000)], val_fraction=0.3)
    assert abs(len(splits["val"]) - 600) < 82


@settings(deadline=None)
@given(st.lists(st.text(max_size=8), unique=True, max_size=30), st.floats(0.01, 0.99), st.integers(0, 2**31 - 1))
def test_splits_partition_the_ids(ids, val_fraction, seed):
    splits = splits_of(sorted(ids), val_fraction=val_fraction, split_seed=seed) if ids else {"train": []}
    assert sorted(i for part in splits.values() for i in part) == sorted(ids)
    if len(ids) >= 2:
        assert splits["train"]
        assert splits["val"]


@settings(deadline=None)
@given(st.sets(st.integers(0, 10**6), min_size=1, max_size=30), st.integers(0, 1000))
def test_new_images_never_move_old_ones(new, seed):
    old = [f"old{i}" for i in range(100)]
    before = splits_of(sorted(old), split_seed=seed)
    after = splits_of(sorted([*old, *(f"new{i}" for i in new)]), split_seed=seed)
    assert set(before["train"]) <= set(after["train"])
    assert set(before["val"]) <= set(after["val"])


def test_another_split_seed_is_another_split():
    ids = [str(i) for i in range(50)]
    assert splits_of(ids) == splits_of(ids)
    assert splits_of(ids) != splits_of(ids, split_seed=1)


SEED_SCRIPT = {
    "image_pattern": "train/IMG_{id}.JPG",
    "mask_patterns": ("mca=train_mask/{id}.png", "bone=train_bone/{id}_bone.png"),
    "image_key": r"^[^_]*_[^_]*_([^_]*)",
}


def test_patterns_find_the_files_of_the_original_script(tmp_path):
    """There: img_name = 'IMG_' + id.split('_')[2]."""
    make(tmp_path, "train/IMG_0042.JPG", "train/IMG_0007.JPG", "train/notes.txt")
    make(tmp_path, "train_mask/MCA_left_0042.png", "train_mask/MCA_right_0042.png", "train_mask/MCA_left_0007_b.png")
    make(tmp_path, *(f"train_bone/MCA_{i}_bone.png" for i in ("left_0042", "right_0042", "left_0007_b")))
    layout = layout_of(tmp_path, **SEED_SCRIPT)
    assert layout.class_names == ("mca", "bone")
    for id_, files in joined(layout, tmp_path).items():
        image = f"train/IMG_{id_.split('_')[2]}.JPG"
        assert files == (image, f"train_mask/{id_}.png", f"train_bone/{id_}_bone.png")
    assert [r.id for r in layout.records] == ["MCA_left_0007_b", "MCA_left_0042", "MCA_right_0042"]


def test_patterns_name_what_is_missing(tmp_path):
    make(tmp_path, "train/IMG_1.JPG", "train/IMG_2.JPG", "train/IMG_9.JPG")
    make(tmp_path, "train_mask/a_b_1.png", "train_mask/a_b_2.png", "train_mask/a_b_3.png", "train_bone/a_b_1_bone.png")
    with pytest.raises(InputError) as caught:
        layout_of(tmp_path, **SEED_SCRIPT)
    text = str(caught.value)
    assert "train_mask/a_b_3.png: its image train/IMG_3.JPG is missing" in text
    assert "train/IMG_2.JPG: has no bone mask (id 'a_b_2')" in text
    assert "train/IMG_9.JPG: has no mask" in text
    assert "3 files" in text
    layout = layout_of(tmp_path, **SEED_SCRIPT, on_bad_sample="skip")
    assert ([r.id for r in layout.records], len(layout.bad)) == (["a_b_1"], 3)


def test_patterns_with_missing_masks_as_empty_keep_images_without_any(tmp_path):
    make(tmp_path, "i/1.jpg", "i/2.jpg", "m/1_mask.gif")
    layout = layout_of(
        tmp_path, image_pattern="i/{id}.jpg", mask_patterns=("car=m/{id}_mask.gif",), missing_masks="empty"
    )
    assert joined(layout, tmp_path) == {"1": ("i/1.jpg", "m/1_mask.gif"), "2": ("i/2.jpg", None)}


def test_patterns_in_one_folder_tell_masks_from_images(tmp_path):
    make(tmp_path, "benign (1).png", "benign (1)_mask.png", "benign (2).png", "benign (2)_mask.png", ".hidden.png")
    layout = layout_of(tmp_path, image_pattern="{id}.png", mask_patterns=("tumor={id}_mask.png",))
    assert joined(layout, tmp_path) == {
        "benign (1)": ("benign (1).png", "benign (1)_mask.png"),
        "benign (2)": ("benign (2).png", "benign (2)_mask.png"),
    }


def test_patterns_follow_the_class_order(tmp_path):
    make(tmp_path, "images/1.jpg", "m/1_a.png", "m/1_b.png", "m/1_c.png")
    patterns = ("a=m/{id}_a.png", "b=m/{id}_b.png", "c=m/{id}_c.png")
    layout = layout_of(tmp_path, mask_patterns=patterns, classes=("c", "a"))
    assert joined(layout, tmp_path) == {"1": ("images/1.jpg", "m/1_c.png", "m/1_a.png")}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mask_patterns": ("cell",)}, "data.mask_patterns has 'cell', but each entry must look like NAME=value"),
        ({"mask_patterns": ("a=m/{id}.png", "a=m/{id}.gif")}, "data.mask_patterns names 'a' twice"),
        ({"mask_patterns": ("a/b=m/{id}.png",)}, "'a/b' must be a plain name"),
        ({"mask_patterns": ("a=m/x.png",)}, r"data.mask_patterns a is 'm/x.png', but must contain \{id\}"),
        ({"mask_patterns": ("a={id}/x.png",)}, r"no file matches '\{id\}/x.png'"),
        ({"mask_patterns": ("a=nowhere/{id}.png",)}, "nowhere: there is no such folder, but data.mask_patterns a"),
        ({"mask_patterns": ("a=m/{id}.PNG",)}, r"/m: no file matches '\{id\}.PNG' .*; there are \d names, such as '"),
        ({"mask_patterns": ("a=m/{id}.png",), "classes": ("a", "b")}, r"has no entry for \['b'\]"),
        ({"mask_patterns": ("a=m/{id}.png",), "image_pattern": "i/{id}.jpg"}, "/i: there is no such folder"),
        ({"mask_patterns": ("a=m/{id}.png",), "image_key": "("}, "is not a valid regular expression"),
        ({"mask_patterns": ("a=m/{id}.png",), "image_key": "x(.)"}, "finds no group in the id '1'"),
        ({"mask_patterns": ("a=m/{id}.png",), "image_key": "1"}, "finds no group in the id '1'"),
        ({"mask_patterns": ("a=m/{id}.png",), "image_key": "1|(2)"}, "finds no group in the id '1'"),
        ({"image_pattern": "images/{id}.jpg"}, "data.image_pattern is .* does nothing without data.mask_patterns"),
        ({"image_key": "(.)"}, "data.image_key is .* does nothing without"),
        (
            {"index_map": "m/{id}.png", "index_values": ("a=one",)},
            "data.index_values has a=one, but values must be numb",
        ),
    ],
)
def test_patterns_that_cannot_work_are_refused(tmp_path, settings, message):
    make(tmp_path, "images/1.jpg", "m/1.png")
    with pytest.raises(InputError, match=message):
        layout_of(tmp_path, **settings)


def test_index_map_values_may_belong_to_several_classes(tmp_path):
    make(tmp_path, "images/1.jpg", "labels/1.png")
    layout = layout_of(tmp_path, index_map="labels/{id}.png", index_values=("cell=1,2", "nucleus=2"))
    assert layout.class_names == ("cell", "nucleus")
    assert layout.index_values == ((range(1, 2), range(2, 3)), (range(2, 3),))
    assert {value for numbers in layout.known_values for value in numbers} == {0, 1, 2}
    assert joined(layout, tmp_path) == {"1": ("images/1.jpg", "labels/1.png")}


def test_index_map_knows_the_values_of_classes_that_were_not_chosen(tmp_path):
    make(tmp_path, "images/1.jpg", "labels/1.png")
    values = ("a=1", "b=2", "c=3")
    layout = layout_of(tmp_path, index_map="labels/{id}.png", index_values=values, classes=("c", "a"))
    assert layout.class_names == ("c", "a")
    assert layout.index_values == ((range(3, 4),), (range(1, 2),))
    assert {value for numbers in layout.known_values for value in numbers} == {0, 1, 2, 3}


def test_index_map_and_image_must_both_be_there(tmp_path):
    make(tmp_path, "images/1.jpg", "images/2.jpg", "labels/1.png", "labels/3.png")
    options = {"index_map": "labels/{id}.png", "index_values": ("cell=1",)}
    with pytest.raises(InputError) as caught:
        layout_of(tmp_path, **options)
    assert "labels/3.png: its image images/3.* is missing" in str(caught.value)
    assert "images/2.jpg: has no mask" in str(caught.value)
    (tmp_path / "labels" / "3.png").unlink()
    layout = layout_of(tmp_path, **options, missing_masks="empty")
    assert joined(layout, tmp_path) == {"1": ("images/1.jpg", "labels/1.png"), "2": ("images/2.jpg", None)}
