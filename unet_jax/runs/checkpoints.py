"""Orbax checkpoints: the state's arrays, and beside them, in the same atomic commit, everything small.

One checkpoint holds a `TrainState` and a JSON of progress: the position in the data, the memory of early stopping and
plateau, sums of the running epoch.
"""

import contextlib
import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, cast

import jax
from etils import epath
from jax.sharding import Mesh
from orbax.checkpoint import v1 as ocp

from unet_jax._types import InputError
from unet_jax.devices.mesh import replicated
from unet_jax.program.state import TrainState


class _Saves:
    """One save at a time in this process: Orbax numbers them by one counter of the process, by which the parts of two
    saves at once would wait for each other's signals for ever.
    """

    def __init__(self) -> None:
        self._lock, self._pool = threading.Lock(), ThreadPoolExecutor(1, thread_name_prefix="unet_jax-commit")
        self._last: Future[None] | None = None

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Nothing else is being saved when the block begins, nor begins to be before its end."""
        with self._lock:
            if self._last is not None:
                wait([self._last])  # what went wrong in it is its own store's to say
            yield

    def finish(self, wait_for_commit: Callable[[], None]) -> Future[None]:
        """Ends the turn once the save is committed, in the background."""
        self._last = self._pool.submit(wait_for_commit)
        return self._last


_SAVES = _Saves()


class CheckpointStore:
    """The checkpoints of one run, saved in the background; keeps the newest ones and the best one."""

    def __init__(self, folder: epath.Path, *, keep_last: int, best_metric: str, best_is_larger: bool):
        policies: Any = ocp.training.preservation_policies
        self._best_metric, self._best_is_larger = best_metric, best_is_larger
        keep = policies.AnyPreservationPolicy(
            [
                policies.LatestN(keep_last),
                policies.BestN(get_metric_fn=self._goodness, n=1, keep_checkpoints_without_metrics=False),
            ]
        )
        # Orbax wants absolute paths; `absolute()` would take a bucket's address for a relative path.
        folder = folder if "://" in str(folder) else folder.absolute()
        self._checkpointer = ocp.training.Checkpointer(folder, preservation_policy=keep)
        self._saving: Future[None] | None = None

    def _goodness(self, metrics: Any) -> float:
        value = metrics[self._best_metric]
        if not math.isfinite(value):  # never the best: comparisons with NaN would let it win
            return -math.inf
        return value if self._best_is_larger else -value

    def save(self, step: int, state: TrainState, *, progress: dict[str, Any], metrics: dict[str, float] | None) -> None:
        """Starts saving and returns once the arrays are copied; waits first for a save still under way."""
        self.wait()
        with _SAVES.turn():
            self._checkpointer.save_checkpointables_async(
                step, {"state": state}, force=True, metrics=cast(Any, metrics), custom_metadata=progress
            )
            self._saving = _SAVES.finish(self._checkpointer.wait)

    @property
    def latest_step(self) -> int | None:
        """The newest committed checkpoint, or None."""
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    @property
    def best_step(self) -> int | None:
        """The committed checkpoint with the best metric (of equals the newest), or None when none was evaluated."""
        scored = [(self._goodness(c.metrics), c.step) for c in self._checkpointer.checkpoints if c.metrics]
        return max(scored)[1] if scored else None

    @property
    def steps(self) -> list[int]:
        """All committed checkpoints, oldest first."""
        return [c.step for c in self._checkpointer.checkpoints]

    def metrics(self, step: int) -> dict[str, float]:
        """The evaluation stored with a checkpoint; empty when it was saved between evaluations."""
        return next((dict(cast(Any, c.metrics) or {}) for c in self._checkpointer.checkpoints if c.step == step), {})

    def load(self, step: int, abstract_state: TrainState, mesh: Mesh) -> TrainState:
        """The state, on all devices of the mesh, whatever devices it was saved from."""
        sharding = replicated(mesh)
        target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), abstract_state)
        try:
            return self._checkpointer.load_checkpointables(step, {"state": target})["state"]
        except Exception as error:  # Orbax and TensorStore raise many kinds for a damaged file
            raise self._unreadable(step, error) from error

    def progress(self, step: int) -> dict[str, Any]:
        """The JSON saved with a checkpoint."""
        try:
            progress = self._checkpointer.checkpointables_metadata(step).custom_metadata
        except Exception as error:
            raise self._unreadable(step, error) from error
        if not isinstance(progress, dict) or "step" not in progress:
            raise self._unreadable(step, ValueError("it holds no progress"))
        return dict(progress)

    def _unreadable(self, step: int, error: Exception) -> InputError:
        folder = self._checkpointer.directory / str(step)
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        return InputError(
            f"{folder}: this checkpoint cannot be read ({reason}). Delete the folder: training continues from the one "
            f"before it, or anew where there is none; evaluate and predict take --checkpoint last or best."
        )

    def wait(self) -> None:
        """Returns when everything saved is committed; raises what went wrong in the background."""
        if self._saving is not None:
            saving, self._saving = self._saving, None
            saving.result()

    def close(self) -> None:
        """Waits and releases threads."""
        try:
            self.wait()
        finally:
            self._checkpointer.close()


@contextlib.contextmanager
def open_store(
    folder: epath.Path, *, keep_last: int, best_metric: str, best_is_larger: bool
) -> Iterator[CheckpointStore]:
    """A store that is closed, with its background work finished, at the end of the block."""
    store = CheckpointStore(folder, keep_last=keep_last, best_metric=best_metric, best_is_larger=best_is_larger)
    try:
        yield store
    finally:
        store.close()
