"""Reader of the GeoJSON that QuPath exports, of which there is one file per image."""

from pathlib import Path
from typing import Any

from unet_jax._types import InputError
from unet_jax.interop.annotations.json_values import check, member, points_of
from unet_jax.interop.annotations.regions import (
    AnnotatedImage,
    Annotations,
    Drawing,
    ReadOptions,
    Region,
    joined,
    polygon,
)

_OLD_TYPES = {"PathDetectionObject": "detection", "PathCellObject": "cell", "PathTileObject": "tile"}


def read_qupath(file: Path, content: Any, options: ReadOptions) -> Annotations:
    """Read the objects of one image.

    The class is the name of the classification, or the object's type (annotation, detection, cell, ...) if it has none.
    The nucleus of a cell is an object of the class nucleus. The image is the one of the same name: IMAGE.geojson and
    IMAGE.tif.geojson belong to IMAGE.tif. Coordinates are pixels of the full image.

    Raises:
      InputError: the file is not as QuPath writes it, or its objects are on several planes of a stack.
    """
    if isinstance(content, dict) and "crs" in content:
        raise InputError(f"{file}: has map coordinates ('crs'), not the pixels of an image as QuPath exports them.")
    regions: list[Region] = []
    planes: set[tuple[int, int]] = set()
    _collect(_features(content, str(file)), str(file), regions, planes)
    if len(planes) > 1:
        raise InputError(
            f"{file}: has objects on {len(planes)} planes of a stack (z and t: {sorted(planes)[:5]}), but a mask is "
            f"for one image. Export the objects of one plane, with its image."
        )
    return Annotations((AnnotatedImage(file.stem, str(file), tuple(regions), folder=file.parent),))


def _features(content: Any, where: str) -> list[Any]:
    if isinstance(content, list):
        return content
    if check(content, dict, where).get("type") == "Feature":
        return [content]
    return member(content, "features", list, where)


def _collect(features: list[Any], where: str, regions: list[Region], planes: set[tuple[int, int]]) -> None:
    """Append the objects of features and of the objects in their hierarchy."""
    for i, feature in enumerate(features):
        place = f"{where}: features[{i}]"
        properties = member(feature, "properties", dict, place, {})
        kind = properties.get("objectType") or properties.get("object_type") or _OLD_TYPES.get(str(feature.get("id")))
        _collect(member(properties, "childObjects", list, place, []), f"{place}: childObjects", regions, planes)
        geometry = member(feature, "geometry", dict, place, {})
        if kind == "root" or not geometry:
            continue
        name = _class_name(properties, place) or str(kind or "annotation")
        plane = member(geometry, "plane", dict, place, {})
        planes.add((member(plane, "z", int, place, 0), member(plane, "t", int, place, 0)))
        regions.append(_region(geometry, name, place))
        nucleus = member(feature, "nucleusGeometry", dict, place, {})
        if nucleus:
            regions.append(_region(nucleus, "nucleus", f"{place}: nucleusGeometry"))


def _class_name(properties: dict[str, Any], where: str) -> str:
    """Return the name of the classification; derived ones, such as Tumor: Positive, may be lists."""
    classification = properties.get("classification")
    if classification is None or isinstance(classification, str):
        return classification or ""
    names = member(classification, "names", list, where, [])
    if names:
        return ": ".join(check(name, str, f"{where}: 'names'") for name in names)
    return member(classification, "name", str, where, "")


def _region(geometry: dict[str, Any], class_name: str, where: str) -> Region:
    kind = member(geometry, "type", str, where)
    if kind == "GeometryCollection":
        parts = [_region(part, class_name, where) for part in member(geometry, "geometries", list, where)]
        drawings = [part.draw for part in parts if part.draw]
        if len(drawings) < len(parts) or not parts:
            return Region(class_name, kind, where, None)
        return Region(class_name, kind, where, joined(drawings))
    if kind not in ("Polygon", "MultiPolygon"):
        return Region(class_name, kind, where, None)
    coordinates = member(geometry, "coordinates", list, where)
    drawings = [_polygon(rings, where) for rings in (coordinates if kind == "MultiPolygon" else [coordinates])]
    drawn = [drawing for drawing in drawings if drawing]
    if len(drawn) < len(drawings) or not drawn:
        return Region(class_name, "short-polygon", where, None)
    return Region(class_name, kind, where, joined(drawn))


def _polygon(rings: Any, where: str) -> Drawing | None:
    """Return the drawing of an outer ring and its holes; None for a ring of fewer than three points."""
    corners = [points_of(ring, f"{where}: 'coordinates'") for ring in check(rings, list, where)]
    if not corners or any(len(ring) < 3 for ring in corners):
        return None
    return polygon(corners[0], corners[1:])
