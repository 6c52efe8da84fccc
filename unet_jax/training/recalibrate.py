"""The statistics of batch normalisation computed again at the end of a run, for the weights of its best checkpoint.

During training, running statistics follow weights that change, and the last few batches weigh most in them. Here the
weights stand still, and all batches weigh the same. Deviations of single batches cancel out, which matters most with
small batches of images that differ much.

Reference: Wu and Johnson, Rethinking "Batch" in BatchNorm, 2021 (arXiv:2105.07576).
"""

import contextlib
import dataclasses
import functools
import operator

import jax
from etils import epath

from unet_jax import metrics
from unet_jax._types import PyTree
from unet_jax.config import Config
from unet_jax.devices.processes import is_first
from unet_jax.program.state import TrainState, averaged
from unet_jax.program.statistics_step import make_moments_step, statistics_of
from unet_jax.runs.checkpoints import CheckpointStore
from unet_jax.runs.load import abstract_state
from unet_jax.runs.statistics_file import Statistics, layers_of, read_statistics, save_statistics
from unet_jax.training.evaluation import score
from unet_jax.training.log import stored_metrics
from unet_jax.training.prefetch import device_batches
from unet_jax.training.session import Session

_FEWEST_BATCHES, _MOST_BATCHES = 8, 128


def is_due(config: Config, out: epath.Path, store: CheckpointStore) -> bool:
    """Return whether a run wants statistics for its best checkpoint that are not there."""
    best = store.best_step
    return config.train.recalibrate and best is not None and read_statistics(out, best) is None


def recalibrate(session: Session) -> None:
    """Compute the statistics for the best checkpoint, and write whether its score on val is better with them.

    A run that is killed before the file is there computes them when it continues, to the same numbers.
    """
    best, monitor = session.store.best_step, session.config.train.monitor
    assert best is not None
    state = averaged(session.store.load(best, abstract_state(session.info, session.own), session.mesh))
    with session.ledger.phase("evaluation"):
        found, num_batches = _statistics(session, state)
        changed = dataclasses.replace(state, batch_stats=found)
        scores, loss = score(session, changed, best)
    before = session.store.metrics(best)
    after = stored_metrics(scores, loss)
    is_better = after[monitor] > before[monitor] if monitor == "dice" else after[monitor] < before[monitor]
    class_dice = {name: float(value) for name, value in scores.per_image(metrics.dice).items()}
    if is_first():
        layers = layers_of(found) if is_better else None
        save_statistics(session.out, Statistics(best, layers, after, class_dice))
    name = "Dice" if monitor == "dice" else "loss"
    session.display.line(
        f"statistics of batch normalisation again, over {num_batches} batches: {name} on val of step {best} "
        f"{before[monitor]:.4f} -> {after[monitor]:.4f}, {'used' if is_better else 'not used'}"
    )


def _statistics(session: Session, state: TrainState) -> tuple[PyTree, int]:
    """Return the statistics over a pass through the training images, changed as in training, and its batches."""
    order = session.order
    num_batches = min(max(order.steps_per_epoch, _FEWEST_BATCHES), _MOST_BATCHES)
    moments_step = make_moments_step(session.config, len(session.info.class_names), session.info.num_steps)
    batches = device_batches(
        session.train_source,
        order.extended_by(num_batches),
        session.config,
        session.mesh,
        start_step=0,
        packing=session.program.packing,
    )
    with contextlib.closing(batches), session.display.bar("statistics", num_batches, unit="batches") as show:
        total = None
        for done in range(1, num_batches + 1):
            moments = moments_step(state.params, state.batch_stats, next(batches))
            total = moments if total is None else jax.tree.map(operator.add, total, moments)
            show(done, "")
    return statistics_of(jax.tree.map(functools.partial(operator.mul, 1.0 / num_batches), total)), num_batches
