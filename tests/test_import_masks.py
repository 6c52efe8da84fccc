"""`unet-jax import-masks` as a person meets it: what is found, named, left out, refused; nothing is half done."""

import copy
import json
import os
import random
import shlex
import shutil

import numpy as np
import pytest
from annotation_samples import (
    CELL,
    NUCLEUS,
    WRITERS,
    box,
    imported,
    read,
    write_all,
    write_coco,
    write_image,
    write_json,
    write_labelme,
    write_yolo,
)
from PIL import Image

from unet_jax._types import InputError
from unet_jax.cli.main import main
from unet_jax.config import DataConfig
from unet_jax.data.annotation_files import find_annotations, format_of, load_annotations
from unet_jax.data.layout import find_layout
from unet_jax.interop import import_masks
from unet_jax.interop.annotations import mask_drawing


def call(*args):
    main(["import-masks", *map(str, args)])


def refused(capsys, *args):
    """The message of a command that must end with 2 and without a traceback."""
    with pytest.raises(SystemExit) as end:
        call(*args)
    assert end.value.code == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    return message


@pytest.mark.parametrize("name", WRITERS)
def test_one_data_set_in_every_format(tmp_path, capsys, name):
    given = write_all(tmp_path / "set", name)
    call(given, "--out", tmp_path / "data")
    said = capsys.readouterr().out.splitlines()
    assert "2 images, 1 of them without an object" in said[0]
    np.testing.assert_array_equal(read(tmp_path / "data", "cell", "a"), CELL)
    np.testing.assert_array_equal(read(tmp_path / "data", "nucleus", "a"), NUCLEUS)
    for class_name in ("cell", "nucleus"):
        assert not read(tmp_path / "data", class_name, "b").any()
    assert said[2].split() == ["cell", "1", "1", "60", "(3.91%)"]  # 60 of 2 * 768
    assert said[3].split() == ["nucleus", "1", "1", "8", "(0.52%)"]
    notes = {
        "yolo": ["note: 1 images have no annotation and got empty masks (--unannotated skip leaves them out)"],
        "kaggle": ["note: pixels were counted along the columns; if the masks are stripes, use --rle-order rows"],
    }
    assert [line for line in said if line.startswith("note")] == notes.get(name, [])
    layout = find_layout(DataConfig(root=str(tmp_path / "data")))
    assert layout.class_names == ("cell", "nucleus") and [record.id for record in layout.records] == ["a", "b"]
    for id_ in "ab":
        assert (tmp_path / f"data/images/{id_}.png").read_bytes() == (tmp_path / f"set/{id_}.png").read_bytes()


@pytest.mark.parametrize("name", WRITERS)
def test_formats_are_recognised_and_can_be_named(tmp_path, name):
    given = write_all(tmp_path / "set", name)
    assert import_masks(given, tmp_path / "data", format=name).format == name
    file = (
        given if given.is_file() else next(p for p in sorted(given.iterdir()) if p.stem == "a" and p.suffix != ".png")
    )
    assert format_of(file, load_annotations(file)) == name


@pytest.mark.parametrize("name", WRITERS)
def test_the_layout_hint_names_a_command_that_works(tmp_path, capsys, name):
    root = tmp_path / "my set"
    write_all(root / "images", name)
    hint = find_annotations(root)
    assert hint and "looks like" in hint
    command = shlex.split(hint.split(": unet-jax ", 1)[1].replace("--out DATA", f"--out {tmp_path / 'data'}"))
    main(command)
    np.testing.assert_array_equal(read(tmp_path / "data", "cell", "a"), CELL)


def test_no_hint_without_annotations(tmp_path):
    write_image(tmp_path / "images" / "a.png")
    (tmp_path / "notes.txt").write_text("buy milk")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "splits.csv").write_text("id,split\na,train\n")
    write_json(tmp_path / "package.json", {"name": "x", "images": ["a.png"]})
    assert find_annotations(tmp_path) is None
    assert find_annotations(tmp_path / "missing") is None


# ------------------------------------------------------------------------------------------------------ whole or not


def test_what_exists_is_never_touched(tmp_path, capsys):
    file = write_all(tmp_path, "coco")
    for kind in ("folder", "file", "link"):
        out = tmp_path / kind
        out.mkdir() if kind == "folder" else out.write_text("x") if kind == "file" else out.symlink_to(tmp_path / "no")
        assert f"{out}: exists already. Choose another --out" in refused(capsys, file, "--out", out)
    assert not list((tmp_path / "folder").iterdir()) and (tmp_path / "file").read_text() == "x"
    assert "--out is empty" in refused(capsys, file, "--out", "")
    assert "must be a folder on this machine" in refused(capsys, file, "--out", "gs://bucket/data")


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("disk full"), MemoryError])
def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch, error):
    file = write_all(tmp_path / "set", "coco")

    def fail(*args):
        raise error

    monkeypatch.setattr(mask_drawing, "_write_mask", fail)
    with pytest.raises(error if isinstance(error, type) else type(error)):
        import_masks(file, tmp_path / "data")
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_the_data_set_is_as_readable_as_other_folders(tmp_path):
    out, _ = imported(write_all(tmp_path, "coco"))
    (tmp_path / "plain").mkdir()
    assert out.stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert sorted(path.name for path in out.iterdir()) == ["images", "masks"]


def test_images_can_be_linked(tmp_path, monkeypatch):
    write_all(tmp_path / "set", "coco")
    monkeypatch.chdir(tmp_path)
    call("set/coco.json", "--out", "deep/er/data", "--link")
    link = tmp_path / "deep/er/data/images/a.png"
    assert link.is_symlink() and os.path.samefile(link, tmp_path / "set/a.png")
    assert find_layout(DataConfig(root="deep/er/data")).records[0].id == "a"


# ------------------------------------------------------------------------------------------------------------ images


def coco_named(root, name, size=(24, 32)):
    """A COCO file with one cell in an image of this name."""
    content = json.loads(write_coco(root).read_text())
    content["images"] = [{"id": 7, "file_name": name, "height": size[0], "width": size[1]}]
    return write_json(root / "coco.json", content)


@pytest.mark.parametrize(
    "name,file",
    [
        ("a.png", "a.png"),
        ("train/a.png", "a.png"),
        ("a.png", "deep/er/a.png"),
        ("er/a.png", "deep/er/a.png"),
        ("/home/someone/pictures/a.png", "deep/a.png"),
        ("C:\\Users\\Someone\\a.png", "deep/a.png"),
        ("..\\pictures\\a.png", "deep/a.png"),
        ("A.PNG", "a.png"),
        ("https://somewhere.org/x/a%20b.png?token=1#2", "a b.png"),
        ("s3://bucket/x/a.png", "y/a.png"),
        ("/data/local-files/?d=some/er/a.png", "deep/er/a.png"),
        ("/data/upload/3/0a1b2c3d-a.png", "a.png"),
        ("0a1b2c3d-a.png", "0a1b2c3d-a.png"),
        ("a.png", "a.tif"),
        ("a.png", "a.ome.tif"),
        ("a.b", "a.b.png"),
        ("u\u0308.png", "\u00fc.png"),
    ],
)
def test_images_are_found_by_the_names_that_other_machines_gave_them(tmp_path, name, file):
    write_image(tmp_path / "images" / file)
    write_image(tmp_path / "images" / "other.png")
    out, result = imported(coco_named(tmp_path, name), images=tmp_path / "images")
    id_ = file.replace(".ome", "").rpartition(".")[0]
    np.testing.assert_array_equal(read(out, "cell", id_), CELL)
    assert ("another ending" in " ".join(result.notes)) == file.endswith(".tif")


@pytest.mark.parametrize(
    "name,files,reason",
    [
        ("a.png", ["b.png"], "'a.png' is not in .*, which holds 1 images. .*--images DIR"),
        ("val/a.png", ["train/a.png"], "'val/a.png' is not in .*, but .*train/a.png is there"),
        ("a.png", ["x/a.png", "y/a.png"], "'a.png' may be .*x/a.png, .*y/a.png"),
        ("a.png", ["a.tif", "a.jpg"], "'a.png' may be .*a.jpg, .*a.tif"),
        ("a", ["a.xyz"], "but a.xyz is there, and .xyz is not read"),
        ("", ["a.png"], "names the image '', which is no file name"),
    ],
)
def test_images_that_are_not_found_are_named(tmp_path, name, files, reason):
    for file in files:
        if file.endswith(".xyz"):
            write_image(tmp_path / "images" / "b.png").rename(tmp_path / "images" / file)
        else:
            write_image(tmp_path / "images" / file)
    with pytest.raises(InputError, match=reason) as error:
        imported(coco_named(tmp_path, name), images=tmp_path / "images")
    assert "\n" not in str(error.value) and "image 7" in str(error.value)


def test_names_of_nested_images_are_those_of_the_layout(tmp_path):
    """Images a.png and a/b.png, whose masks lie beside each other."""
    content = json.loads(write_coco(tmp_path).read_text())
    content["images"][1]["file_name"] = "a/b.png"
    for name in ("a.png", "a/b.png"):
        write_image(tmp_path / "images" / name)
    out, _ = imported(write_json(tmp_path / "coco.json", content))
    masks = {record.id: str(record.masks[0]) for record in find_layout(DataConfig(root=str(out))).records}
    assert "masks/cell/a.png" in masks["a"] and "a/b.png" not in masks["a"]
    assert "masks/cell/a/b.png" in masks["a/b"]


def test_an_image_outside_of_the_folder_does_not_leave_the_data_set(tmp_path):
    write_labelme(tmp_path / "set/json")
    for name in "ab":
        write_image(tmp_path / f"set/pictures/{name}.png")
        file = tmp_path / f"set/json/{name}.json"
        write_json(file, {**json.loads(file.read_text()), "imagePath": f"..\\pictures\\{name}.png"})
    import_masks(tmp_path / "set/json", tmp_path / "data")
    np.testing.assert_array_equal(read(tmp_path / "data", "cell", "a"), CELL)
    assert sorted(path.name for path in (tmp_path / "data/images").iterdir()) == ["a.png", "b.png"]


def test_the_right_one_of_several_is_chosen_by_its_folders(tmp_path):
    for folder in ("train", "val"):
        write_image(tmp_path / "images" / folder / "a.png")
    out, _ = imported(coco_named(tmp_path, "val/a.png"), images=tmp_path / "images")
    assert [p.name for p in (out / "images").iterdir()] == ["val"]


def test_bad_images_can_be_left_out(tmp_path, capsys):
    content = json.loads(write_all(tmp_path, "coco").read_text())
    for i, name in enumerate(("gone.png", "small.png", "text.png"), start=20):
        content["images"].append({"id": i, "file_name": name, "height": 24, "width": 32})
    write_image(tmp_path / "small.png", (12, 16))
    (tmp_path / "text.png").write_text("x")
    file = write_json(tmp_path / "coco.json", content)
    said = refused(capsys, file, "--out", tmp_path / "data")
    assert "'gone.png' is not in" in said and said.count("\n") == 1
    content["images"] = [image for image in content["images"] if image["id"] != 20]
    write_json(file, content)
    said = refused(capsys, file, "--out", tmp_path / "data")
    assert "2 of 4 images cannot be imported" in said and "small.png has 16x12" in said and "text.png" in said
    call(file, "--out", tmp_path / "data", "--on-bad-sample", "skip")
    said = capsys.readouterr().out
    assert "2 images were left out" in said and f"{tmp_path / 'text.png'}: is not an image" in said
    assert sorted(path.name for path in (tmp_path / "data/images").iterdir()) == ["a.png", "b.png"]


@pytest.mark.parametrize("given", ["auto", "skip", "empty"])
@pytest.mark.parametrize("name", ["labelme", "yolo"])
def test_images_that_nobody_annotated(tmp_path, name, given):
    folder = write_all(tmp_path / "set", name)
    write_image(folder / "new.png")
    result = import_masks(folder, tmp_path / "data", unannotated=given)
    is_made = given == "empty" or (given == "auto" and name == "yolo")
    assert (tmp_path / "data/images/new.png").exists() == is_made
    assert ("got empty masks" if is_made else "were left out") in result.notes[-1]


def test_tasks_without_a_finished_annotation_are_not_empty_images(tmp_path):
    file = write_all(tmp_path, "label-studio")
    tasks = json.loads(file.read_text())
    tasks[1]["annotations"] = [{"id": 1, "was_cancelled": True, "result": []}]
    out, result = imported(write_json(file, tasks))
    assert not (out / "images/b.png").exists() and "1 images in" in result.notes[0]


@pytest.mark.parametrize("name,damage", [("labelme", "{"), ("qupath", "[{}"), ("yolo", "0 0.1 0.1 x")])
def test_a_damaged_annotation_never_becomes_an_empty_mask(tmp_path, name, damage):
    folder = write_all(tmp_path / "set", name)
    write_image(folder / "c.png")
    suffix = {"labelme": ".json", "qupath": ".geojson", "yolo": ".txt"}[name]
    (folder / f"c{suffix}").write_text(damage)
    with pytest.raises(InputError, match=rf"c\{suffix}.* Or leave this image out"):
        import_masks(folder, tmp_path / "data")
    result = import_masks(folder, tmp_path / "data", unannotated="empty", on_bad_sample="skip")
    assert not (tmp_path / "data/images/c.png").exists() and f"c{suffix}" in result.notes[-1]


def test_annotations_of_one_image_in_several_files_are_united(tmp_path):
    write_all(tmp_path, "coco")
    content = json.loads((tmp_path / "coco.json").read_text())
    content["annotations"] = [{**content["annotations"][0], "segmentation": [[20, 10, 30, 10, 30, 20, 20, 20]]}]
    other = write_json(tmp_path / "more.json", content)
    out, result = imported([tmp_path / "coco.json", other])
    np.testing.assert_array_equal(read(out, "cell", "a"), CELL | box(10, 20, 20, 30))
    assert "2 images are annotated in several places" in result.notes[0]


def test_images_of_one_id_are_refused(tmp_path):
    content = json.loads(write_all(tmp_path, "coco").read_text())
    content["images"][1]["file_name"] = "a.jpg"
    write_image(tmp_path / "a.jpg")
    with pytest.raises(InputError, match=r"has the same id 'a' as .*a\.png"):
        imported(write_json(tmp_path / "coco.json", content))


# ------------------------------------------------------------------------------------------------------------- EXIF


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


@pytest.mark.parametrize("orientation", range(2, 9))
def test_masks_follow_images_that_are_shown_rotated(tmp_path, orientation):
    """One pixel is annotated in the image as stored; Pillow says where it is in the image as shown."""
    stored = np.zeros((24, 32, 3), np.uint8)
    stored[3:9, 2:12] = 255
    path = tmp_path / "a.jpg"
    Image.fromarray(stored).save(path, exif=exif(orientation), quality=100, subsampling=0)
    from PIL import ImageOps

    shown = np.asarray(ImageOps.exif_transpose(Image.open(path)))[..., 0] > 128
    if orientation < 5:  # the size does not tell; taken as shown, and said
        out, result = imported(coco_named(tmp_path, "a.jpg"))
        np.testing.assert_array_equal(read(out, "cell", "a"), CELL)
        assert "1 images are shown rotated or mirrored (EXIF)" in result.notes[0]
        return
    out, result = imported(coco_named(tmp_path, "a.jpg"))
    assert read(out, "cell", "a").shape == (32, 24)
    np.testing.assert_array_equal(read(out, "cell", "a"), shown)
    assert "1 images are shown rotated (EXIF) but annotated as stored; masks were turned" in result.notes[0]


def test_annotations_of_the_image_as_shown_stay(tmp_path):
    Image.fromarray(np.zeros((32, 24, 3), np.uint8)).save(tmp_path / "a.jpg", exif=exif(6))
    out, result = imported(coco_named(tmp_path, "a.jpg"))
    np.testing.assert_array_equal(read(out, "cell", "a"), CELL)
    assert not result.notes


# ----------------------------------------------------------------------------------------------- classes and shapes


def test_classes_are_chosen_renamed_and_united(tmp_path, capsys):
    file = write_all(tmp_path, "coco")
    call(file, "--out", tmp_path / "one", "--classes", "nucleus")
    assert [p.name for p in (tmp_path / "one/masks").iterdir()] == ["nucleus"]
    call(file, "--out", tmp_path / "two", "--rename", "cell=any", "nucleus=any")
    np.testing.assert_array_equal(read(tmp_path / "two", "any", "a"), CELL | NUCLEUS)
    assert "any            2" in capsys.readouterr().out
    said = refused(capsys, file, "--out", tmp_path / "x", "--classes", "nucleos")
    assert f"--classes names the class 'nucleos', but {file} has 'cell', 'nucleus'. Did you mean 'nucleus'?" in said
    assert "--rename names the class 'x'" in refused(capsys, file, "--out", tmp_path / "x", "--rename", "x=y")
    assert "must look like OLD=NEW" in refused(capsys, file, "--out", tmp_path / "x", "--rename", "cell")
    assert "two names" in refused(capsys, file, "--out", tmp_path / "x", "--rename", "cell=a", "cell=b")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("name", ["a/b", "..", ".x", "overlay", "a\nb", "", " ", "end.", "a\\b", "x" * 256])
def test_names_that_cannot_be_folders_are_refused_with_a_remedy_that_works(tmp_path, name):
    content = json.loads(write_all(tmp_path, "coco").read_text())
    content["categories"][0]["name"] = name
    file = write_json(tmp_path / "coco.json", content)
    with pytest.raises(InputError, match="--rename") as error:
        imported(file)
    assert "\n" not in str(error.value)
    remedy = str(error.value).split("--rename '", 1)[1].removesuffix("'.") if name.strip() else f"{name}=cell"
    old, _, new = remedy.rpartition("=")
    _, result = imported(file, rename={old: new})
    assert result.classes[0].pixels == 60 and result.classes[0].name == new
    shutil.rmtree(tmp_path / "data")
    out, _ = imported(file, rename={name: "cell"})
    np.testing.assert_array_equal(read(out, "cell", "a"), CELL)


def test_names_that_differ_in_capital_letters_are_refused(tmp_path):
    content = json.loads(write_all(tmp_path, "coco").read_text())
    content["categories"][1]["name"] = "Cell"
    file = write_json(tmp_path / "coco.json", content)
    with pytest.raises(InputError, match=r"differ only in capital letters.* --rename 'Cell=cell'"):
        imported(file)
    out, _ = imported(file, rename={"Cell": "cell"})
    np.testing.assert_array_equal(read(out, "cell", "a"), CELL)


def test_declared_classes_without_objects_have_masks_too(tmp_path):
    content = json.loads(write_all(tmp_path, "coco").read_text())
    content["categories"].append({"id": 3, "name": "vessel"})
    out, result = imported(write_json(tmp_path / "coco.json", content))
    assert result.classes[2].objects == 0 and not read(out, "vessel", "a").any() and not read(out, "vessel", "b").any()


def test_kinds_that_are_left_out_must_exist(tmp_path, capsys):
    said = refused(capsys, write_all(tmp_path, "labelme"), "--out", tmp_path / "x", "--leave-out", "points")
    assert "--leave-out has 'points', but the shapes are 'polygon' (2)." in said


def test_kinds_with_area_can_be_left_out(tmp_path):
    write_all(tmp_path / "set", "labelme")
    content = json.loads((tmp_path / "set/a.json").read_text())
    content["shapes"].append({"label": "cell", "shape_type": "rectangle", "points": [[0, 0], [32, 24]]})
    content["shapes"].append({"label": "region", "shape_type": "rectangle", "points": [[0, 0], [32, 24]]})
    write_json(tmp_path / "set/a.json", content)
    result = import_masks(tmp_path / "set", tmp_path / "data", leave_out=["rectangle"])
    assert [each.name for each in result.classes] == ["cell", "nucleus"]  # no empty masks of the other
    np.testing.assert_array_equal(read(tmp_path / "data", "cell", "a"), CELL)


def with_polygons(root, *polygons):
    content = json.loads(write_all(root, "coco").read_text())
    content["annotations"] = [
        {"id": i, "image_id": 7, "category_id": 1, "segmentation": [p]} for i, p in enumerate(polygons)
    ]
    return write_json(root / "coco.json", content)


def test_what_is_outside_is_cut_off_and_said(tmp_path):
    inside, beyond = [2, 3, 12, 3, 12, 9, 2, 9], [-4, 20, 6, 20, 6, 30.5, -4, 30.5]
    outside, tiny = [40, 3, 50, 3, 50, 9], [5.1, 5.1, 5.3, 5.1, 5.3, 5.3]
    out, result = imported(with_polygons(tmp_path, inside, beyond, outside, tiny))
    np.testing.assert_array_equal(read(out, "cell", "a"), CELL | box(20, 24, 0, 6))
    assert "1 objects reach beyond their image and were clipped, by up to 6.5 pixels" in result.notes[0]
    assert "annotations[1]" in result.notes[0]
    assert "1 objects lie wholly outside of their image" in result.notes[1] and "annotations[2]" in result.notes[1]
    assert "1 objects cover no centre of a pixel" in result.notes[2] and "annotations[3]" in result.notes[2]
    assert result.classes[0].objects == 4


def test_objects_that_all_are_outside_are_those_of_another_image(tmp_path):
    with pytest.raises(InputError, match=r"lies wholly outside of a\.png \(32x24\), as all 2 objects of this image do"):
        imported(with_polygons(tmp_path, [40, 3, 50, 3, 50, 9], [2, 30, 9, 30, 9, 40]))


def test_a_mask_holds_whatever_number_of_objects(tmp_path):
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 18, (300, 2))
    polygons = [[x, y, x + 3, y, x + 3, y + 2, x, y + 2] for x, y in corners.tolist()]
    want = np.zeros((24, 32), np.uint8)
    for x, y in corners:
        want[y : y + 2, x : x + 3] = 1
    out, result = imported(with_polygons(tmp_path, *polygons))
    np.testing.assert_array_equal(read(out, "cell", "a"), want)
    assert (result.classes[0].objects, result.classes[0].pixels) == (300, want.sum())


# ---------------------------------------------------------------------------------------------------- unusable files


def test_files_that_are_no_annotations_are_refused_in_one_line(tmp_path, capsys):
    write_image(tmp_path / "a.png")
    cases = {
        "cut.json": ('{"images": [', "is not valid JSON (Expecting value, line 1, column 13"),
        "empty.json": ("", "is not valid JSON"),
        "latin.json": ("{'\xe4'}".encode("latin-1"), "is not"),
        "other.json": ('{"a": 1, "b": 2}', "is in no format that is known; it is an object with the keys 'a, b'"),
        "text.txt": ("hello", "it begins with 'hello'"),
        "table.csv": ("id,split\na,train\n", "is in no format that is known"),
        "results.json": ('[{"image_id": 1, "category_id": 1}]', "looks like results for COCO"),
        "min.json": ('[{"annotation_id": 1, "image": "a"}]', "looks like JSON-MIN of Label Studio"),
        "via3.json": ('{"project": {}, "config": {}, "metadata": {}, "view": {}}', "looks like a project of VIA 3"),
        "voc.xml": ("<a/>", "ends in .xml, but annotations are read from .json"),
    }
    for name, (content, reason) in cases.items():
        file = tmp_path / name
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        said = refused(capsys, file, "--out", tmp_path / "data")
        assert reason in said and name in said and said.count("\n") == 1, said
    assert "no such file or folder" in refused(capsys, tmp_path / "no.json", "--out", tmp_path / "data")
    good = write_all(tmp_path / "good", "coco")
    assert "is not a folder" in refused(capsys, good, "--images", tmp_path / "no", "--out", tmp_path / "data")
    (tmp_path / "none").mkdir()
    assert "holds no annotations that are known" in refused(capsys, tmp_path / "none", "--out", tmp_path / "data")
    said = refused(capsys, tmp_path / "text.txt", "--format", "coco", "--out", tmp_path / "data")
    assert "text.txt: ends in .txt, but COCO files end in .json" in said
    said = refused(capsys, tmp_path / "other.json", "--format", "coco", "--out", tmp_path / "data")
    assert "other.json: has no 'categories'" in said


def test_folders_with_several_formats_are_refused_unless_one_is_chosen(tmp_path):
    write_all(tmp_path / "set", "labelme")
    write_yolo(tmp_path / "set")
    with pytest.raises(InputError, match=r"of several formats: .*\(LabelMe\), .*\(YOLO\).* --format"):
        import_masks(tmp_path / "set", tmp_path / "data")
    result = import_masks(tmp_path / "set", tmp_path / "data", format="yolo")
    assert result.format == "yolo" and result.classes[0].pixels == 60


def test_other_files_in_a_folder_are_counted(tmp_path):
    write_all(tmp_path / "set", "labelme")
    write_json(tmp_path / "set/settings.json", {"theme": "dark"})
    result = import_masks(tmp_path / "set", tmp_path / "data")
    assert result.notes[0] == "1 files hold no annotations that are known: settings.json"


def test_several_folders_need_the_folder_of_the_images(tmp_path):
    for name in ("one", "two"):
        write_labelme(tmp_path / name)
    for name in "ab":
        write_image(tmp_path / f"images/{name}.png")
    with pytest.raises(InputError, match=r"the annotations are in 2 folders .* --images DIR"):
        import_masks([tmp_path / "one", tmp_path / "two"], tmp_path / "data")
    import_masks([tmp_path / "one", tmp_path / "two"], tmp_path / "data", images=tmp_path / "images")
    np.testing.assert_array_equal(read(tmp_path / "data", "cell", "a"), CELL)


def places(content, prefix=()):
    """Every place in a JSON document."""
    yield prefix
    for key, value in (
        content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    ):
        yield from places(value, (*prefix, key))


@pytest.mark.parametrize("name", [name for name in WRITERS if name not in ("yolo", "kaggle")])
def test_whatever_is_wrong_in_a_file_is_an_error_with_its_name_or_harmless(tmp_path, name):
    """Every value in turn is replaced or removed: no exception but InputError, nothing half written."""
    given = write_all(tmp_path / "set", name)
    file = (
        given if given.is_file() else next(p for p in sorted(given.iterdir()) if p.stem == "a" and p.suffix != ".png")
    )
    whole = json.loads(file.read_text())
    wrong = [None, True, -1, 10**400, 0.5, "", "x", "a\nb", "\ud800", [], [[]], [None], {}, {"x": 1}]
    rng = random.Random(0)
    num_errors = 0
    for place in list(places(whole))[1:]:
        for value in [*rng.sample(wrong, 2), "REMOVED"]:
            content = copy.deepcopy(whole)
            target = content
            for key in place[:-1]:
                target = target[key]
            if value == "REMOVED":
                del target[place[-1]]
            else:
                target[place[-1]] = value
            file.write_text(json.dumps(content))
            try:
                import_masks(given, tmp_path / "data", images=tmp_path / "set")
            except InputError as error:
                num_errors += 1
                assert "set" in str(error) and "\n" not in str(error), (place, value)
                str(error).encode()  # can be printed
                assert not (tmp_path / "data").exists()
            else:
                shutil.rmtree(tmp_path / "data")
    assert num_errors > 20
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
