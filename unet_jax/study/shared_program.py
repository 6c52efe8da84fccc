"""Compiled steps that runs share if their losses differ only in numbers.

Weights, class weights and the options that `LossEntry.numbers` lists are arguments of the compiled step, so that
changing them needs no compilation. A loss that is a sum of other functions has another structure, and its step is
compiled separately.
"""

import dataclasses
import functools
import json
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from unet_jax._types import Batch, PyTree
from unet_jax.config import Config, LossConfig
from unet_jax.config.dicts import config_to_dict
from unet_jax.devices.compilation import jit_for
from unet_jax.devices.mesh import put_replicated
from unet_jax.program.build import Program, build, make_steps
from unet_jax.program.objective import loss_numbers
from unet_jax.program.state import TrainState
from unet_jax.program.steps import EvalStep, TrainStep

_MOST_KEPT = 32
"""Number of compiled steps that are kept for later runs. The trials of a tuned study may each have their own."""


def structure(config: LossConfig) -> str:
    """Describe a loss without its numbers, as JSON text; losses with equal texts can share a compiled step.

    Example:
      >>> from unet_jax.config import LossConfig
      >>> structure(LossConfig(bce_weight=2.0)) == structure(LossConfig())
      True
      >>> structure(LossConfig(dice_reduction="image")) == structure(LossConfig())
      False
    """
    numbers = loss_numbers(config)
    values = config_to_dict(config)
    if not config.terms:
        return json.dumps({"dice_reduction": values["dice_reduction"]})
    for term, own in zip(values["terms"], numbers["terms"], strict=True):
        term.pop("weight")
        term["class_weight"] = len(own["class_weight"])
        term["ramp"] = bool(own["ramp"])
        term["options"] |= dict.fromkeys(own["options"], "number")
    return json.dumps(values["terms"], sort_keys=True)


class SharedPrograms:
    """Maker of programs like those of `build`, for runs on one mesh whose configs differ only in seed, splits and loss.

    An object is called like `build`: `programs(config, num_classes, num_steps)`.
    """

    def __init__(self, mesh: Mesh):
        self._mesh = mesh
        self._steps: dict[str, _Steps] = {}

    def __call__(self, config: Config, num_classes: int, num_steps: int) -> Program:
        key = _key(config, num_classes, num_steps)
        steps = self._steps.pop(key, None) or _Steps(config, num_classes, num_steps)
        self._steps[key] = steps  # the newest is the last
        if len(self._steps) > _MOST_KEPT:
            del self._steps[next(iter(self._steps))]
        as_arrays = jax.tree.map(np.float32, loss_numbers(config.loss))
        numbers = put_replicated(as_arrays, self._mesh)
        return steps.program._replace(
            train_step=_Numbered(steps, numbers), eval_step=functools.partial(steps.eval_step, numbers)
        )

    @property
    def num_compiled(self) -> int:
        """Number of training steps compiled so far."""
        return sum(steps.compiled is not None for steps in self._steps.values())

    def batch_shapes(self, config: Config, num_classes: int, num_steps: int) -> Batch | None:
        """Return the shapes of the batches that the training step was compiled for; None if it was not compiled."""
        steps = self._steps.get(_key(config, num_classes, num_steps))
        return steps.batch_shapes if steps else None

    def step_bytes(self, config: Config, num_classes: int, num_steps: int) -> int | None:
        """Return the memory in bytes that the compiled training step needs on one device, as the compiler reports it.

        None if the step was not compiled or the compiler does not report it.
        """
        steps = self._steps.get(_key(config, num_classes, num_steps))
        if steps is None or steps.compiled is None:
            return None
        analysis = steps.compiled.memory_analysis()
        if analysis is None:
            return None
        # Outputs are not added: the new state takes the memory of the old one, which is donated.
        return int(analysis.argument_size_in_bytes + analysis.temp_size_in_bytes)


def _key(config: Config, num_classes: int, num_steps: int) -> str:
    """Return text that is equal for runs that can share compiled steps."""
    rest = config_to_dict(dataclasses.replace(config, seed=0, loss=LossConfig()))
    del rest["data"]["splits"]  # each fold has its own
    return json.dumps([rest, structure(config.loss), num_classes, num_steps], sort_keys=True)


class _Steps:
    """Training and evaluation step of one structure of loss, which take the loss's numbers as an argument."""

    def __init__(self, config: Config, num_classes: int, num_steps: int):
        self.program = program = build(config, num_classes, num_steps)
        self.compiled: Any = None
        self.batch_shapes: Batch | None = None

        def steps_with(numbers: PyTree) -> tuple[TrainStep, EvalStep]:
            return make_steps(config, program.model, program.tx, program.packing, num_steps, numbers)

        def train_step(state: TrainState, batch: Batch, numbers: PyTree) -> Any:
            return steps_with(numbers)[0](state, batch)

        def eval_step(numbers: PyTree, params: PyTree, batch_stats: PyTree, batch: Batch) -> Any:
            return steps_with(numbers)[1](params, batch_stats, batch)

        backend = jax.default_backend()
        self.train_step = jit_for(backend, train_step, donate_argnums=0)
        self.eval_step = jit_for(backend, eval_step)


class _Numbered:
    """Training step of one run, with the loss's numbers of that run.

    Like a jitted function it can be called, and it has what the training loop needs: `lower(state, batch).compile()`.
    """

    def __init__(self, steps: _Steps, numbers: PyTree):
        self._steps, self._numbers = steps, numbers
        self._arguments: tuple[Any, Any] | None = None

    def __call__(self, state: TrainState, batch: Batch) -> Any:
        return self._steps.train_step(state, batch, self._numbers)

    def lower(self, state: TrainState, batch: Batch) -> "_Numbered":
        self._arguments = (state, batch)
        return self

    def compile(self) -> TrainStep:
        assert self._arguments is not None
        steps, numbers = self._steps, self._numbers
        if steps.compiled is None:
            steps.batch_shapes = self._arguments[1]
            steps.compiled = steps.train_step.lower(*self._arguments, numbers).compile()
        return lambda state, batch: steps.compiled(state, batch, numbers)
