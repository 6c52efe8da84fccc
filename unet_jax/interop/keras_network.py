"""Import of networks from Keras files and export to them, weight for weight.

The Keras original feeds its network with what `cv2.imread` returns, blue first; this library reads RGB images. The
argument `channels` says for which of the two orders the weights in a Keras file are. Only the first kernel reads
colours, so reversing its input channels gives the same network for the other order.
"""

import dataclasses
import difflib
import io
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from etils import epath

from unet_jax._files import replace_bytes
from unet_jax._types import InputError, PyTree
from unet_jax.config import ModelConfig
from unet_jax.interop.keras_architecture import NO_PLACE, read_architecture
from unet_jax.interop.keras_files import DIGEST, KerasFile, KerasLayer, arrays_digest, import_h5py
from unet_jax.interop.keras_reader import read_keras_file
from unet_jax.model.architecture import Convolution, list_convolutions

Channels = Literal["bgr", "rgb"]
"""Order of the colour channels of the images that a Keras program feeds to its network."""


class Network(NamedTuple):
    """U-Net with its weights, for RGB or gray images; the arrays are float32 NumPy arrays."""

    config: ModelConfig
    """Settings of the `UNet`."""
    num_classes: int
    """Number of output channels."""
    params: PyTree
    """Parameters, as in `UNet(config, num_classes).init(...)["params"]`."""
    batch_stats: PyTree
    """Running statistics of batch normalisation; empty for a network without it."""
    image_size: int | None
    """Height and width of the images in pixels; None if the file does not contain it."""
    assumed: tuple[str, ...] = ()
    """Assumptions about what the file does not say, for people to read."""

    @property
    def num_channels(self) -> int:
        """Number of channels of the images: 3, or 1 for gray."""
        return self.params["down0"]["conv0"]["kernel"].shape[2]


def _describe(conv: Convolution) -> str:
    """Return the shape of a convolution's kernel and its place in the network, for messages."""
    where = conv.stage if conv.stage == "head" else f"{conv.stage}, convolution {conv.index}"
    return f"kernel {'x'.join(map(str, conv.kernel_shape))} ({where})"


def infer_model_config(kernels: Sequence[tuple[int, ...]], file: epath.Path) -> tuple[ModelConfig, int]:
    """Infer widths, depth and number of classes from the shapes of all kernels.

    A decoder stage begins where a kernel reads more channels than the convolution before it wrote. The other channels
    come from the skip connection, so their number is the width of the encoder stage at the same resolution.

    Args:
      kernels: shapes `[kh kw c d]` of all kernels, in the order of the model.
      file: their file, for messages.

    Returns:
      Settings with widths and numbers of convolutions (the other settings are defaults), and the number of classes.

    Raises:
      InputError: no convolution reads a skip connection.
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
    """Read the network in a Keras file: `.weights.h5`, `.keras` or (Keras 2) `.h5`.

    Widths, depth, number of classes and gray or colour images follow from the shapes of the weights. Files of whole
    models also contain epsilon and momentum of the normalisation, the order of concatenations and the connections; for
    other files those of the Keras original are assumed (`Network.assumed`). Where what was up-sampled comes before the
    skip connection, the input channels of the next kernel are put into this library's order.

    Args:
      file: path of the file, local or in a bucket.
      channels: order of the colour channels of the images that the Keras program fed to its network; `cv2.imread`
        returns "bgr".

    Returns:
      The network, for RGB images.

    Raises:
      InputError: the file is not a Keras file, or its layers are not those of a U-Net. The message lists the layers
        that are missing and those that are surplus.

    Example: see `write_network`.
    """
    _check_channels(channels)
    file = epath.Path(file)
    content = read_keras_file(file)
    architecture = read_architecture(content.model_config, file)
    if content.others:
        listed = "\n  ".join(layer.describe() for layer in content.others)
        has_transposed = any("transpose" in layer.name.lower() for layer in content.others)
        more = f"\nThe U-Net has no transposed convolutions. {NO_PLACE}." if has_transposed else ""
        raise InputError(
            f"{file}: has layers that are not in the U-Net, or lack a part of their weights:\n  {listed}{more}"
        )
    config, num_classes = infer_model_config([conv.arrays[0].shape for conv in content.convs], file)
    known = {"norm_eps": architecture.norm_eps, "batch_norm_momentum": architecture.norm_momentum}
    config = dataclasses.replace(
        config,
        norm="batch" if content.norms else "none",
        **{name: value for name, value in known.items() if value is not None},
    )
    is_gray = content.convs[0].arrays[0].shape[2:3] == (1,)
    convolutions = list_convolutions(config, num_classes, 1 if is_gray else 3)
    _check_layers(content, convolutions, file)
    params, batch_stats = _trees(content, convolutions)
    params = _with_skip_first(params, config, architecture.up_first or ())
    assumed = () if content.model_config else _assumed(config) + _OF_KERAS1[content.keras1]
    return Network(config, num_classes, _turn_channels(params, channels), batch_stats, architecture.image_size, assumed)


_OF_KERAS1 = {
    "": (),
    "TensorFlow": ("kernels of Keras 1 with TensorFlow, which does not turn them as Theano does",),
    "Theano": (
        "kernels [outputs inputs height width] of Keras 1 with Theano, which turns them by 180 degrees: they were "
        "turned back",
    ),
}
"""Assumptions about kernels, by the backend whose order they have."""


def _assumed(config: ModelConfig) -> tuple[str, ...]:
    """Return what bare weights do not say of a network."""
    norm = f", normalisation with epsilon {config.norm_eps:g}" if config.norm == "batch" else ""
    return (
        f"each convolution (padding same) is followed by{norm.removeprefix(',') + ' and' if norm else ''} ReLU",
        "max-pooling of 2x2, nearest-neighbour up-sampling, concatenation of skip connection and up-sampled, in this "
        "order",
        "a sigmoid of the last convolution; images divided by 255",
    )


def _with_skip_first(params: PyTree, config: ModelConfig, up_first: tuple[bool, ...]) -> PyTree:
    """Return the parameters for skip connections before what was up-sampled, in all concatenations.

    Args:
      params: parameters of the `UNet`.
      config: its settings.
      up_first: for each concatenation, from the deepest to the first level, whether the skip connection comes second.
    """
    for i, (skip, is_up_first) in enumerate(zip(reversed(config.widths), up_first, strict=False)):
        if is_up_first:
            stage = params[f"up{i}"]
            kernel = stage["conv0"]["kernel"]
            moved = np.concatenate([kernel[:, :, -skip:], kernel[:, :, :-skip]], axis=2)
            params = {**params, f"up{i}": {**stage, "conv0": {**stage["conv0"], "kernel": moved}}}
    return params


def _check_channels(channels: str) -> None:
    """Raise `InputError` unless `channels` is one of the two orders."""
    if channels not in ("bgr", "rgb"):
        raise InputError(f"channels is {channels!r}, but must be 'bgr' (as cv2.imread reads) or 'rgb'.")


def _check_layers(content: KerasFile, convolutions: list[Convolution], file: epath.Path) -> None:
    """Raise `InputError`, listing every layer that is missing, surplus, of another shape, or not finite."""
    wanted: list[tuple[Any, str]] = [(conv.kernel_shape, _describe(conv)) for conv in convolutions]
    problems = _differences(wanted, [(c.arrays[0].shape, c) for c in content.convs])
    if content.norms:
        wanted = [
            ((conv.outputs,), f"normalisation of {conv.outputs} channels ({conv.stage}, {conv.index})")
            for conv in convolutions[:-1]
        ]
        problems += _differences(wanted, [(n.arrays[0].shape, n) for n in content.norms])
    if problems:
        widths = ", ".join(str(c.outputs) for c in convolutions if c.index == 0 and c.stage.startswith("down"))
        raise InputError(
            f"{file}: its layers are not those of a U-Net for images of 3 channels (or 1). Compared with one of the "
            f"widths {widths}:\n  " + "\n  ".join(problems)
        )
    broken = [x.name for x in (*content.convs, *content.norms) if not all(np.isfinite(a).all() for a in x.arrays)]
    if broken:
        raise InputError(f"{file}: has weights that are not finite numbers in {', '.join(broken)}. Use another file.")


def _differences(wanted: list[tuple[Any, str]], actual: list[tuple[Any, KerasLayer]]) -> list[str]:
    """Return one line for each layer that is missing or surplus when both lists are aligned by their shapes."""
    matcher = difflib.SequenceMatcher(None, [shape for shape, _ in wanted], [shape for shape, _ in actual], False)
    lines = []
    for tag, i, i_end, j, j_end in matcher.get_opcodes():
        if tag != "equal":
            lines += [f"missing: {text}" for _, text in wanted[i:i_end]]
            lines += [f"surplus: {layer.describe()}" for _, layer in actual[j:j_end]]
    return lines


def _trees(content: KerasFile, convolutions: list[Convolution]) -> tuple[PyTree, PyTree]:
    """Return the parameters and the running statistics of the `UNet`, from layers in the order of its convolutions."""
    params: dict[str, Any] = {}
    batch_stats: dict[str, Any] = {}
    for conv, layer in zip(convolutions, content.convs, strict=True):
        kernel, bias = (np.asarray(a, np.float32) for a in layer.arrays)
        weights = {"kernel": kernel, "bias": bias}
        if conv.stage == "head":
            params["head"] = weights
        else:
            params.setdefault(conv.stage, {})[f"conv{conv.index}"] = weights
    for conv, layer in zip(convolutions[:-1] if content.norms else (), content.norms, strict=True):
        scale, bias, mean, var = (np.asarray(a, np.float32) for a in layer.arrays)
        params[conv.stage][f"norm{conv.index}"] = {"scale": scale, "bias": bias}
        batch_stats.setdefault(conv.stage, {})[f"norm{conv.index}"] = {"mean": mean, "var": var}
    return params, batch_stats


def _turn_channels(params: PyTree, channels: Channels) -> PyTree:
    """Return the parameters with the first kernel's input channels reversed if `channels` is "bgr"; else unchanged."""
    if channels == "rgb":
        return params
    stage = params["down0"]
    first = dict(stage["conv0"], kernel=np.ascontiguousarray(np.asarray(stage["conv0"]["kernel"])[:, :, ::-1, :]))
    return dict(params, down0=dict(stage, conv0=first))


def write_network(file: str | epath.Path, network: Network, *, channels: Channels = "bgr") -> None:
    """Write a network to a file for `model.load_weights` of Keras 3; `read_network` restores it bit for bit.

    Args:
      file: path of the file, which must end in `.weights.h5`; an existing file is replaced.
      network: network for RGB images.
      channels: order of the colour channels of the images that the Keras program feeds to its network.

    Raises:
      InputError: the file name has another ending, or the network has something that the Keras original does not have,
        such as group normalisation.

    Example:
      >>> import tempfile
      >>> import jax, numpy as np
      >>> from unet_jax import UNet
      >>> from unet_jax.config import ModelConfig
      >>> from unet_jax.interop import Network, read_network, write_network
      >>> config = ModelConfig(widths=(2,), center_width=2, num_convs_down=1, num_convs_up=1)
      >>> init = lambda: UNet(config, 2).init(jax.random.key(0), np.zeros((1, 4, 4, 3), np.float32), False)
      >>> weights = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), jax.eval_shape(init))
      >>> network = Network(config, 2, **weights, image_size=4)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     write_network(f"{folder}/keras.weights.h5", network)
      ...     again = read_network(f"{folder}/keras.weights.h5")
      >>> again.config == config, again.num_classes, again.image_size
      (True, 2, None)
    """
    _check_channels(channels)
    file = epath.Path(file)
    if not file.name.endswith(".weights.h5"):
        raise InputError(f"{file}: must end in .weights.h5, because Keras loads weights from no other file name.")
    if reason := _why_not_keras(network.config):
        raise InputError(
            f"{reason}, which the Keras original does not have. For other programs: unet-jax export RUN --to onnx "
            f"--out model.onnx"
        )
    params = _turn_channels(network.params, channels)
    buffer = io.BytesIO()
    with import_h5py().File(buffer, "w") as h5:
        for i, conv in enumerate(list_convolutions(network.config, network.num_classes)):
            block = params if conv.stage == "head" else params[conv.stage]
            weights = block["head" if conv.stage == "head" else f"conv{conv.index}"]
            _write_layer(h5, "conv2d", i, (weights["kernel"], weights["bias"]))
            if network.config.norm == "batch" and conv.stage != "head":
                norm = block[f"norm{conv.index}"]
                stats = network.batch_stats[conv.stage][f"norm{conv.index}"]
                _write_layer(h5, "batch_normalization", i, (norm["scale"], norm["bias"], stats["mean"], stats["var"]))
        h5.attrs[DIGEST] = arrays_digest(h5)
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_bytes(file, buffer.getvalue())


def _why_not_keras(config: ModelConfig) -> str:
    """Return what a network has that `read_network` could not read again; empty if there is nothing."""
    if config.norm == "group":
        return "the network has group normalisation"
    if config.activation != "relu":
        return f"the network has the activation {config.activation}"
    if config.encoder != "none":
        return f"the network has the encoder {config.encoder}"
    if config.decoder_widths and config.decoder_widths != config.widths:
        return "the network's decoder has other channels than its encoder"
    if config.encoder_block != "plain":
        return f"the network has {config.encoder_block} blocks"
    if len({*config.convs_of_encoder}) > 1 or len({*config.convs_of_decoder}) > 1:
        return "the network's stages have different numbers of convolutions"
    return ""


def _write_layer(h5: Any, kind: str, number: int, arrays: Sequence[Any]) -> None:
    """Write one layer as Keras 3 does: its arrays are numbered, and its number is part of its name unless it is 0."""
    name = f"{kind}_{number}" if number else kind
    group = h5.create_group(f"layers/{name}/vars")
    group.attrs["name"] = name
    for i, array in enumerate(arrays):
        group.create_dataset(str(i), data=np.asarray(array, np.float32))
