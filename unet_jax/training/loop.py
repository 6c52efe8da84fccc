"""The training loop: `train` runs from data files to checkpoints, and resumes by itself. Read it from top to bottom."""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh

from unet_jax._types import Preempted
from unet_jax.config import Config
from unet_jax.config.choices import Choice
from unet_jax.data.crops import has_valid
from unet_jax.devices.compilation import enable_compilation_cache
from unet_jax.devices.mesh import make_mesh
from unet_jax.program.batch_shapes import batch_shapes, check_divisible
from unet_jax.program.build import Program, build, make_term_gradients
from unet_jax.program.optim import MakeOptimizer
from unet_jax.program.own import OURS, Own
from unet_jax.program.state import TrainState, num_parameters
from unet_jax.program.steps import TrainStep
from unet_jax.report.display import Display, make_display
from unet_jax.report.metrics_file import read_history
from unet_jax.runs.load import metrics_of, open_checkpoints
from unet_jax.runs.lock import lock_run
from unet_jax.runs.progress import Progress
from unet_jax.runs.verdict import verdict
from unet_jax.training.evaluation import call_back, evaluate, log_gradients, show_evaluation
from unet_jax.training.goodput import Ledger, Pacer
from unet_jax.training.log import RunLog
from unet_jax.training.non_finite import NonFiniteLossError, Returns, count_return, read_metrics
from unet_jax.training.preemption import stop_requests
from unet_jax.training.recalibrate import is_due, recalibrate
from unet_jax.training.session import EvaluationCallback, Session, train_source, val_source
from unet_jax.training.setup import begin_run
from unet_jax.training.starting_state import describe_start, newest_state


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """Result of a finished run, returned by `train`."""

    path: epath.Path
    """Run directory."""
    step: int
    """Number of the last step."""
    best_step: int
    """Step of the best checkpoint."""
    best_metrics: dict[str, float]
    """Scores of the best checkpoint on val: mean per-image Dice of the classes that occur there ("dice"), and loss
    ("loss")."""

    @property
    def history(self) -> list[dict[str, Any]]:
        """Evaluations of the whole run, oldest first, as records: `pandas.DataFrame(result.history)`."""
        return read_history(self.path)


def train(
    config: Config,
    out: str | epath.Path,
    *,
    display: Display | None = None,
    mesh: Mesh | None = None,
    make_program: Callable[[Config, int, int], Program] = build,
    network: Any = None,
    optimizer: MakeOptimizer | None = None,
    callbacks: Sequence[EvaluationCallback] = (),
    stop_at: Callable[[int], bool] | None = None,
    choices: Sequence[Choice] = (),
) -> TrainResult:
    """Train a run to its end, or continue it from its newest checkpoint.

    Args:
      config: settings of the whole run. If the run exists, it must have begun with the same settings, except those that
        may change (docs/architecture.md lists them).
      out: run directory, local or in a bucket.
      display: place for printed lines and progress bars; by default standard error of the first process.
      mesh: devices to use, from `make_mesh`; by default all, `config.train.devices_per_image` for each image.
      make_program: function that is called in the place of `build`. A study uses it to share compiled steps among runs.
      network: Flax module in the place of `config.model`'s, called as `module(images, train)` (docs/python.md). A run
        that continues must be given it again.
      optimizer: function from the schedule of the learning rate to an optax optimizer, such as `optax.lion`, in the
        place of `config.optim.name`'s. A run that continues must be given it again.
      callbacks: functions `(run, record)` to call after each evaluation: the run as it is now, which can predict until
        the next step, and the record of `TrainResult.history`. What they raise ends the run, which is saved.
      stop_at: function from the number of each step to True if training should stop after it, as after SIGTERM. By
        default SIGTERM and Ctrl-C are watched, which only the main thread can do.
      choices: table from `choose_config`, to be kept in run.json if the run is new.

    Returns:
      The last step, and the best checkpoint with its scores.

    Raises:
      InputError: the data set or the config cannot be used, differs from the run's, or another process trains there.
      NonFiniteLossError: training diverged; the message says when, on which images, and what is left.
      Preempted: SIGTERM or Ctrl-C came during training, and everything is saved.

    Example:
      >>> import tempfile
      >>> from etils import epath
      >>> import unet_jax
      >>> from unet_jax.data.synthetic import write_synthetic
      >>> folder = epath.Path(tempfile.mkdtemp())
      >>> names = write_synthetic(folder / "data", num_images=12, image_size=32, num_classes=2, seed=0)
      >>> settings = {"data.root": str(folder / "data"), "data.image_size": 32, "train.num_epochs": 1}
      >>> settings |= {"model.widths": (4,), "model.center_width": 8, "train.batch_size": 8}
      >>> result = unet_jax.train(unet_jax.replace(unet_jax.PRESETS["small"](), settings), folder / "run")
      >>> result.step, sorted(result.best_metrics)
      (1, ['dice', 'loss'])
    """
    out, display = epath.Path(out), display or make_display()
    own = Own(network, optimizer) if network is not None or optimizer is not None else OURS
    mesh = mesh or make_mesh(space=config.train.devices_per_image)
    enable_compilation_cache()
    ledger = Ledger(out)
    check_divisible(config, mesh)
    with contextlib.ExitStack() as stack:
        stack.enter_context(lock_run(out))
        info, layout = begin_run(config, out, display, choices, own)
        config = info.config
        store = stack.enter_context(open_checkpoints(out, config))
        state, progress, seconds = newest_state(info, store, mesh, own)
        if warning := ledger.resume(progress.step, seconds):
            display.line(warning)
        if store.latest_step is not None:
            display.line(describe_start(out, info, progress))
        if not progress.finished or is_due(config, out, store):
            maker = make_program if own is OURS else functools.partial(build, own=own)
            program = maker(config, len(info.class_names), info.num_steps)
            session = Session(
                info=info,
                out=out,
                store=store,
                mesh=mesh,
                display=display,
                log=RunLog(out, config.train, display, info.constant_dice),
                ledger=ledger,
                layout=layout,
                train_source=train_source(info, layout, display),
                val_source=val_source(info, layout, display),
                order=info.order,
                program=program,
                term_gradients_step=make_term_gradients(config, program, info.class_names, info.num_steps)
                if config.train.log_gradients_every_steps
                else None,
                callbacks=callbacks,
                stop_at=stop_at,
                own=own,
            )
            if not progress.finished:
                _train_with_rollbacks(session, state, progress)
            if is_due(config, out, store):
                recalibrate(session)
        best = store.best_step
        assert best is not None and store.latest_step is not None
        for line in verdict(info, out, best, store.latest_step):
            display.line(line)
        return TrainResult(out, store.latest_step, best, metrics_of(store, out, best))


def _compile(session: Session, state: TrainState) -> TrainStep:
    """Compile the training step for exactly these shapes. A batch of another shape raises an error that names it."""
    program, mesh = session.program, session.mesh
    info = session.info
    batch = batch_shapes(
        info.config,
        len(info.class_names),
        program.packing,
        mesh,
        num_channels=info.num_channels,
        image_dtype=info.image_dtype,
        has_valid=has_valid(session.train_source, info.config.augment),
    )
    device = f"{mesh.size} {mesh.devices.flat[0].device_kind} device{'s' if mesh.size > 1 else ''}"
    start = time.perf_counter()
    with session.ledger.phase("compile"):
        compiled = program.train_step.lower(state, batch).compile()  # type: ignore[attr-defined]
    seconds = time.perf_counter() - start
    session.display.line(
        f"network: {num_parameters(state.params):,} parameters; compiled for {device} in {seconds:.1f} s"
    )
    return compiled


def _train_with_rollbacks(session: Session, state: TrainState, progress: Progress) -> None:
    """Train to the end of the run. If `train.on_non_finite` is rollback, go back after a step that is not finite."""
    train_step = _compile(session, state)
    returns = Returns(checkpoint=-1, count=0)
    while True:
        session.ledger.mark_checkpoint()
        try:
            return _train_steps(session, train_step, state, progress)
        except NonFiniteLossError as error:
            failed_step, returns = error.step, count_return(session, error, returns)
        # A kill from here on does no harm: a run that continues from the checkpoint repeats everything after it.
        state, saved, _ = newest_state(session.info, session.store, session.mesh, session.own)
        progress = saved.rolled_back(failed_step, progress)
        session.ledger.go_back()


def _train_steps(session: Session, train_step: TrainStep, state: TrainState, progress: Progress) -> None:
    """Train from `progress.step` to the end of the run, with evaluations and checkpoints on the way."""
    num_steps, ledger, log = session.info.num_steps, session.ledger, session.log
    log.rewind(progress.step)
    ledger.write(progress.step)
    pace = Pacer(session.config.train.batch_size, ledger, progress.step)
    unread = None
    with (
        contextlib.closing(session.batches(progress)) as batches,
        contextlib.nullcontext(session.stop_at) if session.stop_at else stop_requests() as stop_at,
        jax.transfer_guard("disallow"),
        session.display.bar("training", num_steps, progress.step, "steps") as show,
        ledger.phase("step"),
    ):
        # The order of the parts of a step matters:
        # - Metrics are read one step late, after the next step was dispatched, so that the devices never wait.
        # - All metrics are read before a checkpoint: no state whose loss was not finite is ever saved.
        # - Results of an evaluation are written before the checkpoint. A run that is killed between the two repeats the
        #   evaluation and writes them again; in the other order, they would be missing.
        # - The checkpoint comes before everything that only people look at: a failed picture must not cost an epoch.
        for step in range(progress.step + 1, num_steps + 1):
            with ledger.phase("data_wait"):
                batch = next(batches)
            log_gradients(session, state, batch, step)
            state, metrics = train_step(state, batch)
            progress = read_metrics(session, progress, unread)
            unread = (step, metrics)
            show(step, log.note(progress, pace.at(step)))
            ledger.write_if_old(step)
            stopping = stop_at(step) and step < num_steps
            if not (session.evaluates_at(step) or session.saves_at(step) or stopping):
                continue
            progress = dataclasses.replace(read_metrics(session, progress, unread), step=step)
            unread = evaluation = None
            if session.evaluates_at(step):
                state, progress, evaluation = evaluate(session, state, progress, pace.at(step))
            session.save(state, progress, evaluation)
            if evaluation:
                show_evaluation(session, state, evaluation, is_last=progress.finished)
                call_back(session, state, evaluation)
                pace.restart(step)
            if progress.finished:
                break
            if stopping:
                session.display.line(f"told to stop: saving step {step}; Ctrl-C ends at once")
                session.finish(step)
                raise Preempted(session.out, step)
    session.finish(progress.step)
