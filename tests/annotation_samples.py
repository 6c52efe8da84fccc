"""What the tests of `import-masks` share: images, an import, and its masks; one small data set in every format."""

import json

import numpy as np
from PIL import Image

from unet_jax.interop import import_masks

SIZE = (24, 32)  # height, width


def write_image(path, size=SIZE, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).integers(0, 255, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def read(root, class_name, id_):
    """A mask as 0 and 1, checked to be a PNG of 0 and 255."""
    pixels = np.asarray(Image.open(root / "masks" / class_name / f"{id_}.png"))
    assert pixels.dtype == np.uint8 and set(np.unique(pixels)) <= {0, 255}
    return pixels // 255


def imported(annotations, **options):
    """Import to data/ beside the annotations."""
    first = annotations if hasattr(annotations, "parent") else annotations[0]
    out = first.parent / "data"
    return out, import_masks(annotations, out, **options)


def box(y0, y1, x0, x1, size=SIZE):
    mask = np.zeros(size, np.uint8)
    mask[y0:y1, x0:x1] = 1
    return mask


# One image a.png of 32x24 pixels with a cell, columns 2 to 11 and rows 3 to 8, and a nucleus in it, columns 4 to 7 and
# rows 5 to 6; and an image b.png without an object.
CELL, NUCLEUS = box(3, 9, 2, 12), box(5, 7, 4, 8)
_CELL, _NUCLEUS = [[2, 3], [12, 3], [12, 9], [2, 9]], [[4, 5], [8, 5], [8, 7], [4, 7]]


def _flat(points):
    return [number for point in points for number in point]


def write_coco(root):
    images = [{"id": i, "file_name": f"{n}.png", "height": 24, "width": 32} for i, n in enumerate("ab", start=7)]
    objects = [
        {"id": i, "image_id": 7, "category_id": i, "segmentation": [_flat(points)], "iscrowd": 0}
        for i, points in enumerate((_CELL, _NUCLEUS), start=1)
    ]
    categories = [{"id": 1, "name": "cell"}, {"id": 2, "name": "nucleus"}]
    return write_json(root / "coco.json", {"images": images, "annotations": objects, "categories": categories})


def write_labelme(root):
    shapes = [
        {"label": name, "points": points, "shape_type": "polygon", "group_id": None, "flags": {}}
        for name, points in (("cell", _CELL), ("nucleus", _NUCLEUS))
    ]
    for name in "ab":
        facts = {"imagePath": f"{name}.png", "imageData": None, "imageHeight": 24, "imageWidth": 32}
        write_json(root / f"{name}.json", {"version": "5.4.1", "shapes": shapes if name == "a" else [], **facts})
    return root


def write_label_studio(root):
    results = [
        {
            "id": name,
            "type": "polygonlabels",
            "from_name": "label",
            "to_name": "image",
            "original_width": 32,
            "original_height": 24,
            "image_rotation": 0,
            "value": {"points": [[x / 0.32, y / 0.24] for x, y in points], "closed": True, "polygonlabels": [name]},
        }
        for name, points in (("cell", _CELL), ("nucleus", _NUCLEUS))
    ]
    tasks = [
        {"id": i, "data": {"image": f"/data/upload/1/0123abcd-{n}.png"}, "annotations": [{"id": i, "result": r}]}
        for i, (n, r) in enumerate((("a", results), ("b", [])))
    ]
    return write_json(root / "export.json", tasks)


def write_via(root):
    regions = [
        {
            "shape_attributes": {"name": "polygon", "all_points_x": [*x], "all_points_y": [*y]},
            "region_attributes": {"class": name},
        }
        for name, (x, y) in (("cell", zip(*_CELL, strict=True)), ("nucleus", zip(*_NUCLEUS, strict=True)))
    ]
    entries = {
        f"{name}.png99": {"filename": f"{name}.png", "size": 99, "regions": r, "file_attributes": {}}
        for name, r in (("a", regions), ("b", []))
    }
    return write_json(root / "via.json", {"_via_settings": {}, "_via_img_metadata": entries, "_via_attributes": {}})


def write_qupath(root):
    features = [
        {
            "type": "Feature",
            "id": name,
            "geometry": {"type": "Polygon", "coordinates": [[*points, points[0]]]},
            "properties": {"objectType": "annotation", "classification": {"name": name, "color": [1, 2, 3]}},
        }
        for name, points in (("cell", _CELL), ("nucleus", _NUCLEUS))
    ]
    for name in "ab":
        content = {"type": "FeatureCollection", "features": features if name == "a" else []}
        write_json(root / f"{name}.geojson", content)
    return root


def write_yolo(root):
    (root / "data.yaml").write_text("names: {0: cell, 1: nucleus}\nnc: 2\n")
    lines = [f"{i} {' '.join(f'{x / 32} {y / 24}' for x, y in points)}" for i, points in enumerate((_CELL, _NUCLEUS))]
    (root / "a.txt").write_text("\n".join(lines) + "\n")
    return root


def write_kaggle(root):
    lines = ["ImageId,ClassId,EncodedPixels"]
    for name, mask in (("cell", CELL), ("nucleus", NUCLEUS)):
        ends = np.flatnonzero(np.diff(np.concatenate([[0], mask.ravel(order="F"), [0]])))
        runs = " ".join(f"{start + 1} {end - start}" for start, end in ends.reshape(-1, 2))
        lines.append(f"a.png,{name},{runs}")
    (root / "train.csv").write_text("\n".join([*lines, "b.png,cell,"]) + "\n")
    return root / "train.csv"


WRITERS = {
    "coco": write_coco,
    "labelme": write_labelme,
    "label-studio": write_label_studio,
    "via": write_via,
    "qupath": write_qupath,
    "yolo": write_yolo,
    "kaggle": write_kaggle,
}


def write_all(root, format_name):
    """The images, and their annotations in one format; returns what to give to the command."""
    for name in "ab":
        write_image(root / f"{name}.png")
    return WRITERS[format_name](root)
