"""Graphs whose convolutions compute with 8-bit integers, by onnxruntime's own quantization."""

import contextlib
import logging
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from unet_jax._types import InputError


def quantize(model: onnx.ModelProto, feeds: Iterator[dict[str, Any]]) -> onnx.ModelProto:
    """Return a graph whose convolutions, except for the last one, have 8-bit weights and activations.

    Weights have one scale per output channel. The ranges of the activations are the smallest and largest values on the
    given images.

    Args:
      model: graph in float32, from `unet_jax.export.onnx_graph`.
      feeds: inputs of the graph for images that are typical, such as training images.

    Raises:
      InputError: there is no image.
    """
    first = next(feeds, None)
    if first is None:
        raise InputError("there is no image to measure the ranges of the activations on (training images).")

    class Reader(CalibrationDataReader):
        """The images, in the form that onnxruntime asks for."""

        def __init__(self) -> None:
            self._first: dict[str, Any] | None = first

        def get_next(self) -> dict[str, Any] | None:
            """Return the inputs of the next image, or None after the last one."""
            current, self._first = self._first, None
            return current if current is not None else next(feeds, None)

    with tempfile.TemporaryDirectory() as folder, _without_advice():
        path = pathlib.Path(folder) / "quantized.onnx"
        quantize_static(
            model,
            path,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            op_types_to_quantize=["Conv", "MaxPool", "Concat", "Resize", "Relu", "LeakyRelu"],
            nodes_to_exclude=["head/Conv"],
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(path)


@contextlib.contextmanager
def _without_advice() -> Iterator[None]:
    """Hide onnxruntime's advice to fuse layers before quantization, which are fused already."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
