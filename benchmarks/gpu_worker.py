"""Process that `gpu.py` starts. It measures variants on request, and prints each finished row at once.

Its argument is jax or torch. A request on stdin and each message on stdout is a line of JSON. The first message is
`facts`; then, for each request, `row`s, `finished` and `failed` variants in any number, and `done`. Other output goes
to stderr.
"""

import contextlib
import ctypes
import importlib
import json
import os
import signal
import sys
import time
from typing import Any, TextIO

from gpu_timing import reason

_PR_SET_PDEATHSIG = 1  # of Linux's prctl


def end_with_parent() -> None:
    """Make this process end when its parent ends, however that ends, so that it does not keep the GPU."""
    with contextlib.suppress(OSError, AttributeError):  # not on Linux
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def answer(request: dict[str, Any], module: Any, answers: TextIO) -> None:
    """Measure the variants of a request, which come with the names of the programs that are finished already."""

    def say(message: dict[str, Any]) -> None:
        print(json.dumps(message), file=answers, flush=True)

    for variant in request["variants"]:
        start = time.perf_counter()
        try:
            for row in module.measure(variant):
                now = time.perf_counter()
                say({"row": {"variant": variant["name"], **row, "spent_s": now - start}})
                start = now
            say({"finished": {"variant": variant["name"]}})
        except Exception as error:  # such as too little memory, or a flag that is not known
            say({"failed": {"variant": variant["name"], "why": reason(error)}})
    say({"done": True})


def main() -> None:
    """Answer requests until stdin ends."""
    end_with_parent()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not mix with the answers
    module = importlib.import_module(f"gpu_{sys.argv[1]}")
    print(json.dumps({"facts": module.facts()}), file=answers, flush=True)
    for line in sys.stdin:
        answer(json.loads(line), module, answers)


if __name__ == "__main__":
    main()
