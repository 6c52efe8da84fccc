"""Annotation files of other programs as masks: every format, and every kind of shape in it."""

import base64
import io
import json
import shutil

import matplotlib.path
import numpy as np
import pytest
from annotation_samples import SIZE, box, imported, read, write_image, write_json
from etils import epath
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from unet_jax._types import InputError
from unet_jax.config import DataConfig
from unet_jax.data.layout import find_layout
from unet_jax.data.masks.read import read_mask
from unet_jax.data.sources import FileSource
from unet_jax.interop import import_masks

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

HEIGHT, WIDTH = SIZE
BLOB = np.array([[3.23, 2.77], [20.14, 1.46], [28.67, 9.98], [15.52, 21.26], [11.37, 8.84]])


def by_pycocotools(points, size=SIZE):
    return coco_mask.decode(coco_mask.frPyObjects([np.ravel(points).tolist()], *size))[..., 0]


def by_matplotlib(points, size=SIZE):
    """Inside at the centre of each pixel, and where that holds within the fifths of a pixel that COCO rounds to."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    centres = np.stack([x.ravel(), y.ravel()], axis=1)
    path = matplotlib.path.Path(np.concatenate([points, points[:1]]), closed=True)
    inside = [path.contains_points(centres + shift).reshape(size) for shift in np.array([[0, 0], [0.3, 0], [-0.3, 0]])]
    inside += [path.contains_points(centres + shift).reshape(size) for shift in np.array([[0, 0.3], [0, -0.3]])]
    return inside[0], np.all(np.array(inside) == inside[0], axis=0)


# ------------------------------------------------------------------------------------------------------------- COCO


def coco_file(root, segmentations, *, classes=("cell", "nucleus"), crowds=(), **more):
    """A COCO file on a.png with segmentations of (class number, segmentation); crowds are positions of some."""
    write_image(root / "a.png")
    annotations = [
        {"id": i, "image_id": 5, "category_id": k, "segmentation": s, "iscrowd": int(i in crowds), "area": 1}
        for i, (k, s) in enumerate(segmentations)
    ]
    content = {
        "images": [{"id": 5, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}],
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in enumerate(classes)],
        **more,
    }
    return write_json(root / "coco.json", content)


def test_coco_masks_are_those_of_pycocotools(tmp_path):
    """Polygons of several parts, both kinds of run lengths, overlaps."""
    rng = np.random.default_rng(0)
    pixels = (rng.random(SIZE) < 0.3).astype(np.uint8)
    packed = coco_mask.encode(np.asfortranarray(pixels))
    toggles = np.flatnonzero(np.diff(np.concatenate([[0], box(2, 9, 20, 31).ravel(order="F"), [0]])))
    counts = np.diff(np.concatenate([[0], toggles, [HEIGHT * WIDTH]])).tolist()
    segmentations = [
        (0, [BLOB.ravel().tolist(), (BLOB * 0.3 + [20, 14]).ravel().tolist()]),
        (0, {"size": [HEIGHT, WIDTH], "counts": counts}),
        (1, {"size": [HEIGHT, WIDTH], "counts": packed["counts"].decode()}),
        (1, [(BLOB * 1.3 - 3).ravel().tolist()]),
    ]
    file = coco_file(tmp_path, segmentations)
    out, result = imported(file)
    coco = COCO(str(file))
    for k, name in enumerate(("cell", "nucleus")):
        want = np.any([coco.annToMask(a) for a in coco.loadAnns(coco.getAnnIds(catIds=[k]))], axis=0)
        np.testing.assert_array_equal(read(out, name, "a"), want)
        assert (result.classes[k].objects, result.classes[k].images, result.classes[k].pixels) == (2, 1, want.sum())
    assert (read(out, "cell", "a") & read(out, "nucleus", "a")).any()
    assert not (out / "ignore").exists()


def test_crowds_are_ignored_pixels_of_their_class_where_nothing_is_known_to_be_inside(tmp_path):
    crowd = box(2, 9, 20, 31)
    packed = coco_mask.encode(np.asfortranarray(crowd.astype(np.uint8)))
    rle = {"size": [HEIGHT, WIDTH], "counts": packed["counts"].decode()}
    file = coco_file(
        tmp_path, [(0, [BLOB.ravel().tolist()]), (0, rle), (1, [(BLOB * 0.5).ravel().tolist()])], crowds=(1,)
    )
    out, result = imported(file)
    coco = COCO(str(file))
    cell = coco.annToMask(coco.loadAnns([0])[0]) > 0
    assert (coco.annToMask(coco.loadAnns([1])[0]) == crowd).all()
    np.testing.assert_array_equal(read(out, "cell", "a"), cell)
    ignored = read_mask(epath.Path(out / "ignore" / "cell" / "a.png")) == 255
    np.testing.assert_array_equal(ignored, crowd.astype(bool) & ~cell)
    assert [p.name for p in (out / "ignore").iterdir()] == ["cell"]
    assert result.notes == ("1 crowds (iscrowd) are ignored pixels, in ignore/CLASS/",)
    assert result.classes[0].objects == 1
    layout = find_layout(DataConfig(root=str(out)))
    np.testing.assert_array_equal(
        FileSource(layout, layout.records)[0].valid == 0, np.stack([ignored, ignored & False], -1)
    )


def test_regions_called_ignore_are_ignored_for_all_classes(tmp_path):
    write_image(tmp_path / "a.png")
    shapes = [
        {"label": "cell", "shape_type": "rectangle", "points": [[1, 1], [9, 8]]},
        {"label": "__ignore__", "shape_type": "rectangle", "points": [[5, 5], [15, 12]]},
    ]
    file = write_json(tmp_path / "a.json", {"imagePath": "a.png", "shapes": shapes})
    out, result = imported(file)
    assert [p.name for p in (out / "masks").iterdir()] == ["cell"] and result.classes[0].objects == 1
    ignored = read_mask(epath.Path(out / "ignore" / "a.png")) == 255
    np.testing.assert_array_equal(ignored, box(5, 12, 5, 15))
    assert result.notes == ("1 regions called __ignore__ are ignored pixels, in ignore/",)
    layout = find_layout(DataConfig(root=str(out)))
    np.testing.assert_array_equal(FileSource(layout, layout.records)[0].valid[..., 0] == 0, ignored)
    named = import_masks(file, tmp_path / "named", rename={"__ignore__": "unsure"})
    assert {c.name for c in named.classes} == {"cell", "unsure"} and not (tmp_path / "named" / "ignore").exists()


def test_coco_of_via_has_one_flat_polygon_and_ids_as_text(tmp_path):
    file = coco_file(tmp_path, [(0, BLOB.ravel().tolist())])
    content = json.loads(file.read_text())
    content["annotations"][0]["image_id"] = "5"
    file.write_text(json.dumps(content))
    out, _ = imported(file)
    np.testing.assert_array_equal(read(out, "cell", "a"), by_pycocotools(BLOB))


@pytest.mark.parametrize(
    "change,reason",
    [
        (lambda c: c["annotations"][0].update(category_id=9), "no category with the id '9' .* 0 .cell., 1 .nucleus."),
        (lambda c: c["annotations"][0].update(image_id=6), "no image with the id '6'"),
        (lambda c: c.pop("categories"), "has no 'categories'"),
        (lambda c: c["images"][0].pop("file_name"), "image 5: has no 'file_name'"),
        (lambda c: c["images"][0].update(height=25), "has 32x25 pixels, but a.png has 32x24"),
        (lambda c: c["annotations"][0].update(segmentation=[[1, 2, 3, 4, 5, None]]), "None among its coordinates"),
        (lambda c: c["annotations"][0].update(segmentation=[[1, 2, 3, 4, 5, 6, 7]]), "7 numbers, which are no pairs"),
        (
            lambda c: c["annotations"][0].update(segmentation=[[1, 2, 3, 4]]),
            "has the shape 'short-polygon'.*--leave-out short-pol",
        ),
        (
            lambda c: c["annotations"][0].update(segmentation=[], bbox=[1, 1, 2, 2]),
            "has the shape 'box', which has no area.*1 'box'",
        ),
        (lambda c: c["annotations"][0].update(segmentation={"size": [32, 24], "counts": [768]}), "24x32 pixels, but"),
        (lambda c: c["annotations"][0].update(segmentation={"size": [24, 32], "counts": [1]}), "add up to 1 pixels"),
        (
            lambda c: (
                c["images"][0].pop("height"),
                c["annotations"][0].update(segmentation={"size": [32, 24], "counts": [0, 768]}),
            ),
            "is of 24x32 pixels, but the image has 32x24",
        ),
        (lambda c: c["annotations"][0].update(segmentation={"size": [24, 32], "counts": "%"}), "is not one of COCO's"),
        (lambda c: c["annotations"][0].update(segmentation={"size": [24, 32]}), "must have a 'size'"),
        (lambda c: c["images"].append(c["images"][0]), "id '5', which another image has"),
        (lambda c: c["annotations"][0].update(segments_info=[]), "panoptic annotations"),
    ],
)
def test_wrong_coco_files_are_refused_in_one_line(tmp_path, change, reason):
    file = coco_file(tmp_path, [(0, [BLOB.ravel().tolist()])])
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=reason) as error:
        imported(file)
    assert "\n" not in str(error.value) and "coco.json" in str(error.value)
    assert not (tmp_path / "data").exists()


# ---------------------------------------------------------------------------------------------------------- LabelMe


def png_base64(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()


def labelme_file(root, *shapes, **more):
    content = {"version": "5.4.1", "flags": {}, "shapes": list(shapes), "imagePath": "a.png", "imageData": None, **more}
    return write_json(root / "a.json", content)


def test_labelme_shapes(tmp_path):
    write_image(tmp_path / "a.png")
    bits = np.random.default_rng(1).random((4, 6)) < 0.5
    file = labelme_file(
        tmp_path,
        {"label": "polygon", "shape_type": "polygon", "points": BLOB.tolist()},
        {"label": "old", "points": BLOB.tolist()},  # early versions do not say the type
        {"label": "rectangle", "shape_type": "rectangle", "points": [[12, 9], [5, 4]]},
        {"label": "turned", "shape_type": "oriented_rectangle", "points": [[5, 4], [12, 4], [12, 9], [5, 9]]},
        {"label": "circle", "shape_type": "circle", "points": [[10.2, 9.7], [13.2, 13.7]]},
        {"label": "mask", "shape_type": "mask", "points": [[3, 2], [8, 5]], "mask": png_base64(bits)},
    )
    out, result = imported(file)
    for name in ("polygon", "old"):
        np.testing.assert_array_equal(read(out, name, "a"), by_pycocotools(BLOB))
    for name in ("rectangle", "turned"):
        np.testing.assert_array_equal(read(out, name, "a"), box(4, 9, 5, 12))
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    np.testing.assert_array_equal(read(out, "circle", "a"), np.hypot(x - 10.2, y - 9.7) <= 5)
    want = np.zeros(SIZE, bool)
    want[2:6, 3:9] = bits  # both corners belong to it
    np.testing.assert_array_equal(read(out, "mask", "a"), want)
    assert not result.notes


@pytest.mark.parametrize("kind,count", [("point", 1), ("line", 2), ("linestrip", 4), ("points", 3), ("cuboid", 8)])
def test_labelme_shapes_without_area_are_refused_by_name_and_can_be_left_out(tmp_path, kind, count):
    write_image(tmp_path / "a.png")
    other = {"label": "cell", "shape_type": kind, "points": [[i, 2 * i] for i in range(count)]}
    file = labelme_file(tmp_path, other, {"label": "cell", "points": BLOB.tolist()})
    with pytest.raises(InputError, match=rf"shapes\[0\]: has the shape '{kind}', .*--leave-out {kind}\."):
        imported(file)
    out, _ = imported(file, leave_out=[kind])
    np.testing.assert_array_equal(read(out, "cell", "a"), by_pycocotools(BLOB))


def test_labelme_images_are_taken_from_the_file_if_there_is_no_other(tmp_path):
    image = write_image(tmp_path / "elsewhere" / "x.jpg", quality=90)
    data = base64.b64encode(image.read_bytes()).decode()
    shape = {"label": "cell", "points": BLOB.tolist()}
    folder = tmp_path / "json"
    labelme_file(folder, shape, imagePath="C:\\pictures\\x.jpg", imageData=data, imageHeight=24, imageWidth=32)
    out = tmp_path / "data"
    result = import_masks(folder, out)
    assert (out / "images" / "a.jpeg").read_bytes() == image.read_bytes()
    np.testing.assert_array_equal(read(out, "cell", "a"), by_pycocotools(BLOB))
    assert "1 images were taken from the annotation files" in result.notes[0]


@pytest.mark.parametrize(
    "shape,more,reason",
    [
        ({"label": "c", "points": [[1, 2], [3]]}, {}, r"has the point \[3\]"),
        ({"label": "c", "points": [[1, 2], [3, "4"], [5, 6]]}, {}, "'4' among its coordinates"),
        ({"label": "c", "points": [[1, 2], [3, 4]]}, {}, "has the shape 'short-polygon'"),
        ({"label": "c", "shape_type": "circle", "points": [[1, 2]]}, {}, "a circle with 1 points, but it must have 2"),
        (
            {"label": "c", "shape_type": "mask", "points": [[1, 2], [3, 4]], "mask": "AAAA"},
            {},
            "'mask': is not an image",
        ),
        ({"points": BLOB.tolist()}, {}, r"shapes\[0\]: the object has no class.*--rename =NAME"),
        ({"label": 7, "points": BLOB.tolist()}, {}, "'label': is 7, but must be a text"),
        (
            {"label": "c", "points": BLOB.tolist()},
            {"imageWidth": 33, "imageHeight": 24},
            "33x24 pixels, but a.png has 32x24",
        ),
        ({"label": "c", "points": BLOB.tolist()}, {"imagePath": "z.png"}, "'z.png' is not in"),
        ({"label": "c", "points": BLOB.tolist()}, {"imagePath": "z.png", "imageData": "AAAA"}, "cannot be read"),
    ],
)
def test_wrong_labelme_files_are_refused_in_one_line(tmp_path, shape, more, reason):
    write_image(tmp_path / "a.png")
    with pytest.raises(InputError, match=reason) as error:
        imported(labelme_file(tmp_path, shape, **more))
    assert "\n" not in str(error.value) and "a.json" in str(error.value)


# ----------------------------------------------------------------------------------------------------- Label Studio


def studio_file(root, *results, size=SIZE, **more):
    write_image(root / "a.png", size)
    facts = {"original_width": size[1], "original_height": size[0], "image_rotation": 0, "to_name": "image"}
    task = {
        "id": 12,
        "data": {"image": "/data/local-files/?d=set%201/a.png", "note": "x"},
        "annotations": [{"id": 1, "was_cancelled": False, "result": [{**facts, **r} for r in results]}],
        **more,
    }
    return write_json(root / "export.json", [task])


def test_label_studio_shapes_are_in_percent(tmp_path):
    percent = BLOB / [0.32, 0.24]
    file = studio_file(
        tmp_path,
        {
            "id": "p",
            "type": "polygonlabels",
            "value": {"points": percent.tolist(), "polygonlabels": ["polygon", "both"]},
        },
        {
            "id": "r",
            "type": "rectanglelabels",
            "value": {"x": 25, "y": 25, "width": 25, "height": 50, "rotation": 0, "rectanglelabels": ["rectangle"]},
        },
        {  # turned clockwise about its upper left corner (column 16, row 6): 8 wide and 12 high become 12 and 8
            "id": "t",
            "type": "rectanglelabels",
            "value": {"x": 50, "y": 25, "width": 25, "height": 50, "rotation": 90, "rectanglelabels": ["turned"]},
        },
        {
            "id": "s",
            "type": "rectanglelabels",
            "value": {"x": 50, "y": 10, "width": 40, "height": 30, "rotation": 35, "rectanglelabels": ["slanted"]},
        },
        {
            "id": "e",
            "type": "ellipselabels",
            "value": {"x": 50, "y": 50, "radiusX": 30, "radiusY": 15, "rotation": 20, "ellipselabels": ["ellipse"]},
        },
    )
    out, _ = imported(file)
    for name in ("polygon", "both"):
        np.testing.assert_array_equal(read(out, name, "a"), by_pycocotools(BLOB))
    np.testing.assert_array_equal(read(out, "rectangle", "a"), box(6, 18, 8, 16))
    np.testing.assert_array_equal(read(out, "turned", "a"), box(6, 14, 4, 16))
    right, down = np.array([np.cos(0.6109), np.sin(0.6109)]), np.array([-np.sin(0.6109), np.cos(0.6109)])
    corner = np.array([16, 2.4])
    corners = [corner, corner + 12.8 * right, corner + 12.8 * right + 7.2 * down, corner + 7.2 * down]
    want, is_certain = by_matplotlib(np.array(corners))
    assert want.sum() > 50 and is_certain.mean() > 0.9
    np.testing.assert_array_equal(read(out, "slanted", "a")[is_certain], want[is_certain])
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    angle = np.deg2rad(20)
    along = (x - 16) * np.cos(angle) + (y - 12) * np.sin(angle)
    across = (y - 12) * np.cos(angle) - (x - 16) * np.sin(angle)
    np.testing.assert_array_equal(read(out, "ellipse", "a"), (along / 9.6) ** 2 + (across / 3.6) ** 2 <= 1)


def test_label_studio_brushes_and_bit_masks(tmp_path):
    from test_import_masks_drawing import BRUSH, MASK

    mask = np.array(MASK, np.uint8)
    picture = np.zeros((3, 5, 4), np.uint8)
    picture[..., 3] = mask * 255  # black on transparent
    url = f"data:image/png;base64,{png_base64(picture)}"
    file = studio_file(
        tmp_path,
        {"id": "b", "type": "brushlabels", "value": {"format": "rle", "rle": BRUSH, "brushlabels": ["brush"]}},
        {"id": "m", "type": "bitmasklabels", "value": {"imageDataURL": url, "bitmasklabels": ["bits"]}},
        size=(3, 5),
    )
    out, _ = imported(file)
    np.testing.assert_array_equal(read(out, "brush", "a"), mask)
    np.testing.assert_array_equal(read(out, "bits", "a"), mask)


def test_label_studio_shapes_and_labels_may_be_results_of_their_own(tmp_path):
    shape = {"points": (BLOB / [0.32, 0.24]).tolist()}
    file = studio_file(
        tmp_path,
        {"id": "p", "type": "polygon", "value": shape},
        {"id": "p", "type": "labels", "value": {**shape, "labels": ["cell"]}},
        {"id": "p", "type": "choices", "value": {**shape, "choices": ["round"]}},
        {"type": "choices", "value": {"choices": ["blurred"]}},
        {"type": "relation", "from_id": "p", "to_id": "p", "direction": "right"},
    )
    out, result = imported(file)
    np.testing.assert_array_equal(read(out, "cell", "a"), by_pycocotools(BLOB))
    assert [(c.name, c.objects) for c in result.classes] == [("cell", 1)]


def polygon_result(label):
    return {"id": label, "value": {"points": (BLOB / [0.32, 0.24]).tolist(), "polygonlabels": [label]}}


def test_of_several_annotations_the_newest_or_the_ground_truth_is_used(tmp_path):
    def annotation(id_, label, **more):
        return {"id": id_, "result": [polygon_result(label)], "created_at": f"2026-01-0{id_}T00:00:00Z", **more}

    given = [annotation(1, "first"), annotation(2, "second"), annotation(3, "third", was_cancelled=True)]
    _, result = imported(studio_file(tmp_path / "newest", annotations=given, predictions=[annotation(4, "guess")]))
    assert [c.name for c in result.classes] == ["second"]
    assert result.notes[0].startswith("1 tasks have several annotations")
    given[0]["ground_truth"] = True
    _, result = imported(studio_file(tmp_path / "truth", annotations=given))
    assert [c.name for c in result.classes] == ["first"]


@pytest.mark.parametrize(
    "result,reason",
    [
        (
            {"id": "k", "value": {"x": 1, "y": 2, "width": 0.5, "keypointlabels": ["c"]}},
            "has the shape 'keypoint', which has no area",
        ),
        ({"id": "v", "value": {"vertices": [], "vectorlabels": ["c"]}}, "has the shape 'vector'"),
        (
            {"id": "o", "value": {"points": [[1, 2], [3, 4], [4, 1]], "closed": False, "polygonlabels": ["c"]}},
            "open-polygon",
        ),
        (
            {"id": "r", "image_rotation": 90, "value": polygon_result("c")["value"]},
            "rotated by 90 degrees in the editor",
        ),
        ({"id": "b", "value": {"format": "rle", "rle": [0, 1], "brushlabels": ["c"]}}, "the RLE ends too early"),
        ({"id": "u", "value": {"points": [[1, 2], [3, 4], [4, 1]]}}, "region 'u': the object has no class"),
        (
            {"id": "w", "original_width": 9, "value": polygon_result("c")["value"]},
            "has 9x24 pixels, but a.png has 32x24",
        ),
    ],
)
def test_wrong_label_studio_files_are_refused_in_one_line(tmp_path, result, reason):
    with pytest.raises(InputError, match=reason) as error:
        imported(studio_file(tmp_path, result))
    assert "\n" not in str(error.value) and "task 12" in str(error.value)


# -------------------------------------------------------------------------------------------------------------- VIA


def via_entry(*regions):
    return {"filename": "a.png", "size": 1, "regions": list(regions), "file_attributes": {}}


def via_region(name, shape, **attributes):
    return {"shape_attributes": {"name": name, **shape}, "region_attributes": attributes}


VIA_POLYGON = {"all_points_x": BLOB[:, 0].tolist(), "all_points_y": BLOB[:, 1].tolist()}


@pytest.mark.parametrize("version", ["1", "2", "project"])
def test_via_shapes(tmp_path, version):
    write_image(tmp_path / "a.png")
    entry = via_entry(
        via_region("polygon", VIA_POLYGON, kind="polygon"),
        via_region("rect", {"x": 4, "y": 3, "width": 10, "height": 6}, kind="rect"),
        via_region("circle", {"cx": 10.2, "cy": 9.7, "r": 5}, kind="circle"),
        via_region("ellipse", {"cx": 16, "cy": 12, "rx": 9.6, "ry": 3.6, "theta": np.deg2rad(20)}, kind="ellipse"),
        via_region("rect", {"x": 0, "y": 0, "width": 2, "height": 2}, kind={"rect": True, "small": True, "no": False}),
    )
    if version == "1":
        entry["regions"] = {str(i): region for i, region in enumerate(entry["regions"])}
    content = {"a.png1": entry}
    if version == "project":
        content = {"_via_settings": {}, "_via_img_metadata": content, "_via_attributes": {"region": {}, "file": {}}}
    out, _ = imported(write_json(tmp_path / "via.json", content))
    np.testing.assert_array_equal(read(out, "polygon", "a"), by_pycocotools(BLOB))
    np.testing.assert_array_equal(read(out, "rect", "a"), box(3, 9, 4, 14) | box(0, 2, 0, 2))
    np.testing.assert_array_equal(read(out, "small", "a"), box(0, 2, 0, 2))
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    np.testing.assert_array_equal(read(out, "circle", "a"), np.hypot(x - 10.2, y - 9.7) <= 5)
    angle = np.deg2rad(20)
    along = (x - 16) * np.cos(angle) + (y - 12) * np.sin(angle)
    across = (y - 12) * np.cos(angle) - (x - 16) * np.sin(angle)
    np.testing.assert_array_equal(read(out, "ellipse", "a"), (along / 9.6) ** 2 + (across / 3.6) ** 2 <= 1)


def test_via_attributes_that_may_be_the_class(tmp_path):
    write_image(tmp_path / "a.png")

    def names(*regions, **options):
        out = tmp_path / "data"
        result = import_masks(write_json(tmp_path / "via.json", {"a.png1": via_entry(*regions)}), out, **options)
        shutil.rmtree(out)
        return [c.name for c in result.classes]

    assert names(via_region("polygon", VIA_POLYGON)) == ["object"]
    assert names(via_region("polygon", VIA_POLYGON, tissue="liver")) == ["liver"]
    assert names(via_region("polygon", VIA_POLYGON, tissue="liver", Label="cell")) == ["cell"]
    both = via_region("polygon", VIA_POLYGON, tissue="liver", stain="HE")
    with pytest.raises(InputError, match=r"attributes stain, tissue.*--class-attribute stain"):
        names(both)
    assert names(both, class_attribute="tissue") == ["liver"]
    with pytest.raises(
        InputError, match=r"no region has the attribute 'x' \(--class-attribute\); there are stain, tissue"
    ):
        names(both, class_attribute="x")
    with pytest.raises(InputError, match=r"regions\[1\]: the object has no class"):
        names(via_region("polygon", VIA_POLYGON, kind="c"), via_region("polygon", VIA_POLYGON))


@pytest.mark.parametrize(
    "name,shape,reason",
    [
        ("polyline", VIA_POLYGON, "has the shape 'polyline', which has no area.*--leave-out polyline"),
        ("point", {"cx": 1, "cy": 1}, "has the shape 'point', which has no area"),
        ("polygon", {"all_points_x": [1, 2, 3], "all_points_y": [1, 2]}, "has 3 x and 2 y"),
        ("polygon", {"all_points_x": [1, 2, 3]}, "'all_points_y': is None"),
        ("circle", {"cx": 1, "cy": 1}, "has no 'r'"),
    ],
)
def test_wrong_via_files_are_refused_in_one_line(tmp_path, name, shape, reason):
    write_image(tmp_path / "a.png")
    file = write_json(tmp_path / "via.json", {"a.png1": via_entry(via_region(name, shape))})
    with pytest.raises(InputError, match=reason) as error:
        imported(file)
    assert "\n" not in str(error.value) and r"via.json: 'a.png1': regions[0]" in str(error.value)


# ----------------------------------------------------------------------------------------------------------- QuPath


def square(x0, y0, x1, y1):
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]


def feature(geometry, classification=None, kind="annotation", **more):
    properties = {"objectType": kind, "isLocked": False}
    if classification:
        properties["classification"] = classification
    return {"type": "Feature", "geometry": geometry, "properties": properties, **more}


def test_qupath_polygons_with_holes(tmp_path):
    write_image(tmp_path / "a.png")
    ring = {"type": "Polygon", "coordinates": [square(2, 2, 20, 20), square(4, 4, 8, 8), square(10, 6, 18, 16)]}
    many = {
        "type": "MultiPolygon",
        "coordinates": [[square(0, 0, 9, 9), square(2, 2, 7, 7)], [square(3, 3, 5, 5)], [square(20, 10, 40, 20)]],
    }
    cell = {"type": "Polygon", "coordinates": [square(22, 1, 31, 9)]}
    nucleus = {"type": "Polygon", "coordinates": [square(24, 3, 28, 6)]}
    features = [
        feature(ring, {"name": "Tumor", "color": [1, 2, 3]}),
        feature(many, {"names": ["Stroma", "Positive"]}),
        feature(cell, kind="cell", nucleusGeometry=nucleus),
        feature({"type": "GeometryCollection", "geometries": [cell, nucleus]}, {"name": "Other"}),
    ]
    features[0]["properties"]["childObjects"] = [feature(nucleus, {"name": "Child"})]
    out, result = imported(write_json(tmp_path / "a.geojson", {"type": "FeatureCollection", "features": features}))
    tumor = box(2, 20, 2, 20)
    tumor[4:8, 4:8] = 0
    tumor[6:16, 10:18] = 0
    np.testing.assert_array_equal(read(out, "Tumor", "a"), tumor)
    stroma = box(0, 9, 0, 9)
    stroma[2:7, 2:7] = 0
    np.testing.assert_array_equal(read(out, "Stroma: Positive", "a"), stroma | box(3, 5, 3, 5) | box(10, 20, 20, 32))
    np.testing.assert_array_equal(read(out, "cell", "a"), box(1, 9, 22, 31))
    for name in ("nucleus", "Child"):
        np.testing.assert_array_equal(read(out, name, "a"), box(3, 6, 24, 28))
    np.testing.assert_array_equal(read(out, "Other", "a"), box(1, 9, 22, 31))
    assert "1 objects reach beyond their image and were clipped, by up to 8 pixels" in result.notes[0]
    assert "features[1]" in result.notes[0]


@pytest.mark.parametrize("wrap", [lambda f: [f], lambda f: f, lambda f: {"type": "FeatureCollection", "features": [f]}])
@pytest.mark.parametrize("name", ["a.geojson", "a.png.geojson", "a.json"])
def test_qupath_files_are_lists_features_or_collections_named_after_images(tmp_path, wrap, name):
    write_image(tmp_path / "a.png")
    geometry = {"type": "Polygon", "coordinates": [square(2, 2, 20, 20)]}
    out, _ = imported(write_json(tmp_path / name, wrap(feature(geometry, {"name": "Tumor"}))))
    np.testing.assert_array_equal(read(out, "Tumor", "a"), box(2, 20, 2, 20))


@pytest.mark.parametrize(
    "content,reason",
    [
        (
            [feature({"type": "Point", "coordinates": [1, 2]})],
            "has the shape 'Point', which has no area.*--leave-out Point",
        ),
        ([feature({"type": "LineString", "coordinates": [[1, 2], [3, 4]]})], "has the shape 'LineString'"),
        ([feature({"type": "Polygon", "coordinates": [[[1, 2], [3, 4]]]})], "has the shape 'short-polygon'"),
        ([feature({"type": "Polygon", "coordinates": [1, 2]})], "'coordinates': is 1, but must be a list"),
        ({"type": "FeatureCollection", "crs": {}, "features": []}, "has map coordinates"),
        (
            [feature({"type": "Polygon", "coordinates": [square(0, 0, 2, 2)], "plane": {"z": z}}) for z in (0, 3)],
            "objects on 2 planes of a stack",
        ),
    ],
)
def test_wrong_qupath_files_are_refused_in_one_line(tmp_path, content, reason):
    write_image(tmp_path / "a.png")
    with pytest.raises(InputError, match=reason) as error:
        imported(write_json(tmp_path / "a.geojson", content))
    assert "\n" not in str(error.value) and "a.geojson" in str(error.value)


# ------------------------------------------------------------------------------------------------------------- YOLO


def yolo_set(root, *lines, names="names:\n  0: cell\n  1: nucleus\n"):
    write_image(root / "images" / "train" / "a.png")
    label = root / "labels" / "train" / "a.txt"
    label.parent.mkdir(parents=True, exist_ok=True)
    label.write_text("\n".join(lines))
    if names:
        (root / "data.yaml").write_text(names)
    return label


@pytest.mark.parametrize("given", ["", "data.yaml", "labels", "labels/train", "labels/train/a.txt"])
def test_yolo_polygons_are_fractions_of_the_image(tmp_path, given):
    root = tmp_path / "set"
    blob = BLOB / [WIDTH, HEIGHT]
    small = blob * 0.5
    yolo_set(root, f"1 {' '.join(map(str, blob.ravel()))}", "", f"0 {' '.join(map(str, small.ravel()))}")
    write_image(root / "images" / "train" / "background.png")
    write_image(root / "images" / "val" / "other.png")
    options = {"images": root / "images"}
    out = tmp_path / "data"
    result = import_masks(root / given, out, **options)
    np.testing.assert_array_equal(read(out, "nucleus", "train/a"), by_pycocotools(BLOB))
    np.testing.assert_array_equal(read(out, "cell", "train/a"), by_pycocotools(BLOB * 0.5))
    assert not read(out, "cell", "train/background").any()  # no label file: no object
    assert not (out / "images" / "val").exists()  # nobody labelled images of that folder
    assert "1 images have no annotation and got empty masks" in result.notes[0]
    assert "1 images in" in result.notes[1] and "were left out" in result.notes[1]


@pytest.mark.parametrize("where", ["classes.txt", "labels/classes.txt", "labels/train/classes.txt"])
def test_yolo_classes_may_be_listed_in_a_text_file(tmp_path, where):
    root = tmp_path / "set"
    yolo_set(root, "1 0.1 0.1 0.5 0.1 0.5 0.5", names=None)
    (root / where).write_text("cell\nnucleus\n")
    out = tmp_path / "data"
    result = import_masks(root, out)
    assert [(c.name, c.objects) for c in result.classes] == [("cell", 0), ("nucleus", 1)]
    assert read(out, "nucleus", "train/a").any() and not read(out, "cell", "train/a").any()


def test_yolo_images_of_one_name_are_told_apart_by_their_folders(tmp_path):
    """ROOT/images/SPLIT beside ROOT/labels/SPLIT, and SPLIT/images beside SPLIT/labels."""
    for number, pattern in enumerate(("{kind}/{split}", "{split}/{kind}")):
        root = tmp_path / f"set{number}"
        for class_number, split in enumerate(("train", "valid")):
            folders = [root / pattern.format(kind=kind, split=split) for kind in ("images", "labels")]
            write_image(folders[0] / "a.png")
            folders[1].mkdir(parents=True)
            (folders[1] / "a.txt").write_text(f"{class_number} 0.1 0.1 0.5 0.1 0.5 0.5")
        (root / "data.yaml").write_text("names: [cell, nucleus]\n")
        out = tmp_path / f"data{number}"
        import_masks(root, out)
        ids = ("train/a", "valid/a") if number == 0 else ("train/images/a", "valid/images/a")
        seen = [[bool(read(out, name, id_).any()) for name in ("cell", "nucleus")] for id_ in ids]
        assert seen == [[True, False], [False, True]]


def test_yolo_classes_may_be_in_a_yaml_file_of_any_name(tmp_path):
    yolo_set(tmp_path / "set", "1 0.1 0.1 0.5 0.1 0.5 0.5", names=None)
    (tmp_path / "set/coco8-seg.yaml").write_text("path: coco8\nnames:\n  0: person\n  1: bicycle\n")
    (tmp_path / "set/aaa.yaml").write_text("version: 1\n")
    result = import_masks(tmp_path / "set", tmp_path / "one")
    assert [c.name for c in result.classes] == ["person", "bicycle"]
    (tmp_path / "set/other.yaml").write_text("names: [a, b]\n")
    result = import_masks(tmp_path / "set/other.yaml", tmp_path / "two")
    assert [(c.name, c.objects) for c in result.classes] == [("a", 0), ("b", 1)]


@pytest.mark.parametrize(
    "lines,names,reason",
    [
        (
            ["2 0.1 0.1 0.5 0.1 0.5 0.5"],
            "names: [a, b]",
            "line 1: is of class 2, but .*data.yaml has the classes 0 .a., 1 .b.",
        ),
        (["0 0.1 0.1 0.5 0.1 0.5 0.5"], None, "no data.yaml or classes.txt"),
        (["0 0.1 0.1 0.5 0.1 0.5 0.5"], "names: 3", "its 'names' are 3"),
        (["0 0.1 0.1 0.5 0.1 0.5 0.5"], "names: [a", "is not valid YAML"),
        (["0 0.5 0.5 0.1 0.1"], "names: [a]", "line 1: has the shape 'box', which has no area.*--leave-out box"),
        (["0 0.1 0.1 0.5 0.1 0.5 0.5 0.3"], "names: [a]", "7 coordinates, which are no pairs"),
        (["0 0.1 0.1 0.5 0.1 0.5 x"], "names: [a]", "must be numbers"),
        (["0 0.1 0.1 0.5 0.1 0.5 0.5", "0 1 1 20 1 20 20"], "names: [a]", "line 2: has the coordinate 20"),
    ],
)
def test_wrong_yolo_files_are_refused_in_one_line(tmp_path, lines, names, reason):
    root = tmp_path / "set"
    label = yolo_set(root, *lines, names=names)
    good = label.with_name("b.txt")
    good.write_text("0 0.1 0.1 0.5 0.1 0.5 0.5")
    write_image(root / "images" / "train" / "b.png")
    with pytest.raises(InputError, match=reason) as error:
        import_masks(root, tmp_path / "data")
    assert "\n" not in str(error.value) or "no data.yaml" in str(error.value) or "names" in str(error.value)


# ----------------------------------------------------------------------------------------------------------- Kaggle


def by_reference(pairs, order):
    flat = np.zeros(HEIGHT * WIDTH, np.uint8)
    for start, length in np.array(pairs.split(), int).reshape(-1, 2):
        flat[start - 1 : start - 1 + length] = 1
    return flat.reshape(HEIGHT, WIDTH, order=order)


RUNS = ("3 10 30 5 100 2", "300 100 766 3")


@pytest.mark.parametrize(
    "header,rows,names",
    [
        ("ImageId,EncodedPixels", ("a.png,{0}", "a.png,{1}"), ("object", "object")),
        ("ImageId,ClassId,EncodedPixels", ("a.png,1,{0}", "a.png,2,{1}"), ("1", "2")),
        ("ImageId_ClassId,EncodedPixels", ("a.png_1,{0}", "a.png_2,{1}"), ("1", "2")),
        ("Image_Label,EncodedPixels", ("a.png_Fish,{0}", "a.png_Sugar,{1}"), ("Fish", "Sugar")),
        ("id,class,segmentation", ("a,stomach,{0}", "a,bowel,{1}"), ("stomach", "bowel")),
        ("img,rle_mask", ("a.png,{0}", "a.png,{1}"), ("object", "object")),
        ("id;rle;width;height", ("a;{0};32;24", "a;{1};32;24"), ("object", "object")),
    ],
)
def test_kaggle_tables(tmp_path, header, rows, names):
    write_image(tmp_path / "a.png")
    write_image(tmp_path / "b.png")
    delimiter = ";" if ";" in header else ","
    blank = delimiter.join(
        "b.png_" + names[0] if "_" in c and i == 0 else "b" if i == 0 else ""
        for i, c in enumerate(header.split(delimiter))
    )
    file = tmp_path / "train.csv"
    file.write_text("\ufeff" + "\r\n".join([header, *(row.format(*RUNS) for row in rows), blank]) + "\r\n")
    out, result = imported(file)
    for name in set(names):
        want = np.any([by_reference(r, "F") for r, n in zip(RUNS, names, strict=True) if n == name], axis=0)
        np.testing.assert_array_equal(read(out, name, "a"), want)
        assert not read(out, name, "b").any()
    assert result.num_images == 2 and result.num_empty == 1


def test_kaggle_tables_that_count_along_the_rows(tmp_path):
    write_image(tmp_path / "a.png")
    (tmp_path / "train.csv").write_text(f"ImageId,EncodedPixels\na,{RUNS[0]}\n")
    out, _ = imported(tmp_path / "train.csv", rle_order="rows")
    np.testing.assert_array_equal(read(out, "object", "a"), by_reference(RUNS[0], "C"))


@pytest.mark.parametrize(
    "rows,reason",
    [
        (["ImageId,EncodedPixels", "a.png,1 2 3"], "line 2: 3 numbers are no pairs"),
        (["ImageId,EncodedPixels", "a.png,1 9999"], "ends at pixel 9999, but 32x24 are 768 pixels"),
        (["ImageId,EncodedPixels", "a.png"], "line 2: has not as many columns"),
        (["ImageId,EncodedPixels", "a.png,1 2,3"], "line 2: has not as many columns"),
        (["ImageId,EncodedPixels", ",1 2"], "names no image"),
        (["ImageId,EncodedPixels,Height,Width", "a.png,1 2,24,33"], "has 33x24 pixels, but a.png has 32x24"),
        (["ImageId,Width", "a.png,1"], "is in no format that is known"),
    ],
)
def test_wrong_kaggle_tables_are_refused_in_one_line(tmp_path, rows, reason):
    write_image(tmp_path / "a.png")
    (tmp_path / "train.csv").write_text("\n".join(rows))
    with pytest.raises(InputError, match=reason) as error:
        imported(tmp_path / "train.csv")
    assert "\n" not in str(error.value) and "train.csv" in str(error.value)
