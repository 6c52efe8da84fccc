"""Stopping when told to: after SIGTERM or Ctrl-C the step under way is finished and saved, and nothing is lost."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.experimental import multihost_utils


@contextlib.contextmanager
def stop_requests() -> Iterator[Callable[[int], bool]]:
    """In the block SIGTERM and the first Ctrl-C only ask to stop; a second Ctrl-C does what it did outside.

    Gives a function that every process calls after every step with the step's number: whether to stop there. Where
    `jax.distributed` connects processes, its service makes them agree on a step. Signals can be watched in the main
    thread only; in another one the block watches none.
    """
    if jax.distributed.is_initialized():
        with _handling({signal.SIGINT: lambda *_: signal.raise_signal(signal.SIGTERM)}):  # of which the service knows
            yield multihost_utils.reached_preemption_sync_point
        return
    requested = threading.Event()
    with _handling(dict.fromkeys((signal.SIGTERM, signal.SIGINT), lambda *_: requested.set())):
        yield lambda step: requested.is_set()


@contextlib.contextmanager
def _handling(handlers: dict[signal.Signals, Callable[..., Any]]) -> Iterator[None]:
    """Sets handlers, and sets back what was there: all at the end, that of Ctrl-C once it was pressed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    found = {number: signal.getsignal(number) for number in handlers}
    # None: a handler of a C library's, which could not be set back. Ignored: as a shell wants it for background jobs.
    before = {number: handler for number, handler in found.items() if handler not in (None, signal.SIG_IGN)}

    def handle(number: int, frame: Any) -> None:
        # Another SIGTERM is no impatience: launchers pass it on to processes that had it already.
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
