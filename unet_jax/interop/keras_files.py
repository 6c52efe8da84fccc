"""The files in which Keras keeps weights, read with h5py alone.

| written by | file | layers are found |
|---|---|---|
| Keras 3 `save_weights` | `X.weights.h5` | `layers/conv2d`, `layers/conv2d_1`, ..., numbered as in the model |
| Keras 3 `save` | `X.keras` | the same inside a zip, beside `config.json` |
| Keras 2 `save_weights` | `X.h5` | by the attribute `layer_names`, which has the order of the model |
| Keras 2 `save` | `X.h5` | the same below `model_weights`, with the attribute `model_config` |

HDF5 itself lists groups by name, so that `conv2d_10` comes before `conv2d_2`: never use its order.
"""

import contextlib
import io
import json
import re
import zipfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from unet_jax._types import InputError

_ZIP_MEMBER = "model.weights.h5"
_LEGACY_ORDER = ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")
_WANTED = "a Keras 3 .weights.h5 or .keras file, or a Keras 2 .h5 file"


class KerasLayer(NamedTuple):
    """A layer that has weights."""

    name: str  # in the file
    arrays: tuple[np.ndarray, ...]  # as Keras orders them: kernel, bias; or gamma, beta, moving mean and variance

    @property
    def is_conv(self) -> bool:
        """A 2D convolution with a bias."""
        shapes = [a.shape for a in self.arrays]
        return (
            [len(s) for s in shapes] == [4, 1] and shapes[0][-1:] == shapes[1] and "transpose" not in self.name.lower()
        )

    @property
    def is_norm(self) -> bool:
        """A batch normalisation with scale and offset."""
        shapes = [a.shape for a in self.arrays]
        return len(shapes) == 4 and len(shapes[0]) == 1 and len(set(shapes)) == 1

    def describe(self) -> str:
        """Name and shapes, for messages."""
        return f"{self.name} {', '.join('x'.join(map(str, a.shape)) or 'scalar' for a in self.arrays)}"


class KerasFile(NamedTuple):
    """What a file holds; convolutions and normalisations each in the order of the model."""

    convs: list[KerasLayer]
    norms: list[KerasLayer]
    others: list[KerasLayer]
    model_config: dict[str, Any] | None  # the architecture, where the file says it


def import_h5py() -> Any:
    """The package h5py, or an error that says how to get it."""
    try:
        import h5py
    except ImportError as error:
        raise InputError(
            "reading and writing Keras files needs the package h5py: pip install 'unet_jax[keras]'."
        ) from error
    return h5py


def read_keras_file(file: epath.Path) -> KerasFile:
    """All weights of a file.

    Raises:
      InputError: no such file, or not one that Keras saves weights in.
    """
    with _open_h5(file) as (h5, model_config):
        root = h5.get("model_weights", h5)
        if _attribute_list(root, "layer_names") is not None:
            layers = _legacy_layers(root, file)
            model_config = model_config or h5.attrs.get("model_config")
        else:
            layers = _keras3_layers(root, file)
    return KerasFile(
        convs=[x for x in layers if x.is_conv],
        norms=[x for x in layers if x.is_norm],
        others=[x for x in layers if not x.is_conv and not x.is_norm],
        model_config=None if model_config is None else json.loads(model_config),
    )


@contextlib.contextmanager
def _open_h5(file: epath.Path) -> Iterator[tuple[Any, str | bytes | None]]:
    """The open HDF5 file, and the architecture beside it (in a .keras file)."""
    h5py = import_h5py()
    if file.is_dir():
        raise InputError(f"{file}: is a folder (a TensorFlow SavedModel?), but must be {_WANTED}: use save_weights.")
    if not file.exists():
        raise InputError(f"{file}: there is no such file.")
    content = io.BytesIO(file.read_bytes())
    model_config = None
    if zipfile.is_zipfile(content):
        with zipfile.ZipFile(content) as archive:
            if _ZIP_MEMBER not in archive.namelist():
                raise InputError(f"{file}: is a zip file without {_ZIP_MEMBER}, but must be {_WANTED}.")
            if "config.json" in archive.namelist():
                model_config = archive.read("config.json")
            content = io.BytesIO(archive.read(_ZIP_MEMBER))
    try:
        h5 = h5py.File(content, "r")
    except OSError as error:
        raise InputError(f"{file}: is not an HDF5 file ({error}), but must be {_WANTED}.") from error
    with h5:
        yield h5, model_config


def _keras3_layers(root: Any, file: epath.Path) -> list[KerasLayer]:
    # Keras 2.13 wrote the same format with the longer name.
    group = next((root[name] for name in ("layers", "_layer_checkpoint_dependencies") if name in root), None)
    if group is None:
        raise InputError(
            f"{file}: has neither Keras 3's group 'layers' nor Keras 2's attribute 'layer_names' (it has "
            f"{', '.join(sorted(root)) or 'nothing'}), but must be {_WANTED} of a functional model."
        )
    found = []
    for name in sorted(group, key=_by_number):
        variables = group[name].get("vars", {})
        arrays = tuple(np.asarray(variables[key]) for key in sorted(variables, key=int))
        if arrays:
            found.append(KerasLayer(name, arrays))
        if "layers" in group[name]:
            raise InputError(
                f"{file}: layer {name!r} is a model inside the model; save the weights of the inner one by itself."
            )
    return found


def _by_number(name: str) -> tuple[str, int]:
    """`conv2d`, `conv2d_1`, ..., `conv2d_10`: Keras 3 counts each class of layer from 0 in the order of the model."""
    match = re.fullmatch(r"(.*?)(?:_(\d+))?", name)
    assert match is not None
    return match[1], int(match[2] or 0)


def _legacy_layers(root: Any, file: epath.Path) -> list[KerasLayer]:
    found = []
    for name in _attribute_list(root, "layer_names") or []:
        paths = _attribute_list(root[name], "weight_names") if name in root else None
        if paths is None:
            raise InputError(f"{file}: names a layer {name!r} but does not hold it: the file is damaged.")
        missing = [path for path in paths if path not in root[name]]
        if missing:
            raise InputError(f"{file}: layer {name!r} lacks its weights {', '.join(missing)}: the file is damaged.")
        paths.sort(key=_by_meaning)
        if paths:
            found.append(KerasLayer(name, tuple(np.asarray(root[name][path]) for path in paths)))
    return found


def _by_meaning(path: str) -> int:
    """`conv2d_1/kernel:0` before `conv2d_1/bias:0`; unknown names last, in the file's order."""
    name = path.rsplit("/", 1)[-1].split(":")[0]
    return _LEGACY_ORDER.index(name) if name in _LEGACY_ORDER else len(_LEGACY_ORDER)


def _attribute_list(group: Any, name: str) -> list[str] | None:
    """A list of names; long ones are split over `name0`, `name1`, ... because HDF5 limits the size of an attribute."""
    if name in group.attrs:
        parts = [group.attrs[name]]
    elif f"{name}0" in group.attrs:
        parts = []
        while f"{name}{len(parts)}" in group.attrs:
            parts.append(group.attrs[f"{name}{len(parts)}"])
    else:
        return None
    return [value.decode() if isinstance(value, bytes) else str(value) for part in parts for value in part]
