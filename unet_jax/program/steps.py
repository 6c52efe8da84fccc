"""Pure, jitted steps: `(state, batch) -> (state, metrics)` to train, and their counterparts without gradients."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, UInt8

from unet_jax._types import Batch, PyTree
from unet_jax.losses import term_gradients
from unet_jax.metrics import Counts, counts_from_logits
from unet_jax.program.state import TrainState

ApplyFn = Callable[..., Any]
"""`model.apply` of a network called as `(variables, images, train)`."""
LossFn = Callable[..., tuple[Array, dict[str, Array]]]
"""`(logits, labels, weight, step) -> (scalar, terms)`; the step is for terms with a schedule."""
Metrics = dict[str, Array]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
EvalStep = Callable[[PyTree, PyTree, Batch], tuple[Metrics, Counts]]
PredictStep = Callable[[PyTree, PyTree, Array], Array]
TermGradientsStep = Callable[[TrainState, Batch], Metrics]
Options = dict[str, str] | None
"""What XLA is told when a step is compiled (`unet_jax.devices.compilation.compiler_options`)."""


def unit_range(images: UInt8[Array, "..."]) -> Float[Array, "..."]:
    """uint8 to float32 in [0, 1]; images and labels stay bytes until they are here, on the device."""
    return images.astype(jnp.float32) / 255.0


def make_train_step(
    apply_fn: ApplyFn, loss_fn: LossFn, tx: optax.GradientTransformation, *, compiler_options: Options = None
) -> TrainStep:
    """One update, jitted; the state passed in is donated.

    Metrics are float32 scalars: `loss`, its terms, and `grad_norm` (global, before clipping). A loss that is not
    finite shows in the metrics of its step; the caller decides what to do.
    """
    gradients = _make_gradients(apply_fn, loss_fn)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        return _update(state, tx, gradients(state, batch))

    return jax.jit(train_step, donate_argnums=0, compiler_options=compiler_options)


def make_accumulating_train_step(
    apply_fn: ApplyFn,
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    num_micro_batches: int,
    *,
    compiler_options: Options = None,
) -> TrainStep:
    """`make_train_step` in the memory of one of `num_micro_batches` equal parts of the batch, one after the other.

    Each part is normalised by its own statistics ("ghost batch normalisation": Hoffer et al., 2017, arXiv:1705.08741),
    and what the loss takes over a batch it takes over the part. Loss, terms and gradients are means over the parts,
    each with the sum of its samples' weights, so that a mean over pixels or images is that of the whole batch. The
    running statistics move once in an update, from where they were towards the mean of the parts' statistics: their
    momentum means what it means without accumulation.

    Part i holds every `num_micro_batches`-th sample from the i-th on. So every device has its share of every part
    without sending an image, and the parts do not depend on the number of devices.
    """
    gradients = _make_gradients(apply_fn, loss_fn)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        parts = jax.tree.map(lambda x: x.reshape(-1, num_micro_batches, *x.shape[1:]), batch)
        total_weight = jnp.maximum(jnp.sum(batch.weight), 1e-12)

        def add_part(sums: _Gradients, i: Array) -> tuple[_Gradients, None]:
            part = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, axis=1, keepdims=False), parts)
            found = gradients(state, part)
            share = jnp.sum(part.weight) / total_weight
            statistics = optax.tree.scale(1.0 / num_micro_batches, found.batch_stats)
            return optax.tree.add(sums, optax.tree.scale(share, found)._replace(batch_stats=statistics)), None

        shapes = jax.eval_shape(gradients, state, jax.tree.map(lambda x: x[:, 0], parts))
        sums, _ = jax.lax.scan(add_part, optax.tree.zeros_like(shapes), jnp.arange(num_micro_batches))
        return _update(state, tx, sums)

    return jax.jit(train_step, donate_argnums=0, compiler_options=compiler_options)


class _Gradients(NamedTuple):
    """What a batch says of the parameters, and the running statistics after it."""

    loss: Array
    terms: Metrics
    batch_stats: PyTree
    grads: PyTree


def _make_gradients(apply_fn: ApplyFn, loss_fn: LossFn) -> Callable[[TrainState, Batch], _Gradients]:
    def loss_of(params: PyTree, batch_stats: PyTree, batch: Batch, step: Array) -> tuple[Array, tuple[Metrics, PyTree]]:
        variables = {"params": params, "batch_stats": batch_stats}
        logits, updated = apply_fn(variables, unit_range(batch.image), True, mutable=["batch_stats"])
        loss, terms = loss_fn(logits, unit_range(batch.label), batch.weight, step)
        return loss, (terms, updated.get("batch_stats", {}))

    def gradients(state: TrainState, batch: Batch) -> _Gradients:
        grad_fn = jax.value_and_grad(loss_of, has_aux=True)
        (loss, (terms, batch_stats)), grads = grad_fn(state.params, state.batch_stats, batch, state.step)
        return _Gradients(loss, terms, batch_stats, grads)

    return gradients


def _update(state: TrainState, tx: optax.GradientTransformation, found: _Gradients) -> tuple[TrainState, Metrics]:
    updates, opt_state = tx.update(found.grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics = {"loss": found.loss, **found.terms, "grad_norm": optax.tree.norm(found.grads)}
    return TrainState(state.step + 1, params, found.batch_stats, opt_state), metrics


def make_eval_step(
    apply_fn: ApplyFn,
    loss_fn: LossFn,
    *,
    threshold: float,
    num_subpixels: int = 1,
    compiler_options: Options = None,
) -> EvalStep:
    """Loss of a batch and `[b k]` pixel counts per image and class, with the running statistics.

    Terms with a schedule have the weights that they end with, so that losses of different epochs compare.
    `num_subpixels` is 1 unless logits and labels are packed.
    """

    def eval_step(params: PyTree, batch_stats: PyTree, batch: Batch) -> tuple[Metrics, Counts]:
        logits = apply_fn({"params": params, "batch_stats": batch_stats}, unit_range(batch.image), False)
        loss, terms = loss_fn(logits, unit_range(batch.label), batch.weight, jnp.inf)
        counts = counts_from_logits(logits, batch.label, threshold=threshold, num_subpixels=num_subpixels)
        return {"loss": loss, **terms}, counts

    return jax.jit(eval_step, compiler_options=compiler_options)


def make_predict_step(apply_fn: ApplyFn, *, size_multiple: int, compiler_options: Options = None) -> PredictStep:
    """`(params, batch_stats, images) -> probs` for uint8 images of any height and width.

    Sizes that the network cannot take are padded at the bottom and right by mirroring, and cropped afterwards.
    """

    def predict_step(params: PyTree, batch_stats: PyTree, images: UInt8[Array, "b h w c"]) -> Float[Array, "b h w k"]:
        height, width = images.shape[1:3]
        pad_h, pad_w = -height % size_multiple, -width % size_multiple
        padded = jnp.pad(images, ((0, 0), (0, pad_h), (0, pad_w), (0, 0)), mode="symmetric")
        logits = apply_fn({"params": params, "batch_stats": batch_stats}, unit_range(padded), False)
        return jax.nn.sigmoid(logits[:, :height, :width, :])

    return jax.jit(predict_step, compiler_options=compiler_options)


def make_term_gradients_step(
    apply_fn: ApplyFn,
    terms: Mapping[str, LossFn],
    class_names: Sequence[str],
    *,
    num_subpixels: int = 1,
    compiler_options: Options = None,
) -> TermGradientsStep:
    """`(state, batch) -> metrics`: how terms and classes pull at the parameters (`unet_jax.losses.term_gradients`), jitted.

    Metrics are float32 scalars: `gradient/norm/TERM`, `gradient/norm/TERM/CLASS`, and for each pair
    `gradient/cosine/TERM/TERM` and `gradient/cosine/CLASS/CLASS`.
    """

    def term_gradients_step(state: TrainState, batch: Batch) -> Metrics:
        def logits_of(params: PyTree) -> Array:
            variables = {"params": params, "batch_stats": state.batch_stats}
            return apply_fn(variables, unit_range(batch.image), True, mutable=["batch_stats"])[0]

        labels = unit_range(batch.label)
        of_logits = {
            name: lambda logits, term=term: term(logits, labels, batch.weight, state.step)[0]
            for name, term in terms.items()
        }
        found = term_gradients(logits_of, of_logits, state.params, num_subpixels=num_subpixels)
        term_norms, norms = found.term_norms(), found.norms()
        metrics = {f"gradient/norm/{name}": term_norms[i] for i, name in enumerate(terms)}
        metrics |= {
            f"gradient/norm/{name}/{of}": norms[i, k]
            for i, name in enumerate(terms)
            for k, of in enumerate(class_names)
        }
        for names, cosines in ((list(terms), found.term_cosines()), (class_names, found.class_cosines())):
            for i, j in itertools.combinations(range(len(names)), 2):
                metrics[f"gradient/cosine/{names[i]}/{names[j]}"] = cosines[i, j]
        return metrics

    return jax.jit(term_gradients_step, compiler_options=compiler_options)


Step = Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]


def keep_if_finite(old: TrainState, new: TrainState, metrics: dict[str, jax.Array]) -> TrainState:
    """The new state, or where a metric is not finite the old one with the new step; pure.

    `optax.apply_if_finite` would not do: statistics of batch normalisation have to stay as well, and optimizer states
    the same with and without.
    """
    finite = jnp.all(jnp.isfinite(jnp.stack(list(metrics.values()))))
    kept = jax.tree.map(lambda before, after: jnp.where(finite, after, before), old, new)
    return dataclasses.replace(kept, step=new.step)


def skip_non_finite(train_step: Step, compiler_options: dict[str, str] | None = None) -> Any:
    """A training step, jitted, that changes nothing but `step` where a metric is not finite; the state is donated."""

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        new, metrics = train_step(state, batch)
        return keep_if_finite(state, new, metrics), metrics

    return jax.jit(step, donate_argnums=0, compiler_options=compiler_options)
