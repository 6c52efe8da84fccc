"""Requests to stop: after SIGTERM or Ctrl-C, the step under way is finished and saved, so that nothing is lost.

SIGHUP, which a closed terminal sends, and SIGUSR1, which SLURM sends before the time of a job ends, do the same.
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.experimental import multihost_utils

_OTHERS = tuple(getattr(signal, name) for name in ("SIGHUP", "SIGUSR1") if hasattr(signal, name))  # not on Windows


@contextlib.contextmanager
def stop_requests() -> Iterator[Callable[[int], bool]]:
    """Turn SIGTERM, SIGHUP, SIGUSR1 and the first Ctrl-C during the block into requests to stop.

    A second Ctrl-C acts as outside of the block. Signals can be watched in the main thread only. In any other thread,
    the block watches none.

    Yields:
      A function from the number of a step to True if training should stop after it. Every process must call it after
      every step. If `jax.distributed` connects processes, its service makes them agree on a step.
    """
    if jax.distributed.is_initialized():
        # The service watches SIGTERM only, so the others are passed on as SIGTERM.
        with _handling(dict.fromkeys((signal.SIGINT, *_OTHERS), lambda *_: signal.raise_signal(signal.SIGTERM))):
            yield multihost_utils.reached_preemption_sync_point
        return
    requested = threading.Event()
    with _handling(dict.fromkeys((signal.SIGTERM, signal.SIGINT, *_OTHERS), lambda *_: requested.set())):
        yield lambda step: requested.is_set()


@contextlib.contextmanager
def _handling(handlers: dict[signal.Signals, Callable[..., Any]]) -> Iterator[None]:
    """Set signal handlers for the block, and restore the old ones at its end.

    The old handler of Ctrl-C is restored as soon as Ctrl-C was pressed once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    current = {number: signal.getsignal(number) for number in handlers}
    # Two kinds of handlers are left in place. None stands for the handler of a C library, which could not be restored.
    # SIG_IGN stands for a signal that is to be ignored, as shells arrange it for background jobs.
    before = {number: handler for number, handler in current.items() if handler not in (None, signal.SIG_IGN)}

    def handle(number: int, frame: Any) -> None:
        # A second SIGTERM need not mean more urgency: launchers send it to processes that have received it already. So
        # only Ctrl-C gets its old handler back.
        if number == signal.SIGINT:
            signal.signal(number, before[signal.SIGINT])
        handlers[signal.Signals(number)](number, frame)

    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
