"""Loading of a trained network from a run directory."""

import dataclasses
import time
from typing import Any, Literal

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh
from jaxtyping import Float

from unet_jax._types import InputError
from unet_jax.config import Config
from unet_jax.devices.compilation import enable_compilation_cache
from unet_jax.devices.mesh import make_mesh, put_replicated
from unet_jax.metrics.calibration import Calibration
from unet_jax.program.initial_state import state_shapes
from unet_jax.program.own import OURS, Own
from unet_jax.program.state import TrainState, averaged, num_parameters
from unet_jax.report.metrics_file import read_history
from unet_jax.runs.checkpoints import CheckpointStore, committed_steps, open_store
from unet_jax.runs.info import RunInfo, load_info
from unet_jax.runs.own_parts import check_network
from unet_jax.runs.statistics_file import used_statistics, with_statistics

_NUM_TRIES, _NUM_LOOKS, _PAUSE_S = 20, 10, 0.05


@dataclasses.dataclass(frozen=True, repr=False)
class Run:
    """A trained network with its settings, loaded from one checkpoint of a run directory by `load_run`.

    Example:
      >>> run = load_run("RUN")  # doctest: +SKIP
      >>> run.step, run.class_names, run.metrics  # doctest: +SKIP
      (375, ('cell', 'nucleus'), {'dice': 0.97, 'loss': 0.05})
    """

    path: epath.Path
    """Run directory."""
    step: int
    """Step of the checkpoint."""
    state: TrainState
    """State of the checkpoint, replicated over the mesh. Its weights are those that were evaluated: with `train.ema`,
    their running mean."""
    config: Config
    """Settings of the run."""
    class_names: tuple[str, ...]
    """Names of the classes, in the order of the channels."""
    info: RunInfo
    """Facts of the run that were fixed when it began."""
    metrics: dict[str, float]
    """Metrics on val that were stored with the checkpoint; empty if it was saved between evaluations."""
    mesh: Mesh
    """Devices that hold the state."""
    calibration: Calibration | None = None
    """Temperatures and thresholds to use (`unet_jax.inference.calibration_file.with_calibration`), or None."""
    own: Own = OURS
    """Network of somebody's own, if the run has one."""

    def __reduce__(self) -> tuple[Any, ...]:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "mesh"}
        return _unpickle, ({**values, "state": jax.device_get(self.state)},)

    @property
    def threshold(self) -> Float[np.ndarray, " k"]:
        """Probability above which a pixel belongs to the class: `[k]` float32, one per class."""
        same = (self.config.train.threshold,) * len(self.class_names)
        return np.asarray(self.calibration.threshold if self.calibration else same, np.float32)

    @property
    def history(self) -> list[dict[str, Any]]:
        """Evaluations of the whole run, oldest first, as records: `pandas.DataFrame(run.history)`."""
        return read_history(self.path)

    def __repr__(self) -> str:
        scores = "".join(f", {name} {value:.4f}" for name, value in self.metrics.items())
        height, width = self.config.data.height_and_width
        return (
            f"Run({str(self.path)!r}: checkpoint {self.step} of {self.info.num_steps}{scores}\n"
            f"    classes {', '.join(self.class_names)}; images of {self.info.num_channels} channels, seen at "
            f"{width}x{height}\n"
            f"    {num_parameters(self.state.params):,} parameters on {self.mesh.size} "
            f"{self.mesh.devices.flat[0].device_kind} device{'s' if self.mesh.size > 1 else ''}"
            f"{', calibrated' if self.calibration else ''})"
        )


def _unpickle(values: dict[str, Any]) -> Run:
    """Return a run from its pickled fields, on all devices of this process: those of the other one are not here."""
    mesh = make_mesh()
    return Run(**{**values, "state": put_replicated(values["state"], mesh)}, mesh=mesh)


def open_checkpoints(path: epath.Path, config: Config) -> Any:
    """Open the `CheckpointStore` of a run, as a context manager."""
    return open_store(
        path / "checkpoints",
        keep_last=config.train.keep_last,
        best_metric=config.train.monitor,
        best_is_larger=config.train.monitor == "dice",
    )


def abstract_state(info: RunInfo, own: Own = OURS) -> TrainState:
    """Return the shapes and dtypes of a run's state."""
    return state_shapes(info.config, len(info.class_names), info.num_steps, num_channels=info.num_channels, own=own)


def load_run(
    path: str | epath.Path,
    checkpoint: Literal["best", "last"] = "best",
    *,
    network: Any = None,
    mesh: Mesh | None = None,
) -> Run:
    """Load a trained network. The devices need not be those that it was trained on.

    Args:
      path: run directory, local or in a bucket.
      checkpoint: "best", the best checkpoint on val by `train.monitor`, or "last", the newest one. A run without an
        evaluation has no best checkpoint: its newest one is loaded.
      network: Flax module that the run was trained with, if it was given one. An optimizer need not be given again.
      mesh: devices to use, from `make_mesh`; by default all.

    Returns:
      The network with its settings. Its calibration is not loaded; see
      `unet_jax.inference.calibration_file.with_calibration`.

    Raises:
      InputError: the folder is not a run, it holds no checkpoint yet, the checkpoint cannot be read, or the run has
        another network.

    Example:
      >>> run = load_run("RUN", "last")  # doctest: +SKIP
      >>> probs = unet_jax.predict_probs(run, images)  # doctest: +SKIP
    """
    if checkpoint not in ("best", "last"):
        raise InputError(f"checkpoint is {checkpoint!r}, but must be 'best' or 'last'.")
    path, mesh = epath.Path(path), mesh or make_mesh()
    enable_compilation_cache()
    info, own = load_info(path), OURS if network is None else Own(network)
    check_network(path, info.own, own)
    for _ in range(_NUM_TRIES):
        try:
            return _load_once(path, checkpoint, info, mesh, own)
        except _GoneError:  # there is a newer checkpoint now
            continue
    return _load_once(path, checkpoint, info, mesh, own)


class _GoneError(InputError):
    """Error for a checkpoint that was removed while it was read."""


def _load_once(path: epath.Path, checkpoint: Literal["best", "last"], info: RunInfo, mesh: Mesh, own: Own) -> Run:
    """Load a run as `load_run` does.

    Raises:
      InputError: the checkpoint cannot be read.
      _GoneError: it could not be read, and a process that trains there has meanwhile saved or removed checkpoints.
    """
    before = committed_steps(path / "checkpoints")
    try:
        with open_checkpoints(path, info.config) as store:
            step = choose_step(store, checkpoint, path)
            wanted = abstract_state(info, own)
            if "optimizer" in info.own:  # its state has a form that only it knows, and nobody needs it here
                wanted = dataclasses.replace(wanted, opt_state=store.shapes(step).get("opt_state"))
            state, metrics = averaged(store.load(step, wanted, mesh)), store.metrics(step)
            if found := used_statistics(path, step):
                state, metrics = with_statistics(path, found, state), found.metrics
    except (InputError, FileNotFoundError) as error:
        for _ in range(_NUM_LOOKS):  # a checkpoint that is being removed loses its files before its name
            if committed_steps(path / "checkpoints") != before:
                raise _GoneError(str(error)) from error
            time.sleep(_PAUSE_S)
        raise
    return Run(path, step, state, info.config, info.class_names, info, metrics, mesh, own=own)


def metrics_of(store: CheckpointStore, path: epath.Path, step: int) -> dict[str, float]:
    """Return the scores on val of a checkpoint, with the statistics that `load_run` uses."""
    found = used_statistics(path, step)
    return found.metrics if found else store.metrics(step)


def choose_step(store: CheckpointStore, checkpoint: Literal["best", "last"], path: epath.Path) -> int:
    """Return the step of the best or the newest checkpoint; before the first evaluation the newest is the best.

    Raises:
      InputError: there is no checkpoint.
    """
    step = store.latest_step
    if checkpoint == "best" and store.best_step is not None:
        step = store.best_step
    if step is None:
        raise InputError(f"{path}: holds no checkpoint yet. Continue training with the command that began it.")
    return step
