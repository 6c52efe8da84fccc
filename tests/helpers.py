"""Runs small enough for a test, interrupted ones too; what they leave compared; processes that tests start."""

import contextlib
import json
import os
import re
import types
from typing import Any

import jax
import numpy as np
from etils import epath

from unet_jax import load_run, train
from unet_jax.config import AugmentConfig, Config, DataConfig, ModelConfig, OptimConfig, TrainConfig
from unet_jax.config.dicts import config_to_dict, replace
from unet_jax.devices.mesh import make_mesh
from unet_jax.program import build as build_module
from unet_jax.report.display import Quiet

ONE_DEVICE = make_mesh(jax.devices()[:1])
OPTIMIZED = {"xla_backend_optimization_level": "1"}
"""`compiler_options` of `jax.jit` where last digits matter: unoptimised programs (conftest.py) add one by one."""
TIMES = {"images_per_s", "wait_share", "time", "crc"}
"""What no two runs share in metrics.jsonl."""
TINY = (
    *("--model.widths", "4", "--model.center-width", "8", "--model.num-convs-down", "1", "--model.num-convs-up", "1"),
    *("--data.image-size", "32", "--train.batch-size", "8"),
)
"""The network and the batches of `tiny_config`, as flags of `unet-jax train`."""


def tiny_config(root: epath.Path, **train: Any) -> Config:
    """Two epochs of two steps on 32x32 pixels; keyword arguments go to TrainConfig."""
    return Config(
        data=DataConfig(root=str(root), splits=str(root / "splits.csv"), image_size=32, num_threads=2),
        augment=AugmentConfig(),
        model=ModelConfig(widths=(4,), center_width=8, num_convs_down=1, num_convs_up=1, batch_norm_momentum=0.9),
        optim=OptimConfig(name="adamw", learning_rate=1e-2, schedule="cosine"),
        train=TrainConfig(**{"num_epochs": 2, "batch_size": 8, "num_pictures": 0, **train}),
    )


def with_optim(config: Config, **optim: Any) -> Config:
    return replace(config, {f"optim.{name}": value for name, value in optim.items()})


class CompiledOnce:
    """A jitted training step that is traced and compiled once for each kind of arguments."""

    def __init__(self, step):
        self.step, self.compiled = step, {}

    def lower(self, *arguments):
        def kind(x):
            return x.shape, x.dtype, x.sharding

        leaves, tree = jax.tree.flatten(arguments)
        key = (tree, *map(kind, leaves))
        if key not in self.compiled:
            self.compiled[key] = self.step.lower(*arguments).compile()
        return types.SimpleNamespace(compile=lambda: self.compiled[key])


_programs = {}
_NOT_OF_THE_PROGRAM = {
    *("num_epochs", "num_steps", "eval_every_epochs", "eval_every_steps", "checkpoint_every_steps", "keep_last"),
    *("monitor", "early_stop_patience", "early_stop_min_delta", "num_pictures", "log_gradients_every_steps"),
    *("tensorboard", "writers"),
}
"""Settings of training that `build` does not read; the number of steps is an argument of its own."""


def make_program(config: Config, num_classes: int, num_steps: int) -> Any:
    """Make a run's program, or return that of an earlier run with the same settings, as far as the program has them.

    Half of the time of so small a run is tracing and lowering, and tests train the same network again and again. The
    commands that tests start in other processes have programs of their own.
    """
    values = config_to_dict(config)
    parts = [values[part] for part in ("model", "loss", "optim")]
    parts.append({name: value for name, value in values["train"].items() if name not in _NOT_OF_THE_PROGRAM})
    maker = build_module.make_train_step  # tests replace it
    key = (json.dumps([parts, config.data.image_size]), num_classes, num_steps, maker, jax.default_backend())
    if key not in _programs:
        program = build_module.build(config, num_classes, num_steps)
        _programs[key] = program._replace(train_step=CompiledOnce(program.train_step))
    return _programs[key]


def run(config: Config, out: Any, display: Quiet | None = None, mesh: Any = ONE_DEVICE, **options: Any) -> Any:
    """Train without saying anything, on one device."""
    options = {"make_program": make_program, **options}
    return train(config, out, display=display or Quiet(), mesh=mesh, **options)


class Lines(Quiet):
    """Keeps what is printed."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def line(self, text):
        self.lines.append(text)


class Interrupting(Quiet):
    """Presses Ctrl-C after a training step."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    @contextlib.contextmanager
    def bar(self, title, total, completed=0, unit=""):
        def show(done, note=""):
            if title == "training" and done == self.step:
                raise KeyboardInterrupt

        yield show


def rows(path: Any) -> list[dict[str, Any]]:
    """Of metrics.jsonl, without what no two runs share."""
    lines = (epath.Path(path) / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def assert_equal_runs(a: Any, b: Any) -> None:
    """Their newest checkpoints, and what was logged, bit for bit."""
    left, right = load_run(a, "last", mesh=ONE_DEVICE), load_run(b, "last", mesh=ONE_DEVICE)
    assert left.step == right.step
    jax.tree.map(np.testing.assert_array_equal, left.state, right.state)
    assert rows(a) == rows(b)


def committed(out: Any) -> list[int]:
    """Steps of the checkpoints that have their final names."""
    folder = out / "checkpoints"
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) if folder.exists() else []


def environment(num_devices: int = 1, **more: str) -> dict[str, str]:
    """Of a process that a test starts: conftest.py's, with as many devices."""
    count = f"device_count={num_devices}"
    return {**os.environ, "XLA_FLAGS": re.sub(r"device_count=\d+", count, os.environ["XLA_FLAGS"]), **more}
