"""What a run is about: run.json."""

import dataclasses
import importlib.metadata
import json
import platform
from typing import Any

from etils import epath

from unet_jax._files import replace_text
from unet_jax._types import InputError
from unet_jax.config import Config
from unet_jax.config.dicts import config_from_dict, config_to_dict
from unet_jax.data.order import steps_per_epoch

_FORMAT = 1


@dataclasses.dataclass(frozen=True)
class RunInfo:
    """What a run is about, fixed when it starts."""

    config: Config
    class_names: tuple[str, ...]
    splits: dict[str, list[str]]  # usable ids of train and val; ids of test
    audit: dict[str, Any]
    versions: dict[str, str]

    @property
    def num_steps(self) -> int:
        """Updates in the whole run."""
        train = self.config.train
        return steps_per_epoch(len(self.splits["train"]), train.batch_size) * train.num_epochs


def info_path(path: epath.Path) -> epath.Path:
    """The file whose presence makes a folder a run."""
    return path / "run.json"


def current_versions() -> dict[str, str]:
    """Of Python and the packages that numbers depend on."""
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
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed as a package"


def save_info(path: epath.Path, info: RunInfo) -> None:
    """Writes run.json in one rename: a kill leaves no half of it."""
    path.mkdir(parents=True, exist_ok=True)
    values = {
        "format": _FORMAT,
        "class_names": list(info.class_names),
        "config": config_to_dict(info.config),
        "versions": info.versions,
        "audit": info.audit,
        "splits": info.splits,
    }
    replace_text(info_path(path), json.dumps(values, indent=1) + "\n")


def load_info(path: epath.Path) -> RunInfo:
    """Raises `InputError` when the folder is no run or one of a newer format."""
    file = info_path(path)
    if not file.exists():
        raise InputError(f"{path}: is not a run (there is no {file.name}). Give the --out folder of unet-jax train.")
    try:
        values = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise InputError(f"{file}: is not JSON ({error}). Restore it or train again.") from error
    found = values.get("format") if isinstance(values, dict) else None
    if found != _FORMAT:
        raise InputError(f"{file}: has format {found!r}; this version of unet_jax reads {_FORMAT}.")
    try:
        return RunInfo(
            config=config_from_dict(values["config"]),
            class_names=tuple(values["class_names"]),
            splits=values["splits"],
            audit=values["audit"],
            versions=values["versions"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file}: is damaged ({type(error).__name__}: {error}). Restore it or train again.") from error
