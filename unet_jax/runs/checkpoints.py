"""Orbax checkpoints: the arrays of the state, and a small JSON dictionary in the same atomic commit.

One checkpoint holds a `TrainState` and the progress of training as JSON: the position in the data, the memory of early
stopping and of the learning-rate plateau, and the sums of losses since the last evaluation.
"""

import contextlib
import errno
import math
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, cast

import jax
from etils import epath
from jax.sharding import Mesh
from orbax.checkpoint import v1 as ocp

from unet_jax._files import read_json
from unet_jax._types import InputError
from unet_jax.devices.mesh import replicated
from unet_jax.devices.processes import is_first
from unet_jax.program.state import TrainState
from unet_jax.runs.integrity import damaged_files, record_digests


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


def first_line(error: BaseException) -> str:
    """Return the beginning of an error's message, or the error's type if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200] or type(error).__name__


def _reason(error: BaseException) -> str:
    """Return why a save failed; Orbax and TensorStore put a full disk at the end of long messages."""
    texts = [str(error), str(error.__cause__ or ""), str(error.__context__ or "")]
    full = os.strerror(errno.ENOSPC)
    return full if any(full in text for text in texts) else first_line(error)


def committed_steps(folder: epath.Path) -> list[int]:
    """Return the steps of the checkpoints in a folder that have their final names, in order, without opening them."""
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal() and path.is_dir())


def check_metrics(checkpoint: epath.Path, best_metric: str) -> None:
    """Raise `InputError` if the metrics that are stored with a checkpoint are damaged.

    Args:
      checkpoint: folder of one checkpoint; it may have no metrics.
      best_metric: name of the metric that must be among them.
    """
    path = checkpoint / "metrics" / "metrics"
    if not path.exists():
        return
    try:
        values = read_json(path)
        if not isinstance(values, dict) or not all(type(value) in (int, float) for value in values.values()):
            raise ValueError("it is no object of numbers")
        if best_metric not in values:
            raise ValueError(f"it does not hold {best_metric!r}")
    except ValueError as error:
        raise InputError(
            f"{path}: is damaged ({error}). Delete this file: the checkpoint can then be used as one that was not "
            f"evaluated, and all others as before."
        ) from error


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
        self._folder = folder
        for step in committed_steps(folder):  # before Orbax reads the metrics of all of them
            check_metrics(folder / str(step), best_metric)
        self._saving: Future[None] | None = None
        self._has_failed = False
        try:
            self._checkpointer = ocp.training.Checkpointer(folder, preservation_policy=keep)
        except OSError:
            raise
        except Exception as error:  # Orbax reads its records of all checkpoints, and one of them is damaged
            bad = next((step for step in committed_steps(folder) if not self._is_good(step)), None)
            if bad is not None:
                raise self.unreadable(bad, error) from error
            raise InputError(f"{folder}: these checkpoints cannot be read ({first_line(error)}).") from error

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
            try:
                self._checkpointer.save_checkpointables_async(
                    step, {"state": state}, force=True, metrics=cast(Any, metrics), custom_metadata=progress
                )
            except Exception as error:
                raise self._not_saved(step, error) from error
            self._saving = _SAVES.finish(lambda: self._commit(step))

    def _commit(self, step: int) -> None:
        """Wait until a save is committed, and record the digests of its files. It runs in a background thread."""
        try:
            self._checkpointer.wait()
            if is_first():
                record_digests(self._folder, step, committed_steps(self._folder))
        except Exception as error:
            raise self._not_saved(step, error) from error

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
          InputError: the checkpoint cannot be read, or its files are not as they were saved.
        """
        try:
            damaged = damaged_files(self._folder, step)
        except OSError as error:  # it was removed a moment ago, or the disk cannot be read
            raise self.unreadable(step, error) from error
        if damaged:
            more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
            raise self.unreadable(step, ValueError(f"{damaged[0]}{more}"))
        sharding = replicated(mesh)
        target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), abstract_state)
        try:
            return self._checkpointer.load_checkpointables(step, {"state": target})["state"]
        except Exception as error:  # Orbax and TensorStore raise exceptions of many types for a damaged file
            raise self.unreadable(step, error) from error

    def shapes(self, step: int) -> dict[str, Any]:
        """Return shapes and dtypes of the state of a checkpoint as they were saved, in dictionaries and lists.

        Raises:
          InputError: the checkpoint cannot be read.
        """
        try:
            saved = cast(Any, self._checkpointer.checkpointables_metadata(step).metadata)["state"]
            return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), dict(saved))
        except Exception as error:
            raise self.unreadable(step, error) from error

    def progress(self, step: int) -> dict[str, Any]:
        """Return the progress that was saved with a checkpoint.

        Raises:
          InputError: the checkpoint cannot be read.
        """
        try:
            progress = self._checkpointer.checkpointables_metadata(step).custom_metadata
        except Exception as error:
            raise self.unreadable(step, error) from error
        if not isinstance(progress, dict) or "step" not in progress:
            raise self.unreadable(step, ValueError("it holds no progress"))
        return dict(progress)

    def unreadable(self, step: int, error: Exception) -> InputError:
        """Return the exception for a checkpoint that cannot be read."""
        others = [other for other in committed_steps(self._folder) if other != step]
        good = next((other for other in reversed(others) if self._is_good(other)), None)
        then = "starts anew, because no other checkpoint is good" if good is None else f"continues from step {good}"
        other = "" if good is None else " For evaluate and predict, try --checkpoint last and --checkpoint best."
        return InputError(
            f"{self._folder / str(step)}: this checkpoint cannot be read ({first_line(error)}). Restore it, or delete "
            f"the folder: training then {then}.{other}"
        )

    def _is_good(self, step: int) -> bool:
        """Return whether the files of a checkpoint are as they were saved, as far as digests tell."""
        try:
            return not damaged_files(self._folder, step)
        except (OSError, InputError):
            return False

    def _not_saved(self, step: int, error: Exception) -> InputError:
        """Return the exception for a checkpoint that cannot be saved, as on a full disk."""
        self._has_failed = True
        before = max((other for other in committed_steps(self._folder) if other != step), default=None)
        then = "from its first step" if before is None else f"from step {before}"
        return InputError(
            f"{self._folder / str(step)}: this checkpoint cannot be saved ({_reason(error)}). Make room there if "
            f"the disk is full; the same command then continues {then}."
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
            # Orbax raises the exception of a failed save once more, which would hide the one that says what to do.
            with contextlib.suppress(Exception) if self._has_failed else contextlib.nullcontext():
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
