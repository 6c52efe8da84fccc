"""The check at the end of a run: is its best checkpoint better than a mask that ignores the image?"""

from collections.abc import Iterator

from etils import epath

from unet_jax.report.audit_text import WARNING
from unet_jax.report.metrics_file import MetricsFile
from unet_jax.runs.info import RunInfo
from unet_jax.runs.statistics_file import used_statistics

_FEW_UPDATES = 500
"""Updates below which too short a run is the likely reason for a bad result."""
_STALE = 0.05
"""Share of the running statistics that still stems from before training, above which they are a likely reason."""


def verdict(info: RunInfo, path: epath.Path, best_step: int, last_step: int) -> list[str]:
    """Return what somebody should know about the result of a run: nothing if each class beats constant masks.

    Args:
      info: facts of the run.
      path: run directory, whose metrics.jsonl has the scores of the evaluations.
      best_step: step of the best checkpoint.
      last_step: step of the newest checkpoint.

    Returns:
      Lines to print: a warning with the scores, the likely reason, and what to change.
    """
    rows = MetricsFile(path / "metrics.jsonl").read()
    evaluation = next((row for row in rows if row["step"] == best_step and "eval/loss" in row), {})
    constant = info.constant_dice
    reached = {name: float(evaluation[f"eval/dice/{name}"]) for name in constant if f"eval/dice/{name}" in evaluation}
    if statistics := used_statistics(path, best_step):
        reached |= {name: dice for name, dice in statistics.class_dice.items() if name in reached}
    failed = [name for name, dice in reached.items() if not dice > constant[name]]
    if not failed:
        return []
    compared = ", ".join(f"{name} {reached[name]:.4f} (constant mask {constant[name]:.4f})" for name in failed)
    reason, remedy = next(_likely_reasons(info, failed, best_step, last_step))
    return [
        f"{WARNING}: this run did not learn to find {' or '.join(failed)}: Dice on val of the best checkpoint (step "
        f"{best_step}) is not above that of a mask that ignores the image: {compared}.",
        f"  likely reason: {reason}",
        f"  what to do: {remedy}",
    ]


def _likely_reasons(info: RunInfo, failed: list[str], best_step: int, last_step: int) -> Iterator[tuple[str, str]]:
    """Yield reasons with what to change, the most likely one first; there is always one."""
    config, vanished = info.config, info.audit.get("vanished", {})
    model, train = config.model, config.train
    anew = "start anew with another --out and "
    longer = f"--train.num-steps {max(1000, 2 * info.num_steps)}"
    patient = " --train.early-stop-patience 0" if train.early_stop_patience else ""
    unseen = [name for name in failed if not _num_seen(info, name)]
    if unseen:
        yield (
            f"the network sees no pixel of {' and '.join(unseen)} in train.",
            "give train images with objects of the class, or a larger --data.image-size (unet-jax audit shows which).",
        )
    keeps_start = model.norm == "batch" and not model.batch_norm_correction and "network" not in info.own
    kept = model.batch_norm_momentum**last_step if keeps_start else 0.0
    if kept > _STALE:
        quicker = "--model.batch-norm-momentum 0.9, or " if model.batch_norm_momentum > 0.9 else ""
        yield (
            f"evaluation normalises with running statistics, and after {last_step} updates {kept:.0%} of them still "
            f"stem from before training (model.batch_norm_momentum {model.batch_norm_momentum:g}).",
            f"{anew}{quicker}{longer}{patient}.",
        )
    lost = [name for name in failed if vanished.get(name)]
    if lost:
        num_lost = sum(len(vanished[name]) for name in lost)
        height, width = config.data.height_and_width
        yield (
            f"in {num_lost} images, all objects of {' and '.join(lost)} vanish at {width}x{height}, the size that the "
            f"network sees.",
            f"{anew}a larger --data.image-size (unet-jax audit shows which).",
        )
    if last_step < info.num_steps:
        yield (
            f"training stopped itself after {last_step} of {info.num_steps} updates, because the loss on val did not "
            f"fall in {train.early_stop_patience} evaluations.",
            f"{anew}{longer}{patient}.",
        )
    if last_step < _FEW_UPDATES:
        yield (f"{last_step} updates are few.", f"{anew}{longer}.")
    yield (
        "the masks do not fit the images, or the learning rate does not fit the data.",
        f"look at pictures/validation.png; if the masks fit, {anew}--optim.learning-rate "
        f"{config.optim.learning_rate / 10:g}.",
    )


def _num_seen(info: RunInfo, name: str) -> int:
    """Return the number of training images in which the network sees a class."""
    return info.audit["splits"]["train"]["num_seen"][info.class_names.index(name)]
