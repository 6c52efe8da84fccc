"""The export of a run to a TFLite file for phones and small devices, by LiteRT's converter; no TensorFlow is needed."""

import dataclasses
import io
import json
import zipfile
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, Float

from unet_jax._files import replace_bytes
from unet_jax.config import ModelConfig
from unet_jax.export.check import Agreement, CheckImage, Target, compare
from unet_jax.export.contract import NOTHING, About, checked_name, input_limits, make_contract, network_size
from unet_jax.export.file_digest import zip_with_digest
from unet_jax.export.folded import Layer
from unet_jax.export.onnx_model import layers_of
from unet_jax.export.walk import Operations, apply_stages
from unet_jax.runs.load import Run

_LARGEST_LOGIT = 16.0  # as `unet_jax.metrics.calibration` limits them


def export_tflite(
    run: Run,
    out: str | epath.Path,
    images: Iterable[CheckImage],
    *,
    about: About = NOTHING,
    on_progress: Callable[[int], Any] = lambda done: None,
) -> Agreement:
    """Write the network of a run as a TFLite file: one image of the network's size in, probabilities out.

    The input `pixels` is `[1 h w c]`, uint8, or float32 for deeper images; the output `probabilities` is `[1 h w k]`.
    Intensities, temperature and sigmoid are inside. A zip archive at the end of the file, where TFLite has its
    associated files, holds `contract.json` and `labels.txt`.

    The file is written only if LiteRT's interpreter agrees with the run on the images.

    Args:
      run: run from `load_run`, with the calibration to export if it has one.
      out: file to write; its name must end in `.tflite`.
      images: images to check the export with, from `split_images` or `given_images`.
      about: licence, authors and description for the metadata.
      on_progress: called with the number of images checked.

    Returns:
      What the check found, at the network's size.

    Raises:
      InputError: the name has another ending, or the interpreter disagrees.

    Example:
      >>> run = unet_jax.load_run("RUN")  # doctest: +SKIP
      >>> agreement = export_tflite(run, "model.tflite", given_images(run, ["a.png"]))  # doctest: +SKIP
    """
    out = checked_name(out, ".tflite", "model.tflite")
    type_, limits = _input(run)
    white = float(np.iinfo(run.info.image_dtype).max)
    size = network_size(run)
    content = make_content(run, size)
    contract = make_contract(run, "pixels", type_.name, about)
    contract["input"] |= {"shape": [1, *size, run.info.num_channels]}
    runner = make_runner(content + _archive(contract))

    def network(images: np.ndarray) -> np.ndarray:
        pixels = images.astype(type_)
        if limits:  # the images are mapped already: the numbers that a file would hold
            low, high = (np.asarray(values) for values in limits)
            pixels = (low + images / white * (high - low)).astype(np.float32)
        return runner(pixels=pixels)["probabilities"]

    target = Target(network, None, is_calibrated=True)
    agreement = compare(run, target, images, name=str(out), on_progress=on_progress)
    contract["check"] = dataclasses.asdict(agreement)
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_bytes(out, zip_with_digest(content + _archive(contract)))
    return agreement


def _input(run: Run) -> tuple[np.dtype, Any]:
    """Return the data type of the input, and the limits of intensity, as `input_limits` does."""
    type_, limits = input_limits(run)
    return type_ if type_ == np.uint8 else np.dtype(np.float32), limits  # TFLite computes little with uint16


def make_content(run: Run, size: tuple[int, int]) -> bytes:
    """Return the TFLite file of a run for images of a size that the network takes, without metadata."""
    type_, limits = _input(run)
    white = float(np.iinfo(run.info.image_dtype).max)
    layers, config, calibration = layers_of(run), run.config.model, run.calibration

    def program(pixels: Array) -> Array:
        x = pixels.astype(jnp.float32)
        if limits:
            low, high = (jnp.asarray(values, jnp.float32)[None, None, None, :] for values in limits)
            x = jnp.round(jnp.clip((x - low) / (high - low) * white, 0.0, white))
        logits = apply_layers(x / white, config, layers)
        if calibration:
            temperature = jnp.asarray(calibration.temperature, jnp.float32)[None, None, None, :]
            logits = jnp.clip(logits, -_LARGEST_LOGIT, _LARGEST_LOGIT) / temperature
        return jax.nn.sigmoid(logits)

    shape = (1, *size, run.info.num_channels)
    return _convert(jax.jit(program).lower(jax.ShapeDtypeStruct(shape, type_)).as_text())


def apply_layers(x: Float[Array, "b h w c"], config: ModelConfig, layers: Sequence[Layer]) -> Float[Array, "b h w k"]:
    """Compute the logits of images in [0, 1] by the plainest operations, which converters know.

    Args:
      x: images, of a size that the network takes.
      config: settings of the network.
      layers: its layers, from `folded_layers`.
    """

    def convolve(x: Array, layer: Layer) -> Array:
        numbers, stride = ("NHWC", "HWIO", "NHWC"), (layer.conv.stride, layer.conv.stride)
        margins = [(layer.conv.kernel_size // 2, layer.conv.kernel_size // 2)] * 2
        x = jax.lax.conv_general_dilated(x, jnp.asarray(layer.kernel), stride, margins, dimension_numbers=numbers)
        x = x + layer.bias[None, None, None, :]
        if layer.group_norm:
            x = _group_norm(x, *layer.group_norm, min(config.group_size, layer.conv.outputs), layer.conv.norm_eps)
        return x

    def activate(x: Array, _: str) -> Array:
        slope = config.negative_slope
        return jnp.maximum(x, slope * x) if slope else jax.nn.relu(x)

    def pool(x: Array, size: int, _: str) -> Array:
        margins = ((0, 0), (size // 3, size // 3), (size // 3, size // 3), (0, 0))
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, size, size, 1), (1, 2, 2, 1), margins)

    def normalize(x: Array, mean: Sequence[float], std: Sequence[float]) -> Array:
        low, span = (jnp.asarray(values, jnp.float32)[None, None, None, :] for values in (mean, std))
        return (x - low) / span

    def join(skip: Array | None, below: Array, _: str) -> Array:
        b, h, w, c = below.shape
        upsampled = jnp.broadcast_to(below[:, :, None, :, None], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)
        return upsampled if skip is None else jnp.concatenate([skip, upsampled], axis=-1)

    operations = Operations(convolve, activate, pool, join, add=lambda x, other, _: x + other, normalize=normalize)
    return convolve(apply_stages(x, config, layers, operations), layers[-1])


def _group_norm(x: Array, scale: np.ndarray, bias: np.ndarray, group_size: int, eps: float) -> Array:
    b, h, w, c = x.shape
    groups = x.reshape(b, h * w, c // group_size, group_size)
    mean = groups.mean(axis=(1, 3), keepdims=True)
    variance = jnp.square(groups - mean).mean(axis=(1, 3), keepdims=True)
    normalized = ((groups - mean) * jax.lax.rsqrt(variance + eps)).reshape(x.shape)
    return normalized * scale[None, None, None, :] + bias[None, None, None, :]


def _convert(stablehlo: str) -> bytes:
    """Convert the text of a StableHLO module to a TFLite file."""
    from litert_converter import converter_api_ext as converter
    from litert_converter.mlir import ir, passmanager

    context = ir.Context()
    converter.prepare_mlir_context(context)
    with context:
        module = ir.Module.parse(stablehlo)
        converter.set_signature(module.operation, "serving_default", ["pixels"], ["probabilities"])
        converter.run_convert_to_tfl_passes(module, passmanager.PassManager(), converter.ConvertToTFLConfig())
        return converter.export_flatbuffer_to_bytes(module.operation)


def _archive(contract: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("contract.json", json.dumps(contract, indent=1))
        archive.writestr("labels.txt", "".join(f"{name}\n" for name in contract["class_names"]))
    return buffer.getvalue()


def make_runner(content: bytes, num_threads: int | None = None) -> Any:
    """Return a function of `pixels` that runs a TFLite file."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=num_threads)
    interpreter.allocate_tensors()
    return interpreter.get_signature_runner("serving_default")
