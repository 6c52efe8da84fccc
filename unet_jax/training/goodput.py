"""The wall time of a run by phase, over all starts of the run. It is kept in goodput.json and in each checkpoint."""

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from etils import epath

from unet_jax._files import read_json, replace_text
from unet_jax.devices.processes import is_first
from unet_jax.runs.versioned_json import check_digest, digest_of

Seconds = dict[str, float]
"""Seconds by phase."""

PHASES = {
    "start_up": "start-up",  # reading the data set, building its cache, restoring a checkpoint
    "compile": "compile",  # compiling the training step; other programs count in the phase that first uses them
    "data_wait": "data wait",
    "step": "steps",  # dispatching steps and waiting for the devices
    "evaluation": "evaluation",
    "checkpoint": "checkpoints",  # only the time in which a save keeps the next step waiting
    "lost": "lost",  # time after the checkpoint from which a later start continued
}
"""Phases of a run: keys of the JSON files, and titles in the printed table."""
_WRITE_EVERY_S = 30.0


class Throttle:
    """Clock that allows work for people to look at as long as it takes no more than a share of the time.

    The first two times are always allowed: the first one compiles, and the second says what a time costs.

    Args:
      share: largest share of the time since the beginning.
      now: function that returns the time in seconds.
    """

    def __init__(self, share: float, now: Callable[[], float] = time.perf_counter):
        self._share, self._now, self._begin = share, now, now()
        self._spent, self._last, self._count = 0.0, 0.0, 0

    @property
    def allows(self) -> bool:
        """True if another time would not take too much."""
        return self._count < 2 or self._spent + self._last <= self._share * (self._now() - self._begin)

    @contextlib.contextmanager
    def work(self) -> Iterator[None]:
        """Measure the block."""
        start = self._now()
        try:
            yield
        finally:
            self._last, self._count = self._now() - start, self._count + 1
            self._spent += self._last if self._count > 1 else 0.0


class Ledger:
    """Clock for the phases of a run. Exactly one phase counts at any moment, so the phases add up to the wall time.

    The clock begins in the phase `start_up`. Its file is replaced twice a minute, so a kill loses at most about 30 s of
    the record.

    Args:
      folder: run directory, for goodput.json.
      now: function that returns the time in seconds.
    """

    def __init__(self, folder: epath.Path, now: Callable[[], float] = time.perf_counter):
        self._path, self._now = folder / "goodput.json", now
        self._counted: Seconds = dict.fromkeys(PHASES, 0.0)
        self._phase, self._since = "start_up", now()
        self._starts, self._written = 1, now()
        self._at_checkpoint = dict(self._counted)

    def _enter(self, phase: str) -> str:
        """Add the time until now to the current phase, begin the given one, and return the phase before it."""
        now = self._now()
        self._counted[self._phase] += now - self._since
        before, self._phase, self._since = self._phase, phase, now
        return before

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the block as this phase. After it, the phase before counts again."""
        before = self._enter(name)
        try:
            yield
        finally:
            self._enter(before)

    @property
    def seconds(self) -> Seconds:
        """Seconds of each phase until now."""
        self._enter(self._phase)
        return dict(self._counted)

    def mark_checkpoint(self) -> None:
        """Remember the times of this moment as those of the newest checkpoint."""
        self._at_checkpoint = self.seconds

    def go_back(self) -> None:
        """Count everything since the newest checkpoint as lost."""
        self._counted = _gone_back(self.seconds, self._at_checkpoint)

    def resume(self, step: int, at_checkpoint: Seconds) -> str:
        """Add the time of earlier starts of the run, from goodput.json or from the checkpoint.

        Args:
          step: step of the checkpoint that the run continues from; 0 without one.
          at_checkpoint: seconds by phase stored with the checkpoint; empty if there is none.

        Returns:
          A warning if goodput.json is damaged, otherwise an empty text.
        """
        # If the file was written after the checkpoint, the time in between is lost. If it holds less time than the
        # checkpoint, it is missing or older, and the checkpoint counts.
        nothing, warning = {"step": 0, "starts": 0, "seconds": {}}, ""
        try:
            newest = read_goodput(self._path) if self._path.exists() else nothing
        except ValueError as error:
            newest = nothing
            warning = f"WARNING: {self._path}: is damaged ({error}). The record of time goes on from the checkpoint's."
        spent: Seconds = newest["seconds"]
        if newest["step"] > step:
            spent = _gone_back(spent, at_checkpoint)
        elif _total(spent) < _total(at_checkpoint):
            spent = at_checkpoint
        self._counted = {phase: value + spent.get(phase, 0.0) for phase, value in self._counted.items()}
        self._starts = 1 + newest["starts"]
        return warning

    def write(self, step: int) -> None:
        """Replace goodput.json; `step` is the last finished step."""
        self._written = self._now()
        if is_first():
            seconds = {phase: round(value, 3) for phase, value in self.seconds.items()}
            values = {"step": step, "starts": self._starts, "seconds": seconds}
            replace_text(self._path, json.dumps({**values, "digest": digest_of(values)}) + "\n")

    def write_if_old(self, step: int) -> None:
        """Replace goodput.json if it was last written at least half a minute ago."""
        if self._now() - self._written >= _WRITE_EVERY_S:
            self.write(step)

    def table(self) -> list[str]:
        """Return the lines of a table to print: the seconds of each phase and their share of the wall time."""
        seconds = self.seconds
        total = max(1e-9, _total(seconds))
        starts = f" over {self._starts} starts" if self._starts > 1 else ""
        return [
            f"wall time {total:.1f} s{starts}, of which",
            *(f"  {title:<12}{seconds[p]:>10.1f} s{seconds[p] / total:>8.1%}" for p, title in PHASES.items()),
        ]


def read_goodput(path: epath.Path) -> dict[str, Any]:
    """Read goodput.json: "step", the last finished one, "starts", and "seconds" by phase.

    Raises:
      ValueError: the file is damaged.
    """
    values = read_json(path)
    if not isinstance(values, dict) or values.keys() - {"digest"} != {"step", "starts", "seconds"}:
        raise ValueError("it does not hold step, starts and seconds")
    if not all(type(values[name]) is int and values[name] >= 0 for name in ("step", "starts")):
        raise ValueError("step and starts are not counts")
    seconds = values["seconds"]
    if not isinstance(seconds, dict) or not set(seconds) <= set(PHASES):
        raise ValueError("seconds are not those of phases")
    if not all(type(value) in (int, float) and 0.0 <= value < math.inf for value in seconds.values()):
        raise ValueError("seconds are not numbers of at least 0")
    check_digest(values)
    return values


def _gone_back(spent: Seconds, at_checkpoint: Seconds) -> Seconds:
    """Return the seconds at the checkpoint, with all seconds since then counted as lost."""
    lost = at_checkpoint.get("lost", 0.0) + _total(spent) - _total(at_checkpoint)
    return {phase: at_checkpoint.get(phase, 0.0) for phase in PHASES} | {"lost": lost}


def _total(seconds: Seconds) -> float:
    """Return the sum over all phases."""
    return sum(seconds.values())


class Pace(NamedTuple):
    """Speed of training."""

    images_per_s: float
    """Training images per second."""
    wait_share: float
    """Share of the time that was spent waiting for data, in [0, 1]."""


class Pacer:
    """Meter of the speed of training since some step. Evaluations and checkpoints in between do not count.

    Args:
      batch_size: images in a step.
      ledger: clock to read the time from.
      step: step after which measuring begins.
    """

    def __init__(self, batch_size: int, ledger: Ledger, step: int):
        self._batch_size, self._ledger = batch_size, ledger
        self.restart(step)

    def restart(self, step: int) -> None:
        """Begin to measure anew after this step."""
        self._step, self._seconds = step, self._ledger.seconds

    def at(self, step: int) -> Pace:
        """Return the mean speed from the last restart to the end of this step."""
        now = self._ledger.seconds
        waited, stepped = (now[phase] - self._seconds[phase] for phase in ("data_wait", "step"))
        total = max(1e-9, waited + stepped)
        return Pace((step - self._step) * self._batch_size / total, waited / total)
