"""Builders that turn a config into its program: the network, the optimizer, and the steps that training runs."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import optax
from jaxtyping import Array

from unet_jax._types import PyTree
from unet_jax.config import Config, ModelConfig
from unet_jax.config.packing import UNPACKED, Packing, num_subpixels
from unet_jax.devices.compilation import jit_for
from unet_jax.model import UNet
from unet_jax.model.packing import level_factors, logits_factor
from unet_jax.program.after_update import average_weights, correct_statistics, freeze_encoder, skip_non_finite
from unet_jax.program.initial_state import init_state, make_model, network_of
from unet_jax.program.objective import make_loss, make_supervised_loss
from unet_jax.program.optim import make_optimizer
from unet_jax.program.own import OURS, Own, OwnNetwork
from unet_jax.program.predict_step import LogitsStep, make_logits_step, make_predict_step
from unet_jax.program.state import TrainState, with_ema
from unet_jax.program.steps import (
    EvalStep,
    PredictStep,
    TermGradientsStep,
    TrainStep,
    make_accumulating_train_step,
    make_eval_step,
    make_term_gradients_step,
    make_train_step,
    norm_by_parts,
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
    train_step, eval_step = make_steps(config, model, tx, packing, num_steps, backend=backend)
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
    return _jit_prediction(make_predict_step, config, num_classes, backend, own, tta)


def build_logits_step(
    config: ModelConfig,
    num_classes: int,
    backend: str | None = None,
    *,
    tta: Augmentation = "none",
    own: Own = OURS,
) -> LogitsStep:
    """Build the step that computes the logits of tiles, for the given kind of device as in `build`."""
    return _jit_prediction(make_logits_step, config, num_classes, backend, own, tta)


def _jit_prediction(
    make: Callable[..., Any],
    config: ModelConfig,
    num_classes: int,
    backend: str | None,
    own: Own,
    tta: Augmentation,
) -> Any:
    """Make a step of prediction, jitted for a kind of device."""
    backend = backend or jax.default_backend()
    is_own = own.network is not None
    model = network_of(config, num_classes, own) if is_own else _network(config, num_classes, backend)
    return jit_for(backend, make(model.apply, size_multiple=config.size_multiple, tta=tta))


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
    backend: str | None = None,
) -> tuple[TrainStep, EvalStep]:
    """Make the training step and the evaluation step, both for packed batches.

    Args:
      config: settings of the run.
      model: network of the config.
      tx: optimizer of the config.
      packing: factors that images and labels are packed by.
      num_steps: number of updates in the run, as in `make_loss`.
      numbers: numbers of the loss, as in `make_loss`.
      backend: kind of device, for steps that are called directly. Steps that are called inside another jitted function
        must have none: pass it to `jit_for` of that function.

    Returns:
      The training step and the evaluation step, both jitted.
    """
    is_own = isinstance(model, OwnNetwork)
    additions = _after_update(config, is_own)
    num_frozen = config.optim.freeze_encoder_steps
    apply_fn = functools.partial(model.apply, method="packed")
    loss_fn = make_loss(config.loss, packing.label, num_steps, numbers)
    trained_loss, num_lower = loss_fn, config.model.deep_supervision
    if num_lower:
        trained_loss = make_supervised_loss(config.loss, num_lower, packing.label, num_steps, numbers)

    norm_fn = optax.tree.norm if config.optim.clip_norm else norm_by_parts

    def make_step(model: UNet | OwnNetwork) -> TrainStep:
        trained_fn = functools.partial(model.apply, method="supervised" if num_lower else "packed")
        num_parts, seed = config.train.accumulation, config.seed if is_own else None
        if num_parts == 1:
            return make_train_step(trained_fn, trained_loss, tx, seed=seed, norm_fn=norm_fn)
        return make_accumulating_train_step(trained_fn, trained_loss, tx, num_parts, seed=seed, norm_fn=norm_fn)

    train_step = make_step(model)
    if num_frozen and isinstance(model, UNet):
        train_step = freeze_encoder(train_step, make_step(model.clone(is_encoder_frozen=True)), num_frozen)
    for addition in additions:
        train_step = addition(train_step)
    count = num_subpixels(packing.label)
    threshold = config.train.threshold
    eval_step = make_eval_step(apply_fn, loss_fn, threshold=threshold, num_subpixels=count)
    if backend is None:
        return train_step, eval_step
    return jit_for(backend, train_step, donate_argnums=0), jit_for(backend, eval_step)


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
    step = make_term_gradients_step(apply_fn, terms, class_names, num_subpixels=num_subpixels(factor))
    return jit_for(jax.default_backend(), step)
