"""A run small enough to train in a test, and one that is interrupted."""

import contextlib
import dataclasses
from typing import Any

from etils import epath

from unet_jax.config import AugmentConfig, Config, DataConfig, ModelConfig, OptimConfig, TrainConfig
from unet_jax.report.display import Quiet


def tiny_config(root: epath.Path, **train: Any) -> Config:
    """Two epochs of two steps on 32x32 pixels; keyword arguments go to TrainConfig."""
    return Config(
        data=DataConfig(root=str(root), splits=str(root / "splits.csv"), image_size=32, num_threads=2),
        augment=AugmentConfig(),
        model=ModelConfig(widths=(4, 8), center_width=8, num_convs_down=1, num_convs_up=1, batch_norm_momentum=0.9),
        optim=OptimConfig(name="adamw", learning_rate=1e-2, schedule="cosine"),
        train=TrainConfig(**{"num_epochs": 2, "batch_size": 8, "num_pictures": 0, **train}),
    )


def with_optim(config: Config, **optim: Any) -> Config:
    return dataclasses.replace(config, optim=dataclasses.replace(config.optim, **optim))


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
