"""The export of a run to a StableHLO program for several kinds of devices (`unet_jax.export.exported` loads it)."""

import dataclasses
import io
import itertools
import json
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax import export
from jaxtyping import Array

from unet_jax._files import replace_bytes
from unet_jax._types import PyTree
from unet_jax.config import ModelConfig
from unet_jax.config.predict import PredictConfig
from unet_jax.export.check import TOLERANCE, Agreement, CheckImage, Target, compare
from unet_jax.export.contract import NOTHING, About, checked_name, input_limits, make_contract
from unet_jax.export.exported import Exported, load_archive, platform_here
from unet_jax.export.file_digest import zip_with_digest
from unet_jax.export.folded import without_supervision
from unet_jax.inference.predict import AS_TRAINED
from unet_jax.program.build import build_logits
from unet_jax.runs.load import Run

Platform = Literal["cpu", "cuda", "rocm", "tpu"]
PLATFORMS: tuple[Platform, ...] = ("cpu", "cuda", "tpu")
"""Kinds of devices that a program is exported for by default."""
_LARGEST_LOGIT = 16.0  # as `unet_jax.metrics.calibration` limits them


def export_stablehlo(
    run: Run,
    out: str | epath.Path,
    images: Iterable[CheckImage],
    *,
    platforms: Sequence[Platform] = PLATFORMS,
    about: About = NOTHING,
    dtype: Literal["float32", "bfloat16"] = "float32",
    how: PredictConfig = AS_TRAINED,
    on_progress: Callable[[int], Any] = lambda done: None,
) -> Agreement:
    """Write the network of a run as a StableHLO program, for `load_exported` and other users of `jax.export`.

    Each platform gets the program that is best for it, on whatever machine the export is made: on a TPU the activations
    are packed as `model.packing` says. Batch, height and width are free.

    The file is written only if the program agrees with the run on the images. What this machine cannot run is computed
    here with the other platform's packing instead, on one image.

    Args:
      run: run from `load_run`, with the calibration to export if it has one.
      out: file to write; its name must end in `.stablehlo`.
      images: images to check the export with, from `split_images` or `given_images`.
      platforms: kinds of devices: "cpu", "cuda", "rocm", "tpu".
      about: licence, authors and description for the metadata.
      dtype: type of activations. With bfloat16 the differences are reported, and not bounded.
      how: way of images to the network, which `Exported.predict_images` follows; without test-time augmentation.
      on_progress: called with the number of images checked.

    Returns:
      What the check found.

    Raises:
      InputError: the name has another ending, or the program differs from the run.

    Example:
      >>> run = unet_jax.load_run("RUN")  # doctest: +SKIP
      >>> images = split_images(run, "DATA", "val", most=50)  # doctest: +SKIP
      >>> export_stablehlo(run, "model.stablehlo", images).largest_difference < 1e-4  # doctest: +SKIP
      True
    """
    out = checked_name(out, ".stablehlo", "model.stablehlo")
    type_, limits = input_limits(run)
    contract = make_contract(run, "pixels", type_.name, about, how)
    params, batch_stats = jax.device_get((run.state.params, run.state.batch_stats))
    weights = {"params": without_supervision(params), "batch_stats": batch_stats}
    options = {name: np.asarray(values, np.float32) for name, values in zip(("low", "high"), limits or ())}  # noqa: B905
    if run.calibration:
        options["temperature"] = np.asarray(run.calibration.temperature, np.float32)
    white = float(np.iinfo(run.info.image_dtype).max)
    config = dataclasses.replace(run.config.model, dtype=dtype)
    programs = {p: _make_program(config, len(run.class_names), white, p) for p in platforms}
    contract["platforms"] = list(programs)
    exported = _export(programs, weights, options, type_, contract["input"])
    loaded = load_archive(io.BytesIO(_archive(exported, weights, options, contract)), str(out))
    here, tolerance = platform_here(), TOLERANCE if dtype == "float32" else None
    network = loaded if here in programs else _local(loaded, programs[platforms[0]])
    target = Target(network.uncalibrated, lambda image: network.masks_of(next(network.predict_seen([image]))))
    images = iter(images)
    first = list(itertools.islice(images, 1))
    images = itertools.chain(first, images)
    agreement = compare(run, target, images, tolerance=tolerance, name=str(out), how=how, on_progress=on_progress)
    for platform in platforms:
        if platform != here:
            other = Target(_local(loaded, programs[platform]).uncalibrated, None)
            compare(run, other, first, tolerance=tolerance, name=f"{out}: the program for {platform}")
    contract["check"] = dataclasses.asdict(agreement)
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_bytes(out, _archive(exported, weights, options, contract))
    return agreement


def _local(loaded: Exported, program: Callable[..., tuple[Array, Array]]) -> Exported:
    """Return an exported network whose program is compiled for this machine."""
    return dataclasses.replace(loaded, program=_Local(program))  # type: ignore[arg-type]


class _Local:
    """A program that is compiled here, in the place of an exported one."""

    def __init__(self, program: Callable[..., tuple[Array, Array]]) -> None:
        self.call = jax.jit(program)


def _make_program(
    config: ModelConfig, num_classes: int, white: float, platform: Platform
) -> Callable[..., tuple[Array, Array]]:
    """Make the function `(weights, options, pixels) -> (probabilities, logits)` as it is best for a kind of device."""
    logits_of = build_logits(config, num_classes, {"cuda": "gpu", "rocm": "gpu"}.get(platform, platform))

    def program(weights: PyTree, options: dict[str, Array], pixels: Array) -> tuple[Array, Array]:
        x = pixels.astype(jnp.float32)
        if "low" in options:
            low, high = (options[name][None, None, None, :] for name in ("low", "high"))
            x = jnp.round(jnp.clip((x - low) / (high - low) * white, 0.0, white))
        logits = calibrated = logits_of(weights, x / white)
        if "temperature" in options:
            limited = jnp.clip(logits, -_LARGEST_LOGIT, _LARGEST_LOGIT)
            calibrated = limited / options["temperature"][None, None, None, :]
        return jax.nn.sigmoid(calibrated), logits

    return program


def _export(
    programs: Mapping[str, Callable[..., tuple[Array, Array]]],
    weights: PyTree,
    options: dict[str, np.ndarray],
    dtype: np.dtype,
    sizes: dict[str, Any],
) -> export.Exported:
    """Return one program that chooses by platform, for any batch, height and width."""

    def program(*args: Any) -> tuple[Array, Array]:
        return jax.lax.platform_dependent(*args, **programs)

    only = next(iter(programs.values())) if len(programs) == 1 else program
    b, h, w = export.symbolic_shape("b, h, w")
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (weights, options))
    multiple = sizes["size_multiple"]
    pixels = jax.ShapeDtypeStruct((b, multiple * h, multiple * w, sizes["channels"]), dtype)
    return export.export(jax.jit(only), platforms=list(programs))(*shapes, pixels)


def _archive(
    program: export.Exported, weights: PyTree, options: dict[str, np.ndarray], contract: dict[str, Any]
) -> bytes:
    """Return the content of the file."""
    flat = {"/".join(key.key for key in path): x for path, x in jax.tree_util.tree_leaves_with_path(weights)}
    arrays, buffer = io.BytesIO(), io.BytesIO()
    np.savez(arrays, **{**flat, **{f"options/{name}": value for name, value in options.items()}})  # type: ignore
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("contract.json", json.dumps(contract, indent=1))
        archive.writestr("program.bin", bytes(program.serialize()))
        archive.writestr("weights.npz", arrays.getvalue())
    return zip_with_digest(buffer.getvalue())
