"""Networks from files that `unet-jax export --to stablehlo` wrote, which need no run directory.

The file is a zip archive: `program.bin`, which `jax.export.deserialize` reads; `weights.npz`, its first argument; and
`contract.json` (`unet_jax.export.contract`). The archive's comment is a digest (`unet_jax.export.file_digest`).
"""

import dataclasses
import io
import json
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax import export
from jaxtyping import Array, Bool, Float, Num
from scipy import special

from unet_jax._types import InputError
from unet_jax.data.images.format import ImageFormat
from unet_jax.data.images.rows import rows_of
from unet_jax.export.contract import FORMAT, way_of_contract
from unet_jax.export.file_digest import check_digest
from unet_jax.export.predict_onnx_tiles import far_scale
from unet_jax.inference.fits import BATCH_SIZE, patches_through
from unet_jax.inference.predict import as_seen, whole_images
from unet_jax.inference.way import seen_area
from unet_jax.metrics.calibration import Calibration
from unet_jax.metrics.object_rules import ObjectRules, apply_to_classes
from unet_jax.program.tile_stream import Network

_WHITE = 65535.0


@dataclasses.dataclass(frozen=True)
class Exported:
    """A network that was loaded by `load_exported`, which needs no run directory."""

    contract: dict[str, Any]
    """Facts about the network (`unet_jax.export.contract`)."""
    program: export.Exported
    """Function `(weights, options, pixels) -> (probabilities, logits)`, for any batch size, and sides that are
    multiples of `contract["input"]["size_multiple"]`."""
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

        Raises:
          InputError: the pixels have another shape or type.
        """
        stored, pixels = self.contract["input"], np.asarray(pixels)
        if pixels.ndim != 4 or pixels.shape[-1] != stored["channels"] or not _fits(pixels.dtype, stored["dtype"]):
            raise InputError(
                f"images have shape {pixels.shape} and dtype {pixels.dtype}, but must be [batch height width "
                f"{stored['channels']}] and {stored['dtype']}."
            )
        return np.asarray(self._padded(pixels, self.options)[0])

    def predict_images(self, images: Iterable[Num[np.ndarray, "h w c"]]) -> Iterator[Float[np.ndarray, "h w k"]]:
        """Yield the probabilities of each image at its own size, as `unet_jax.predict_images` does.

        Images come to the network as in training: resized, or in overlapping tiles.

        Args:
          images: `[h w c]`, each of any size, with the channels and numbers of the run's image files. A warning names
            the first one whose scale is far from that of training.
        """
        stored = self.contract["images"]
        image_format = ImageFormat.from_dict(stored) if stored else None
        return self.predict_seen(as_seen(image, image_format) for image in self._looked_at(images))

    def _looked_at(self, images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the images; warn of the first one whose scale is far from that of training."""
        is_said = False
        for i, image in enumerate(images):
            far = "" if is_said else far_scale(self.contract, *np.shape(image)[:2])
            if far:
                warnings.warn(f"image {i} {far}", stacklevel=2)
            is_said = is_said or bool(far)
            yield image

    def predict_masks(self, images: Iterable[Num[np.ndarray, "h w c"]]) -> Iterator[Bool[np.ndarray, "h w k"]]:
        """Yield the masks of each image at its own size, as `unet_jax.predict_masks` does.

        Args:
          images: the same as in `predict_images`.
        """
        for probs in self.predict_images(images):
            yield self.masks_of(probs)

    def masks_of(self, probs: Float[np.ndarray, "h w k"]) -> Bool[np.ndarray, "h w k"]:
        """Return the masks of an image: its probabilities above the thresholds, after the rules for objects."""
        rules = [ObjectRules(**of_class) for of_class in self.contract["objects"] or ()]
        height, width = probs.shape[:2]
        return apply_to_classes(probs > self.threshold, rules, seen_area(height, width, way_of_contract(self.contract)))

    def predict_seen(self, images: Iterable[Num[np.ndarray, "h w c"]]) -> Iterator[Float[np.ndarray, "h w k"]]:
        """Yield the probabilities of images whose intensities are mapped already, each at its own size."""
        way, temperatures = way_of_contract(self.contract), self.contract["temperatures"]

        def finish(logits: Any) -> np.ndarray:
            return np.asarray(logits) if way.fit == "crop" else special.expit(np.asarray(logits))

        network = Network(self._logits, finish, BATCH_SIZE)
        pairs = ((rows_of(image), (image.shape[:2], None)) for image in images)
        calibration = Calibration(tuple(temperatures), ()) if temperatures else None

        def calibrated(probs: np.ndarray) -> np.ndarray:
            return calibration.probs(probs) if calibration else probs

        for probs, _ in whole_images(patches_through(network, pairs, way), calibrated, np.dtype(np.float32)):
            yield probs

    def uncalibrated(self, pixels: Num[np.ndarray, "b h w c"]) -> Float[np.ndarray, "b h w k"]:
        """Compute probabilities before calibration, of images whose intensities are mapped already."""
        return special.expit(np.asarray(self._logits(pixels)))

    def _logits(self, pixels: Num[np.ndarray, "b h w c"]) -> Array:
        """Start the computation of logits of images whose intensities are mapped already."""
        options = dict(self.options)
        if "low" in options:
            options |= {"low": 0.0 * options["low"], "high": np.full_like(options["high"], _WHITE)}
        return self._padded(pixels, options)[1]

    def _padded(self, pixels: np.ndarray, options: dict[str, Any]) -> tuple[Array, Array]:
        height, width = pixels.shape[1:3]
        multiple = self.contract["input"]["size_multiple"]
        padding = ((0, 0), (0, -height % multiple), (0, -width % multiple), (0, 0))
        padded = np.pad(pixels, padding, mode="symmetric").astype(self.contract["input"]["dtype"], copy=False)
        probs, logits = self.program.call(self.weights, options, padded)
        return probs[:, :height, :width], logits[:, :height, :width]


def _fits(found: np.dtype, expected: str) -> bool:
    """Return whether numbers of a type can be given to a program; float32 takes all numbers."""
    return found.kind in "uif" if expected == "float32" else np.can_cast(found, expected)


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
      >>> masks = list(network.predict_masks(images))  # doctest: +SKIP
    """
    path = epath.Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file.") from error
    check_digest(data, path)
    loaded = load_archive(io.BytesIO(data), str(path))
    here = platform_here()
    if here not in loaded.program.platforms:
        made = ", ".join(loaded.program.platforms)
        raise InputError(
            f"{path}: was exported for {made}, but jax runs on {here} here. Export it for --platforms {here}."
        )
    return loaded


def load_archive(file: io.BytesIO, name: str) -> Exported:
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
        raise InputError(
            f"{name}: has format {contract.get('format')!r}; this version of unet_jax reads {FORMAT}. Export it again."
        )
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


def platform_here() -> str:
    """Return the name that `jax.export` has for the kind of device that jax uses."""
    backend = jax.default_backend()
    return jax.devices()[0].client.platform if backend == "gpu" else backend
