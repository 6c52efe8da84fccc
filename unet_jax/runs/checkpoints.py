"""Orbax checkpoints: the arrays of the state, and a small JSON dictionary in the same atomic commit.

One checkpoint holds a `TrainState` and the progress of training as JSON: the position in the data, the memory of early
stopping and of the learning-rate plateau, and the sums of losses since the last evaluation.
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
    """Lock that allows only one save at a time in this process.

    Orbax numbers saves by one counter per process. If two saves ran at once, their parts would wait for each other's
    signals for ever.
    """

    def __init__(self) -> None:
        self._lock, self._pool = threading.Lock(), ThreadPoolExecutor(1, thread_name_prefix="unet_jax-commit")
        self._last: Future[None] | None = None

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for the save under way, and let no other save begin during the block."""
        with self._lock:
            if self._last is not None:
                wait([self._last])  # its errors are not raised here: the store that began it raises them
            yield

    def finish(self, wait_for_commit: Callable[[], None]) -> Future[None]:
        """Wait for the commit in a background thread, and return its future. The next save waits for it.

        Args:
          wait_for_commit: function that returns when the save is committed.
        """
        self._last = self._pool.submit(wait_for_commit)
        return self._last


_SAVES = _Saves()


def committed_steps(folder: epath.Path) -> list[int]:
    """Return the steps of the checkpoints in a folder that have their final names, in order, without opening them."""
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal() and path.is_dir())


class CheckpointStore:
    """Checkpoints of one run, which are saved in the background. The newest ones and the best one are kept.

    Args:
      folder: folder of the checkpoints, local or in a bucket.
      keep_last: number of newest checkpoints to keep.
      best_metric: name of the metric that makes a checkpoint the best one.
      best_is_larger: True if larger values of this metric are better.
    """

    def __init__(self, folder: epath.Path, *, keep_last: int, best_metric: str, best_is_larger: bool):
        policies: Any = ocp.training.preservation_policies
        self._best_metric, self._best_is_larger = best_metric, best_is_larger
        keep = policies.AnyPreservationPolicy(
            [
                policies.LatestN(keep_last),
                policies.BestN(get_metric_fn=self._goodness, n=1, keep_checkpoints_without_metrics=False),
            ]
        )
        # Orbax needs absolute paths, but `absolute()` would treat the address of a bucket as a relative path.
        folder = folder if "://" in str(folder) else folder.absolute()
        self._checkpointer = ocp.training.Checkpointer(folder, preservation_policy=keep)
        self._saving: Future[None] | None = None

    def _goodness(self, metrics: Any) -> float:
        """Return a number that is larger for better metrics."""
        value = metrics[self._best_metric]
        if not math.isfinite(value):  # it must never be the best, but comparisons with NaN could make it so
            return -math.inf
        return value if self._best_is_larger else -value

    def save(self, step: int, state: TrainState, *, progress: dict[str, Any], metrics: dict[str, float] | None) -> None:
        """Start saving in the background, after the save under way has finished. Return once the arrays are copied.

        Args:
          step: number of finished updates, the name of the checkpoint.
          state: state to save.
          progress: dictionary of JSON values, with the key "step".
          metrics: results of the evaluation after this step; None if there was none.
        """
        self.wait()
        with _SAVES.turn():
            self._checkpointer.save_checkpointables_async(
                step, {"state": state}, force=True, metrics=cast(Any, metrics), custom_metadata=progress
            )
            self._saving = _SAVES.finish(self._checkpointer.wait)

    @property
    def latest_step(self) -> int | None:
        """Step of the newest committed checkpoint, or None."""
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    @property
    def best_step(self) -> int | None:
        """Step of the committed checkpoint with the best metric, or None if none was evaluated.

        If several are equally good, it is the newest of them.
        """
        scored = [(self._goodness(c.metrics), c.step) for c in self._checkpointer.checkpoints if c.metrics]
        return max(scored)[1] if scored else None

    @property
    def steps(self) -> list[int]:
        """Steps of all committed checkpoints, oldest first."""
        return [c.step for c in self._checkpointer.checkpoints]

    def metrics(self, step: int) -> dict[str, float]:
        """Return the metrics stored with a checkpoint; empty if it was saved between evaluations."""
        return next((dict(cast(Any, c.metrics) or {}) for c in self._checkpointer.checkpoints if c.step == step), {})

    def load(self, step: int, abstract_state: TrainState, mesh: Mesh) -> TrainState:
        """Load the state of a checkpoint, replicated over the mesh. It may have been saved from any other devices.

        Args:
          step: step of the checkpoint.
          abstract_state: shapes and dtypes of the state.
          mesh: mesh of devices.

        Raises:
          InputError: the checkpoint cannot be read.
        """
        sharding = replicated(mesh)
        target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), abstract_state)
        try:
            return self._checkpointer.load_checkpointables(step, {"state": target})["state"]
        except Exception as error:  # Orbax and TensorStore raise exceptions of many types for a damaged file
            raise self._unreadable(step, error) from error

    def progress(self, step: int) -> dict[str, Any]:
        """Return the progress that was saved with a checkpoint.

        Raises:
          InputError: the checkpoint cannot be read.
        """
        try:
            progress = self._checkpointer.checkpointables_metadata(step).custom_metadata
        except Exception as error:
            raise self._unreadable(step, error) from error
        if not isinstance(progress, dict) or "step" not in progress:
            raise self._unreadable(step, ValueError("it holds no progress"))
        return dict(progress)

    def _unreadable(self, step: int, error: Exception) -> InputError:
        """Return the exception for a checkpoint that cannot be read."""
        folder = self._checkpointer.directory / str(step)
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        return InputError(
            f"{folder}: this checkpoint cannot be read ({reason}). Delete the folder: training then continues from the "
            f"checkpoint before it, or starts anew if there is none. For evaluate and predict, choose another one with "
            f"--checkpoint last or --checkpoint best."
        )

    def wait(self) -> None:
        """Wait until the save under way is committed; raise the exception if it failed in the background."""
        if self._saving is not None:
            saving, self._saving = self._saving, None
            saving.result()

    def close(self) -> None:
        """Wait for the save under way, and stop the background threads."""
        try:
            self.wait()
        finally:
            self._checkpointer.close()


@contextlib.contextmanager
def open_store(
    folder: epath.Path, *, keep_last: int, best_metric: str, best_is_larger: bool
) -> Iterator[CheckpointStore]:
    """Yield a `CheckpointStore`, and close it at the end of the block, when its background work has finished.

    Args:
      folder, keep_last, best_metric, best_is_larger: the same as in `CheckpointStore`.
    """
    store = CheckpointStore(folder, keep_last=keep_last, best_metric=best_metric, best_is_larger=best_is_larger)
    try:
        yield store
    finally:
        store.close()
