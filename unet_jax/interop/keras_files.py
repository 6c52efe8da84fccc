"""Reader of the content of files in which Keras stores weights. It needs h5py, but not Keras.

| written by | file | where the layers are |
|---|---|---|
| Keras 3 `save_weights` | `X.weights.h5` | `layers/conv2d`, `layers/conv2d_1`, ..., numbered in the model's order |
| Keras 3 `save` | `X.keras` | the same, in a zip file that also holds `config.json` |
| Keras 2 `save_weights` | `X.h5` | in groups that the attribute `layer_names` lists in the model's order |
| Keras 2 `save` | `X.h5` | the same below `model_weights`; an attribute `model_config` |
| Keras 1 `save_weights` | `X.h5` | as Keras 2, with other names of weights, and kernels in the order of its backend |

HDF5 itself lists groups by name, and `conv2d_10` before `conv2d_2`, so its order must never be used.
"""

import contextlib
import hashlib
import io
import json
import re
import zipfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from unet_jax._types import InputError

_ZIP_MEMBER = "model.weights.h5"
_LEGACY_ORDER = ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")
_MOST_BYTES = 2**32
_MOST_COMPRESSED = 1100
"""Largest factor between an array and what deflate makes of it."""
_MOST_ZIPPED = 100
"""Largest factor, beyond 64 MiB, between weights and a zip file of them; real weights hardly shrink."""
DIGEST = "unet_jax_sha256"
"""Attribute of exported files with the digest of their weights."""
WANTED = "a Keras 3 .weights.h5 or .keras file, or a Keras 2 .h5 file"


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
    keras1: str = ""  # "TensorFlow" or "Theano" for weights of Keras 1, by the order in which it had its kernels


def import_h5py() -> Any:
    """Import and return the package h5py, or raise an `InputError` that says how to install it."""
    try:
        import h5py
    except ImportError as error:
        raise InputError(
            "reading and writing Keras files needs the package h5py: pip install 'unet_jax[keras]'."
        ) from error
    return h5py


def read_content(content: bytes, file: str) -> KerasFile:
    """Read all weights in the content of a Keras file.

    Only numbers that stand in the file itself are read: links, data in other files, virtual data sets and references
    are refused, and so is an array that is larger than what the file can hold. HDF5's own code still handles the bytes,
    so content of unknown origin is read by `unet_jax.interop.keras_reader`, in a process of its own.

    Args:
      content: the file's bytes.
      file: its name, for messages.

    Raises:
      InputError: it is damaged, or is not a file in which Keras saves weights.
    """
    budget, keras1 = _Budget(file, len(content)), ""
    with _open_h5(content, file) as (h5, model_config):
        root = _child(h5, "model_weights", budget) if "model_weights" in h5 else h5
        if _attribute_list(root, "layer_names") is not None:
            layers = _legacy_layers(root, budget)
            if _has_names_of_keras1(root, budget):
                layers, keras1 = _from_keras1(layers)
            model_config = model_config or h5.attrs.get("model_config")
        else:
            layers = _keras3_layers(root, budget)
            if DIGEST in h5.attrs and h5.attrs[DIGEST] != arrays_digest(h5):
                raise InputError(
                    f"{file}: is damaged: its weights are not those that were exported. Export them again."
                )
    return KerasFile(
        convs=[x for x in layers if x.is_conv],
        norms=[x for x in layers if x.is_norm],
        others=[x for x in layers if not x.is_conv and not x.is_norm],
        model_config=None if model_config is None else json.loads(model_config),
        keras1=keras1,
    )


def arrays_digest(h5: Any) -> str:
    """Return a digest of the names and numbers of all weights in a file of Keras 3's format.

    `export_keras` stores it in the file, where Keras ignores it.
    """
    digest = hashlib.sha256()
    for name in sorted(h5["layers"]):
        variables = h5["layers"][name]["vars"]
        for key in sorted(variables):
            array = np.asarray(variables[key])
            digest.update(f"{name}/{key} {array.shape} {array.dtype.str}".encode() + array.tobytes())
    return digest.hexdigest()


class _Budget:
    """Name of a file, and the number of bytes that its arrays may still have, by its size and up to 4 GiB."""

    def __init__(self, file: str, num_bytes: int):
        self.file, self.left = file, min(_MOST_BYTES, _MOST_COMPRESSED * num_bytes)

    def refuse(self, place: str, why: str) -> InputError:
        """Return the exception for a place in the file."""
        return InputError(f"{self.file}: {place} {why}. Files that Keras saves hold only numbers of their own.")


@contextlib.contextmanager
def _open_h5(content: bytes, file: str) -> Iterator[tuple[Any, str | bytes | None]]:
    """Open the HDF5 file, and return it with the description of the architecture beside it (only in a .keras file)."""
    h5py = import_h5py()
    stream = io.BytesIO(content)
    model_config = None
    if zipfile.is_zipfile(stream):
        with zipfile.ZipFile(stream) as archive:
            if _ZIP_MEMBER not in archive.namelist():
                raise InputError(f"{file}: is a zip file without {_ZIP_MEMBER}, but must be {WANTED}.")
            for name in (_ZIP_MEMBER, "config.json"):
                size = archive.getinfo(name).file_size if name in archive.namelist() else 0
                if size > min(_MOST_BYTES, _MOST_ZIPPED * len(content) + 2**26):
                    raise InputError(f"{file}: {name} in it would have {size / 2**30:.1f} GiB: it is no file of Keras.")
            if "config.json" in archive.namelist():
                model_config = archive.read("config.json")
            stream = io.BytesIO(archive.read(_ZIP_MEMBER))
    try:
        h5 = h5py.File(stream, "r")
    except OSError as error:
        raise InputError(f"{file}: is not an HDF5 file ({error}), but must be {WANTED}.") from error
    with h5:
        yield h5, model_config


def _child(group: Any, path: str, budget: _Budget) -> Any:
    """Return what a group holds under a path. Links that lead elsewhere, to other files too, are refused."""
    h5py = import_h5py()
    for name in path.split("/"):
        if not isinstance(group, h5py.Group) or name not in group:
            raise KeyError(path)
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise budget.refuse(f"{group.name}/{name}", "is a link to another place")
        group = group[name]
    return group


def _array(group: Any, path: str, budget: _Budget) -> np.ndarray:
    """Return the numbers of a data set that stands in the file itself."""
    data = _child(group, path, budget)
    if not isinstance(data, import_h5py().Dataset):
        raise budget.refuse(f"{group.name}/{path}", "is no array")
    if data.external or data.is_virtual:
        raise budget.refuse(data.name, "takes its numbers from elsewhere (external or virtual storage)")
    if data.dtype.kind not in "fiu":
        raise budget.refuse(data.name, f"holds {data.dtype}, not numbers")
    if data.nbytes and not data.id.get_storage_size():
        raise budget.refuse(data.name, "has a shape, but no numbers")
    budget.left -= data.nbytes
    if budget.left < 0:
        raise budget.refuse(data.name, f"has the shape {data.shape}, more than the file can hold")
    return np.asarray(data)


def _keras3_layers(root: Any, budget: _Budget) -> list[KerasLayer]:
    """Read the layers of Keras 3's format, in the order of their numbers."""
    # Keras 2.13 wrote the same format, but with the longer of the two group names.
    found = next((name for name in ("layers", "_layer_checkpoint_dependencies") if name in root), None)
    if found is None:
        raise InputError(
            f"{budget.file}: has neither Keras 3's group 'layers' nor Keras 2's attribute 'layer_names' (it has "
            f"{', '.join(sorted(root)) or 'nothing'}), but must be {WANTED} of a functional model."
        )
    layers, group = [], _child(root, found, budget)
    for name in sorted(group, key=_by_number):
        layer = _child(group, name, budget)
        variables = _child(layer, "vars", budget) if "vars" in layer else {}
        arrays = tuple(_array(variables, key, budget) for key in sorted(variables, key=int))
        if arrays:
            layers.append(KerasLayer(name, arrays))
        if "layers" in layer:
            raise InputError(
                f"{budget.file}: layer {name!r} is a model inside the model; save the weights of the inner one "
                f"by itself."
            )
    return layers


def _by_number(name: str) -> tuple[str, int]:
    """Return the sort key of a layer's name: its class, then its number (`conv2d`, `conv2d_1`, ..., `conv2d_10`).

    Keras 3 numbers the layers of each class from 0, in the order of the model; 0 is left out of the name.
    """
    match = re.fullmatch(r"(.*?)(?:_(\d+))?", name)
    assert match is not None
    return match[1], int(match[2] or 0)


def _legacy_layers(root: Any, budget: _Budget) -> list[KerasLayer]:
    """Read the layers of Keras 2's format, in the order of the attribute `layer_names`."""
    layers = []
    for name in _attribute_list(root, "layer_names") or []:
        layer = _child(root, name, budget) if name in root else None
        paths = None if layer is None else _attribute_list(layer, "weight_names")
        if layer is None or paths is None:
            raise InputError(f"{budget.file}: lists a layer {name!r} but does not contain it: the file is damaged.")
        missing = [path for path in paths if path not in layer]
        if missing:
            raise InputError(
                f"{budget.file}: layer {name!r} lacks its weights {', '.join(missing)}: the file is damaged."
            )
        paths.sort(key=_by_meaning)
        if paths:
            layers.append(KerasLayer(name, tuple(_array(layer, path, budget) for path in paths)))
    return layers


def _has_names_of_keras1(root: Any, budget: _Budget) -> bool:
    """Return whether kernels have names such as `convolution2d_1_W`, or `convolution2d_1_W:0` of TensorFlow."""
    paths = [
        path
        for name in _attribute_list(root, "layer_names") or []
        for path in _attribute_list(_child(root, name, budget), "weight_names") or []
    ]
    return any(path.split(":")[0].endswith("_W") for path in paths)


def _from_keras1(layers: list[KerasLayer]) -> tuple[list[KerasLayer], str]:
    """Return layers with kernels as Keras 2 has them, and the backend in whose order they were.

    Keras 1 stores kernels as its backend computes with them. Those of Theano are `[outputs inputs height width]`, and
    Theano turns them by 180 degrees.
    """
    kernels = [layer for layer in layers if [array.ndim for array in layer.arrays] == [4, 1]]
    if all(layer.is_conv for layer in kernels) or any(x.arrays[0].shape[0] != len(x.arrays[1]) for x in kernels):
        return layers, "TensorFlow"

    def turned(layer: KerasLayer) -> KerasLayer:
        kernel, bias = layer.arrays
        return KerasLayer(layer.name, (np.ascontiguousarray(kernel.transpose(2, 3, 1, 0)[::-1, ::-1]), bias))

    names = {layer.name for layer in kernels}
    return [turned(layer) if layer.name in names else layer for layer in layers], "Theano"


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
