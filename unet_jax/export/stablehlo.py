"""The export of a run to a StableHLO program for several kinds of devices, and its loading.

The file is a zip archive: `program.bin`, which `jax.export.deserialize` reads; `weights.npz`, its first argument; and
`contract.json` (`unet_jax.export.contract`).
"""

import dataclasses
import io
import itertools
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax import export
from jaxtyping import Array, Float, Num

from unet_jax._files import replace_bytes
from unet_jax._types import InputError, PyTree
from unet_jax.config import ModelConfig
from unet_jax.data.images.format import ImageFormat
from unet_jax.data.pixels import resize_image, resize_probs
from unet_jax.export.check import TOLERANCE, Agreement, CheckImage, Target, compare
from unet_jax.export.contract import FORMAT, NOTHING, About, checked_name, input_limits, make_contract
from unet_jax.metrics.calibration import Calibration
from unet_jax.program.build import build_logits
from unet_jax.runs.load import Run

Platform = Literal["cpu", "cuda", "rocm", "tpu"]
PLATFORMS: tuple[Platform, ...] = ("cpu", "cuda", "tpu")
"""Kinds of devices that a program is exported for by default."""
_LARGEST_LOGIT = 16.0  # as `unet_jax.metrics.calibration` limits them


@dataclasses.dataclass(frozen=True)
class Exported:
    """A network that was loaded by `load_exported`, which needs no run directory."""

    contract: dict[str, Any]
    """Facts about the network (`unet_jax.export.contract`)."""
    program: export.Exported
    """Function `(weights, options, pixels) -> probabilities`, for any batch size, and sides that are multiples of
    `contract["input"]["size_multiple"]`."""
    weights: dict[str, Any]
    """Parameters and running statistics."""
    options: dict[str, np.ndarray]
    """The limits of intensity `low` and `high`, and `temperature`, if the run has them."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the channels."""
        return tuple(self.contract["class_names"])

    @property
    def threshold(self) -> Float[np.ndarray, " k"]:
        """Probability above which a pixel belongs to the class: `[k]` float32."""
        return np.asarray(self.contract["thresholds"], np.float32)

    def __call__(self, pixels: Num[np.ndarray, "b h w c"]) -> Float[np.ndarray, "b h w k"]:
        """Compute the probabilities of images at their own size, as `predict_probs_unresized` does.

        Args:
          pixels: `[b h w c]`, numbers of the run's image files; uint8 RGB for most runs.

        Returns:
          `[b h w k]` float32 in [0, 1], calibrated if the export is.
        """
        return self._padded(pixels, self.options)

    def predict_images(self, images: Iterable[Num[np.ndarray, "h w c"]]) -> Iterator[Float[np.ndarray, "h w k"]]:
        """Yield the probabilities of each image at its own size, as `unet_jax.predict_images` does.

        Args:
          images: `[h w c]`, each of any size, with the channels and numbers of the run's image files.
        """
        stored = self.contract["images"]
        image_format = ImageFormat.from_dict(stored) if stored else None
        for image in images:
            yield self.predict_seen(image_format.apply(np.asarray(image)) if image_format else np.asarray(image))

    def predict_seen(self, image: Num[np.ndarray, "h w c"]) -> Float[np.ndarray, "h w k"]:
        """Return the probabilities of one image whose intensities are mapped already, at its own size."""
        fit, temperatures = self.contract["fit"], self.contract["temperatures"]
        if fit["kind"] != "stretch":
            raise InputError(
                f"the network was trained with data.fit {fit['kind']}, but an exported one only resizes images. Bring "
                f"images to its scale, and call it with them as they are; or use the run."
            )
        seen = resize_image(image, fit["height"], fit["width"])
        probs = resize_probs(self.uncalibrated(seen[None])[0], *image.shape[:2])
        return Calibration(tuple(temperatures), ()).probs(probs) if temperatures else probs

    def uncalibrated(self, pixels: Num[np.ndarray, "b h w c"]) -> Float[np.ndarray, "b h w k"]:
        """Compute probabilities before calibration, of images whose intensities are mapped already."""
        options = {name: np.ones(value.shape, np.float32) for name, value in self.options.items()}
        if "low" in options:
            options |= {"low": 0.0 * options["low"], "high": 65535.0 * options["high"]}
        return self._padded(pixels, options)

    def _padded(self, pixels: np.ndarray, options: dict[str, Any]) -> np.ndarray:
        height, width = pixels.shape[1:3]
        multiple = self.contract["input"]["size_multiple"]
        padding = ((0, 0), (0, -height % multiple), (0, -width % multiple), (0, 0))
        padded = np.pad(pixels, padding, mode="symmetric").astype(self.contract["input"]["dtype"], copy=False)
        return np.asarray(self.program.call(self.weights, options, padded))[:, :height, :width]


def export_stablehlo(
    run: Run,
    out: str | epath.Path,
    images: Iterable[CheckImage],
    *,
    platforms: Sequence[Platform] = PLATFORMS,
    about: About = NOTHING,
    dtype: Literal["float32", "bfloat16"] = "float32",
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
    contract = make_contract(run, "pixels", type_.name, about)
    params, batch_stats = jax.device_get((run.state.params, run.state.batch_stats))
    weights = {"params": params, "batch_stats": batch_stats}
    options = {name: np.asarray(values, np.float32) for name, values in zip(("low", "high"), limits or ())}  # noqa: B905
    if run.calibration:
        options["temperature"] = np.asarray(run.calibration.temperature, np.float32)
    white = float(np.iinfo(run.info.image_dtype).max)
    config = dataclasses.replace(run.config.model, dtype=dtype)
    programs = {p: _make_program(config, len(run.class_names), white, p) for p in platforms}
    contract["platforms"] = list(programs)
    exported = _export(programs, weights, options, type_, contract["input"])
    loaded = _load(io.BytesIO(_archive(exported, weights, options, contract)), str(out))
    here, tolerance = _platform_here(), TOLERANCE if dtype == "float32" else None
    network = loaded if here in programs else _local(loaded, programs[platforms[0]])
    is_resized = contract["fit"]["kind"] == "stretch"
    masks = (lambda image: network.predict_seen(image) > network.threshold) if is_resized else None
    target = Target(network.uncalibrated, masks)
    images = iter(images)
    first = list(itertools.islice(images, 1))
    images = itertools.chain(first, images)
    agreement = compare(run, target, images, tolerance=tolerance, name=str(out), on_progress=on_progress)
    for platform in platforms:
        if platform != here:
            other = Target(_local(loaded, programs[platform]).uncalibrated, None)
            compare(run, other, first, tolerance=tolerance, name=f"{out}: the program for {platform}")
    contract["check"] = dataclasses.asdict(agreement)
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_bytes(out, _archive(exported, weights, options, contract))
    return agreement


def _platform_here() -> str:
    """Return the name that `jax.export` has for the kind of device that jax uses."""
    backend = jax.default_backend()
    return jax.devices()[0].client.platform if backend == "gpu" else backend


def _local(loaded: Exported, program: Callable[..., Array]) -> Exported:
    """Return an exported network whose program is compiled for this machine."""
    return dataclasses.replace(loaded, program=_Local(program))  # type: ignore[arg-type]


class _Local:
    """A program that is compiled here, in the place of an exported one."""

    def __init__(self, program: Callable[..., Array]) -> None:
        self.call = jax.jit(program)


def _make_program(config: ModelConfig, num_classes: int, white: float, platform: Platform) -> Callable[..., Array]:
    """Make the function `(weights, options, pixels) -> probabilities` as it is best for one kind of device."""
    logits_of = build_logits(config, num_classes, {"cuda": "gpu", "rocm": "gpu"}.get(platform, platform))

    def program(weights: PyTree, options: dict[str, Array], pixels: Array) -> Array:
        x = pixels.astype(jnp.float32)
        if "low" in options:
            low, high = (options[name][None, None, None, :] for name in ("low", "high"))
            x = jnp.round(jnp.clip((x - low) / (high - low) * white, 0.0, white))
        logits = logits_of(weights, x / white)
        if "temperature" in options:
            limited = jnp.clip(logits, -_LARGEST_LOGIT, _LARGEST_LOGIT)
            logits = limited / options["temperature"][None, None, None, :]
        return jax.nn.sigmoid(logits)

    return program


def _export(
    programs: Mapping[str, Callable[..., Array]],
    weights: PyTree,
    options: dict[str, np.ndarray],
    dtype: np.dtype,
    sizes: dict[str, Any],
) -> export.Exported:
    """Return one program that chooses by platform, for any batch, height and width."""

    def program(*args: Any) -> Array:
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
    return buffer.getvalue()


def load_exported(path: str | epath.Path) -> Exported:
    """Load a network from a file that `unet-jax export --to stablehlo` wrote. No run directory is needed.

    Args:
      path: the file, local or in a bucket.

    Returns:
      The network, which can be called with images.

    Raises:
      InputError: the file is damaged or not such a file, or this version of jax cannot read it.

    Example:
      >>> network = unet_jax.load_exported("model.stablehlo")  # doctest: +SKIP
      >>> masks = [p > network.threshold for p in network.predict_images(images)]  # doctest: +SKIP
    """
    path = epath.Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file.") from error
    loaded = _load(io.BytesIO(data), str(path))
    here = _platform_here()
    if here not in loaded.program.platforms:
        made = ", ".join(loaded.program.platforms)
        raise InputError(
            f"{path}: was exported for {made}, but jax runs on {here} here. Export it for --platforms {here}."
        )
    return loaded


def _load(file: io.BytesIO, name: str) -> Exported:
    try:
        with zipfile.ZipFile(file) as archive:  # which compares checksums
            contract = json.loads(archive.read("contract.json"))
            program, arrays = bytearray(archive.read("program.bin")), io.BytesIO(archive.read("weights.npz"))
        with np.load(arrays, allow_pickle=False) as npz:
            flat = {key: npz[key] for key in npz.files}
    except Exception as error:  # zipfile, zlib and NumPy raise errors of many types
        raise InputError(
            f"{name}: is damaged, or was not made by unet-jax export --to stablehlo ({error}). Export it again."
        ) from error
    if contract.get("format") != FORMAT:
        raise InputError(f"{name}: has format {contract.get('format')!r}; this version of unet_jax reads {FORMAT}.")
    try:
        exported = export.deserialize(program)
    except Exception as error:  # jax and its parser raise errors of several types
        made = contract["versions"].get("jax")
        raise InputError(
            f"{name}: jax {jax.__version__} cannot read the program, which jax {made} wrote ({error}). Export it again."
        ) from error
    options = {key.removeprefix("options/"): value for key, value in flat.items() if key.startswith("options/")}
    weights: dict[str, Any] = {"params": {}, "batch_stats": {}}
    for key, value in flat.items():
        *parents, last = key.split("/")
        if parents[0] == "options":
            continue
        place = weights
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = jnp.asarray(value)
    return Exported(contract, exported, weights, options)
