"""Reader of the files in which Keras stores weights. It needs h5py, but not Keras.

| written by | file | where the layers are |
|---|---|---|
| Keras 3 `save_weights` | `X.weights.h5` | `layers/conv2d`, `layers/conv2d_1`, ..., numbered in the model's order |
| Keras 3 `save` | `X.keras` | the same, in a zip file that also holds `config.json` |
| Keras 2 `save_weights` | `X.h5` | in groups that the attribute `layer_names` lists in the model's order |
| Keras 2 `save` | `X.h5` | the same below `model_weights`; an attribute `model_config` |

HDF5 itself lists groups by name, and `conv2d_10` before `conv2d_2`, so its order must never be used.
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
    """Layer with weights."""

    name: str
    """Name of the layer in the file."""
    arrays: tuple[np.ndarray, ...]
    """Weights in the order of Keras: kernel and bias; or gamma, beta, moving mean and moving variance."""

    @property
    def is_conv(self) -> bool:
        """True for a 2D convolution with a bias, by its shapes and a name without "transpose"."""
        shapes = [a.shape for a in self.arrays]
        return (
            [len(s) for s in shapes] == [4, 1] and shapes[0][-1:] == shapes[1] and "transpose" not in self.name.lower()
        )

    @property
    def is_norm(self) -> bool:
        """True for a batch normalisation with scale and offset, by its shapes."""
        shapes = [a.shape for a in self.arrays]
        return len(shapes) == 4 and len(shapes[0]) == 1 and len(set(shapes)) == 1

    def describe(self) -> str:
        """Return the name and the shapes, for messages."""
        return f"{self.name} {', '.join('x'.join(map(str, a.shape)) or 'scalar' for a in self.arrays)}"


class KerasFile(NamedTuple):
    """Contents of a file; convolutions and normalisations are each in the order of the model."""

    convs: list[KerasLayer]
    norms: list[KerasLayer]
    others: list[KerasLayer]
    model_config: dict[str, Any] | None  # description of the architecture; None if the file holds weights only


def import_h5py() -> Any:
    """Import and return the package h5py, or raise an `InputError` that says how to install it."""
    try:
        import h5py
    except ImportError as error:
        raise InputError(
            "reading and writing Keras files needs the package h5py: pip install 'unet_jax[keras]'."
        ) from error
    return h5py


def read_keras_file(file: epath.Path) -> KerasFile:
    """Read all weights of a Keras file.

    Raises:
      InputError: the file does not exist, is damaged, or is not one in which Keras saves weights.
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
    """Open the HDF5 file, and return it with the description of the architecture beside it (only in a .keras file)."""
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
    """Read the layers of Keras 3's format, in the order of their numbers."""
    # Keras 2.13 wrote the same format, but with the longer of the two group names.
    group = next((root[name] for name in ("layers", "_layer_checkpoint_dependencies") if name in root), None)
    if group is None:
        raise InputError(
            f"{file}: has neither Keras 3's group 'layers' nor Keras 2's attribute 'layer_names' (it has "
            f"{', '.join(sorted(root)) or 'nothing'}), but must be {_WANTED} of a functional model."
        )
    layers = []
    for name in sorted(group, key=_by_number):
        variables = group[name].get("vars", {})
        arrays = tuple(np.asarray(variables[key]) for key in sorted(variables, key=int))
        if arrays:
            layers.append(KerasLayer(name, arrays))
        if "layers" in group[name]:
            raise InputError(
                f"{file}: layer {name!r} is a model inside the model; save the weights of the inner one by itself."
            )
    return layers


def _by_number(name: str) -> tuple[str, int]:
    """Return the sort key of a layer's name: its class, then its number (`conv2d`, `conv2d_1`, ..., `conv2d_10`).

    Keras 3 numbers the layers of each class from 0, in the order of the model; 0 is left out of the name.
    """
    match = re.fullmatch(r"(.*?)(?:_(\d+))?", name)
    assert match is not None
    return match[1], int(match[2] or 0)


def _legacy_layers(root: Any, file: epath.Path) -> list[KerasLayer]:
    """Read the layers of Keras 2's format, in the order of the attribute `layer_names`."""
    layers = []
    for name in _attribute_list(root, "layer_names") or []:
        paths = _attribute_list(root[name], "weight_names") if name in root else None
        if paths is None:
            raise InputError(f"{file}: lists a layer {name!r} but does not contain it: the file is damaged.")
        missing = [path for path in paths if path not in root[name]]
        if missing:
            raise InputError(f"{file}: layer {name!r} lacks its weights {', '.join(missing)}: the file is damaged.")
        paths.sort(key=_by_meaning)
        if paths:
            layers.append(KerasLayer(name, tuple(np.asarray(root[name][path]) for path in paths)))
    return layers


def _by_meaning(path: str) -> int:
    """Return the sort key of a weight: `conv2d_1/kernel:0` before `conv2d_1/bias:0`, and so on.

    Unknown names come last, in the file's order.
    """
    name = path.rsplit("/", 1)[-1].split(":")[0]
    return _LEGACY_ORDER.index(name) if name in _LEGACY_ORDER else len(_LEGACY_ORDER)


def _attribute_list(group: Any, name: str) -> list[str] | None:
    """Return the list of names in an attribute, or None if there is no such attribute.

    HDF5 limits the size of an attribute, so Keras splits long lists over the attributes `name0`, `name1`, ...
    """
    if name in group.attrs:
        parts = [group.attrs[name]]
    elif f"{name}0" in group.attrs:
        parts = []
        while f"{name}{len(parts)}" in group.attrs:
            parts.append(group.attrs[f"{name}{len(parts)}"])
    else:
        return None
    return [value.decode() if isinstance(value, bytes) else str(value) for part in parts for value in part]
