"""The values that travel through the library, and the two exceptions that mean "not our code": input, and a signal."""

from typing import Any, NamedTuple

import numpy as np

PyTree = Any


class InputError(ValueError):
    """Something the user gave cannot be used: the message names it, the value found and the remedy.

    The command line prints it without a traceback; from Python it is an ordinary `ValueError`.
    """


class Preempted(SystemExit):
    """SIGTERM or Ctrl-C came during training: it stopped after a step and saved it, and the same call continues.

    A script that does not catch it ends with exit status 75, which is EX_TEMPFAIL of sysexits.h, "try again". It is no
    `Exception`, so that a loop over several runs that goes on after errors stops too.
    """

    EXIT_STATUS = 75

    def __init__(self, path: object, step: int):
        super().__init__(self.EXIT_STATUS)
        self.path, self.step = path, step

    def __str__(self) -> str:
        return f"stopped at step {self.step}, saved in {self.path}. The same command continues from there."


class Sample(NamedTuple):
    """One image with its stacked class masks, on the host.

    Masks are membership in 256 steps: 0 is outside, 255 is inside, values between appear only where soft
    masks were asked for. Classes are independent channels and may overlap.
    """

    image: np.ndarray  # [h w 3] uint8, RGB
    mask: np.ndarray  # [h w k] uint8


class Batch(NamedTuple):
    """What one step consumes; the same container on the host (NumPy) and on the devices (`jax.Array`)."""

    image: Any  # [b h w 3] uint8, RGB
    label: Any  # [b h w k] uint8, 0 to 255
    weight: Any  # [b] float32: 1 for a sample, 0 for padding


class Share(NamedTuple):
    """The part of every global batch that a process reads: block `index` of `count` equal blocks of neighbours."""

    index: int = 0
    count: int = 1
