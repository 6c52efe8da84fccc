"""Reader of tables of run-length encoded masks, as Kaggle's competitions have them."""

import csv
import functools
import io
from pathlib import Path

import numpy as np

from unet_jax._types import InputError
from unet_jax.data.annotation_files import csv_delimiter, csv_header, rle_columns
from unet_jax.interop.annotations.json_values import shown
from unet_jax.interop.annotations.regions import AnnotatedImage, Annotations, ReadOptions, Region, encoded
from unet_jax.interop.annotations.rle import runs_of_pairs

_NO_MASK = ("", "-1", "nan", "none", "null")


def read_kaggle(file: Path, content: str, options: ReadOptions) -> Annotations:
    """Read a table with one object per row.

    The class is in a column of its own, or behind the image's name (ImageId_ClassId); without either, it is "object". A
    row without pixels is an image without an object.

    Raises:
      InputError: the columns are not those of such a table, or a row has another number of columns.
    """
    header = csv_header(content)
    columns = rle_columns(header)
    if columns is None:
        raise InputError(
            f"{file}: has the columns {', '.join(header) or 'none'}, but a table of masks has at least ImageId and "
            f"EncodedPixels."
        )
    regions: dict[str, list[Region]] = {}
    sizes: dict[str, tuple[int, int]] = {}
    classes: dict[str, None] = {}
    csv.field_size_limit(2**31 - 1)  # the runs of a large mask are one long field
    reader = csv.DictReader(io.StringIO(content, newline=""), delimiter=csv_delimiter(content), strict=True)
    try:
        for row in reader:
            where = f"{file}: line {reader.line_num}"
            if None in row or None in row.values():
                raise InputError(f"{where}: has not as many columns as the first line ({len(header)}).")
            values = {key.strip().lower(): value.strip() for key, value in row.items()}
            image, text = row[columns.image].strip(), row[columns.rle].strip()
            class_name = row[columns.class_name].strip() if columns.class_name else "object"
            if columns.is_joined:
                image, _, class_name = image.rpartition("_")
            if not image:
                raise InputError(f"{where}: has {shown(row[columns.image])} in {columns.image}, which names no image.")
            objects = regions.setdefault(image, [])
            if class_name:
                classes[class_name] = None
            if text.lower() not in _NO_MASK:
                decode = functools.partial(_decode, text, options.rle_order)
                objects.append(Region(class_name, "rle", where, encoded(decode)))
            if values.get("height", "").isdigit() and values.get("width", "").isdigit():
                sizes[image] = (int(values["height"]), int(values["width"]))
    except csv.Error as error:
        raise InputError(f"{file}: is not a valid table (line {reader.line_num}: {error}).") from error
    images = (
        AnnotatedImage(name, f"{file}: {shown(name)}", tuple(each), sizes.get(name)) for name, each in regions.items()
    )
    other = "rows" if options.rle_order == "columns" else "columns"
    note = f"pixels were counted along the {options.rle_order}; if the masks are stripes, use --rle-order {other}"
    return Annotations(tuple(images), tuple(classes), (note,))


def _decode(text: str, order: str, height: int, width: int) -> np.ndarray:
    return runs_of_pairs(text, height, width, order)
