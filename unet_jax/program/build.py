"""Builders that turn a config into its program: the network, the optimizer, and the steps that training runs."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array

from unet_jax._types import Batch, InputError, PyTree
from unet_jax.config import Config, LossConfig, LossTermConfig, ModelConfig
from unet_jax.config.loss_catalogue import LOSSES
from unet_jax.config.packing import UNPACKED, Factor, Packing, num_subpixels
from unet_jax.devices.compilation import compiler_options
from unet_jax.devices.mesh import batch_shardings, check_batch_size, check_rows
from unet_jax.losses import Term, bce_dice_loss, deep_supervision, make_objective, ramp_factor
from unet_jax.model import UNet
from unet_jax.model.packing import level_factors, logits_factor, unpack
from unet_jax.program.after_update import average_weights, correct_statistics, freeze_encoder, skip_non_finite
from unet_jax.program.initial_state import init_state, make_model, network_of
from unet_jax.program.optim import make_optimizer
from unet_jax.program.own import OURS, Own, OwnNetwork
from unet_jax.program.predict_step import LogitsStep, make_logits_step, make_predict_step
from unet_jax.program.state import TrainState, with_ema
from unet_jax.program.steps import (
    EvalStep,
    LossFn,
    Options,
    PredictStep,
    TermGradientsStep,
    TrainStep,
    make_accumulating_train_step,
    make_eval_step,
    make_term_gradients_step,
    make_train_step,
)
from unet_jax.program.symmetries import Augmentation


class Program(NamedTuple):
    """Network, optimizer and jitted steps of one config. Nothing in it is compiled yet.

    The three steps carry XLA's options for their kind of device (`unet_jax.devices.compilation`). Inside another jitted
    function, jax refuses such options: use the steps of `make_steps` there.
    """

    model: UNet | OwnNetwork
    """Network, whose logits have one channel per class."""
    tx: optax.GradientTransformation
    """Optimizer, learning rate included."""
    packing: Packing
    """Factors that images and labels are packed by (`unet_jax.data.packing`) for `train_step` and `eval_step`."""
    train_step: TrainStep
    """Function `(state, batch) -> (state, metrics)`; see `unet_jax.program.steps.make_train_step`."""
    eval_step: EvalStep
    """Function `(params, batch_stats, batch) -> (metrics, counts)`; see `unet_jax.program.steps.make_eval_step`."""
    predict_step: PredictStep
    """Function `(params, batch_stats, images) -> probabilities`; see
    `unet_jax.program.predict_step.make_predict_step`. Its images are not packed."""
    ema: bool = False
    """True if the training step keeps a running mean of the weights, which the state must then have."""

    def init(self, key: jax.Array, num_channels: int = 3) -> TrainState:
        """Return the state before the first update, with random weights from the key. The function is pure."""
        state = init_state(key, self.model, self.tx, num_channels)
        return with_ema(state) if self.ema else state


def build(config: Config, num_classes: int, num_steps: int, *, backend: str | None = None, own: Own = OURS) -> Program:
    """Build the program of a config.

    Args:
      config: settings of the whole run.
      num_classes: number of classes, which is the number of output channels.
      num_steps: number of updates in the run, which the schedules of the learning rate and of the loss need.
      backend: kind of device to build for ("tpu", "gpu" or "cpu"), which `model.packing = "auto"` depends on; by
        default the one that jax uses.
      own: network and optimizer in the place of the library's.

    Returns:
      The network, the optimizer, and the steps for training, evaluation and prediction.

    Example:
      >>> import jax
      >>> from unet_jax import PRESETS, replace
      >>> from unet_jax.program.build import build
      >>> config = replace(PRESETS["small"](), {"model.widths": (4,), "model.center_width": 8})
      >>> program = build(config, num_classes=2, num_steps=10)
      >>> state = program.init(jax.random.key(0))
      >>> int(state.step)
      0
    """
    backend = backend or jax.default_backend()
    packing, model = UNPACKED, network_of(config.model, num_classes, own)
    if own.network is None:
        packing = Packing(level_factors(config.model, backend)[0], logits_factor(config.model, num_classes, backend))
        model = _network(config.model, num_classes, backend)
    tx = make_optimizer(config.optim, num_steps, own.optimizer)
    options = compiler_options(backend)
    train_step, eval_step = make_steps(config, model, tx, packing, num_steps, compiler_options=options)
    predict_step = build_predict_step(config.model, num_classes, backend, own=own)
    return Program(model, tx, packing, train_step, eval_step, predict_step, ema=config.train.ema > 0.0)


def build_predict_step(
    config: ModelConfig,
    num_classes: int,
    backend: str | None = None,
    *,
    tta: Augmentation = "none",
    own: Own = OURS,
) -> PredictStep:
    """Build the prediction step of a network, for the given kind of device as in `build`."""
    return make_predict_step(**_for_prediction(config, num_classes, backend, own), tta=tta)


def build_logits_step(
    config: ModelConfig,
    num_classes: int,
    backend: str | None = None,
    *,
    tta: Augmentation = "none",
    own: Own = OURS,
) -> LogitsStep:
    """Build the step that computes the logits of tiles, for the given kind of device as in `build`."""
    return make_logits_step(**_for_prediction(config, num_classes, backend, own), tta=tta)


def _for_prediction(config: ModelConfig, num_classes: int, backend: str | None, own: Own) -> dict[str, Any]:
    """Return what the steps of prediction need to know of a network, as arguments by name."""
    backend = backend or jax.default_backend()
    is_own = own.network is not None
    model = network_of(config, num_classes, own) if is_own else _network(config, num_classes, backend)
    options = compiler_options(backend)
    return {"apply_fn": model.apply, "size_multiple": config.size_multiple, "compiler_options": options}


def build_logits(config: ModelConfig, num_classes: int, backend: str) -> Callable[[PyTree, Array], Array]:
    """Build the function from variables and images to logits, not jitted, as it is best for the given kind of device.

    Args:
      config: settings of the network.
      num_classes: number of classes.
      backend: kind of device ("cpu", "gpu", "tpu"), which need not be present.

    Returns:
      A function `({"params": ..., "batch_stats": ...}, images) -> logits`, from `[b h w c]` float32 in [0, 1] to
      `[b h w k]` float32, neither of them packed.
    """
    return functools.partial(_network(config, num_classes, backend).apply, train=False)  # type: ignore


def _network(config: ModelConfig, num_classes: int, backend: str) -> UNet:
    """Return the network of a config, with `packing` replaced by the factors that it means on a kind of device."""
    factors = level_factors(config, backend)[:-1]
    packing = ",".join(f"{rows}x{columns}" for rows, columns in factors)
    return make_model(dataclasses.replace(config, packing=packing), num_classes)


def make_steps(
    config: Config,
    model: UNet | OwnNetwork,
    tx: optax.GradientTransformation,
    packing: Packing,
    num_steps: int,
    numbers: dict[str, Any] | None = None,
    compiler_options: Options = None,
) -> tuple[TrainStep, EvalStep]:
    """Make the training step and the evaluation step, both for packed batches.

    Args:
      config: settings of the run.
      model: network of the config.
      tx: optimizer of the config.
      packing: factors that images and labels are packed by.
      num_steps: number of updates in the run, as in `make_loss`.
      numbers: numbers of the loss, as in `make_loss`.
      compiler_options: XLA's options, for steps that are called directly. Steps that are called inside another jitted
        function must have none: pass the options to that function's `jax.jit`.

    Returns:
      The training step and the evaluation step, both jitted.
    """
    is_own = isinstance(model, OwnNetwork)
    additions = _after_update(config, is_own)
    num_frozen = config.optim.freeze_encoder_steps
    own = None if additions or num_frozen else compiler_options
    apply_fn = functools.partial(model.apply, method="packed")
    loss_fn = make_loss(config.loss, packing.label, num_steps, numbers)
    trained_loss, num_lower = loss_fn, config.model.deep_supervision
    if num_lower:
        trained_loss = make_supervised_loss(config.loss, num_lower, packing.label, num_steps, numbers)

    def make_step(model: UNet | OwnNetwork) -> TrainStep:
        trained_fn = functools.partial(model.apply, method="supervised" if num_lower else "packed")
        options: Any = {"seed": config.seed if is_own else None, "compiler_options": own}
        num_parts = config.train.accumulation
        if num_parts == 1:
            return make_train_step(trained_fn, trained_loss, tx, **options)
        return make_accumulating_train_step(trained_fn, trained_loss, tx, num_parts, **options)

    train_step = make_step(model)
    if num_frozen and isinstance(model, UNet):
        train_step = freeze_encoder(train_step, make_step(model.clone(is_encoder_frozen=True)), num_frozen)
    for i, addition in enumerate(additions):
        is_last = i == len(additions) - 1
        train_step = addition(train_step, compiler_options=compiler_options if is_last else None)
    count = num_subpixels(packing.label)
    return (
        train_step,
        make_eval_step(
            apply_fn,
            loss_fn,
            threshold=config.train.threshold,
            num_subpixels=count,
            compiler_options=compiler_options,
        ),
    )


def _after_update(config: Config, is_own: bool) -> list[Callable[..., TrainStep]]:
    """Return what the training step does after its update, in this order, as functions from step to step."""
    model, train = config.model, config.train
    additions: list[Callable[..., TrainStep]] = []
    if model.norm == "batch" and model.batch_norm_correction and not is_own:
        additions.append(functools.partial(correct_statistics, momentum=model.batch_norm_momentum))
    if train.ema:
        additions.append(functools.partial(average_weights, decay=train.ema))
    if train.on_non_finite == "skip":
        additions.append(skip_non_finite)
    return additions


def check_divisible(config: Config, mesh: Mesh) -> None:
    """Raise `InputError` if batches, micro-batches or rows of images cannot be divided evenly over the devices."""
    check_batch_size(config.train.batch_size, mesh)
    shares, num_parts = mesh.shape["data"], config.train.accumulation
    unit = shares * num_parts
    if config.train.batch_size % unit:
        raise InputError(
            f"train.batch_size is {config.train.batch_size}, but must be a multiple of {unit}, so that each of the "
            f"{num_parts} micro-batches (train.accumulation) has images for each of the {shares} devices: "
            f"use --train.batch-size {-(-config.train.batch_size // unit) * unit}, or a smaller --train.accumulation."
        )
    check_rows(config.data.height_and_width[0], config.model.size_multiple, mesh)


def make_term_gradients(
    config: Config, program: Program, class_names: Sequence[str], num_steps: int
) -> TermGradientsStep:
    """Make the step that measures the gradient of each term of the loss through each class, at the parameters.

    It takes batches packed as for the program's other steps. It computes each gradient on the whole batch, even if the
    training step divides the batch into micro-batches. With deep supervision, it measures the loss at the full
    resolution only.

    Args:
      config: settings of the run.
      program: program of the config.
      class_names: names of the classes, for the names of the metrics.
      num_steps: number of updates in the run, as in `make_loss`.
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
    """Return the numbers of a loss that may be traced: other values of them need no new compilation.

    Returns:
      A tree whose leaves are Python numbers.
    """
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
    """Make the objective of a config: its terms, or BCE and Dice if it has none.

    Losses that do not depend on where a pixel lies take packed logits and labels as they are. For other losses, logits
    and labels are unpacked first.

    Args:
      config: settings of the loss.
      factor: rows and columns of the blocks that logits and labels are packed in; (1, 1) = not packed.
      num_steps: number of updates in the run. Ramps begin and end at fractions of it.
      numbers: values in the place of the config's own numbers, in a tree like that of `loss_numbers`; they may be
        traced. By default the config's own.

    Returns:
      A function `(logits, labels, weight, step) -> (scalar, terms)`.
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
        unpack(logits, factor), unpack(labels, factor), unpack(weight, factor) if weight.ndim > 1 else weight, step
    )


def make_supervised_loss(
    config: LossConfig,
    num_lower: int,
    factor: Factor = (1, 1),
    num_steps: int = 1,
    numbers: dict[str, Any] | None = None,
) -> LossFn:
    """Make the objective of deep supervision: the weighted mean of that of `make_loss` over several resolutions.

    Each resolution counts half of the one above it, as in nnU-Net. Terms at the full resolution keep their names, and
    those of lower ones are named NAME/1, NAME/2, and so on.

    Args:
      config, factor, num_steps, numbers: the same as in `make_loss`.
      num_lower: number of lower resolutions, each half of the one before.

    Returns:
      A function `(logits, labels, weight, step) -> (scalar, terms)`. Its logits are those of `UNet.supervised`. Only
      the first of them are packed, as are labels and weight.
    """
    objective = make_loss(config, (1, 1), num_steps, numbers)
    supervised = deep_supervision(objective, [0.5**level for level in range(num_lower + 1)])

    def loss_fn(logits: Sequence[Array], labels: Array, weight: Array, step: Any = None) -> tuple[Array, Any]:
        labels = unpack(labels, factor)
        weight = unpack(weight, factor) if weight.ndim > 1 else weight
        total, terms = supervised([unpack(logits[0], factor), *logits[1:]], labels, weight, step)
        return total, {name.removesuffix("/0"): value for name, value in terms.items()}

    return loss_fn


def batch_shapes(
    config: Config,
    num_classes: int,
    packing: Packing,
    mesh: Mesh,
    *,
    num_channels: int = 3,
    image_dtype: Any = np.uint8,
    has_valid: bool = False,
) -> Batch:
    """Return the shapes, dtypes and shardings of the batch that a training step takes.

    Image and label are packed, the label is uint8, and the weights are float32.

    Args:
      config: settings of the run.
      num_classes: output channels.
      packing: factors that images and labels are packed by.
      mesh: devices.
      num_channels: channels of the images.
      image_dtype: type of their pixels, uint8 or uint16.
      has_valid: whether the batches say which pixels are ignored.

    Raises:
      InputError: the batch cannot be divided evenly over micro-batches and devices, or the images' rows over devices.
    """
    check_divisible(config, mesh)
    shardings = batch_shardings(mesh)
    (height, width), batch_size = config.data.height_and_width, config.train.batch_size

    def pixels(channels: int, factor: Factor, dtype: Any) -> jax.ShapeDtypeStruct:
        shape = (batch_size, height // factor[0], width // factor[1], num_subpixels(factor) * channels)
        return jax.ShapeDtypeStruct(shape, dtype, sharding=shardings.image)

    weight = jax.ShapeDtypeStruct((batch_size,), np.float32, sharding=shardings.weight)
    image = pixels(num_channels, packing.image, image_dtype)
    label = pixels(num_classes, packing.label, np.uint8)
    return Batch(image, label, weight, label if has_valid else None)
