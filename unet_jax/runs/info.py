"""The file run.json, which holds the facts of a run that are fixed when it begins."""

import dataclasses
import functools
import importlib.metadata
import platform
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from unet_jax._files import replace_text
from unet_jax.config import Config
from unet_jax.config.choices import Choice
from unet_jax.config.dicts import config_from_dict, config_to_dict
from unet_jax.data.crop_plan import CropPlan
from unet_jax.data.fit import fit_of
from unet_jax.data.images.format import ImageFormat
from unet_jax.data.order import TrainOrder, steps_per_epoch
from unet_jax.runs.folder import check_is_run
from unet_jax.runs.folder import info_path as info_path
from unet_jax.runs.stored_values import check_stored
from unet_jax.runs.versioned_json import read_versioned, versioned_text

_FORMAT = 1
_NAMES = (
    "class_names",
    "config",
    "versions",
    "audit",
    "splits",
    "images",
    "changes",
    "loss_code",
    "encoder",
    "own",
    "choices",
)


@dataclasses.dataclass(frozen=True)
class RunInfo:
    """Facts of a run that are fixed when it begins."""

    config: Config
    """Settings of the run."""
    class_names: tuple[str, ...]
    """Names of the classes, in the order of the channels."""
    splits: dict[str, list[str]]
    """Image ids of each split. Those of train and val can all be read; some of test may not."""
    audit: dict[str, Any]
    """Description of the training and validation images (`unet_jax.data.audit.Audit.to_dict`), or the origin of an
    imported run."""
    versions: dict[str, str]
    """Versions of Python and of packages, by name."""
    image_format: ImageFormat | None = None
    """Channels and intensities of the images. None, in runs of earlier versions, is 8-bit RGB of any file."""

    changes: tuple[dict[str, Any], ...] = ()
    """Adjustable settings that were changed when the run continued: "step", from which they hold, and "settings", with
    the earlier and the later value by dotted name."""
    choices: tuple[Choice, ...] = ()
    """Table of the settings that were chosen for the data set and the machine (preset `auto`), with reasons."""

    loss_code: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Digest of the code of each loss 'module:function' (`unet_jax.runs.loss_code`), by its name."""

    encoder: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """File of the encoder's first weights: its name, digest, kind of names and own metadata; empty without one."""

    own: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    """Network and optimizer that were given from Python (`unet_jax.runs.own_parts`), which a run that continues must be
    given again; empty for those of the library."""

    @property
    def num_channels(self) -> int:
        """Number of channels that the network sees."""
        return self.image_format.num_channels if self.image_format else 3

    @property
    def image_dtype(self) -> np.dtype:
        """Type of the pixels that the network sees: uint8 or uint16."""
        return self.image_format.dtype if self.image_format else np.dtype(np.uint8)

    @property
    def constant_dice(self) -> dict[str, float]:
        """Mean per-image Dice on val, by class, of the best mask that is the same for every image; empty in runs of
        earlier versions. Classes that val does not have are left out."""
        val = self.audit.get("splits", {}).get("val", {})
        by_class = zip(self.class_names, val.get("constant_dice", ()), val.get("num_seen", ()), strict=False)
        return {name: dice for name, dice, num_seen in by_class if num_seen}

    @property
    def num_steps(self) -> int:
        """Number of updates in the whole run."""
        return self.config.train.total_steps(self._steps_per_epoch)

    @property
    def eval_every_steps(self) -> int:
        """Number of updates between evaluations on val."""
        return self.config.train.steps_between_evaluations(self._steps_per_epoch)

    @property
    def order(self) -> TrainOrder:
        """Order of the training samples in the whole run, in whole epochs that hold all its updates.

        Raises:
          InputError: there are fewer training images than one batch needs.
        """
        train, crops = self.config.train, self._crops
        num_samples = len(self.splits["train"]) if crops is None else len(crops)
        num_epochs = -(-self.num_steps // max(1, self._steps_per_epoch))
        return TrainOrder(num_samples, train.batch_size, num_epochs, self.config.seed, crops=crops)

    def fitted_sizes(self, split: str) -> list[tuple[int, int]]:
        """Return the height and width at which the images of train or val are kept, cropped or not."""
        fit, sizes = fit_of(self.config.data), self.audit.get("sizes", {})
        return [fit.size_of(*sizes.get(id_, (0, 0))) for id_ in self.splits[split]]

    @functools.cached_property
    def _crops(self) -> CropPlan | None:
        """Crops of an epoch, with `data.fit crop`."""
        data = self.config.data
        if data.fit != "crop":
            return None
        return CropPlan(
            self.fitted_sizes("train"),
            [self.audit["classes"][id_] for id_ in self.splits["train"]],
            data.height_and_width,
            foreground=data.crop_foreground,
            by_class=data.sample_by_class,
        )

    @property
    def _steps_per_epoch(self) -> int:
        num_samples = len(self.splits["train"]) if self._crops is None else len(self._crops)
        return steps_per_epoch(num_samples, self.config.train.batch_size)


def current_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that numbers depend on."""
    names = (
        "unet_jax",
        "jax",
        "jaxlib",
        "flax",
        "optax",
        "orbax-checkpoint",
        "grain",
        "numpy",
        "opencv-python-headless",
    )
    return {"python": platform.python_version(), **{name: _version(name) for name in names}}


def _version(name: str) -> str:
    """Return the version of an installed package."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed as a package"


def save_info(path: epath.Path, info: RunInfo) -> None:
    """Write run.json by one rename, so that a kill never leaves half of it."""
    path.mkdir(parents=True, exist_ok=True)
    values = {
        "class_names": list(info.class_names),
        "config": config_to_dict(info.config),
        "versions": info.versions,
        "audit": info.audit,
        "splits": info.splits,
        "images": info.image_format.to_dict() if info.image_format else None,
        "changes": list(info.changes),
        "loss_code": dict(info.loss_code),
        "encoder": dict(info.encoder),
        "own": {name: dict(facts) for name, facts in info.own.items()},
        "choices": [choice.to_dict() for choice in info.choices],
    }
    replace_text(info_path(path), versioned_text(_FORMAT, values))


def load_info(path: epath.Path) -> RunInfo:
    """Read run.json, including files that earlier versions wrote.

    Raises:
      InputError: the folder is not a run, or its run.json is damaged or of another format.
    """
    check_is_run(path)
    return read_versioned(info_path(path), _FORMAT, _NAMES, _parsed, "Restore it, or train again.")


def _parsed(values: dict[str, Any]) -> RunInfo:
    """Return the facts in the content of run.json."""
    check_stored(values)
    return RunInfo(
        config=config_from_dict(_current_settings(values["config"])),
        class_names=tuple(values["class_names"]),
        splits=values["splits"],
        audit=values["audit"],
        versions=values["versions"],
        image_format=ImageFormat.from_dict(values["images"]) if values.get("images") else None,
        changes=tuple(values.get("changes", ())),
        loss_code=values.get("loss_code", {}),
        encoder=values.get("encoder", {}),
        own=values.get("own", {}),
        choices=tuple(Choice.from_dict(choice) for choice in values.get("choices", ())),
    )


def _current_settings(config: dict[str, Any]) -> dict[str, Any]:
    """Translate settings of earlier versions that are refused now to settings that compute the same.

    In earlier versions, exact statistics switched accumulation off and used `model.remat` full.
    """
    train = config["train"]
    if train.get("accumulation_statistics") == "exact":
        train = {**train, "accumulation_statistics": "ghost"}
        if train["accumulation"] > 1:
            return {**config, "train": {**train, "accumulation": 1}, "model": {**config["model"], "remat": "full"}}
    return {**config, "train": train}
