"""Networks in and out of Keras, weight for weight.

The Keras program feeds its network with what `cv2.imread` returns, blue first; this library reads RGB. `channels` says
which of the two a Keras file means. Only the first kernel looks at colours, so turning its input channels around
makes the same network for the other order.
"""

import dataclasses
import difflib
import io
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from etils import epath

from unet_jax._types import InputError, PyTree
from unet_jax.config import ModelConfig
from unet_jax.interop.keras_architecture import read_architecture
from unet_jax.interop.keras_files import KerasFile, KerasLayer, import_h5py, read_keras_file

Channels = Literal["bgr", "rgb"]
_IMAGE_CHANNELS = 3


class Network(NamedTuple):
    """A U-Net and its weights, for RGB images; arrays are float32 NumPy."""

    config: ModelConfig
    num_classes: int
    params: PyTree
    batch_stats: PyTree
    image_size: int | None  # where the file says it


class _Slot(NamedTuple):
    """One convolution of the U-Net."""

    stage: str
    index: int
    shape: tuple[int, int, int, int]  # of the kernel

    def __str__(self) -> str:
        where = self.stage if self.stage == "head" else f"{self.stage}, convolution {self.index}"
        return f"kernel {'x'.join(map(str, self.shape))} ({where})"


def _slots(config: ModelConfig, num_classes: int) -> list[_Slot]:
    """Every convolution in the order in which data flows through it."""
    slots: list[_Slot] = []

    def add(stage: str, features: int, num_convs: int, channels: int) -> int:
        for i in range(num_convs):
            slots.append(_Slot(stage, i, (3, 3, channels, features)))
            channels = features
        return channels

    channels = _IMAGE_CHANNELS
    for i, width in enumerate(config.widths):
        channels = add(f"down{i}", width, config.num_convs_down, channels)
    channels = add("center", config.center_width, config.num_convs_down, channels)
    for i, width in enumerate(reversed(config.widths)):
        channels = add(f"up{i}", width, config.num_convs_up, width + channels)
    slots.append(_Slot("head", 0, (1, 1, channels, num_classes)))
    return slots


def infer_model_config(kernels: Sequence[tuple[int, ...]], file: epath.Path) -> tuple[ModelConfig, int]:
    """Widths, depth and number of classes from the shapes of all kernels, in the order of the model.

    A decoder stage begins where a kernel reads more channels than the convolution before it wrote: the others come
    over the skip connection. Their number is the width of the encoder stage on the other side.
    """
    starts = [i for i in range(1, len(kernels)) if kernels[i][2] > kernels[i - 1][3]]
    if not starts:
        shapes = ", ".join("x".join(map(str, kernel)) for kernel in kernels) or "none"
        raise InputError(f"{file}: is not a U-Net, no convolution reads a skip connection (kernels: {shapes}).")
    widths = tuple(kernels[i][2] - kernels[i - 1][3] for i in reversed(starts))
    config = ModelConfig(
        widths=widths,
        center_width=kernels[starts[0] - 1][3],
        num_convs_down=max(1, round(starts[0] / (len(widths) + 1))),
        num_convs_up=max(1, round((len(kernels) - 1 - starts[0]) / len(widths))),
    )
    return config, kernels[-1][3]


def read_network(file: str | epath.Path, *, channels: Channels = "bgr") -> Network:
    """The network in a Keras file: `.weights.h5`, `.keras` or (Keras 2) `.h5`.

    Widths, depth and number of classes follow from the weights. Files that hold a whole model also say what epsilon and
    momentum its normalisation has; for the others Keras's defaults (0.001 and 0.99) are assumed.

    Args:
      file: local or in a bucket.
      channels: the order of colours that the Keras program fed its network with; `cv2.imread` gives bgr.

    Raises:
      InputError: not such a file, or the layers in it are not those of a U-Net; lists what is missing or too much.
    """
    _check_channels(channels)
    file = epath.Path(file)
    content = read_keras_file(file)
    architecture = read_architecture(content.model_config, file)
    if content.others:
        listed = "\n  ".join(layer.describe() for layer in content.others)
        raise InputError(f"{file}: has layers that are not in the U-Net, or lack a part of their weights:\n  {listed}")
    config, num_classes = infer_model_config([conv.arrays[0].shape for conv in content.convs], file)
    known = {"norm_eps": architecture.norm_eps, "batch_norm_momentum": architecture.norm_momentum}
    config = dataclasses.replace(
        config,
        norm="batch" if content.norms else "none",
        **{name: value for name, value in known.items() if value is not None},
    )
    slots = _slots(config, num_classes)
    _check_layers(content, slots, file)
    params, batch_stats = _trees(content, slots)
    return Network(config, num_classes, _turn_channels(params, channels), batch_stats, architecture.image_size)


def _check_channels(channels: str) -> None:
    if channels not in ("bgr", "rgb"):
        raise InputError(f"channels is {channels!r}, but must be 'bgr' (as cv2.imread reads) or 'rgb'.")


def _check_layers(content: KerasFile, slots: list[_Slot], file: epath.Path) -> None:
    """Raises `InputError` listing every layer that is missing, surplus or of another shape, or not finite."""
    problems = _differences([(s.shape, str(s)) for s in slots], [(c.arrays[0].shape, c) for c in content.convs])
    if content.norms:
        wanted = [((s.shape[3],), f"normalisation of {s.shape[3]} channels ({s.stage}, {s.index})") for s in slots[:-1]]
        problems += _differences(wanted, [(n.arrays[0].shape, n) for n in content.norms])
    if problems:
        widths = ", ".join(str(s.shape[3]) for s in slots if s.index == 0 and s.stage.startswith("down"))
        raise InputError(
            f"{file}: its layers are not those of a U-Net for images of 3 channels. Compared with one of the widths "
            f"{widths}:\n  " + "\n  ".join(problems)
        )
    broken = [x.name for x in (*content.convs, *content.norms) if not all(np.isfinite(a).all() for a in x.arrays)]
    if broken:
        raise InputError(f"{file}: has weights that are not finite numbers in {', '.join(broken)}. Use another file.")


def _differences(wanted: list[tuple[Any, str]], found: list[tuple[Any, KerasLayer]]) -> list[str]:
    matcher = difflib.SequenceMatcher(None, [shape for shape, _ in wanted], [shape for shape, _ in found], False)
    lines = []
    for tag, i, i_end, j, j_end in matcher.get_opcodes():
        if tag != "equal":
            lines += [f"missing: {text}" for _, text in wanted[i:i_end]]
            lines += [f"surplus: {layer.describe()}" for _, layer in found[j:j_end]]
    return lines


def _trees(content: KerasFile, slots: list[_Slot]) -> tuple[PyTree, PyTree]:
    params: dict[str, Any] = {}
    batch_stats: dict[str, Any] = {}
    for slot, conv in zip(slots, content.convs, strict=True):
        kernel, bias = (np.asarray(a, np.float32) for a in conv.arrays)
        weights = {"kernel": kernel, "bias": bias}
        if slot.stage == "head":
            params["head"] = weights
        else:
            params.setdefault(slot.stage, {})[f"conv{slot.index}"] = weights
    for slot, norm in zip(slots[:-1] if content.norms else (), content.norms, strict=True):
        scale, bias, mean, var = (np.asarray(a, np.float32) for a in norm.arrays)
        params[slot.stage][f"norm{slot.index}"] = {"scale": scale, "bias": bias}
        batch_stats.setdefault(slot.stage, {})[f"norm{slot.index}"] = {"mean": mean, "var": var}
    return params, batch_stats


def _turn_channels(params: PyTree, channels: Channels) -> PyTree:
    """The first kernel for the other order of colours, if that is asked for."""
    if channels == "rgb":
        return params
    stage = params["down0"]
    first = dict(stage["conv0"], kernel=np.ascontiguousarray(np.asarray(stage["conv0"]["kernel"])[:, :, ::-1, :]))
    return dict(params, down0=dict(stage, conv0=first))


def write_network(file: str | epath.Path, network: Network, *, channels: Channels = "bgr") -> None:
    """Writes `.weights.h5` for `model.load_weights` of Keras 3; reading it again gives the same bits.

    Raises:
      InputError: another ending, or a network that the Keras program does not have (group normalisation).
    """
    _check_channels(channels)
    file = epath.Path(file)
    if not file.name.endswith(".weights.h5"):
        raise InputError(f"{file}: must end in .weights.h5, Keras loads weights from no other name.")
    if network.config.norm == "group":
        raise InputError("the network has group normalisation, which the Keras program does not have.")
    params = _turn_channels(network.params, channels)
    buffer = io.BytesIO()
    with import_h5py().File(buffer, "w") as h5:
        for i, slot in enumerate(_slots(network.config, network.num_classes)):
            block = params if slot.stage == "head" else params[slot.stage]
            conv = block["head" if slot.stage == "head" else f"conv{slot.index}"]
            _write_layer(h5, "conv2d", i, (conv["kernel"], conv["bias"]))
            if network.config.norm == "batch" and slot.stage != "head":
                norm = block[f"norm{slot.index}"]
                stats = network.batch_stats[slot.stage][f"norm{slot.index}"]
                _write_layer(h5, "batch_normalization", i, (norm["scale"], norm["bias"], stats["mean"], stats["var"]))
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.parent / f"{file.name}.new"  # renamed when complete: a kill leaves no half of it
    new.write_bytes(buffer.getvalue())
    new.replace(file)


def _write_layer(h5: Any, kind: str, number: int, arrays: Sequence[Any]) -> None:
    name = f"{kind}_{number}" if number else kind
    group = h5.create_group(f"layers/{name}/vars")
    group.attrs["name"] = name
    for i, array in enumerate(arrays):
        group.create_dataset(str(i), data=np.asarray(array, np.float32))
