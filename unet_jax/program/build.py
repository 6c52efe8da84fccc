"""The pure pieces of a config, put together: one network, one optimizer, and the steps that training runs."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from unet_jax._types import Batch, InputError
from unet_jax.config import Config, LossConfig, LossTermConfig, TrainConfig
from unet_jax.config.loss_catalogue import LOSSES
from unet_jax.config.packing import Factor, Packing, num_subpixels
from unet_jax.devices.compilation import compiler_options
from unet_jax.devices.mesh import batch_shardings, check_rows, replicated
from unet_jax.losses import Term, bce_dice_loss, make_objective, ramp_factor
from unet_jax.model import UNet
from unet_jax.model.packing import level_factors, logits_factor, unpack
from unet_jax.program.initial_state import init_state, make_model
from unet_jax.program.optim import make_optimizer
from unet_jax.program.state import TrainState
from unet_jax.program.steps import (
    EvalStep,
    LossFn,
    Options,
    TermGradientsStep,
    TrainStep,
    make_accumulating_train_step,
    make_eval_step,
    make_term_gradients_step,
    make_train_step,
    skip_non_finite,
)


class Program(NamedTuple):
    """What one config computes; nothing here is compiled yet."""

    model: UNet
    tx: optax.GradientTransformation
    packing: Packing
    """How images and labels are packed (`unet_jax.data.packing`) before the two steps see them."""
    train_step: TrainStep
    eval_step: EvalStep
    """Both have XLA's options for their kind of device (`unet_jax.devices.compilation`), which jax refuses within another jitted
    function; there, use `make_steps`."""

    def init(self, key: jax.Array) -> TrainState:
        """A state before the first update; pure."""
        return init_state(key, self.model, self.tx)


def build(config: Config, num_classes: int, num_steps: int, *, backend: str | None = None) -> Program:
    """The program of a config.

    Args:
      config: the whole run.
      num_classes: output channels.
      num_steps: of the run, which the learning rate's schedule needs.
      backend: kind of device that it is for ("tpu", "gpu", "cpu"), which `model.packing = "auto"` depends on; by
        default the one that jax uses.
    """
    backend = backend or jax.default_backend()
    factors = level_factors(config.model, backend)
    packing = Packing(factors[0], logits_factor(config.model, num_classes, backend))
    by_level = ",".join(f"{rows}x{columns}" for rows, columns in factors[:-1])
    undivided = num_micro_batches(config.train) < config.train.accumulation
    remat = "full" if undivided else config.model.remat
    model = make_model(dataclasses.replace(config.model, packing=by_level, remat=remat), num_classes)
    tx = make_optimizer(config.optim, num_steps)
    options = compiler_options(backend)
    steps = make_steps(config, model, tx, packing, num_steps, compiler_options=options)
    return Program(model, tx, packing, *steps)


def make_steps(
    config: Config,
    model: UNet,
    tx: optax.GradientTransformation,
    packing: Packing,
    num_steps: int,
    numbers: dict[str, Any] | None = None,
    compiler_options: Options = None,
) -> tuple[TrainStep, EvalStep]:
    """The steps to train and to evaluate on packed batches; `num_steps` and `numbers` are those of `make_loss`.

    XLA's options are for steps that are called as they are; within another jitted function they must be its own.
    """
    skips = config.train.on_non_finite == "skip"
    own = None if skips else compiler_options
    apply_fn = functools.partial(model.apply, method="packed")
    loss_fn = make_loss(config.loss, packing.label, num_steps, numbers)
    num_parts = num_micro_batches(config.train)
    if num_parts == 1:
        train_step = make_train_step(apply_fn, loss_fn, tx, compiler_options=own)
    else:
        train_step = make_accumulating_train_step(apply_fn, loss_fn, tx, num_parts, compiler_options=own)
    count = num_subpixels(packing.label)
    return (
        skip_non_finite(train_step, compiler_options) if skips else train_step,
        make_eval_step(
            apply_fn,
            loss_fn,
            threshold=config.train.threshold,
            num_subpixels=count,
            compiler_options=compiler_options,
        ),
    )


def num_micro_batches(config: TrainConfig) -> int:
    """How many parts a batch is really divided into: with exact statistics it is not (docs/memory.md says why)."""
    return 1 if config.accumulation_statistics == "exact" else config.accumulation


def check_micro_batches(config: TrainConfig, mesh: Mesh) -> None:
    """Raises `InputError` when a micro-batch cannot be split evenly over the devices that batches are split over."""
    shares, num_parts = mesh.shape["data"], num_micro_batches(config)
    unit = shares * num_parts
    if config.batch_size % unit:
        raise InputError(
            f"train.batch_size is {config.batch_size}, but must be a multiple of {unit}, so that each of the "
            f"{num_parts} micro-batches (train.accumulation) has images for each of the {shares} devices: "
            f"use --train.batch-size {-(-config.batch_size // unit) * unit}, or a smaller --train.accumulation."
        )


def make_term_gradients(
    config: Config, program: Program, class_names: Sequence[str], num_steps: int
) -> TermGradientsStep:
    """How the terms of a config's loss pull at the parameters, on batches packed as the program's steps want them.

    The batch is taken as a whole, also where the training step divides it.
    """
    loss, factor = config.loss, program.packing.label
    if loss.terms:
        parts = {term.metric: dataclasses.replace(loss, terms=(term,)) for term in loss.terms}
    else:
        parts = {"bce": dataclasses.replace(loss, dice_weight=0.0)} if loss.bce_weight else {}
        parts |= {"dice_loss": dataclasses.replace(loss, bce_weight=0.0)} if loss.dice_weight else {}
    terms = {name: make_loss(part, factor, num_steps) for name, part in parts.items()}
    apply_fn = functools.partial(program.model.apply, method="packed")
    count = num_subpixels(factor)
    return make_term_gradients_step(
        apply_fn, terms, class_names, num_subpixels=count, compiler_options=compiler_options()
    )


def loss_numbers(config: LossConfig) -> dict[str, Any]:
    """A loss's numbers of which other values compile nothing anew, as a tree of Python numbers and tuples of them."""
    if not config.terms:
        return {name: getattr(config, name) for name in ("bce_weight", "dice_weight", "dice_smooth")}

    def numbers(term: LossTermConfig) -> dict[str, Any]:
        traceable = LOSSES[term.name].numbers if term.name in LOSSES else ()
        options = {name: value for name, value in term.options.items() if name in traceable}
        ramp = dataclasses.astuple(term.ramp) if term.ramp else ()
        return {"weight": term.weight, "options": options, "class_weight": term.class_weight, "ramp": ramp}

    return {"terms": [numbers(term) for term in config.terms]}


def make_loss(
    config: LossConfig, factor: Factor = (1, 1), num_steps: int = 1, numbers: dict[str, Any] | None = None
) -> LossFn:
    """The objective of a config, its terms or BCE and Dice where it has none, for logits and labels packed by `factor`.

    Losses that do not care where a pixel lies take them as they are; otherwise they are unpacked first. `num_steps`,
    of the run, is what ramps are parts of. `numbers`, shaped as those of `loss_numbers`, go before the config's own and
    may be traced.
    """
    numbers = numbers or loss_numbers(config)
    if not config.terms:
        options = {"dice_reduction": config.dice_reduction, **numbers}
        return functools.partial(bce_dice_loss, **options, num_subpixels=num_subpixels(factor))

    def term(t: LossTermConfig, own: dict[str, Any]) -> Term:
        class_weight = own["class_weight"] if t.class_weight else None
        schedule = (lambda step: ramp_factor(step / num_steps, *own["ramp"])) if t.ramp else None
        options = {**t.options, **own["options"]}
        return Term(t.name, own["weight"], options, class_weight, schedule, over=t.over, label=t.label)

    objective = make_objective([term(t, own) for t, own in zip(config.terms, numbers["terms"], strict=True)])
    if all(t.name in LOSSES and LOSSES[t.name].accepts_packed for t in config.terms):
        return functools.partial(objective, num_subpixels=num_subpixels(factor))
    return lambda logits, labels, weight, step=None: objective(
        unpack(logits, factor), unpack(labels, factor), weight, step
    )


def batch_shapes(config: Config, num_classes: int, packing: Packing, mesh: Mesh) -> Batch:
    """What a training step takes, as shapes: packed uint8 image and label, and the weights.

    Raises:
      InputError: the batch cannot be divided among micro-batches and devices, or the images' rows among devices.
    """
    check_micro_batches(config.train, mesh)
    check_rows(config.data.image_size, config.model.size_multiple, mesh)
    shardings = batch_shardings(mesh)
    size, batch_size = config.data.image_size, config.train.batch_size

    def pixels(channels: int, factor: Factor) -> jax.ShapeDtypeStruct:
        shape = (batch_size, size // factor[0], size // factor[1], num_subpixels(factor) * channels)
        return jax.ShapeDtypeStruct(shape, np.uint8, sharding=shardings.image)

    weight = jax.ShapeDtypeStruct((batch_size,), np.float32, sharding=shardings.weight)
    return Batch(pixels(3, packing.image), pixels(num_classes, packing.label), weight)


def state_shapes(program: Program, mesh: Mesh) -> TrainState:
    """The state's shapes, replicated over the mesh."""
    shapes = jax.eval_shape(program.init, jax.random.key(0))
    sharding = replicated(mesh)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes)
