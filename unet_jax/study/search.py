"""Search space of tuning: values of settings, and the trials of each variant, which are functions of the seed alone."""

import dataclasses
import itertools
import math
import zlib
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from unet_jax._types import InputError
from unet_jax.config import LossConfig
from unet_jax.config.checks import did_you_mean, require

TRIAL_SEED = 1_000_000
"""Default seed of drawn values and of the training of trials; no study counts so far."""


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers between two ends, of which random search draws; whole numbers if both ends are.

    Raises:
      InputError: the ends cannot be used.
    """

    low: float
    """Smallest value."""
    high: float
    """Largest value."""
    log: bool = False
    """True draws uniformly in the logarithm, so that 1 to 10 is as likely as 10 to 100."""

    def __post_init__(self) -> None:
        ends = (self.low, self.high)
        ok = all(type(end) in (int, float) and math.isfinite(end) for end in ends) and self.low < self.high
        require(ok, "tune: low, high", ends, "two finite numbers, the smaller one first")
        require(type(self.log) is bool, "tune: log", self.log, "true or false")
        require(not self.log or self.low > 0, "tune: low", self.low, "above 0, as log = true needs")

    def draw(self, rng: np.random.Generator) -> float:
        """Draw a number."""
        if type(self.low) is int and type(self.high) is int and not self.log:
            return int(rng.integers(self.low, self.high, endpoint=True))
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        value = float(rng.uniform(low, high))
        value = float(f"{math.exp(value) if self.log else value:.4g}")  # as people write numbers
        value = min(max(value, self.low), self.high)
        return round(value) if type(self.low) is int and type(self.high) is int else value


Space = Mapping[str, tuple[Any, ...] | Range]
"""Values by setting: "config.optim.learning_rate", or of the variant's loss, "loss.tversky.options.fn_weight"."""


@dataclasses.dataclass(frozen=True)
class Tune:
    """A search that gives every variant the same number of trials, which are scored on val only.

    Raises:
      InputError: a value cannot be used.
    """

    space: Space = dataclasses.field(default_factory=dict)
    """Settings that every variant tunes. Variants may add their own."""
    method: Literal["grid", "random"] = "random"
    """random: each trial draws a value of each setting. grid: the trials are all combinations of listed values."""
    trials: int = 0
    """Number of trials of each variant for random search, besides the settings of the file, which are tried too."""
    halving: int = 0
    """Successive halving if above 1: all trials are trained for a part of the run, the best 1 / `halving` of them for
    `halving` times as long, and so on, up to the whole length. 0: all trials have the whole length."""
    seed: int = TRIAL_SEED
    """Seed of drawn values and of the training of all trials. It may not be one of the study's seeds."""

    def __post_init__(self) -> None:
        require(self.method in ("grid", "random"), "tune.method", self.method, "one of 'grid', 'random'")
        for name, low in (("trials", 0), ("halving", 0), ("seed", 0)):
            value = getattr(self, name)
            require(type(value) is int and low <= value < 2**31, f"tune.{name}", value, f"a whole number from {low} on")
        require(self.halving != 1, "tune.halving", self.halving, "2 or more, or 0 for no halving")
        if self.method == "random":
            require(self.trials >= 1, "tune.trials", self.trials, "at least 1: the number of trials of each variant")
        else:
            require(not self.trials, "tune.trials", self.trials, "left out: a grid has all combinations")

    def draws(self, name: str, space: Space) -> list[dict[str, Any]]:
        """Return the values that a variant tries, by setting. The first trial has none: the settings of the file.

        The values that random search draws for a setting depend on the seed and the name of the setting only, so that
        variants which share a setting try the same values of it.

        Args:
          name: name of the variant, for messages.
          space: settings that the variant adds to `self.space`.

        Raises:
          InputError: there is nothing to tune, or a grid has a range.
        """
        both = {**self.space, **space}
        if not both:
            raise InputError(
                f"variant {name!r} has nothing to tune, so that it would not get the effort that others get. Add a "
                f"setting to [tune.config], or to the variant's own table tune."
            )
        if self.method == "random":
            return [
                {},
                *({key: self._draw(key, values, i) for key, values in both.items()} for i in range(self.trials)),
            ]
        lists = []
        for key, values in both.items():
            if isinstance(values, Range):
                raise InputError(f"tune.{key} is a range, of which a grid cannot try all values: list them.")
            lists.append([(key, value) for value in values])
        return [{}, *(dict(combination) for combination in itertools.product(*lists))]

    def _draw(self, key: str, values: tuple[Any, ...] | Range, trial: int) -> Any:
        rng = np.random.default_rng((self.seed, zlib.crc32(key.encode()), trial))
        return values.draw(rng) if isinstance(values, Range) else values[int(rng.integers(len(values)))]

    def rungs(self, num_trials: int) -> list[tuple[float, int]]:
        """Return the rounds of the search: the part of a run's length, and the number of trials that it has.

        Example:
          >>> Tune(trials=8, halving=3).rungs(9)
          [(0.3333333333333333, 9), (1.0, 3)]
          >>> Tune(trials=8).rungs(9)
          [(1.0, 9)]
        """
        if not self.halving:
            return [(1.0, num_trials)]
        counts = []
        while (count := num_trials // self.halving ** len(counts)) >= 2:
            counts.append(count)
        counts = counts or [num_trials]
        return [(1.0 / self.halving ** (len(counts) - 1 - i), count) for i, count in enumerate(counts)]


def with_loss_values(loss: LossConfig, values: Mapping[str, Any]) -> LossConfig:
    """Return a loss with some of its numbers changed.

    Args:
      loss: the loss.
      values: new values by name: "bce_weight" or another field of a loss without terms; "TERM.weight",
        "TERM.class_weight" or "TERM.options.NAME" of a loss with terms, where TERM is the label or name of a term.

    Raises:
      InputError: a name does not exist, or a value is refused.

    Example:
      >>> with_loss_values(LossConfig(), {"dice_weight": 2.0}).dice_weight
      2.0
      >>> from unet_jax.config import LossTermConfig
      >>> loss = LossConfig(terms=(LossTermConfig("bce"), LossTermConfig("tversky", options={"fn_weight": 0.5})))
      >>> with_loss_values(loss, {"tversky.options.fn_weight": 0.9, "bce.weight": 0.5}).terms[1].options
      {'fn_weight': 0.9}
    """
    if not loss.terms:
        known = [field.name for field in dataclasses.fields(loss) if field.name != "terms"]
        for name in values:
            if name not in known:
                raise InputError(f"loss.{name} does not exist, or has no number.{did_you_mean(name, known)}")
        return dataclasses.replace(loss, **values)
    terms = {term.metric: term for term in loss.terms}
    for name, value in values.items():
        label = next((label for label in terms if name.startswith(f"{label}.")), name.partition(".")[0])
        if label not in terms:
            raise InputError(f"loss.{name}: the loss has no term {label!r}.{did_you_mean(label, terms)}")
        field = name.removeprefix(f"{label}.")
        first, _, option = field.partition(".")
        term = terms[label]
        if first == "options" and option:
            terms[label] = dataclasses.replace(term, options={**term.options, option: value})
        elif field in ("weight", "class_weight"):
            terms[label] = dataclasses.replace(term, **{field: value})
        else:
            raise InputError(f"loss.{name}: only weight, class_weight and options.NAME of a term can be tuned.")
    return dataclasses.replace(loss, terms=tuple(terms.values()))
