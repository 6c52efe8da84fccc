"""Pictures after an evaluation: validation.png, curves.png, and the pictures and curves of report.html."""

import numpy as np
from jaxtyping import Float

from unet_jax import metrics
from unet_jax._files import replace_text
from unet_jax._types import Sample
from unet_jax.data.crops import GridSource
from unet_jax.devices.mesh import fetch, put_images
from unet_jax.devices.processes import is_first
from unet_jax.metrics.scores import Scores, mean_of_known
from unet_jax.program.state import TrainState, averaged
from unet_jax.report.pictures import image_title, to_rgb
from unet_jax.report.val_pictures import Shown, write_shown
from unet_jax.runs.verdict import verdict
from unet_jax.training.log import Evaluation
from unet_jax.training.report_page import Standing, make_page
from unet_jax.training.session import Session

_NUM_SPREAD = 16
"""Validation images, spread evenly, that thresholds and calibration are shown for."""
_NUM_EXTREME = 3
"""Worst and best validation images that are shown, of each."""


def draw(session: Session, state: TrainState, evaluation: Evaluation, *, is_last: bool) -> None:
    """Predict some validation images, and draw them, the curves and the page. Every process must call it.

    Args:
      session: session of the run.
      state: state after the evaluation.
      evaluation: its results.
      is_last: True if no evaluation follows.
    """
    info, train = session.info, session.config.train
    ids = info.splits["val"]
    first = list(range(min(train.num_pictures, len(ids))))
    spread = sorted({int(i) for i in np.linspace(0, len(ids) - 1, min(_NUM_SPREAD, len(ids)))})
    ranks = _extremes(evaluation.scores, ids)
    wanted = sorted({*first, *spread, *ranks})
    samples = dict(zip(wanted, _samples(session, wanted), strict=True))
    probs = dict(zip(wanted, _predicted(session, state, list(samples.values())), strict=True))
    if not is_first():
        return
    ignored = [valid < 128 for i in first if (valid := samples[i].valid) is not None] or None
    session.log.pictures(
        [to_rgb(samples[i].image) for i in first],
        [samples[i].mask >= 128 for i in first],
        [probs[i] > train.threshold for i in first],
        evaluation.scores,
        image_title(info.image_format),
        ignored,
    )
    dice = dict(zip(evaluation.scores.ids, metrics.dice(evaluation.scores.counts).tolist(), strict=True))
    write_shown(
        session.out / "pictures" / "evaluation.json",
        step=evaluation.progress.step,
        class_names=info.class_names,
        threshold=train.threshold,
        extremes=[Shown(ids[i], rank, samples[i], probs[i], dice[ids[i]]) for i, rank in ranks.items()],
        spread=[(samples[i], probs[i]) for i in spread],
        is_part=session.config.data.fit == "crop",
    )
    best = session.log.best_evaluation()
    scores = {name: float(best[f"eval/{name}"]) for name in ("dice", "loss")}
    step = evaluation.progress.step
    warnings = verdict(info, session.out, best["step"], step) if is_last else []
    page = make_page(session.out, Standing(best["step"], step, scores, tuple(warnings)))
    replace_text(session.out / "report.html", page)


def _extremes(scores: Scores, ids: list[str]) -> dict[int, str]:
    """Return the positions of the worst and the best images by mean Dice over classes, as "worst" and "best"."""
    means = mean_of_known(metrics.dice(scores.counts), axis=1)
    position = {id_: i for i, id_ in enumerate(ids)}
    order = [position[scores.ids[i]] for i in np.argsort(means, kind="stable") if not np.isnan(means[i])]
    count = min(_NUM_EXTREME, len(order) // 2)
    worst, best = order[:count], order[len(order) - count :][::-1]
    return {**dict.fromkeys(worst, "worst"), **dict.fromkeys(best, "best")}


def _samples(session: Session, positions: list[int]) -> list[Sample]:
    """Return validation samples as the network sees them; with crops, the middle of each image."""
    source = session.val_source
    return [source.middle_of(i) if isinstance(source, GridSource) else source[i] for i in positions]


def _predicted(session: Session, state: TrainState, samples: list[Sample]) -> list[Float[np.ndarray, "h w k"]]:
    """Return the probabilities of samples, computed a few at a time, always as many, by one program."""
    shown, size = averaged(state), max(1, min(session.config.train.num_pictures, len(session.info.splits["val"])))
    probs: list[np.ndarray] = []
    for start in range(0, len(samples), size):
        part = [sample.image for sample in samples[start : start + size]]
        images = np.stack([*part, *[part[0]] * (size - len(part))])
        on_devices = put_images(images, session.mesh)
        values = fetch(session.program.predict_step(shown.params, shown.batch_stats, on_devices), session.mesh)
        probs += list(np.asarray(values)[: len(part)])
    return probs
