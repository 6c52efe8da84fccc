"""A run directory: what is in it, and how a trained network comes out of it.

RUN/run.json            config, class names, ids of each split, versions: written once, before the first step
RUN/metrics.jsonl       numbers over time
RUN/checkpoints/STEP/   Orbax: the newest and the best
RUN/pictures/           curves and validation pictures
"""

import dataclasses
import importlib.metadata
import json
import platform
from typing import Any, Literal

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh
from jaxtyping import Float

from unet_jax._types import InputError
from unet_jax.config import Config
from unet_jax.config.dicts import config_from_dict, config_to_dict
from unet_jax.data.pipeline import steps_per_epoch
from unet_jax.devices.mesh import make_mesh
from unet_jax.metrics.calibration import Calibration
from unet_jax.program.optim import make_optimizer
from unet_jax.program.state import TrainState, init_state, make_model
from unet_jax.report.metrics_file import replace_text
from unet_jax.runs.checkpoints import CheckpointStore, open_store

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


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained network and what belongs to it."""

    path: epath.Path
    step: int  # of the checkpoint
    state: TrainState
    config: Config
    class_names: tuple[str, ...]
    info: RunInfo
    metrics: dict[str, float]  # on val, stored with the checkpoint
    mesh: Mesh  # the devices that hold the state
    calibration: Calibration | None = None  # see unet_jax.calibrate

    @property
    def threshold(self) -> Float[np.ndarray, " k"]:
        """Probability above which a pixel belongs to each class."""
        same = (self.config.train.threshold,) * len(self.class_names)
        return np.asarray(self.calibration.threshold if self.calibration else same, np.float32)


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


def open_checkpoints(path: epath.Path, config: Config) -> Any:
    """The run's `CheckpointStore`, as a context manager."""
    return open_store(
        path / "checkpoints",
        keep_last=config.train.keep_last,
        best_metric=config.train.monitor,
        best_is_larger=config.train.monitor == "dice",
    )


def abstract_state(info: RunInfo) -> TrainState:
    """Shapes and dtypes of the run's state."""
    model = make_model(info.config.model, len(info.class_names))
    tx = make_optimizer(info.config.optim, info.num_steps)
    return jax.eval_shape(lambda key: init_state(key, model, tx), jax.random.key(0))


def load_run(path: str | epath.Path, checkpoint: Literal["best", "last"] = "best", *, mesh: Mesh | None = None) -> Run:
    """A trained network, restored on whatever devices are there.

    Args:
      path: the run directory, local or in a bucket.
      checkpoint: the best on val by `train.monitor`, or the newest.
      mesh: the devices to use, from `make_mesh`; all by default.

    Raises:
      InputError: the folder is no run, or holds no checkpoint yet.
    """
    if checkpoint not in ("best", "last"):
        raise InputError(f"checkpoint is {checkpoint!r}, but must be 'best' or 'last'.")
    path, mesh = epath.Path(path), mesh or make_mesh()
    info = load_info(path)
    with open_checkpoints(path, info.config) as store:
        step = choose_step(store, checkpoint, path)
        state = store.load(step, abstract_state(info), mesh)
        metrics = store.metrics(step)
    return Run(path, step, state, info.config, info.class_names, info, metrics, mesh)


def choose_step(store: CheckpointStore, checkpoint: Literal["best", "last"], path: epath.Path) -> int:
    """The step of the best (or, before the first evaluation, the newest) checkpoint."""
    step = store.latest_step
    if checkpoint == "best" and store.best_step is not None:
        step = store.best_step
    if step is None:
        raise InputError(f"{path}: holds no checkpoint yet. Continue training with the command that began it.")
    return step
