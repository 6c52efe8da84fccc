"""The training run, from files to checkpoints, readable top to bottom; resumes by itself."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from unet_jax._types import Preempted
from unet_jax.config import Config
from unet_jax.config.dicts import config_to_dict
from unet_jax.data.cached_source import training_source
from unet_jax.data.layout import Layout
from unet_jax.data.order import TrainOrder
from unet_jax.data.pipeline import eval_batches
from unet_jax.data.sources import Source
from unet_jax.data.threads import num_cores
from unet_jax.devices.compilation import compiler_options
from unet_jax.devices.mesh import check_batch_size, check_rows, fetch, make_mesh, process_share, put_images
from unet_jax.metrics.scores import Scores
from unet_jax.program.build import Program, batch_shapes, build, make_term_gradients
from unet_jax.program.optim import make_schedule, scale_learning_rate
from unet_jax.program.state import TrainState, num_parameters
from unet_jax.program.steps import TrainStep, make_predict_step
from unet_jax.report.display import Display, make_display
from unet_jax.runs.checkpoints import CheckpointStore
from unet_jax.runs.info import RunInfo
from unet_jax.runs.load import open_checkpoints
from unet_jax.runs.lock import lock_run
from unet_jax.runs.progress import Progress, should_stop
from unet_jax.training.evaluation import evaluate_batches
from unet_jax.training.goodput import Ledger, Pace, pace
from unet_jax.training.log import RunLog
from unet_jax.training.non_finite import MAX_ROLLBACKS, MAX_SKIPS, NonFiniteLossError, describe
from unet_jax.training.preemption import stop_requests
from unet_jax.training.prefetch import device_batches
from unet_jax.training.setup import begin_run, split_source
from unet_jax.training.starting_state import newest_state


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """Where a finished run stands."""

    path: epath.Path
    step: int  # last
    best_step: int
    best_metrics: dict[str, float]  # mean per-image Dice and loss on val, at the best checkpoint


def train(
    config: Config,
    out: str | epath.Path,
    *,
    display: Display | None = None,
    mesh: Mesh | None = None,
    make_program: Callable[[Config, int, int], Program] = build,
    stop_at: Callable[[int], bool] | None = None,
) -> TrainResult:
    """Trains a run to its end, or continues it from its newest checkpoint.

    Args:
      config: the whole run. On an existing run it must be the one that the run began with.
      out: the run directory, local or in a bucket.
      display: where lines and bars go; by default standard error, of the first process.
      mesh: the devices to use, from `make_mesh`; by default all, `config.train.devices_per_image` for each image.
      make_program: instead of `build`; a study gives one whose compiled steps are used by many runs.
      stop_at: whether to stop after a step, as if SIGTERM had come; by default signals are watched, which only the
        main thread can do.

    Raises:
      InputError: the data set or the config cannot be used, or differs from the run's, or another process trains it.
      NonFiniteLossError: training diverged; says when, on which images, and what is left.
      Preempted: SIGTERM or Ctrl-C came during training, and everything is saved.
    """
    out, display = epath.Path(out), display or make_display()
    mesh = mesh or make_mesh(space=config.train.devices_per_image)
    ledger = Ledger(out)
    check_batch_size(config.train.batch_size, mesh)
    check_rows(config.data.image_size, config.model.size_multiple, mesh)
    with contextlib.ExitStack() as stack:
        stack.enter_context(lock_run(out))
        info, layout = begin_run(config, out, display)
        store = stack.enter_context(open_checkpoints(out, config))
        state, progress, seconds = newest_state(info, store, mesh)
        ledger.resume(progress.step, seconds)
        if store.latest_step is not None:
            verb = "finished already:" if progress.finished else "continuing"
            display.line(f"{verb} {out} at step {progress.step} of {info.num_steps}")
        if not progress.finished:
            _Loop(info, layout, out, store, mesh, display, ledger, make_program, stop_at).run(state, progress)
        best = store.best_step
        assert best is not None and store.latest_step is not None
        return TrainResult(out, store.latest_step, best, store.metrics(best))


class _Loop:
    """The pieces that every step of one run uses, and the loop over them."""

    def __init__(
        self,
        info: RunInfo,
        layout: Layout,
        out: epath.Path,
        store: CheckpointStore,
        mesh: Mesh,
        display: Display,
        ledger: Ledger,
        make_program: Callable[[Config, int, int], Program],
        stop_at: Callable[[int], bool] | None,
    ):
        config = info.config
        self.info, self.config, self.out, self.store, self.mesh, self.display = info, config, out, store, mesh, display
        self.train_source = self._source(layout, "train")
        self.val_source = self._source(layout, "val")
        self.order = TrainOrder(len(self.train_source), config.train.batch_size, config.train.num_epochs, config.seed)
        self.schedule = make_schedule(config.optim, info.num_steps)
        self.program = make_program(config, len(info.class_names), info.num_steps)
        wanted = config.train.log_gradients_every_steps > 0
        self.term_gradients_step = (
            make_term_gradients(config, self.program, info.class_names, info.num_steps) if wanted else None
        )
        self.predict_step = make_predict_step(
            self.program.model.apply,
            size_multiple=config.model.size_multiple,
            compiler_options=compiler_options(),
        )
        # Stored with each checkpoint, so that one explains itself without its run directory.
        self.identity = {"class_names": list(info.class_names), "config": config_to_dict(config)}
        self.log = RunLog(out, config.train, display)
        self.ledger, self.at_checkpoint, self.stop_at = ledger, ledger.seconds, stop_at

    def _source(self, layout: Layout, split: str) -> Source:
        files = split_source(layout, self.info.splits[split], self.config.data)
        with self.display.bar(f"caching {split}", len(files), unit="images") as show:
            return training_source(
                files,
                self.config.data,
                num_threads=self.config.data.num_threads or num_cores(),
                on_progress=lambda done, _: show(done, ""),
            )

    def run(self, state: TrainState, progress: Progress) -> None:
        """Trains from `progress.step` to the end, where the config says so over steps that are not finite."""
        with self.ledger.phase("compile"):
            step_fn = self._compile(state)
        back_to, times = -1, 0
        while True:
            self.at_checkpoint = self.ledger.seconds
            try:
                return self._run(step_fn, state, progress)
            except NonFiniteLossError as error:
                newest = self.store.latest_step or 0
                times = times + 1 if newest == back_to else 1
                if self.config.train.on_non_finite != "rollback" or times > MAX_ROLLBACKS:
                    raise
                back_to, failed = newest, error.step
                self.display.line(f"{error}\nback to step {newest}, on with the batches after that of step {failed}")
            # A kill from here on changes nothing: continued from the checkpoint, all of it happens again.
            state, saved, _ = newest_state(self.info, self.store, self.mesh)
            progress = saved.rolled_back(failed, progress)
            self.ledger.go_back(self.at_checkpoint)

    def _run(self, step_fn: TrainStep, state: TrainState, progress: Progress) -> None:
        """Trains from `progress.step` to the end, evaluating and saving on the way."""
        config, num_steps, ledger = self.config, self.info.num_steps, self.ledger
        self.log.rewind(progress.step)
        ledger.write(progress.step)
        eval_every = config.train.eval_every_epochs * self.order.steps_per_epoch
        save_every = config.train.checkpoint_every_steps
        batches = device_batches(
            self.train_source,
            self.order.extended_by(progress.data_offset),
            config,
            self.mesh,
            start_step=progress.step + progress.data_offset,
            packing=self.program.packing,
        )
        pending: tuple[int, dict[str, jax.Array]] | None = None  # metrics still on the device: read one step late
        mark = (progress.step, ledger.seconds)  # where the present pace began
        with (
            contextlib.closing(batches),
            contextlib.nullcontext(self.stop_at) if self.stop_at else stop_requests() as stop_at,
            jax.transfer_guard("disallow"),
            self.display.bar("training", num_steps, progress.step, "steps") as show,
            ledger.phase("step"),
        ):
            for step in range(progress.step + 1, num_steps + 1):
                with ledger.phase("data_wait"):
                    batch = next(batches)
                if self.term_gradients_step and step % config.train.log_gradients_every_steps == 0:
                    self.log.gradients(step, jax.device_get(self.term_gradients_step(state, batch)))
                state, metrics_now = step_fn(state, batch)
                if pending is not None:
                    progress = self._read(progress, pending)
                pending = (step, metrics_now)
                show(step, self.log.note(progress, self._pace(step, mark)))
                ledger.write_if_old(step)
                at_evaluation = step % eval_every == 0 or step == num_steps
                stopping = stop_at(step) and step < num_steps
                if not (at_evaluation or stopping or (save_every and step % save_every == 0)):
                    continue
                progress = dataclasses.replace(self._read(progress, pending), step=step)
                pending = None
                scores = None
                if at_evaluation:
                    with ledger.phase("evaluation"):
                        state, progress, scores = self._evaluate(state, progress, self._pace(step, mark))
                    mark = (step, ledger.seconds)
                with ledger.phase("checkpoint"):
                    self._save(state, progress, scores)
                if progress.finished:
                    break
                if stopping:
                    self.display.line(f"told to stop: saving step {step}; Ctrl-C ends at once")
                    self._finish(step)
                    raise Preempted(self.out, step)
        self._finish(progress.step)

    def _pace(self, step: int, mark: tuple[int, dict[str, float]]) -> Pace:
        return pace((step - mark[0]) * self.config.train.batch_size, mark[1], self.ledger.seconds)

    def _save(self, state: TrainState, progress: Progress, scores: dict[str, float] | None) -> None:
        """Starts saving a checkpoint; `scores` where there was an evaluation."""
        values = {**progress.to_dict(), **self.identity, "goodput": self.ledger.seconds}
        self.store.save(progress.step, state, progress=values, metrics=scores)
        self.at_checkpoint = self.ledger.seconds
        self.ledger.write(progress.step)

    def _finish(self, step: int) -> None:
        """Waits for the last checkpoint, and says where the time went."""
        with self.ledger.phase("checkpoint"):
            self.store.wait()
        self.ledger.write(step)
        for line in self.ledger.table():
            self.display.line(line)

    def _compile(self, state: TrainState) -> TrainStep:
        """The train step for exactly these shapes: another one later is an error that names it."""
        batch = batch_shapes(self.config, len(self.info.class_names), self.program.packing, self.mesh)
        parameters = f"{num_parameters(state.params):,} parameters"
        device = f"{self.mesh.size} {self.mesh.devices.flat[0].device_kind} device{'s' if self.mesh.size > 1 else ''}"
        start = time.perf_counter()
        compiled = self.program.train_step.lower(state, batch).compile()  # type: ignore[attr-defined]
        self.display.line(f"network: {parameters}; compiled for {device} in {time.perf_counter() - start:.1f} s")
        return compiled

    def _read(self, progress: Progress, pending: tuple[int, dict[str, jax.Array]]) -> Progress:
        """Fetches a step's metrics and logs them; when they are not finite, counts it or refuses to go on."""
        step, on_device = pending
        values = {name: float(value) for name, value in jax.device_get(on_device).items()}
        if all(math.isfinite(value) for value in values.values()):
            self.log.step(step, values)
            return progress.with_loss(values["loss"])
        ids = [self.train_source.ids[draw.index] for draw in self.order.batch(step - 1 + progress.data_offset)]
        found = describe(step, values, ids)
        if self.config.train.on_non_finite == "skip" and progress.skips_in_a_row < MAX_SKIPS:
            self.display.line(f"{found} Left out: {progress.num_skipped + 1} steps so far.")
            return progress.with_skip()
        self.store.wait()
        good = self.store.latest_step
        kept = f" The last good checkpoint is {self.out}/checkpoints/{good}." if good else ""
        raise NonFiniteLossError(f"{found}{kept} Try a lower --optim.learning-rate or --optim.clip-norm 1.", step)

    def _evaluate(
        self, state: TrainState, progress: Progress, now: Pace
    ) -> tuple[TrainState, Progress, dict[str, float]]:
        """Scores val, writes numbers and pictures, and moves early stopping and plateau."""
        config, step = self.config, progress.step
        batches = eval_batches(
            self.val_source,
            config.train.batch_size,
            packing=self.program.packing,
            share=process_share(self.mesh),
        )
        scores, loss = evaluate_batches(
            self.program.eval_step,
            state,
            batches,
            ids=self.val_source.ids,
            class_names=self.info.class_names,
            mesh=self.mesh,
        )
        early_stop = progress.early_stop.seen(loss, min_delta=config.train.early_stop_min_delta)
        plateau = progress.plateau
        with jax.transfer_guard("allow"):  # the schedule takes a Python number to the device and back
            lr = float(np.asarray(self.schedule(step))) * plateau.lr_scale
        if config.optim.schedule == "plateau":
            plateau = plateau.seen(
                loss,
                min_delta=config.optim.plateau_min_delta,
                max_waits=config.optim.plateau_patience,
                factor=config.optim.plateau_factor,
            )
            opt_state = scale_learning_rate(state.opt_state, plateau.lr_scale)
            state = dataclasses.replace(state, opt_state=opt_state)
        finished = step == self.info.num_steps or should_stop(early_stop, config.train.early_stop_patience)
        epoch = step / self.order.steps_per_epoch
        self.log.evaluation(scores, progress, loss=loss, lr=lr, epoch=epoch, pace=now)
        self._draw(state, scores)
        if finished and step < self.info.num_steps:
            self.display.line(f"stopped early: no better validation loss in {early_stop.num_waits} evaluations")
        progress = dataclasses.replace(
            progress, loss_sum=0.0, num_losses=0, early_stop=early_stop, plateau=plateau, finished=finished
        )
        return state, progress, {"dice": scores.dice_mean, "loss": loss}

    def _draw(self, state: TrainState, scores: Scores) -> None:
        """Pictures of the first validation images."""
        count = min(self.config.train.num_pictures, len(self.val_source))
        if not count:
            return
        samples = [self.val_source[i] for i in range(count)]
        images = np.stack([s.image for s in samples])
        probs = fetch(self.predict_step(state.params, state.batch_stats, put_images(images, self.mesh)), self.mesh)
        predictions = np.asarray(probs) > self.config.train.threshold
        self.log.pictures(list(images), [s.mask >= 128 for s in samples], list(predictions), scores)
