"""How a trained network comes out of a run directory."""

import dataclasses
from typing import Any, Literal

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh
from jaxtyping import Float

from unet_jax._types import InputError
from unet_jax.config import Config
from unet_jax.devices.mesh import make_mesh
from unet_jax.metrics.calibration import Calibration
from unet_jax.program.initial_state import init_state, make_model
from unet_jax.program.optim import make_optimizer
from unet_jax.program.state import TrainState
from unet_jax.runs.checkpoints import CheckpointStore, open_store
from unet_jax.runs.info import RunInfo, load_info


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
    calibration: Calibration | None = None  # see unet_jax.inference.calibrate

    @property
    def threshold(self) -> Float[np.ndarray, " k"]:
        """Probability above which a pixel belongs to each class."""
        same = (self.config.train.threshold,) * len(self.class_names)
        return np.asarray(self.calibration.threshold if self.calibration else same, np.float32)


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
