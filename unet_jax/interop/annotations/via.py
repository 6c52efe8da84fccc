"""Reader of the JSON of VIA, the VGG Image Annotator, versions 1 and 2: exported annotations and saved projects."""

from pathlib import Path
from typing import Any

import numpy as np

from unet_jax._types import InputError
from unet_jax.interop.annotations.json_values import check, member, numbers_of
from unet_jax.interop.annotations.regions import (
    AnnotatedImage,
    Annotations,
    Drawing,
    ReadOptions,
    Region,
    ellipse,
    polygon,
    rectangle,
)

_USUAL_ATTRIBUTES = ("class", "label", "name", "category", "type")


def read_via(file: Path, content: Any, options: ReadOptions) -> Annotations:
    """Read VIA annotations.

    The class of a region is an attribute: the one that `options` names, the only one that regions have, or else the one
    called class, label, name, category or type. In a file whose regions have no attributes, all are of class "object".

    Raises:
      InputError: the file is not as VIA writes it, or several attributes may be the class.
    """
    entries = member(content, "_via_img_metadata", dict, str(file), check(content, dict, str(file)))
    listed = []
    for key, entry in entries.items():
        where = f"{file}: {key!r}"
        regions = check(entry, dict, where).get("regions")
        regions = list(regions.values()) if isinstance(regions, dict) else regions or []  # an object in version 1
        listed.append((member(entry, "filename", str, where), where, check(regions, list, f"{where}: 'regions'")))
    attribute = _class_attribute(file, [region for _, _, regions in listed for region in regions], options)
    images = []
    for name, where, regions in listed:
        objects = [each for i, r in enumerate(regions) for each in _regions(r, attribute, f"{where}: regions[{i}]")]
        images.append(AnnotatedImage(name, where, tuple(objects)))
    return Annotations(tuple(images))


def _class_attribute(file: Path, regions: list[Any], options: ReadOptions) -> str | None:
    """Return the attribute that holds the class, or None if regions have no attributes."""
    names = {name for region in regions for name in member(region, "region_attributes", dict, str(file), {})}
    if options.class_attribute:
        if options.class_attribute not in names:
            raise InputError(
                f"{file}: no region has the attribute {options.class_attribute!r} (--class-attribute); there are "
                f"{', '.join(sorted(names)) or 'none'}."
            )
        return options.class_attribute
    if len(names) <= 1:
        return next(iter(names), None)
    usual = [name for name in names if name.lower() in _USUAL_ATTRIBUTES]
    if len(usual) == 1:
        return usual[0]
    raise InputError(
        f"{file}: regions have the attributes {', '.join(sorted(names))}. Say which one is the class: "
        f"--class-attribute {(sorted(usual) or sorted(names))[0]}."
    )


def _regions(region: Any, attribute: str | None, where: str) -> list[Region]:
    """Return one object for each class of a region: a checkbox attribute may have several."""
    shape = member(region, "shape_attributes", dict, where)
    kind = member(shape, "name", str, where)
    classes = ["object"] if attribute is None else _classes(region, attribute, where)
    draw = _drawing(shape, kind, where)
    if kind == "polygon" and draw is None:
        kind = "short-polygon"
    return [Region(name, kind, where, draw) for name in classes]


def _classes(region: dict[str, Any], attribute: str, where: str) -> list[str]:
    value = member(region, "region_attributes", dict, where, {}).get(attribute)
    if isinstance(value, dict):
        return [name for name, is_ticked in value.items() if is_ticked] or [""]
    if isinstance(value, bool | list):
        raise InputError(f"{where}: the attribute {attribute!r} is {value!r}, but must be the name of a class.")
    return ["" if value is None else str(value)]


def _drawing(shape: dict[str, Any], kind: str, where: str) -> Drawing | None:
    """Return the drawing of a shape, or None if it has no area."""

    def numbers(*keys: str) -> list[float]:
        return [member(shape, key, float, where) for key in keys]

    if kind == "polygon":
        x, y = (numbers_of(shape.get(f"all_points_{axis}"), f"{where}: 'all_points_{axis}'") for axis in "xy")
        if len(x) != len(y):
            raise InputError(f"{where}: the polygon has {len(x)} x and {len(y)} y. Export it again.")
        return polygon(np.stack([x, y], axis=1)) if len(x) >= 3 else None
    if kind == "rect":
        x0, y0, width, height = numbers("x", "y", "width", "height")
        return rectangle(x0, y0, x0 + width, y0 + height)
    if kind == "circle":
        x0, y0, radius = numbers("cx", "cy", "r")
        return ellipse((x0, y0), (radius, radius))
    if kind == "ellipse":
        x0, y0, radius_x, radius_y = numbers("cx", "cy", "rx", "ry")
        return ellipse((x0, y0), (radius_x, radius_y), member(shape, "theta", float, where, 0.0))
    return None
