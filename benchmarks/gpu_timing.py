"""Timing of steps that a device runs one after the other, without waiting for each. Nothing here imports jax.

Training does not wait for a step before it starts the next one, so neither does this: blocks of steps are timed.
"""

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

NUM_BLOCKS = 5
_MOST_STEPS = 200


def time_blocks(launch: Callable[[], Any], wait: Callable[[Any], Any], block_s: float) -> dict[str, Any]:
    """Time blocks of steps that each take about `block_s` seconds.

    Args:
      launch: function that starts one step, and may return before it ends.
      wait: function that waits for what the last `launch` returned.
      block_s: seconds of one block; a block has at least one step.

    Returns:
      The median time of a step over blocks, the time of each block's step, both in ms, and the number of steps in a
      block.
    """
    wait(launch())  # what is done once is not timed
    start = time.perf_counter()
    wait(launch())
    one_s = time.perf_counter() - start
    count = max(1, min(_MOST_STEPS, math.ceil(block_s / max(one_s, 1e-6))))
    blocks_ms = []
    for _ in range(NUM_BLOCKS):
        result, start = None, time.perf_counter()
        for _ in range(count):
            result = launch()
        wait(result)
        blocks_ms.append(1e3 * (time.perf_counter() - start) / count)
    return {"ms": statistics.median(blocks_ms), "blocks_ms": blocks_ms, "steps_in_block": count}


def convolution_rates(variant: dict[str, Any], ms: float) -> dict[str, float]:
    """Return FLOP/s and bytes/s of a 3x3 convolution, of which each operand is read or written once."""
    own, out = variant["channels"]
    pixels = variant["batch_size"] * variant["side"] ** 2
    item = 2 if variant["dtype"] == "bfloat16" else 4
    num_bytes = item * (pixels * (own + out) + 9 * own * out)
    return {"flops_per_s": 2e3 * 9 * own * out * pixels / ms, "bytes_per_s": 1e3 * num_bytes / ms}


def reason(error: BaseException) -> str:
    """Return the type and the first line of an error, cut to 300 characters."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:300]}"
