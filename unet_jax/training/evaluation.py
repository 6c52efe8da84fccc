"""Evaluation on the validation split during training.

It is done on the devices, at the network's image size. With crops, it is what `unet-jax evaluate` does: whole images at
their own size, put together from tiles.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from unet_jax._types import Batch
from unet_jax.data.pipeline import eval_batches
from unet_jax.devices.mesh import fetch, process_share, put_batch
from unet_jax.inference.evaluate import evaluate_run
from unet_jax.metrics import Counts
from unet_jax.metrics.counts import num_counted
from unet_jax.metrics.scores import Scores, count_lost
from unet_jax.program.optim import make_schedule, scale_learning_rate
from unet_jax.program.state import TrainState, averaged
from unet_jax.program.steps import EvalStep
from unet_jax.runs.progress import Progress, should_stop
from unet_jax.training.drawing import draw
from unet_jax.training.goodput import Pace
from unet_jax.training.log import Evaluation
from unet_jax.training.session import Session


def evaluate(
    session: Session, state: TrainState, progress: Progress, pace: Pace
) -> tuple[TrainState, Progress, Evaluation]:
    """Evaluate on val, log the results, and update early stopping and the learning-rate plateau.

    Args:
      session: session of the run.
      state: state after the step of `progress`.
      progress: progress up to this evaluation.
      pace: speed of training since the last evaluation.

    Returns:
      The state, whose learning rate may be lower; the progress, whose sum of losses starts at 0 again; and the results.
    """
    config, step, last_step = session.config, progress.step, session.info.num_steps
    with session.ledger.phase("evaluation"):
        scores, loss = score(session, averaged(state), step)
        early_stop = progress.early_stop.seen(loss, min_delta=config.train.early_stop_min_delta)
        plateau = progress.plateau
        with jax.transfer_guard("allow"):  # the schedule takes a Python number to the device and back
            schedule = make_schedule(config.optim, last_step)
            learning_rate = float(np.asarray(schedule(step))) * plateau.lr_scale
        if config.optim.schedule == "plateau":
            plateau = plateau.seen(
                loss,
                min_delta=config.optim.plateau_min_delta,
                max_waits=config.optim.plateau_patience,
                factor=config.optim.plateau_factor,
            )
            opt_state = scale_learning_rate(state.opt_state, plateau.lr_scale)
            state = dataclasses.replace(state, opt_state=opt_state)
        finished = step == last_step or should_stop(early_stop, config.train.early_stop_patience)
        evaluation = Evaluation(
            scores=scores,
            loss=loss,
            learning_rate=learning_rate,
            progress=progress,
            epoch=step / session.order.steps_per_epoch,
            pace=pace,
            waits_before_stop=early_stop.num_waits if finished and step < last_step else None,
        )
        session.log.evaluation(evaluation)
        progress = dataclasses.replace(
            progress, loss_sum=0.0, num_losses=0, early_stop=early_stop, plateau=plateau, finished=finished
        )
        return state, progress, evaluation


def score(session: Session, state: TrainState, step: int) -> tuple[Scores, float]:
    """Return the scores on val and the loss of a state (`averaged`), which is that after this step."""
    scores, loss = _evaluate_val(session, state)
    if session.config.data.fit == "crop":
        scores = _evaluate_whole(session, state, step)
    return scores, loss


def _evaluate_val(session: Session, state: TrainState) -> tuple[Scores, float]:
    """Return the scores of the validation samples, or with crops of the parts that cover them, and their loss."""
    batches = eval_batches(
        session.val_source,
        session.config.train.batch_size,
        packing=session.program.packing,
        share=process_share(session.mesh),
    )
    return evaluate_batches(
        session.program.eval_step,
        state,
        batches,
        ids=session.val_source.ids,
        class_names=session.info.class_names,
        mesh=session.mesh,
        vanished=session.info.audit.get("vanished", {}),
    )


def _evaluate_whole(session: Session, state: TrainState, step: int) -> Scores:
    """Return the scores of the validation images as `unet-jax evaluate` computes them."""
    info, data, run = session.info, session.config.data, session.run_now(state, step, {})
    by_id = {record.id: record for record in session.layout.records}
    records = [by_id[id_] for id_ in info.splits["val"]]
    with jax.transfer_guard("allow"):
        return evaluate_run(run, session.layout, records, soft_masks=data.soft_masks)


def evaluate_batches(
    eval_step: EvalStep,
    state: TrainState,
    batches: Iterable[Batch],
    *,
    ids: Sequence[str],
    class_names: tuple[str, ...],
    mesh: Mesh,
    vanished: Mapping[str, Sequence[str]] | None = None,
) -> tuple[Scores, float]:
    """Compute scores and mean loss over batches. Each process passes its share of them (`process_share`).

    Args:
      eval_step: evaluation step.
      state: state to evaluate.
      batches: batches on the host, in which padding has weight 0.
      ids: ids of all samples, in order.
      class_names: names of the classes.
      mesh: mesh of devices.
      vanished: ids, by class, of images whose truth has pixels in the mask file, but none at the network's size. They
        count as missed (`count_lost`).

    Returns:
      The scores of all samples, in every process, and the mean loss, in which each batch counts by its number of
      samples, or by the share of their pixels that is not ignored. It is NaN if all are.
    """
    parts, ignored, loss_sum, num_samples = [], [], 0.0, 0.0
    for batch in batches:
        on_devices = put_batch(batch, mesh)
        terms, counts = eval_step(state.params, state.batch_stats, on_devices)
        terms, counts, weight = fetch((terms, counts, on_devices.weight), mesh)
        real = weight > 0
        parts.append(Counts(*(np.asarray(c, np.int64)[real] for c in counts)))
        num_pixels = batch.label[0].size // len(class_names)
        ignored.append(num_pixels - num_counted(parts[-1]))
        num_counted_samples = int(real.sum()) - ignored[-1].sum() / batch.label[0].size
        if num_counted_samples:  # the loss of nothing is nothing, or NaN
            loss_sum += float(terms["loss"]) * num_counted_samples
            num_samples += num_counted_samples
    counts = Counts(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
    lost_ids = [set((vanished or {}).get(name, ())) for name in class_names]
    lost = np.array([[id_ in of_class for of_class in lost_ids] for id_ in ids])
    num_ignored = np.concatenate(ignored) if any(part.any() for part in ignored) else None
    scores = Scores(tuple(ids), class_names, count_lost(counts, lost), lost, num_ignored=num_ignored)
    return scores, loss_sum / num_samples if num_samples else math.nan


def show_evaluation(session: Session, state: TrainState, evaluation: Evaluation, *, is_last: bool) -> None:
    """Print an evaluation, draw curves and validation images, and write report.html. A failure is only a warning.

    Drawing takes at most about 2 % of the time: evaluations that follow each other quickly are drawn now and then, the
    last one always. Connected processes, whose clocks differ, draw the evaluations 1, 2, 4, 8, ...
    """
    with session.ledger.phase("evaluation"):
        session.log.show(evaluation)
        if not session.config.train.num_pictures:
            return
        number = evaluation.progress.step // session.info.eval_every_steps
        allowed = session.throttle.allows if jax.process_count() == 1 else number & (number - 1) == 0
        if not (is_last or allowed):
            return
        try:
            with session.throttle.work(), jax.transfer_guard("allow"):
                draw(session, state, evaluation, is_last=is_last)
        except Exception as error:  # no failure in a picture is a reason to stop training
            reason = f"{type(error).__name__}: {error}"
            session.display.line(f"WARNING: drawing the pictures of step {evaluation.progress.step} failed ({reason})")


def call_back(session: Session, state: TrainState, evaluation: Evaluation) -> None:
    """Call the functions that `train` was given for this moment. What they raise ends the run, which is saved."""
    for callback in session.callbacks:
        with jax.transfer_guard("allow"):
            callback(session.run_now(state, evaluation.progress.step, evaluation.metrics), session.log.row(evaluation))


def log_gradients(session: Session, state: TrainState, batch: Batch, step: int) -> None:
    """Log the gradients of terms and classes at the parameters, at the steps where the config asks for it."""
    every = session.config.train.log_gradients_every_steps
    if session.term_gradients_step and step % every == 0:
        session.log.gradients(step, jax.device_get(session.term_gradients_step(state, batch)))
