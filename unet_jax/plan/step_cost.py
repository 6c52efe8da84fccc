"""Measurement of a config's steps on this machine: time and memory, with random batches."""

import math
import os
import time
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from unet_jax._types import Batch
from unet_jax.config import Config
from unet_jax.plan.choose import StepCost
from unet_jax.program.batch_shapes import batch_shapes
from unet_jax.program.build import build
from unet_jax.program.initial_state import state_shapes
from unet_jax.program.state import TrainState

_MOST_S = 6.0
"""Seconds after which no further step is timed."""
_MOST_STEPS = 10


def measure_steps(
    config: Config,
    num_classes: int,
    num_steps: int,
    mesh: Mesh,
    *,
    num_channels: int = 3,
    image_dtype: Any = np.uint8,
    has_valid: bool = False,
    most_bytes: float = math.inf,
) -> StepCost:
    """Compile the training step that a run would use, and time it and the evaluation step on this machine.

    Args:
      config: settings of the run.
      num_classes: output channels.
      num_steps: number of updates in the run; a run with the same number finds the compiled program again.
      mesh: devices.
      num_channels: channels of the images.
      image_dtype: type of their pixels, uint8 or uint16.
      has_valid: whether the batches say which pixels are ignored.
      most_bytes: memory above which a step is compiled only; the times of steps are then 0.

    Returns:
      Times and memory. A training step's time is the median of several, after one that is not counted.
    """
    program = build(config, num_classes, num_steps)
    state_like = state_shapes(config, num_classes, num_steps, mesh, num_channels)
    batch_like = batch_shapes(
        config,
        num_classes,
        program.packing,
        mesh,
        num_channels=num_channels,
        image_dtype=image_dtype,
        has_valid=has_valid,
    )
    start = time.perf_counter()
    compiled = program.train_step.lower(state_like, batch_like).compile()  # type: ignore[attr-defined]
    compile_s = time.perf_counter() - start
    memory = compiled.memory_analysis()
    num_bytes = int(memory.argument_size_in_bytes + memory.temp_size_in_bytes) if memory else 0
    if num_bytes > most_bytes:
        return StepCost(compile_s, 0.0, 0.0, num_bytes)
    state, batch = _zeros(state_like), _random(batch_like)
    state, _ = compiled(state, batch)
    train_times, begin = [], time.perf_counter()
    while len(train_times) < _MOST_STEPS and (not train_times or time.perf_counter() - begin < _MOST_S):
        start = time.perf_counter()
        state, _ = jax.block_until_ready(compiled(state, batch))
        train_times.append(time.perf_counter() - start)
    eval_times = []
    for _ in range(3):  # the first one compiles
        start = time.perf_counter()
        jax.block_until_ready(program.eval_step(state.params, state.batch_stats, batch))
        eval_times.append(time.perf_counter() - start)
    return StepCost(compile_s, float(np.median(train_times)), min(eval_times[1:]), num_bytes)


def _zeros(shapes: TrainState) -> TrainState:
    """Return a state of these shapes in which everything is 0. A step takes the same time with any numbers."""
    return jax.tree.map(lambda x: jax.device_put(np.zeros(x.shape, x.dtype), x.sharding), shapes)


def _random(shapes: Batch) -> Batch:
    """Return a batch of these shapes with random pixels."""
    rng = np.random.default_rng(0)

    def fill(x: Any) -> jax.Array:
        if x.dtype.kind == "f":
            return jax.device_put(np.ones(x.shape, x.dtype), x.sharding)
        return jax.device_put(rng.integers(0, np.iinfo(x.dtype).max, x.shape, x.dtype, endpoint=True), x.sharding)

    return jax.tree.map(fill, shapes)


def device_memory() -> int | None:
    """Return the bytes of memory of one device that a program may use; None if the device does not say."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return (device.memory_stats() or {}).get("bytes_limit")
