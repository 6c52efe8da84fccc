"""Pure, jitted steps: `(state, batch) -> (state, metrics)` to train, and their counterparts without gradients."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, UInt8

from unet_jax._types import Batch, PyTree
from unet_jax.metrics import Counts, counts_from_logits
from unet_jax.state import TrainState

ApplyFn = Callable[..., Any]
"""`model.apply` of a network called as `(variables, images, train)`."""
LossFn = Callable[[Array, Array, Array], tuple[Array, dict[str, Array]]]
"""`(logits, labels, weight) -> (scalar, terms)`."""
Metrics = dict[str, Array]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
EvalStep = Callable[[PyTree, PyTree, Batch], tuple[Metrics, Counts]]
PredictStep = Callable[[PyTree, PyTree, Array], Array]


def unit_range(images: UInt8[Array, "..."]) -> Float[Array, "..."]:
    """uint8 to float32 in [0, 1]; images and labels stay bytes until they are here, on the device."""
    return images.astype(jnp.float32) / 255.0


def make_train_step(apply_fn: ApplyFn, loss_fn: LossFn, tx: optax.GradientTransformation) -> TrainStep:
    """One update, jitted; the state passed in is donated.

    Metrics are float32 scalars: `loss`, its terms, and `grad_norm` (global, before clipping). A loss that is not
    finite shows in the metrics of its step; the caller decides what to do.
    """

    def loss_of(params: PyTree, batch_stats: PyTree, batch: Batch) -> tuple[Array, tuple[Metrics, PyTree]]:
        variables = {"params": params, "batch_stats": batch_stats}
        logits, updated = apply_fn(variables, unit_range(batch.image), True, mutable=["batch_stats"])
        loss, terms = loss_fn(logits, unit_range(batch.label), batch.weight)
        return loss, (terms, updated.get("batch_stats", {}))

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        grad_fn = jax.value_and_grad(loss_of, has_aux=True)
        (loss, (terms, batch_stats)), grads = grad_fn(state.params, state.batch_stats, batch)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {"loss": loss, **terms, "grad_norm": optax.tree.norm(grads)}
        return TrainState(state.step + 1, params, batch_stats, opt_state), metrics

    return jax.jit(train_step, donate_argnums=0)


def make_eval_step(apply_fn: ApplyFn, loss_fn: LossFn, *, threshold: float, num_subpixels: int = 1) -> EvalStep:
    """Loss of a batch and `[b k]` pixel counts per image and class, with the running statistics.

    `num_subpixels` is 1 unless logits and labels are packed.
    """

    def eval_step(params: PyTree, batch_stats: PyTree, batch: Batch) -> tuple[Metrics, Counts]:
        logits = apply_fn({"params": params, "batch_stats": batch_stats}, unit_range(batch.image), False)
        loss, terms = loss_fn(logits, unit_range(batch.label), batch.weight)
        counts = counts_from_logits(logits, batch.label, threshold=threshold, num_subpixels=num_subpixels)
        return {"loss": loss, **terms}, counts

    return jax.jit(eval_step)


def make_predict_step(apply_fn: ApplyFn, *, size_multiple: int) -> PredictStep:
    """`(params, batch_stats, images) -> probs` for uint8 images of any height and width.

    Sizes that the network cannot take are padded at the bottom and right by mirroring, and cropped afterwards.
    """

    def predict_step(params: PyTree, batch_stats: PyTree, images: UInt8[Array, "b h w c"]) -> Float[Array, "b h w k"]:
        height, width = images.shape[1:3]
        pad_h, pad_w = -height % size_multiple, -width % size_multiple
        padded = jnp.pad(images, ((0, 0), (0, pad_h), (0, pad_w), (0, 0)), mode="symmetric")
        logits = apply_fn({"params": params, "batch_stats": batch_stats}, unit_range(padded), False)
        return jax.nn.sigmoid(logits[:, :height, :width, :])

    return jax.jit(predict_step)
