"""The network of a run as an ONNX graph, written node by node from its parameters.

The graph takes pixels and returns probabilities. Batch normalisation is folded into the convolutions. Any height and
width are accepted: as in `predict_probs_unresized`, sides are padded by mirroring to multiples of 2 to the number of
poolings, and the result is cropped.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from unet_jax.config import ModelConfig
from unet_jax.export.folded import Layer
from unet_jax.export.walk import Operations, apply_stages

OPSET = 17
"""Version of ONNX's operators. Runtimes of 2022 and later know it."""
_IR_VERSION = 8  # the file format that belongs to that version
_LARGEST_LOGIT = 16.0  # as `unet_jax.metrics.calibration` limits them


class Input(NamedTuple):
    """The input of a graph."""

    dtype: np.dtype
    """Data type of the pixels: uint8, uint16 or float32."""
    white: float
    """Value that becomes 1. Pixels of 16 bits are mapped to 0 to 65535 first, from `limits`."""
    limits: tuple[Sequence[float], Sequence[float]] | None = None
    """Numbers of a file that become 0 and `white`, per channel. None: the pixels are used as they are."""


class Graph:
    """Nodes and constants of a graph under construction."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._constants: dict[tuple[str, bytes, tuple[int, ...]], str] = {}

    def add(self, kind: str, *inputs: str, name: str, output: str = "", **attributes: Any) -> str:
        """Add a node with one output, and return the name of this output."""
        output = output or f"{name}/{kind}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=output, **attributes))
        return output

    def weight(self, name: str, value: np.ndarray) -> str:
        """Add a named array, and return its name."""
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def constant(self, value: Any, dtype: Any = np.int64) -> str:
        """Return the name of a small array that nodes share."""
        array = np.asarray(value, dtype)
        key = (array.dtype.str, array.tobytes(), array.shape)
        if key not in self._constants:
            self._constants[key] = self.weight(f"constant{len(self._constants)}", array)
        return self._constants[key]


def make_network(
    config: ModelConfig,
    layers: Sequence[Layer],
    *,
    num_channels: int,
    num_classes: int,
    pixels: Input,
    temperature: Sequence[float] | None = None,
    dtype: str = "float32",
) -> onnx.ModelProto:
    """Make the graph from pixels `[b h w c]` to probabilities and logits `[b h w k]`, named as in this docstring.

    If the input has limits, `low` and `high` are inputs too, with these limits as default values: a caller who has
    mapped the intensities already gives 0 and `white`. The second output, `logits`, is before the temperatures: for
    callers who average the logits of tiles, or resize probabilities before they calibrate them, as this library does.

    Args:
      config: settings of the network.
      layers: its layers, from `folded_layers`.
      num_channels: number of channels c.
      num_classes: number of classes k.
      pixels: type and range of the input.
      temperature: number per class that logits are divided by; None = none.
      dtype: type of weights and activations, "float32" or "float16". The last convolution is always float32.

    Returns:
      The model, checked by `onnx.checker`.
    """
    g = Graph()
    image = helper.make_tensor_value_info(
        "pixels", helper.np_dtype_to_tensor_dtype(pixels.dtype), ["batch", "height", "width", num_channels]
    )
    height, width = (_sizes(g, "pixels", axis, config.size_multiple) for axis in (1, 2))
    x = g.add("Gather", "pixels", height.mirrored, name="pad/rows", axis=1)
    x = g.add("Gather", x, width.mirrored, name="pad/columns", axis=2)
    x = g.add("Cast", x, name="pixels", to=TensorProto.FLOAT)
    inputs = [image]
    if pixels.limits:
        x = _map_intensities(g, x, *pixels.limits, white=pixels.white)
        inputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, [num_channels]) for name in ("low", "high")]
    x = g.add("Div", x, g.constant(pixels.white, np.float32), name="unit_range")
    x = g.add("Transpose", x, name="channels_first", perm=[0, 3, 1, 2])
    logits = add_layers(g, x, config, layers, dtype)
    ends = g.add("Concat", height.size, width.size, name="crop/ends", axis=0)
    logits = g.add("Slice", logits, g.constant([0, 0]), ends, g.constant([2, 3]), name="crop")
    logits = g.add("Transpose", logits, name="channels_last", output="logits", perm=[0, 2, 3, 1])
    add_probabilities(g, logits, temperature, "probabilities")
    shape, names = ["batch", "height", "width", num_classes], ["probabilities", "logits"]
    return finish(g, inputs, [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in names])


def make_heads(
    config: ModelConfig,
    layers: Sequence[Layer],
    *,
    num_channels: int,
    class_names: Sequence[str],
    size: tuple[int, int],
    temperature: Sequence[float] | None = None,
    dtype: str = "float32",
) -> onnx.ModelProto:
    """Make the graph that QGIS Deepness wants: float32 `[b c h w]` in [0, 1] of one size, and one output per class.

    Args:
      config, layers, num_channels, temperature, dtype: the same as in `make_network`.
      class_names: names of the classes; the outputs are probabilities/NAME.
      size: height and width of the input, which are fixed.

    Returns:
      The model, checked by `onnx.checker`. Each output is `[b 1 h w]`.
    """
    g = Graph()
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", num_channels, *size])
    logits = add_layers(g, "image", config, layers, dtype)
    outputs = []
    for k, name in enumerate(class_names):
        only = g.add("Slice", logits, g.constant([k]), g.constant([k + 1]), g.constant([1]), name=f"class{k}")
        add_probabilities(g, only, temperature[k : k + 1] if temperature else None, f"probabilities/{name}")
        outputs.append(helper.make_tensor_value_info(f"probabilities/{name}", TensorProto.FLOAT, ["batch", 1, *size]))
    return finish(g, [image], outputs)


class _Sizes(NamedTuple):
    size: str  # [1] int64, the size itself
    mirrored: str  # int64 positions in the image of the rows or columns of the padded image


def _sizes(g: Graph, image: str, axis: int, multiple: int) -> _Sizes:
    """Compute, in the graph, the indices that pad an axis at its end by mirroring to a multiple of `multiple`."""
    name, zero, one = f"pad/axis{axis}", g.constant(0), g.constant(1)
    size = g.add("Gather", g.add("Shape", image, name=name), g.constant([axis]), name=f"{name}/size", axis=0)
    scalar = g.add("Squeeze", size, g.constant([0]), name=name)
    blocks = g.add("Add", scalar, g.constant(multiple - 1), name=f"{name}/up")
    blocks = g.add("Div", blocks, g.constant(multiple), name=f"{name}/blocks")
    positions = g.add("Range", zero, g.add("Mul", blocks, g.constant(multiple), name=f"{name}/end"), one, name=name)
    period = g.add("Add", scalar, scalar, name=f"{name}/period")
    forward = g.add("Mod", positions, period, name=name)  # 0 ... h-1, and h ... 2h-1, which are read backward
    last = g.add("Sub", period, one, name=f"{name}/last")
    backward = g.add("Sub", last, forward, name=f"{name}/backward")
    return _Sizes(size, g.add("Min", forward, backward, name=name))


def _map_intensities(g: Graph, x: str, low: Sequence[float], high: Sequence[float], *, white: float) -> str:
    """Map numbers of a file to 0 to `white`, as `ImageFormat.apply` does."""
    g.weight("low", np.asarray(low, np.float32))
    g.weight("high", np.asarray(high, np.float32))
    x = g.add("Sub", x, "low", name="intensity/from_low")
    span = g.add("Sub", "high", "low", name="intensity/span")
    x = g.add("Div", x, span, name="intensity/share")
    x = g.add("Mul", x, g.constant(white, np.float32), name="intensity/scaled")
    x = g.add("Clip", x, g.constant(0.0, np.float32), g.constant(white, np.float32), name="intensity")
    return g.add("Round", x, name="intensity")


def add_layers(g: Graph, x: str, config: ModelConfig, layers: Sequence[Layer], dtype: str) -> str:
    """Add the U-Net to a graph: from images `[b c h w]` in [0, 1] to logits `[b k h w]`, float32."""
    if dtype == "float16":
        x = g.add("Cast", x, name="half", to=TensorProto.FLOAT16)

    def layer(x: str, layer: Layer) -> str:
        conv, kernel, bias, group_norm = layer
        x = _convolution(g, x, "/".join(conv.place), kernel.astype(dtype), bias.astype(dtype), conv.stride)
        if not group_norm:
            return x
        scale, offset = (value.astype(dtype) for value in group_norm)
        size = min(config.group_size, conv.outputs)
        return _group_norm(g, x, f"{conv.stage}/{conv.norm}", scale, offset, size, conv.norm_eps)

    def normalize(x: str, mean: Sequence[float], std: Sequence[float]) -> str:
        low, span = (np.asarray(values, dtype)[:, None, None] for values in (mean, std))
        x = g.add("Sub", x, g.weight("input/mean", low), name="input/from_mean")
        return g.add("Div", x, g.weight("input/std", span), name="input")

    def activate(x: str, name: str) -> str:
        if config.activation == "leaky_relu":
            return g.add("LeakyRelu", x, name=name, alpha=config.negative_slope)
        return g.add("Relu", x, name=name)

    operations = Operations(
        layer,
        activate,
        pool=lambda x, size, name: g.add(
            "MaxPool", x, name=name, kernel_shape=[size, size], strides=[2, 2], pads=[size // 3] * 4
        ),
        join=lambda skip, below, name: _joined(g, skip, below, name),
        add=lambda x, other, name: g.add("Add", x, other, name=name),
        normalize=normalize,
    )
    x = apply_stages(x, config, layers, operations)
    x = g.add("Cast", x, name="head", to=TensorProto.FLOAT) if dtype == "float16" else x
    _, kernel, bias, _ = layers[-1]  # always in float32
    return _convolution(g, x, "head", kernel, bias)


def _joined(g: Graph, skip: str | None, below: str, name: str) -> str:
    """Join a skip connection, if there is one, with the up-sampled result of the stage below it."""
    how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    upsampled = g.add("Resize", below, "", g.constant([1, 1, 2, 2], np.float32), name=name, **how)
    return upsampled if skip is None else g.add("Concat", skip, upsampled, name=name, axis=1)


def _convolution(g: Graph, x: str, name: str, kernel: np.ndarray, bias: np.ndarray, stride: int = 1) -> str:
    kernel = kernel.transpose(3, 2, 0, 1)
    margins = [size // 2 for size in kernel.shape[2:]]
    inputs = x, g.weight(f"{name}/kernel", kernel), g.weight(f"{name}/bias", bias)
    more: dict[str, Any] = {"strides": [stride, stride]} if stride > 1 else {}
    return g.add("Conv", *inputs, name=name, kernel_shape=list(kernel.shape[2:]), pads=[*margins, *margins], **more)


def _group_norm(g: Graph, x: str, name: str, scale: np.ndarray, bias: np.ndarray, group_size: int, eps: float) -> str:
    """Normalise groups of channels: ONNX's own operator for it is younger than many runtimes, so groups are images."""
    groups = len(scale) // group_size
    ones, zeros = (g.constant(np.full(groups, value), scale.dtype) for value in (1, 0))
    shape = g.add("Shape", x, name=name)
    x = g.add("Reshape", x, g.constant([0, groups, -1]), name=f"{name}/groups")
    x = g.add("InstanceNormalization", x, ones, zeros, name=name, epsilon=eps)
    x = g.add("Reshape", x, shape, name=f"{name}/channels")
    x = g.add("Mul", x, g.weight(f"{name}/scale", scale[:, None, None]), name=name)
    return g.add("Add", x, g.weight(f"{name}/bias", bias[:, None, None]), name=name)


def add_probabilities(g: Graph, logits: str, temperature: Sequence[float] | None, output: str) -> None:
    """Add the sigmoid; with a temperature, logits are limited and divided as in `Calibration.probs`."""
    if temperature:
        limits = (g.constant(limit, np.float32) for limit in (-_LARGEST_LOGIT, _LARGEST_LOGIT))
        logits = g.add("Clip", logits, *limits, name=f"{output}/limited")
        logits = g.add("Div", logits, g.constant(temperature, np.float32), name=f"{output}/calibrated")
    g.add("Sigmoid", logits, name=output, output=output)


def finish(g: Graph, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]) -> onnx.ModelProto:
    """Return a graph as a model, after ONNX's own check."""
    graph = helper.make_graph(g.nodes, "unet_jax", inputs, outputs, g.initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=_IR_VERSION)
    model.producer_name = "unet_jax"
    onnx.checker.check_model(model, full_check=True)
    return model
