"""What happens when the loss or its gradient is not finite: training stops, leaves the step out, or goes back."""

import math
from collections.abc import Sequence

from unet_jax._types import InputError

MAX_SKIPS = 10
"""Steps left out one after the other, after which the next one that is not finite stops the run."""
MAX_ROLLBACKS = 3
"""Returns to one checkpoint, after which the next step that is not finite stops the run."""


class NonFiniteLossError(InputError):
    """The loss or its gradient is not a finite number any more. `step` says when, where one run is meant."""

    def __init__(self, message: str, step: int = 0):
        super().__init__(message)
        self.step = step


def describe(step: int, metrics: dict[str, float], ids: Sequence[str]) -> str:
    """A sentence that says which metrics of a step on these images are not finite."""
    found = ", ".join(f"{name} is {value}" for name, value in metrics.items() if not math.isfinite(value))
    return f"step {step}: {found} (images {', '.join(ids)})."
