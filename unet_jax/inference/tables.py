"""The tables images.csv and objects.csv: what the masks of each image hold."""

import pathlib
from collections.abc import Sequence

import numpy as np
from etils import epath

from unet_jax._files import csv_rows
from unet_jax._types import InputError
from unet_jax.data.masks.read import read_mask
from unet_jax.inference.image_writer import publish, told
from unet_jax.metrics.objects import ObjectFinder, Objects

IMAGE_COLUMNS = ("id", "class", "height", "width", "objects", "area", "share")
OBJECT_COLUMNS = ("id", "class", "object", "area", "centroid_y", "centroid_x", "top", "left", "height", "width")
_BLOCK_ROWS = 512


class Tables:
    """Tables that grow by the images, and appear at the end.

    Args:
      scratch: local folder for the unfinished tables.
      out: folder that the tables appear in.
      class_names: names of the classes.
    """

    def __init__(self, scratch: pathlib.Path, out: epath.Path, class_names: Sequence[str]):
        self._names, self._out = class_names, out
        self._paths = {"images.csv": scratch / "images.csv", "objects.csv": scratch / "objects.csv"}
        self._append("images.csv", csv_rows([IMAGE_COLUMNS]))
        self._append("objects.csv", csv_rows([OBJECT_COLUMNS]))

    def add(self, id_: str, height: int, width: int, objects: Sequence[Objects]) -> None:
        """Add the objects of an image, one entry per class."""
        images, rows = [], []
        for name, found in zip(self._names, objects, strict=True):
            area = int(found.area.sum())
            images.append((id_, name, height, width, len(found.area), area, f"{area / (height * width):.6g}"))
            values = zip(found.area.tolist(), found.centroid.tolist(), found.box.tolist(), strict=True)
            rows += [
                (id_, name, i, size, f"{center[0]:.3f}", f"{center[1]:.3f}", *box)
                for i, (size, center, box) in enumerate(values, start=1)
            ]
        self._append("images.csv", csv_rows(images))
        self._append("objects.csv", csv_rows(rows))

    def add_files(self, paths: Sequence[Sequence[epath.Path]], id_: str) -> None:
        """Add an image whose masks were written earlier; of the paths of each class, the first that exists counts."""
        objects, size = [], (0, 0)
        for of_class in paths:
            path = next(path for path in of_class if path.exists())
            try:
                mask = read_mask(path) > 0
            except InputError as error:
                raise InputError(f"{error} It was written earlier: remove it, and it is written again.") from error
            size = mask.shape
            finder = ObjectFinder()
            for start in range(0, len(mask), _BLOCK_ROWS):
                finder.add(np.ascontiguousarray(mask[start : start + _BLOCK_ROWS]))
            objects.append(finder.objects())
        self.add(id_, size[0], size[1], objects)

    def publish(self) -> None:
        """Give the tables their names."""
        for name, path in self._paths.items():
            with told(self._out / name):
                publish(path, self._out / name)

    def _append(self, name: str, text: str) -> None:
        with told(self._out / name), open(self._paths[name], "a", encoding="utf-8", newline="") as file:
            file.write(text)
