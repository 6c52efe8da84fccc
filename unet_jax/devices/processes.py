"""Several processes, one run: they find each other, the first one writes, and all of them end together.

Processes are connected by jax's coordination service, which the first one runs. Apart from that each does what it would
do alone; what is divided among them says `unet_jax.devices.mesh`.
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
from jax._src import clusters  # jax's own way to find out where it runs: there is no public one
from jax._src import distributed as service  # of its key-value store and barriers: there is no public one

from unet_jax._types import InputError, Preempted
from unet_jax.config.processes import Processes

HEARTBEAT_TIMEOUT_S = 30
"""After so long without a sign of life of a process jax ends the others: one whose machine died said nothing."""
_CLUSTERS = ("gcetpu", "gketpu", "slurm")
_FAILURE, _LAST_WORDS_MS, _LONG_MS = "unet_jax/failure", 5_000, 7 * 24 * 3600 * 1000
_POLL_S, _LINGER_S = 1.0, 2.0
_FOUND = Processes()
_barriers = itertools.count()


def connect(processes: Processes = _FOUND) -> None:
    """Connects this process with the others, if there are any. Before anything is computed.

    Raises:
      InputError: some of the three settings are missing, or the others were not found in time.
    """
    given = processes != _FOUND
    if given:
        _check(processes)
    if service.global_state.client is not None or not (given or _in_cluster()):
        return
    count, index = (processes.num_processes, processes.process_id) if given else (None, None)  # None: what jax finds
    try:
        jax.distributed.initialize(
            processes.coordinator or None, count, index, heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT_S
        )
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"the processes did not find each other ({reason}). Were all of them started?") from error


def _check(processes: Processes) -> None:
    count, index = processes.num_processes, processes.process_id
    host, _, port = processes.coordinator.rpartition(":")
    if not (host and port.isdigit() and count >= 1 and 0 <= index < count):
        raise InputError(
            f"--coordinator is {processes.coordinator!r}, --num-processes {count} and --process-id {index}, but they "
            f"belong together: HOST:PORT of process 0, the number of processes, and 0 to one less than that."
        )


def _in_cluster() -> bool:
    """Whether jax's own detection finds more than one process on a Cloud TPU pod or under SLURM."""
    known: Any = clusters.ClusterEnv._cluster_types
    found = next((c for c in known if c.name in _CLUSTERS and c.is_env_present()), None)
    return found is not None and found.get_process_count() > 1


def is_first() -> bool:
    """Whether this process is the one that writes what there is one of."""
    return jax.process_index() == 0


def wait_for_all(what: str) -> None:
    """Returns when every process is here; each must come, in the same order of calls."""
    client: Any = service.global_state.client
    if client is not None and jax.process_count() > 1:
        client.wait_at_barrier(f"unet_jax/{what}/{next(_barriers)}", _LONG_MS)


@contextlib.contextmanager
def connected(processes: Processes = _FOUND) -> Iterator[None]:
    """`connect`, and in the block an exception of one process ends all of them, with its message and exit status.

    Another process may wait for this one in the middle of a step, for ever: a thread of its own ends it. A process
    that was killed said nothing; jax notices its silence, or its closed connections.
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
    except Preempted:  # all of them, at the same step
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
    """Says why this process ends, waits until the others know, and sees to it that leaving waits for nobody."""
    client: Any = service.global_state.client
    message = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
    status = _exit_status(error)
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # another process was first
        client.key_value_set(_FAILURE, json.dumps([jax.process_index(), message, status]))
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # one was killed, or the service is gone
        client.wait_at_barrier(_FAILURE, _LAST_WORDS_MS)
    if is_first():  # the service ends with it, and jax would end those that are still leaving in its own way
        time.sleep(_LINGER_S)
    # jax's own exit would wait for processes that are not there any more.
    atexit.register(_leave, status)


def _exit_status(error: BaseException) -> int:
    """As of the command line."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, InputError | OSError):
        return 2
    return 130 if isinstance(error, KeyboardInterrupt) else 1


def _end_with_others(left: threading.Event) -> None:
    """Ends this process once another one says that it failed."""
    client: Any = service.global_state.client
    while not left.wait(_POLL_S):
        try:
            index, message, status = json.loads(client.key_value_try_get(_FAILURE))
        except jax.errors.JaxRuntimeError:  # nothing there yet
            continue
        if index == jax.process_index():
            return
        print(f"unet-jax: process {index} of {jax.process_count()} failed: {message}", file=sys.stderr)
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            client.wait_at_barrier(_FAILURE, _LAST_WORDS_MS)
        if is_first():
            time.sleep(_LINGER_S)
        _leave(status)


def _leave(status: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
