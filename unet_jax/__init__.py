"""U-Nets for multi-label segmentation in JAX: stacked independent masks, sigmoid, BCE + Dice.

Names are imported when they are first used, so that `unet-jax --help` need not wait for jax.
"""

import importlib as _importlib

from etils import epy as _epy

with _epy.lazy_api_imports(globals()):
    from unet_jax._types import Batch as Batch
    from unet_jax._types import InputError as InputError
    from unet_jax._types import Preempted as Preempted
    from unet_jax._types import Sample as Sample
    from unet_jax.config import Config as Config
    from unet_jax.config.dicts import replace as replace
    from unet_jax.config.presets import PRESETS as PRESETS
    from unet_jax.data.array_source import ArraySource as ArraySource
    from unet_jax.data.images.files import read_channels as read_channels
    from unet_jax.data.images.files import read_image as read_image
    from unet_jax.data.images.files import read_pixels as read_pixels
    from unet_jax.devices.mesh import make_mesh as make_mesh
    from unet_jax.export.exported import load_exported as load_exported
    from unet_jax.inference.predict import predict_images as predict_images
    from unet_jax.inference.predict import predict_masks as predict_masks
    from unet_jax.inference.predict import predict_probs as predict_probs
    from unet_jax.inference.predict import predict_probs_unresized as predict_probs_unresized
    from unet_jax.model import UNet as UNet
    from unet_jax.runs.ensemble import Ensemble as Ensemble
    from unet_jax.runs.ensemble import load_ensemble as load_ensemble
    from unet_jax.runs.load import Run as Run
    from unet_jax.runs.load import load_run as load_run
    from unet_jax.training.auto import choose_config as choose_config
    from unet_jax.training.fit import fit as fit
    from unet_jax.training.loop import train as train

__all__ = [
    "PRESETS",
    "ArraySource",
    "Batch",
    "Config",
    "Ensemble",
    "InputError",
    "Preempted",
    "Run",
    "Sample",
    "UNet",
    "choose_config",
    "fit",
    "load_ensemble",
    "load_exported",
    "load_run",
    "make_mesh",
    "predict_images",
    "predict_masks",
    "predict_probs",
    "predict_probs_unresized",
    "read_channels",
    "read_image",
    "read_pixels",
    "replace",
    "train",
]


_SUBMODULES = {name: f"unet_jax.{name}" for name in ("config", "data", "interop", "losses", "metrics", "model")}
_SUBMODULES["steps"] = "unet_jax.program.steps"
_lazy_name = globals().pop("__getattr__")


def __getattr__(name: str) -> object:
    return _importlib.import_module(_SUBMODULES[name]) if name in _SUBMODULES else _lazy_name(name)


def __dir__() -> list[str]:
    return [*__all__, *_SUBMODULES]
