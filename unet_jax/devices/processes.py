"""Several processes in one run: how they connect, which of them writes, and how all of them end together.

Processes are connected by jax's coordination service, which runs in the first process. Apart from this, each process
does what it would do alone. `unet_jax.devices.mesh` defines which data each of them holds.
"""

import atexit
import contextlib
import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
from jax._src import clusters  # detection of the cluster, for which jax has no public function
from jax._src import distributed as service  # key-value store and barriers, for which jax has no public API

from unet_jax._types import InputError, Preempted
from unet_jax.config.processes import Processes

HEARTBEAT_TIMEOUT_S = 30
"""Seconds without a heartbeat of one process after which jax ends the others: a machine that dies sends no message."""
_CLUSTERS = ("gcetpu", "gketpu", "slurm")
_FAILURE = "unet_jax/failure"  # key of the message of the process that failed, and name of the barrier after it
_FAILURE_BARRIER_MS, _LONG_MS = 5_000, 7 * 24 * 3600 * 1000
_POLL_S, _LINGER_S = 1.0, 2.0
_NOT_GIVEN = Processes()
_barriers = itertools.count()


def connect(processes: Processes = _NOT_GIVEN) -> None:
    """Connect this process with the others of the run, if there are any. Call it before jax computes anything.

    Args:
      processes: where the processes meet; by default jax detects it on a Cloud TPU pod and under SLURM.

    Raises:
      InputError: some of the three settings are missing or wrong, or the other processes were not found in time.
    """
    given = processes != _NOT_GIVEN
    if given:
        _check(processes)
    if service.global_state.client is not None or not (given or _in_cluster()):
        return
    count, index = (processes.num_processes, processes.process_id) if given else (None, None)  # None: jax detects it
    try:
        jax.distributed.initialize(
            processes.coordinator or None, count, index, heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT_S
        )
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"the processes did not find each other ({reason}). Were all of them started?") from error


def _check(processes: Processes) -> None:
    """Raise `InputError` unless the three settings are complete and fit each other."""
    count, index = processes.num_processes, processes.process_id
    host, _, port = processes.coordinator.rpartition(":")
    if not (host and port.isdigit() and count >= 1 and 0 <= index < count):
        raise InputError(
            f"--coordinator is {processes.coordinator!r}, --num-processes is {count} and --process-id is {index}, but "
            f"all three are needed: HOST:PORT of process 0, the number of processes, and 0 to one less than that."
        )


def _in_cluster() -> bool:
    """Return whether jax detects a Cloud TPU pod or a SLURM job with more than one process."""
    known: Any = clusters.ClusterEnv._cluster_types
    cluster = next((c for c in known if c.name in _CLUSTERS and c.is_env_present()), None)
    return cluster is not None and cluster.get_process_count() > 1


def is_first() -> bool:
    """Return whether this is process 0, which writes the files that a run has only once, and prints."""
    return jax.process_index() == 0


def wait_for_all(what: str) -> None:
    """Wait until every process has called this function; all must make these calls in the same order.

    Args:
      what: name of the place in the program, for jax's message if processes wait at different places.
    """
    client: Any = service.global_state.client
    if client is not None and jax.process_count() > 1:
        client.wait_at_barrier(f"unet_jax/{what}/{next(_barriers)}", _LONG_MS)


@contextlib.contextmanager
def connected(processes: Processes = _NOT_GIVEN) -> Iterator[None]:
    """Connect this process with the others, and end all of them if one raises an exception inside the `with` block.

    All processes then end with the message and the exit status of the one that failed. The main thread of another
    process may wait for it in the middle of a step, and would wait for ever; so each process has a thread that watches
    for a failure message and ends the process. A process that is killed leaves no message: jax notices its closed
    connections, or that its heartbeat is missing for `HEARTBEAT_TIMEOUT_S` seconds.

    `Preempted` ends nothing by message, because every process raises it after the same step. With a single process the
    block runs as it would without `connected`.

    Args:
      processes: where the processes meet; by default jax detects it on a Cloud TPU pod and under SLURM.

    Raises:
      InputError: see `connect`.

    Example:
      >>> import jax
      >>> from unet_jax.devices.processes import connected
      >>> with connected():  # every process calls it, before jax computes anything
      ...     print(jax.process_count())
      1
    """
    connect(processes)
    if service.global_state.client is None:
        yield
        return
    left = threading.Event()
    watch = threading.Thread(target=_end_with_others, args=(left,), name="unet_jax-watch", daemon=True)
    watch.start()
    try:
        yield
    except Preempted:  # every process raises it, after the same step
        raise
    except BaseException as error:
        left.set()
        watch.join()
        _tell_others(error)
        raise
    finally:
        left.set()
        watch.join()


def _tell_others(error: BaseException) -> None:
    """Publish why this process fails, wait until the others have read it, and make sure that its exit cannot hang."""
    client: Any = service.global_state.client
    message = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
    status = _exit_status(error)
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # another process failed first
        client.key_value_set(_FAILURE, json.dumps([jax.process_index(), message, status]))
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # a process was killed, or the service has ended
        client.wait_at_barrier(_FAILURE, _FAILURE_BARRIER_MS)
    # The service runs in the first process. If this one ended at once, jax would abort others that are still exiting.
    if is_first():
        time.sleep(_LINGER_S)
    # jax's own exit handler would wait for processes that no longer exist. The handler registered last runs first.
    atexit.register(_leave, status)


def _exit_status(error: BaseException) -> int:
    """Return the exit status that the command line has for this exception."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, InputError | OSError):
        return 2
    return 130 if isinstance(error, KeyboardInterrupt) else 1


def _end_with_others(left: threading.Event) -> None:
    """End this process as soon as another one publishes that it failed; return if this one leaves or fails itself."""
    client: Any = service.global_state.client
    while not left.wait(_POLL_S):
        try:
            index, message, status = json.loads(client.key_value_try_get(_FAILURE))
        except jax.errors.JaxRuntimeError:  # no process has failed yet
            continue
        if index == jax.process_index():
            return
        print(f"unet-jax: process {index} of {jax.process_count()} failed: {message}", file=sys.stderr)
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            client.wait_at_barrier(_FAILURE, _FAILURE_BARRIER_MS)
        if is_first():
            time.sleep(_LINGER_S)
        _leave(status)


def _leave(status: int) -> None:
    """End this process at once, without the exit handlers of jax."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
