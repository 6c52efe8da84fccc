"""Pure, jitted steps: `(state, batch) -> (state, metrics)` for training, and others for evaluation and prediction.

The functions here do not depend on configs: they receive the network as an `apply_fn`, the loss as a `loss_fn`, and the
optimizer as an optax transformation.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, UInt8, UInt16

from unet_jax._formulations import by_platform
from unet_jax._types import Batch, PyTree
from unet_jax.losses import term_gradients
from unet_jax.metrics import Counts, counts_from_logits
from unet_jax.program.state import TrainState

ApplyFn = Callable[..., Any]
"""Function `(variables, images, train) -> logits` such as `model.apply`; with `mutable=`, as in Flax, it also returns
the updated collections."""
LossFn = Callable[..., tuple[Array, dict[str, Array]]]
"""Function `(logits, labels, weight, step) -> (scalar, terms)`. Terms with a ramp need the number of the step."""
NormFn = Callable[[PyTree], Array]
"""Function from a tree of arrays to the Euclidean norm of all their numbers."""
Metrics = dict[str, Array]
"""Scalars by name."""
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
"""Function `(state, batch) -> (state, metrics)`."""
EvalStep = Callable[[PyTree, PyTree, Batch], tuple[Metrics, Counts]]
"""Function `(params, batch_stats, batch) -> (metrics, counts)`."""
PredictStep = Callable[[PyTree, PyTree, Array], Array]
"""Function `(params, batch_stats, images) -> probabilities`."""
TermGradientsStep = Callable[[TrainState, Batch], Metrics]
"""Function `(state, batch) -> metrics`."""


def unit_range(images: UInt8[Array, "..."] | UInt16[Array, "..."]) -> Float[Array, "..."]:
    """Convert uint8 or uint16 to float32 in [0, 1]. Images and labels stay integers until here, on the device.

    Example:
      >>> import jax.numpy as jnp
      >>> [f"{value:.1f}" for value in unit_range(jnp.array([0, 51, 255], jnp.uint8))]
      ['0.0', '0.2', '1.0']
    """
    return images.astype(jnp.float32) / float(jnp.iinfo(images.dtype).max)


def loss_weight(batch: Batch) -> Float[Array, " b"] | Float[Array, "b h w k"]:
    """Return the weight of a batch in its loss: of each image, or of each pixel if some are ignored.

    Example:
      >>> import jax.numpy as jnp
      >>> from unet_jax import Batch
      >>> valid = jnp.array([255, 0], jnp.uint8).reshape(1, 1, 2, 1)
      >>> batch = Batch(jnp.zeros((1, 1, 2, 3), jnp.uint8), jnp.zeros((1, 1, 2, 1), jnp.uint8), jnp.ones(1), valid)
      >>> print(loss_weight(batch).ravel(), loss_weight(batch._replace(valid=None)))
      [1. 0.] [1.]
    """
    if batch.valid is None:
        return batch.weight
    return jnp.where(batch.valid >= 128, batch.weight[:, None, None, None], 0.0)


def make_train_step(
    apply_fn: ApplyFn,
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    *,
    seed: int | None = None,
    norm_fn: NormFn = optax.tree.norm,
) -> TrainStep:
    """Make the jitted training step: one update of the parameters on one batch.

    Args:
      apply_fn: network, as `(variables, images, train, mutable=["batch_stats"]) -> (logits, updated)`.
      loss_fn: objective `(logits, labels, weight, step) -> (scalar, terms)`, such as `unet_jax.losses.bce_dice_loss`.
        The weight is `[b]`, one number per image, or that of each pixel if the batch has ignored ones (`loss_weight`).
      tx: optimizer.
      seed: seed of the random numbers of networks that draw some in training, such as those with dropout. They get
        `rngs={"dropout": key}`, with another key in every step. None: the network draws none.
      norm_fn: norm of the gradients, for the metrics. An optimizer that clips by optax's shares it with that.

    Returns:
      A function `(state, batch) -> (state, metrics)`. The state that it is called with is donated, and cannot be used
      again. The metrics are float32 scalars: `loss`, each term of the loss by name, and `grad_norm`, the global norm of
      the gradient before clipping. A loss or gradient that is not finite appears in the metrics of its step, and the
      caller decides what to do.

    Example:
      >>> import jax
      >>> import numpy as np
      >>> import optax
      >>> from unet_jax import Batch, UNet
      >>> from unet_jax.config import ModelConfig
      >>> from unet_jax.losses import bce_dice_loss
      >>> from unet_jax.program.initial_state import init_state
      >>> from unet_jax.program.steps import make_train_step
      >>> model, tx = UNet(ModelConfig(widths=(4,), center_width=4), 2), optax.sgd(0.1)
      >>> step = make_train_step(model.apply, bce_dice_loss, tx)
      >>> batch = Batch(np.zeros((1, 8, 8, 3), np.uint8), np.zeros((1, 8, 8, 2), np.uint8), np.ones(1, np.float32))
      >>> state, metrics = step(init_state(jax.random.key(0), model, tx), batch)
      >>> int(state.step), sorted(metrics)
      (1, ['bce', 'dice_loss', 'grad_norm', 'loss'])
    """
    gradients = _make_gradients(apply_fn, loss_fn, seed)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        return _update(state, tx, gradients(state, batch), norm_fn)

    return jax.jit(train_step, donate_argnums=0)


def make_accumulating_train_step(
    apply_fn: ApplyFn,
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    num_micro_batches: int,
    *,
    seed: int | None = None,
    norm_fn: NormFn = optax.tree.norm,
) -> TrainStep:
    """Make a training step with gradient accumulation, which needs the memory of one micro-batch only.

    The step divides the batch into equal micro-batches and processes one after another:

    - Each micro-batch is normalised by its own statistics ("ghost batch normalisation"), and ratios that the loss takes
      over a batch are taken over the micro-batch.
    - Loss, terms and gradients are means over the micro-batches, each weighted by the sum of its samples' weights, or
      by that of its pixels' weights if some are ignored. So a mean over pixels equals that over the whole batch, and so
      does a mean over images if no pixel is ignored.
    - The running statistics move once per update, from their old values towards the mean of the micro-batches'
      statistics. So their momentum means the same as without accumulation.
    - Micro-batch i holds the samples i, i + `num_micro_batches`, i + 2 * `num_micro_batches`, and so on. So each device
      holds its share of each micro-batch without moving an image, and the micro-batches do not depend on the number of
      devices.

    Args:
      apply_fn, loss_fn, tx, seed, norm_fn: the same as in `make_train_step`.
      num_micro_batches: number of micro-batches, a divisor of the batch size.

    Returns:
      A function `(state, batch) -> (state, metrics)` as `make_train_step` returns it.

    Reference:
      Hoffer et al., 2017 (arXiv:1705.08741).
    """
    gradients = _make_gradients(apply_fn, loss_fn, seed)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        parts = jax.tree.map(lambda x: x.reshape(-1, num_micro_batches, *x.shape[1:]), batch)
        total_weight = jnp.maximum(jnp.sum(loss_weight(batch)), 1e-12)

        def add_part(sums: _Gradients, i: Array) -> tuple[_Gradients, None]:
            part = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, axis=1, keepdims=False), parts)
            own = gradients(state, part, i)
            share = jnp.sum(loss_weight(part)) / total_weight
            statistics = optax.tree.scale(1.0 / num_micro_batches, own.batch_stats)
            return optax.tree.add(sums, optax.tree.scale(share, own)._replace(batch_stats=statistics)), None

        shapes = jax.eval_shape(gradients, state, jax.tree.map(lambda x: x[:, 0], parts))
        sums, _ = jax.lax.scan(add_part, optax.tree.zeros_like(shapes), jnp.arange(num_micro_batches))
        return _update(state, tx, sums, norm_fn)

    return jax.jit(train_step, donate_argnums=0)


class _Gradients(NamedTuple):
    """Loss, terms and gradients of a batch, and the running statistics after it."""

    loss: Array
    terms: Metrics
    batch_stats: PyTree
    grads: PyTree


def _make_gradients(apply_fn: ApplyFn, loss_fn: LossFn, seed: int | None) -> Callable[..., _Gradients]:
    """Make the function `(state, batch, part=0) -> _Gradients`, not jitted; `part` is the number of a micro-batch."""

    def loss_of(
        params: PyTree, batch_stats: PyTree, batch: Batch, step: Array, rngs: dict[str, Any]
    ) -> tuple[Array, tuple[Metrics, PyTree]]:
        variables = {"params": params, "batch_stats": batch_stats}
        logits, updated = apply_fn(variables, unit_range(batch.image), True, mutable=["batch_stats"], **rngs)
        loss, terms = loss_fn(logits, unit_range(batch.label), loss_weight(batch), step)
        return loss, (terms, updated.get("batch_stats", {}))

    def gradients(state: TrainState, batch: Batch, part: int | Array = 0) -> _Gradients:
        rngs = {}
        if seed is not None:
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), state.step), part)
            rngs = {"rngs": {"dropout": key}}
        grad_fn = jax.value_and_grad(loss_of, has_aux=True)
        (loss, (terms, batch_stats)), grads = grad_fn(state.params, state.batch_stats, batch, state.step, rngs)
        return _Gradients(loss, terms, batch_stats, grads)

    return gradients


def _update(
    state: TrainState, tx: optax.GradientTransformation, gradients: _Gradients, norm_fn: NormFn
) -> tuple[TrainState, Metrics]:
    """Apply one update of the optimizer, and return the new state and the metrics of the step."""
    grads = by_platform(lambda grads: grads, gradients.grads, flat_gradients=_flat_barrier)
    gradients = gradients._replace(grads=grads)
    updates, opt_state = tx.update(gradients.grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics = {"loss": gradients.loss, **gradients.terms, "grad_norm": norm_fn(gradients.grads)}
    return TrainState(state.step + 1, params, gradients.batch_stats, opt_state), metrics


def norm_by_parts(grads: PyTree) -> Array:
    """Compute `optax.tree.norm` of gradients, whose squares nothing but the optimizer needs too.

    On a CPU, biases and the like are joined first, because the compiler makes four kernels for each length of a vector.
    A barrier keeps the squares of a kernel in the sum. Without it, they are those that Adam and RMSprop need too, which
    are written to memory.

    Example:
      >>> import jax.numpy as jnp
      >>> float(norm_by_parts({"bias": jnp.full(4, 2.0), "kernel": jnp.full((1, 1, 1, 1), 3.0)}))
      5.0
    """
    return by_platform(optax.tree.norm, grads, norm_by_parts=_norm_by_parts)


def _norm_by_parts(grads: PyTree) -> Array:
    leaves = jax.tree.leaves(grads)
    vectors = [jnp.ravel(g) for g in leaves if g.ndim < 2]
    parts = [*([jnp.concatenate(vectors)] if vectors else []), *(g for g in leaves if g.ndim > 1)]
    return jnp.sqrt(sum(jnp.sum(jnp.square(part)) for part in jax.lax.optimization_barrier(parts)))


def _flat_barrier(grads: PyTree) -> PyTree:
    """Return the gradients behind a barrier, which they pass as vectors.

    Without it, a GPU's compiler fuses the optimizer with the transposition of a kernel's gradient. The fused kernel
    cannot write in place, so parameters and the optimizer's state are copied (docs/gpu.md).
    """
    flat = jax.lax.optimization_barrier(jax.tree.map(jnp.ravel, grads))
    return jax.tree.map(lambda vector, grad: vector.reshape(grad.shape), flat, grads)


def make_eval_step(
    apply_fn: ApplyFn,
    loss_fn: LossFn,
    *,
    threshold: float,
    num_subpixels: int = 1,
) -> EvalStep:
    """Make the jitted evaluation step, which normalises with the running statistics.

    Terms whose weight changes over the run get their last weight, so that losses of different epochs can be compared.

    Args:
      apply_fn: network, as `(variables, images, train) -> logits`.
      loss_fn: objective, as in `make_train_step`.
      threshold: probability above which a pixel belongs to a class.
      num_subpixels: number of pixels in a block if logits and labels are packed; 1 = not packed.

    Returns:
      A function `(params, batch_stats, batch) -> (metrics, counts)`. The metrics are float32 scalars: `loss` and its
      terms. The counts are `[b k]` pixel counts per image and class (`unet_jax.metrics.Counts`).

    Example:
      >>> import jax.numpy as jnp
      >>> from unet_jax import Batch
      >>> from unet_jax.losses import bce_dice_loss
      >>> from unet_jax.program.steps import make_eval_step
      >>> network = lambda variables, images, train: variables["params"] * (images - 0.5)  # a logit per channel
      >>> step = make_eval_step(network, bce_dice_loss, threshold=0.5)
      >>> image = jnp.array([0, 255], jnp.uint8).reshape(1, 1, 2, 1)
      >>> metrics, counts = step(jnp.array(8.0), {}, Batch(image, image, jnp.ones(1)))
      >>> int(counts.tp[0, 0]), sorted(metrics)
      (1, ['bce', 'dice_loss', 'loss'])
    """

    def eval_step(params: PyTree, batch_stats: PyTree, batch: Batch) -> tuple[Metrics, Counts]:
        logits = apply_fn({"params": params, "batch_stats": batch_stats}, unit_range(batch.image), False)
        loss, terms = loss_fn(logits, unit_range(batch.label), loss_weight(batch), jnp.inf)
        counts = counts_from_logits(
            logits, batch.label, threshold=threshold, num_subpixels=num_subpixels, valid=batch.valid
        )
        return {"loss": loss, **terms}, counts

    return jax.jit(eval_step)


def make_term_gradients_step(
    apply_fn: ApplyFn,
    terms: Mapping[str, LossFn],
    class_names: Sequence[str],
    *,
    num_subpixels: int = 1,
) -> TermGradientsStep:
    """Make the jitted step that measures the gradients of terms and classes (`unet_jax.losses.term_gradients`).

    Args:
      apply_fn: network, as in `make_train_step`.
      terms: each term of the loss by name, as `(logits, labels, weight, step) -> (scalar, ...)`, including its weight.
      class_names: names of the classes, in the order of the channels.
      num_subpixels: number of pixels in a block if logits and labels are packed; 1 = not packed.

    Returns:
      A function `(state, batch) -> metrics`. The metrics are float32 scalars: the norms `gradient/norm/TERM` and
      `gradient/norm/TERM/CLASS`, and for each pair the cosine, `gradient/cosine/TERM/TERM` and
      `gradient/cosine/CLASS/CLASS`.
    """

    def term_gradients_step(state: TrainState, batch: Batch) -> Metrics:
        def logits_of(params: PyTree) -> Array:
            variables = {"params": params, "batch_stats": state.batch_stats}
            return apply_fn(variables, unit_range(batch.image), True, mutable=["batch_stats"])[0]

        labels, weight = unit_range(batch.label), loss_weight(batch)
        of_logits = {
            name: lambda logits, term=term: term(logits, labels, weight, state.step)[0] for name, term in terms.items()
        }
        gradients = term_gradients(logits_of, of_logits, state.params, num_subpixels=num_subpixels)
        term_norms, norms = gradients.term_norms(), gradients.norms()
        metrics = {f"gradient/norm/{name}": term_norms[i] for i, name in enumerate(terms)}
        metrics |= {
            f"gradient/norm/{name}/{class_name}": norms[i, k]
            for i, name in enumerate(terms)
            for k, class_name in enumerate(class_names)
        }
        for names, cosines in ((list(terms), gradients.term_cosines()), (class_names, gradients.class_cosines())):
            for i, j in itertools.combinations(range(len(names)), 2):
                metrics[f"gradient/cosine/{names[i]}/{names[j]}"] = cosines[i, j]
        return metrics

    return jax.jit(term_gradients_step)
