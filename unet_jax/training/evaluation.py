"""Scores on val during training, at the network's size, on the devices."""

from collections.abc import Iterable, Sequence

import numpy as np
from jax.sharding import Mesh

from unet_jax._types import Batch
from unet_jax.devices.mesh import fetch, put_batch
from unet_jax.metrics import Counts
from unet_jax.metrics.scores import Scores
from unet_jax.program.state import TrainState
from unet_jax.program.steps import EvalStep


def evaluate_batches(
    eval_step: EvalStep,
    state: TrainState,
    batches: Iterable[Batch],
    *,
    ids: Sequence[str],
    class_names: tuple[str, ...],
    mesh: Mesh,
) -> tuple[Scores, float]:
    """Scores and mean loss over batches whose padding has weight 0; each batch counts by its number of samples.

    Each process gives its share of the batches (`process_share`) and gets the scores of all.
    """
    parts, loss_sum = [], 0.0
    for batch in batches:
        on_devices = put_batch(batch, mesh)
        terms, counts = eval_step(state.params, state.batch_stats, on_devices)
        terms, counts, weight = fetch((terms, counts, on_devices.weight), mesh)
        real = weight > 0
        parts.append(Counts(*(np.asarray(c, np.int64)[real] for c in counts)))
        loss_sum += float(terms["loss"]) * int(real.sum())
    counts = Counts(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
    return Scores(tuple(ids), class_names, counts), loss_sum / len(ids)
