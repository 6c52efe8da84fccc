"""The export of a run to an ONNX file, with a script of four files beside it that predicts without jax."""

import dataclasses
import importlib.resources
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import jax
import numpy as np
import onnx
from etils import epath

from unet_jax._files import replace_bytes
from unet_jax._types import InputError
from unet_jax.config.predict import PredictConfig
from unet_jax.data.images.rows import rows_of
from unet_jax.export import predict_onnx
from unet_jax.export.check import TOLERANCE, Agreement, CheckImage, Target, compare
from unet_jax.export.contract import KEY, NOTHING, About, checked_name, input_limits, make_contract, network_size
from unet_jax.export.file_digest import onnx_with_digest
from unet_jax.export.folded import Layer, folded_layers
from unet_jax.export.onnx_graph import Input, make_heads, make_network
from unet_jax.export.quantization import quantize
from unet_jax.inference.fits import network_inputs
from unet_jax.inference.predict import AS_TRAINED
from unet_jax.inference.way import Way, way_of
from unet_jax.runs.load import Run
from unet_jax.runs.own_parts import check_exportable

_MOST_TILES = 4  # of an image whose activations are measured
SCRIPTS = ("predict_onnx.py", "predict_onnx_images.py", "predict_onnx_tiles.py", "predict_onnx_objects.py")
"""Files of the script that is written beside an ONNX file; the first one is the command."""


def export_onnx(
    run: Run,
    out: str | epath.Path,
    images: Iterable[CheckImage],
    *,
    about: About = NOTHING,
    dtype: Literal["float32", "float16", "int8"] = "float32",
    calibration_images: Iterable[CheckImage] = (),
    how: PredictConfig = AS_TRAINED,
    on_progress: Callable[[int], Any] = lambda done: None,
) -> Agreement:
    """Write the network of a run as an ONNX file, and `predict_onnx.py` beside it.

    The graph takes pixels `[b h w c]`, uint8 or uint16, of any batch, height and width, and returns probabilities
    and logits, `[b h w k]`. Intensity mapping, network, temperature and sigmoid are inside. The metadata `unet_jax`
    holds class names, thresholds, sizes, scores and versions as JSON.

    The file is written only if onnxruntime agrees with the run on the images.

    Args:
      run: run from `load_run`, with the calibration to export if it has one.
      out: file to write; its name must end in `.onnx`.
      images: images to check the export with, from `split_images` or `given_images`.
      about: licence, authors and description for the metadata.
      dtype: type of weights and activations. With float16 and int8 the differences are reported, and not bounded.
      calibration_images: for int8, images that the ranges of the activations are measured on; training images.
      how: way of images to the network, which the script follows; without test-time augmentation.
      on_progress: called with the number of images checked.

    Returns:
      What the check found.

    Raises:
      InputError: the name has another ending, the network is too large for one file, or onnxruntime disagrees.

    Example:
      >>> run = unet_jax.load_run("RUN")  # doctest: +SKIP
      >>> agreement = export_onnx(run, "model.onnx", split_images(run, "DATA", "val", most=50))  # doctest: +SKIP
      >>> agreement.largest_difference < 1e-4  # doctest: +SKIP
      True
    """
    out = checked_name(out, ".onnx", "model.onnx")
    type_, limits = input_limits(run)
    model = make_model(run, "float16" if dtype == "float16" else "float32")
    if dtype == "int8":
        model = quantize(model, _feeds(way_of(run, how), calibration_images, type_, limits is not None))
    contract = make_contract(run, "pixels", type_.name, about, how)
    agreement = check_model(run, model, contract, images, str(out), dtype == "float32", on_progress, how)
    write_scripts(out.parent)
    write_model(out, model, contract, agreement)
    return agreement


def make_model(run: Run, dtype: str = "float32") -> onnx.ModelProto:
    """Return the graph of a run, from pixels to probabilities, without metadata."""
    type_, limits = input_limits(run)
    return make_network(
        run.config.model,
        layers_of(run),
        num_channels=run.info.num_channels,
        num_classes=len(run.class_names),
        pixels=Input(type_, float(np.iinfo(run.info.image_dtype).max), limits),
        temperature=run.calibration.temperature if run.calibration else None,
        dtype=dtype,
    )


def _feeds(way: Way, images: Iterable[CheckImage], dtype: np.dtype, has_limits: bool) -> Iterator[dict[str, Any]]:
    """Yield the inputs of a graph for images as the network sees them; of tiles, a few of each image."""
    for check in images:
        inputs = list(network_inputs(rows_of(check.image), way))
        for i in sorted({i * len(inputs) // _MOST_TILES for i in range(_MOST_TILES)}):
            yield predict_onnx.feeds(inputs[i][None], dtype, has_limits)


def export_heads(
    run: Run,
    out: str | epath.Path,
    images: Iterable[CheckImage],
    *,
    about: About = NOTHING,
    on_progress: Callable[[int], Any] = lambda done: None,
) -> Agreement:
    """Write the network of a run as an ONNX file with one output per class, with the metadata of QGIS Deepness.

    The graph takes float32 `[b c h w]` in [0, 1] of the size that the network was trained on, and returns
    `[b 1 h w]` for each class. Deepness cuts the tiles and applies the threshold.

    Args:
      run, out, images, about, on_progress: the same as in `export_onnx`.

    Returns:
      What the check found, at the network's size.

    Raises:
      InputError: as in `export_onnx`; the size is not square, the images are not of 8 bits, or thresholds differ.
    """
    out = checked_name(out, ".onnx", "model.onnx")
    height, width = network_size(run)
    thresholds = sorted({float(value) for value in run.threshold})
    if run.info.image_dtype != np.uint8:
        raise InputError(f"{run.path}: its images have more than 8 bits, which QGIS Deepness does not read.")
    if height != width:
        raise InputError(f"{run.path}: its images are {height}x{width}, but QGIS Deepness cuts squares.")
    if len(thresholds) > 1:
        raise InputError(
            f"{run.path}: its thresholds differ ({thresholds}), but QGIS Deepness has one for all classes. Export "
            f"without --calibrated."
        )
    model = make_heads(
        run.config.model,
        layers_of(run),
        num_channels=run.info.num_channels,
        class_names=run.class_names,
        size=(height, width),
        temperature=run.calibration.temperature if run.calibration else None,
    )
    session = new_session(model)

    def network(images: np.ndarray) -> np.ndarray:
        heads = session.run(None, {"image": np.float32(images.transpose(0, 3, 1, 2) * (1.0 / 255.0))})
        return np.concatenate(heads, axis=1).transpose(0, 2, 3, 1)

    target = Target(network, None, is_calibrated=True)
    agreement = compare(run, target, images, name=str(out), on_progress=on_progress)
    contract = make_contract(run, "heads", "float32", about)
    write_model(out, model, contract, agreement, deepness_metadata(run.class_names, thresholds[0], height))
    return agreement


def layers_of(run: Run) -> list[Layer]:
    """Return the layers of a run's network."""
    check_exportable(run.path, run.info.own)
    params, batch_stats = jax.device_get((run.state.params, run.state.batch_stats))
    sizes = {"num_channels": run.info.num_channels, "num_classes": len(run.class_names)}
    return folded_layers(run.config.model, params, batch_stats, **sizes)


def deepness_metadata(class_names: Sequence[str], threshold: float, size: int) -> dict[str, str]:
    """Return the metadata that QGIS Deepness reads: each value is JSON.

    Its documentation names the key of the size `tiles_size`, its source `tile_size`: both are given. Each output
    has the name of its only class; Deepness itself adds the background.
    """
    values = {
        "model_type": "Segmentor",
        "class_names": [{"0": name} for name in class_names],
        "tile_size": size,
        "tiles_size": size,
        "tiles_overlap": 15,
        "seg_thresh": threshold,
        "seg_small_segment": 0,
    }
    return {key: json.dumps(value) for key, value in values.items()}


def check_model(
    run: Run,
    model: onnx.ModelProto,
    contract: dict[str, Any],
    images: Iterable[CheckImage],
    name: str,
    is_exact: bool,
    on_progress: Callable[[int], Any] = lambda done: None,
    how: PredictConfig = AS_TRAINED,
) -> Agreement:
    """Compare a graph from pixels to probabilities with its run, in onnxruntime and by the functions of the script."""
    loaded = predict_onnx.Model(new_session(model), contract)
    target = Target(
        lambda images: predict_onnx.run_network(loaded, images),
        lambda image: predict_onnx.predict_masks(loaded, image),
        is_calibrated=True,
    )
    tolerance = TOLERANCE if is_exact else None
    return compare(run, target, images, tolerance=tolerance, name=name, how=how, on_progress=on_progress)


def write_model(
    out: epath.Path,
    model: onnx.ModelProto,
    contract: dict[str, Any],
    agreement: Agreement,
    more: dict[str, str] | None = None,
) -> None:
    """Write a model with its metadata, by one rename."""
    check = dataclasses.asdict(agreement)
    metadata = {KEY: json.dumps({**contract, "check": check}), **(more or {})}
    metadata |= {key: contract[key] for key in ("license", "description") if contract[key]}
    onnx.helper.set_model_props(model, metadata)
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_bytes(out, onnx_with_digest(model.SerializeToString()))


def write_scripts(folder: epath.Path) -> None:
    """Write `predict_onnx.py` and the two files that it imports into a folder.

    Raises:
      InputError: there is a file of one of these names that is not ours.
    """
    scripts = importlib.resources.files("unet_jax.export")
    texts = {folder / name: scripts.joinpath(name).read_text() for name in SCRIPTS}
    for path, text in texts.items():
        if path.exists() and path.read_text().splitlines()[:1] != text.splitlines()[:1]:
            raise InputError(f"{path}: is there already and is not the script that would be written. Move it away.")
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in texts.items():
        replace_bytes(path, text.encode())


def new_session(model: onnx.ModelProto) -> Any:
    """Return a session of onnxruntime, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
