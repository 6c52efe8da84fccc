"""Where a run's wall time went, over all its starts; kept in its goodput.json and, as far as it led, in checkpoints."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from etils import epath

from unet_jax._files import replace_text
from unet_jax.devices.processes import is_first

Seconds = dict[str, float]
"""Of each phase."""

PHASES = {
    "start_up": "start-up",  # of `train`: reading the data set, building its cache, restoring a checkpoint
    "compile": "compile",  # the training step; other programs count where they are first used
    "data_wait": "data wait",
    "step": "steps",  # dispatching them and waiting for the devices
    "evaluation": "evaluation",
    "checkpoint": "checkpoints",  # as far as they hold up the steps
    "lost": "lost",  # whatever came after the checkpoint that a start continued from
}
_WRITE_EVERY_S = 30.0


class Ledger:
    """Seconds of each phase of a run. At any moment one of them counts, so that they add up to the wall time.

    Begins in the phase `start_up`. Its file is replaced twice a minute, so a kill hides at most the 30 s before it.
    """

    def __init__(self, folder: epath.Path, now: Callable[[], float] = time.perf_counter):
        self._path, self._now = folder / "goodput.json", now
        self._counted: Seconds = dict.fromkeys(PHASES, 0.0)
        self._phase, self._since = "start_up", now()
        self._starts, self._written = 1, now()

    def _enter(self, phase: str) -> str:
        now = self._now()
        self._counted[self._phase] += now - self._since
        before, self._phase, self._since = self._phase, phase, now
        return before

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Counts the block as this phase, and what follows as the one before it again."""
        before = self._enter(name)
        try:
            yield
        finally:
            self._enter(before)

    @property
    def seconds(self) -> Seconds:
        """Up to now."""
        self._enter(self._phase)
        return dict(self._counted)

    def go_back(self, at_checkpoint: Seconds) -> None:
        """To a reading stored with a checkpoint: what was counted since then is lost."""
        self._counted = _gone_back(self.seconds, at_checkpoint)

    def resume(self, step: int, at_checkpoint: Seconds) -> None:
        """Adds what earlier starts took.

        Args:
          step: of the checkpoint that the run continues from; 0 without one.
          at_checkpoint: the reading stored with it; empty where there is none.
        """
        newest = self._read()
        spent: Seconds = newest["seconds"]
        if newest["step"] > step:
            spent = _gone_back(spent, at_checkpoint)
        elif _total(spent) < _total(at_checkpoint):
            spent = at_checkpoint
        self._counted = {phase: value + spent.get(phase, 0.0) for phase, value in self._counted.items()}
        self._starts = 1 + newest["starts"]

    def _read(self) -> dict[str, Any]:
        nothing = {"step": 0, "starts": 0, "seconds": {}}
        try:
            found = json.loads(self._path.read_text())
        except (OSError, ValueError):  # a new run, or a damaged file: no reason not to train
            return nothing
        return found if isinstance(found, dict) and found.keys() == nothing.keys() else nothing

    def write(self, step: int) -> None:
        """Replaces the file; `step` is the last finished one."""
        self._written = self._now()
        if is_first():
            seconds = {phase: round(value, 3) for phase, value in self.seconds.items()}
            replace_text(self._path, json.dumps({"step": step, "starts": self._starts, "seconds": seconds}) + "\n")

    def write_if_old(self, step: int) -> None:
        """As `write`, if that was half a minute ago."""
        if self._now() - self._written >= _WRITE_EVERY_S:
            self.write(step)

    def table(self) -> list[str]:
        """Lines for a person: the seconds of each phase and their share of the wall time."""
        seconds = self.seconds
        total = max(1e-9, _total(seconds))
        starts = f" over {self._starts} starts" if self._starts > 1 else ""
        return [
            f"wall time {total:.1f} s{starts}, of which",
            *(f"  {title:<12}{seconds[p]:>10.1f} s{seconds[p] / total:>8.1%}" for p, title in PHASES.items()),
        ]


def _gone_back(spent: Seconds, at_checkpoint: Seconds) -> Seconds:
    lost = at_checkpoint.get("lost", 0.0) + _total(spent) - _total(at_checkpoint)
    return {phase: at_checkpoint.get(phase, 0.0) for phase in PHASES} | {"lost": lost}


def _total(seconds: Seconds) -> float:
    return sum(seconds.values())


class Pace(NamedTuple):
    """How fast training is."""

    images_per_s: float
    wait_share: float  # of the time, spent waiting for data; from 0 to 1


def pace(num_images: int, since: Seconds, now: Seconds) -> Pace:
    """Of the steps between two readings of a ledger; evaluations and checkpoints between them do not count."""
    waited, stepped = (now[phase] - since[phase] for phase in ("data_wait", "step"))
    total = max(1e-9, waited + stepped)
    return Pace(num_images / total, waited / total)
