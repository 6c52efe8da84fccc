"""The export of a run to a package of the BioImage Model Zoo, which Fiji (deepImageJ), ilastik and others open."""

import dataclasses
import importlib.metadata
import itertools
import pathlib
import tempfile
from collections.abc import Callable, Iterable
from typing import Any

import cv2
import numpy as np
import onnx
from etils import epath

from unet_jax._files import replace_bytes
from unet_jax._types import InputError
from unet_jax.data.pixels import resize_image, write_png
from unet_jax.export.check import Agreement, CheckImage
from unet_jax.export.contract import About, checked_name, input_limits, make_contract, network_size
from unet_jax.export.file_digest import onnx_with_digest, zip_with_digest
from unet_jax.export.onnx_graph import OPSET
from unet_jax.export.onnx_model import check_model, make_model, new_session
from unet_jax.report.pictures import render_overlay, to_rgb
from unet_jax.runs.load import Run

_COVER_SIZE = (256, 256)


def export_bioimageio(
    run: Run,
    out: str | epath.Path,
    images: Iterable[CheckImage],
    *,
    about: About,
    on_progress: Callable[[int], Any] = lambda done: None,
) -> Agreement:
    """Write the network of a run as a package of the BioImage Model Zoo: the ONNX file, its description and test data.

    The package is written only if onnxruntime agrees with the run on the images, and if `bioimageio.spec` accepts it.

    Args:
      run: run from `load_run`, with the calibration to export if it has one.
      out: file to write; its name must end in `.zip`.
      images: images to check the export with, from `split_images` or `given_images`. The first one is the package's
        test data and cover.
      about: licence and authors, which a package must name, and a description.
      on_progress: called with the number of images checked.

    Returns:
      What the check found.

    Raises:
      InputError: the name has another ending, a licence or an author is missing, or the package is not valid.

    Example:
      >>> run = unet_jax.load_run("RUN")  # doctest: +SKIP
      >>> about = About("CC-BY-4.0", ("A. Person",), "Finds white blood cells.")  # doctest: +SKIP
      >>> export_bioimageio(run, "cells.zip", given_images(run, ["a.png"]), about=about)  # doctest: +SKIP
    """
    out = checked_name(out, ".zip", "model.zip")
    if not (about.license and about.authors):
        raise InputError(
            "a package of the BioImage Model Zoo names a licence and authors: --license CC-BY-4.0 --authors 'A. Person'"
        )
    model, contract = make_model(run), make_contract(run, "pixels", input_limits(run)[0].name, about)
    images = iter(images)
    first = list(itertools.islice(images, 1))
    agreement = check_model(run, model, contract, itertools.chain(first, images), str(out), True, on_progress)
    contract["check"] = dataclasses.asdict(agreement)
    del model.graph.output[1:]  # the logits, which nothing there asks for
    with tempfile.TemporaryDirectory() as folder:
        content = _package(run, model, contract, first[0], pathlib.Path(folder))
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_bytes(out, content)
    return agreement


def _package(
    run: Run, model: onnx.ModelProto, contract: dict[str, Any], check: CheckImage, folder: pathlib.Path
) -> bytes:
    """Return the content of the package; `folder` is for the files in it."""
    from bioimageio.spec import ValidationContext, load_description, save_bioimageio_package
    from bioimageio.spec.model.v0_5 import ModelDescr

    height, width = network_size(run)
    seen = resize_image(check.image, height, width)
    pixels = _numbers(run, seen[None])
    (probs,) = new_session(model).run(None, {"pixels": pixels})
    np.save(folder / "test_input.npy", pixels)
    np.save(folder / "test_output.npy", probs)
    (folder / "weights.onnx").write_bytes(onnx_with_digest(model.SerializeToString()))
    (folder / "README.md").write_text(_readme(run, contract))
    overlay = render_overlay(to_rgb(seen), probs[0] > run.threshold)
    write_png(epath.Path(folder / "cover.png"), cv2.resize(overlay, _COVER_SIZE, interpolation=cv2.INTER_NEAREST))
    with ValidationContext(root=folder, perform_io_checks=True):
        try:
            description = ModelDescr.model_validate(_description(run, contract, pixels.dtype))
        except ValueError as error:
            reason = " ".join(str(error).split())
            raise InputError(f"bioimageio.spec does not accept the description: {reason}") from error
        path = save_bioimageio_package(description, output_path=folder / "package.zip")
    loaded = load_description(path)
    if loaded.validation_summary.status == "failed":
        raise InputError(f"bioimageio.spec does not accept the package: {loaded.validation_summary.display()}")
    return zip_with_digest(pathlib.Path(path).read_bytes())


def _numbers(run: Run, seen: np.ndarray) -> np.ndarray:
    """Return numbers that files would hold, for pixels as the network sees them."""
    dtype, limits = input_limits(run)
    if limits is None:
        return seen.astype(dtype)
    low, high = (np.asarray(values) for values in limits)
    numbers = low + seen / np.iinfo(seen.dtype).max * (high - low)
    return (np.rint(numbers) if dtype.kind == "u" else numbers).astype(dtype)


def _description(run: Run, contract: dict[str, Any], dtype: np.dtype) -> dict[str, Any]:
    """Return the package's description, as `bioimageio.spec` 0.5 has it."""
    from bioimageio.spec.model.v0_5 import ModelDescr

    height, width = network_size(run)
    multiple, channels = contract["input"]["size_multiple"], contract["input"]["channels"]
    image_format = run.info.image_format
    names = list(image_format.names) if image_format and image_format.names else None
    names = names or (["red", "green", "blue"] if channels == 3 else [f"channel{i}" for i in range(channels)])
    description = contract["description"] or f"U-Net for {', '.join(run.class_names)}."

    def sides(make: Callable[[str, int], Any]) -> list[dict[str, Any]]:
        return [{"type": "space", "id": axis, "size": make(axis, side)} for axis, side in (("y", height), ("x", width))]

    batch, inside = {"type": "batch"}, lambda axis, side: {"min": side, "step": multiple}
    return {
        "type": "model",
        "format_version": ModelDescr.implemented_format_version,
        "name": f"U-Net for {' and '.join(run.class_names)}"[:128],
        "description": description[:1024],
        "authors": [{"name": name} for name in contract["authors"]],
        "license": contract["license"],
        "covers": [{"source": "cover.png"}],
        "documentation": {"source": "README.md"},
        "tags": ["segmentation", "unet", "2d", "jax"],
        "inputs": [
            {
                "id": "pixels",
                "description": "numbers of an image file",
                "axes": [batch, *sides(inside), {"type": "channel", "channel_names": names}],
                "data": {"type": dtype.name},
                "test_tensor": {"source": "test_input.npy"},
            }
        ],
        "outputs": [
            {
                "id": "probabilities",
                "description": f"a pixel is in a class above its threshold, {contract['thresholds']}",
                "axes": [
                    batch,
                    *sides(lambda axis, side: {"tensor_id": "pixels", "axis_id": axis}),
                    {"type": "channel", "channel_names": list(run.class_names)},
                ],
                "data": {"type": "float32", "range": [0.0, 1.0]},
                "test_tensor": {"source": "test_output.npy"},
            }
        ],
        "weights": {"onnx": {"source": "weights.onnx", "opset_version": OPSET}},
        "config": {"unet_jax": contract},
    }


def _readme(run: Run, contract: dict[str, Any]) -> str:
    """Return the documentation in the package, which validation wants with a section of that name."""
    fit, check = contract["fit"], contract["check"]
    how = "to which others are resized" if fit["kind"] == "stretch" else f"which data.fit {fit['kind']} made of others"
    lines = [
        f"- {name}: {threshold:g}" for name, threshold in zip(run.class_names, contract["thresholds"], strict=True)
    ]
    scores = ", ".join(f"{name} {value:.4f}" for name, value in run.metrics.items())
    return f"""# U-Net for {", ".join(run.class_names)}

{contract["description"]}

The network was trained on images of {fit["width"]}x{fit["height"]} pixels (width x height), {how}.
The output holds one probability per class. Classes are independent and may overlap. Thresholds:

{chr(10).join(lines)}

## Validation

Scores on the validation images during training: {scores or "not recorded"}. Compared with the trained run on
{check["num_images"]} images, probabilities differ by at most {check["largest_difference"]:.1e}.

Made by unet_jax {importlib.metadata.version("unet_jax")}.
"""
