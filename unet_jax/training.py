"""The training run, from files to checkpoints, readable top to bottom; resumes by itself."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from unet_jax import metrics
from unet_jax._types import InputError
from unet_jax.begin import begin_run, initial_state, split_source
from unet_jax.build import Program, batch_shapes, build
from unet_jax.checkpoint import CheckpointStore
from unet_jax.config import Config
from unet_jax.config_dict import config_to_dict
from unet_jax.data.kept import training_source
from unet_jax.data.layout import Layout
from unet_jax.data.pipeline import TrainOrder, eval_batches
from unet_jax.data.sources import Source
from unet_jax.data.threads import num_cores
from unet_jax.display import Clock, Display
from unet_jax.evaluate import Scores, evaluate_batches
from unet_jax.feed import device_batches
from unet_jax.monitor import Patience, Plateau, should_stop
from unet_jax.optim import make_schedule, scale_learning_rate
from unet_jax.report import save_curves, save_grid
from unet_jax.runs import RunInfo, abstract_state, open_checkpoints
from unet_jax.sharding import check_batch_size, make_mesh, put_replicated
from unet_jax.state import TrainState, num_parameters
from unet_jax.steps import TrainStep, make_predict_step
from unet_jax.writers import MetricsFile, TensorBoard

_LOG_EVERY_STEPS = 10


class NonFiniteLossError(InputError):
    """The loss or its gradient is not a finite number any more."""


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """Where a finished run stands."""

    path: epath.Path
    step: int  # last
    best_step: int
    best_metrics: dict[str, float]  # mean per-image Dice and loss on val, at the best checkpoint


@dataclasses.dataclass(frozen=True)
class _Progress:
    """What must survive a kill besides the arrays: saved as JSON in each checkpoint."""

    step: int = 0
    loss_sum: float = 0.0  # of the steps since the last evaluation
    num_losses: int = 0
    early_stop: Patience = dataclasses.field(default_factory=Patience)
    plateau: Plateau = dataclasses.field(default_factory=Plateau)
    finished: bool = False

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "_Progress":
        plateau = values["plateau"]
        nested = {
            "early_stop": Patience(**values["early_stop"]),
            "plateau": Plateau(Patience(**plateau["patience"]), plateau["lr_scale"]),
        }
        names = {field.name for field in dataclasses.fields(_Progress)}
        return _Progress(**{**{name: value for name, value in values.items() if name in names}, **nested})


def train(
    config: Config,
    out: str | epath.Path,
    *,
    display: Display | None = None,
    mesh: Mesh | None = None,
    make_program: Callable[[Config, int, int], Program] = build,
) -> TrainResult:
    """Trains a run to its end, or continues it from its newest checkpoint.

    Args:
      config: the whole run. On an existing run it must be the one that the run began with.
      out: the run directory, local or in a bucket.
      display: where lines and bars go; standard error by default.
      mesh: the devices to use, from `make_mesh`; all by default.
      make_program: instead of `build`; a study gives one whose compiled steps are used by many runs.

    Raises:
      InputError: the data set or the config cannot be used, or differs from the run's.
      NonFiniteLossError: training diverged; says when, on which images, and what is left.
    """
    out, display, mesh = epath.Path(out), display or Display(), mesh or make_mesh()
    check_batch_size(config.train.batch_size, mesh)
    info, layout = begin_run(config, out, display)
    with open_checkpoints(out, config) as store:
        if store.latest_step is not None:
            progress = _Progress.from_dict(store.progress(store.latest_step))
            state = store.load(store.latest_step, abstract_state(info), mesh)
            verb = "finished already:" if progress.finished else "continuing"
            display.line(f"{verb} {out} at step {progress.step} of {info.num_steps}")
        else:
            progress = _Progress()
            state = put_replicated(initial_state(info, mesh), mesh)
        if not progress.finished:
            _Loop(info, layout, out, store, mesh, display, make_program).run(state, progress)
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
        make_program: Callable[[Config, int, int], Program],
    ):
        config = info.config
        self.info, self.config, self.out, self.store, self.mesh, self.display = info, config, out, store, mesh, display
        self.train_source = self._source(layout, "train")
        self.val_source = self._source(layout, "val")
        self.order = TrainOrder(len(self.train_source), config.train.batch_size, config.train.num_epochs, config.seed)
        self.schedule = make_schedule(config.optim, info.num_steps)
        self.program = make_program(config, len(info.class_names), info.num_steps)
        self.predict_step = make_predict_step(self.program.model.apply, size_multiple=config.model.size_multiple)
        # Stored with each checkpoint, so that one explains itself without its run directory.
        self.identity = {"class_names": list(info.class_names), "config": config_to_dict(config)}
        self.last_dice: float | None = None  # for the bar
        self.metrics_file = MetricsFile(out / "metrics.jsonl")
        self.tensorboard = TensorBoard(out / "tensorboard") if config.train.tensorboard else None

    def _source(self, layout: Layout, split: str) -> Source:
        files = split_source(layout, self.info.splits[split], self.config.data)
        with self.display.bar(f"caching {split}", len(files), unit="images") as show:
            return training_source(
                files,
                self.config.data,
                num_threads=self.config.data.num_threads or num_cores(),
                on_progress=lambda done, _: show(done, ""),
            )

    def run(self, state: TrainState, progress: _Progress) -> None:
        """Trains from `progress.step` to the end, evaluating and saving on the way."""
        config, num_steps = self.config, self.info.num_steps
        self.metrics_file.rewind(progress.step)
        step_fn = self._compile(state)
        eval_every = config.train.eval_every_epochs * self.order.steps_per_epoch
        save_every = config.train.checkpoint_every_steps
        batches = device_batches(
            self.train_source,
            self.order,
            config,
            self.mesh,
            start_step=progress.step,
            packing=self.program.packing,
        )
        pending: tuple[int, dict[str, jax.Array]] | None = None  # metrics still on the device: read one step late
        clock = Clock()
        with (
            contextlib.closing(batches),
            jax.transfer_guard("disallow"),
            self.display.bar("training", num_steps, progress.step, "steps") as show,
        ):
            for step in range(progress.step + 1, num_steps + 1):
                with clock.waiting():
                    batch = next(batches)
                state, metrics_now = step_fn(state, batch)
                if pending is not None:
                    progress = self._read(progress, pending)
                pending = (step, metrics_now)
                clock.count(config.train.batch_size)
                show(step, self._note(progress, clock))
                at_evaluation = step % eval_every == 0 or step == num_steps
                if not at_evaluation and not (save_every and step % save_every == 0):
                    continue
                progress = dataclasses.replace(self._read(progress, pending), step=step)
                pending = None
                scores = None
                if at_evaluation:
                    state, progress, scores = self._evaluate(state, progress, clock)
                    clock = Clock()
                self.store.save(step, state, progress={**progress.to_dict(), **self.identity}, metrics=scores)
                if progress.finished:
                    break

    def _note(self, progress: _Progress, clock: Clock) -> str:
        """The bar's text."""
        loss = f"loss {progress.loss_sum / progress.num_losses:.4f}  " if progress.num_losses else ""
        dice = f"val Dice {self.last_dice:.4f}  " if self.last_dice is not None else ""
        return f"{loss}{dice}{clock.rate:.1f} images/s  {clock.wait_share:.0%} waiting for data"

    def _compile(self, state: TrainState) -> TrainStep:
        """The train step for exactly these shapes: another one later is an error that names it."""
        batch = batch_shapes(self.config, len(self.info.class_names), self.program.packing, self.mesh)
        parameters = f"{num_parameters(state.params):,} parameters"
        device = f"{self.mesh.size} {self.mesh.devices.flat[0].device_kind} device{'s' if self.mesh.size > 1 else ''}"
        start = time.perf_counter()
        compiled = self.program.train_step.lower(state, batch).compile()  # type: ignore[attr-defined]
        self.display.line(f"network: {parameters}; compiled for {device} in {time.perf_counter() - start:.1f} s")
        return compiled

    def _read(self, progress: _Progress, pending: tuple[int, dict[str, jax.Array]]) -> _Progress:
        """Fetches a step's metrics, logs them, and refuses to go on when they are not finite."""
        step, on_device = pending
        values = {name: float(value) for name, value in jax.device_get(on_device).items()}
        if not all(math.isfinite(value) for value in values.values()):
            ids = [self.train_source.ids[draw.index] for draw in self.order.batch(step - 1)]
            self.store.wait()
            good = self.store.latest_step
            raise NonFiniteLossError(
                f"step {step}: {', '.join(f'{n} is {v}' for n, v in values.items() if not math.isfinite(v))} "
                f"(images {', '.join(ids)}). "
                + (f"The last good checkpoint is {self.out}/checkpoints/{good}. " if good else "")
                + "Try a lower --optim.learning-rate or --optim.clip-norm 1."
            )
        if step % _LOG_EVERY_STEPS == 0:
            self._write({"step": step, **{f"step/{name}": value for name, value in values.items()}})
        return dataclasses.replace(
            progress, loss_sum=progress.loss_sum + values["loss"], num_losses=progress.num_losses + 1
        )

    def _evaluate(
        self, state: TrainState, progress: _Progress, clock: Clock
    ) -> tuple[TrainState, _Progress, dict[str, float]]:
        """Scores val, writes numbers and pictures, and moves early stopping and plateau."""
        config, step = self.config, progress.step
        batches = eval_batches(
            self.val_source,
            config.train.batch_size,
            packing=self.program.packing,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
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
        self.last_dice = scores.dice_mean
        finished = step == self.info.num_steps or should_stop(early_stop, config.train.early_stop_patience)
        train_loss = progress.loss_sum / max(1, progress.num_losses)
        self._report(scores, loss, train_loss, lr, step, clock)
        self._draw(state, scores)
        if finished and step < self.info.num_steps:
            self.display.line(f"stopped early: no better validation loss in {early_stop.num_waits} evaluations")
        progress = _Progress(step=step, early_stop=early_stop, plateau=plateau, finished=finished)
        return state, progress, {"dice": scores.dice_mean, "loss": loss}

    def _report(self, scores: Scores, loss: float, train_loss: float, lr: float, step: int, clock: Clock) -> None:
        epoch = step / self.order.steps_per_epoch
        dice = scores.per_image(metrics.dice)
        self._write(
            {
                "step": step,
                "epoch": epoch,
                "train/loss": train_loss,
                "eval/loss": loss,
                "eval/dice": scores.dice_mean,
                **{f"eval/dice/{name}": value for name, value in dice.items()},
                **{f"eval/iou/{name}": value for name, value in scores.per_image(metrics.iou).items()},
                "learning_rate": lr,
                "images_per_s": clock.rate,
                "wait_share": clock.wait_share,
                "time": time.time(),
            }
        )
        by_class = ", ".join(f"{name} {value:.4f}" for name, value in dice.items())
        self.display.line(
            f"epoch {epoch:g}/{self.config.train.num_epochs}  step {step}  loss {train_loss:.4f}  val loss {loss:.4f}  "
            f"val Dice {scores.dice_mean:.4f} ({by_class})  lr {lr:.1e}  {clock.rate:.1f} images/s  "
            f"{clock.wait_share:.0%} waiting for data"
        )

    def _write(self, row: dict[str, Any]) -> None:
        self.metrics_file.write(row)
        if self.tensorboard is not None:
            self.tensorboard.write(row)

    def _draw(self, state: TrainState, scores: Scores) -> None:
        """Curves, and the first validation images with truth, prediction and error."""
        count = min(self.config.train.num_pictures, len(self.val_source))
        if not count:
            return
        save_curves(self.out / "pictures" / "curves.png", self.metrics_file.read(), self.info.class_names)
        samples = [self.val_source[i] for i in range(count)]
        images = np.stack([s.image for s in samples])
        probs = jax.device_get(self.predict_step(state.params, state.batch_stats, put_replicated(images, self.mesh)))
        dice = metrics.dice(scores.counts)
        save_grid(
            self.out / "pictures" / "validation.png",
            images=list(images),
            truths=[s.mask >= 128 for s in samples],
            predictions=list(np.asarray(probs) > self.config.train.threshold),
            titles=[f"{scores.ids[i]}\nDice " + ", ".join(f"{d:.3f}" for d in dice[i]) for i in range(count)],
            class_names=self.info.class_names,
        )
