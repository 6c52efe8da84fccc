"""Named configs, and the check of settings that somebody gave but that are not used."""

import dataclasses
from collections.abc import Callable
from typing import Any

from unet_jax.config import AugmentConfig, Config, LossConfig
from unet_jax.config.data import DataConfig
from unet_jax.config.dicts import flatten_config
from unet_jax.config.model import ModelConfig
from unet_jax.config.optim import OptimConfig
from unet_jax.config.settings import check_used
from unet_jax.config.train import TrainConfig


def seed() -> Config:
    """The Keras original: 8 to 1024 channels at 1024x1024, RMSprop 1e-4, BCE + Dice over the whole batch.

    As there, masks are resized and warped bilinearly, and large hue shifts are clamped at red. The learning rate falls,
    and the run stops, by the validation loss.
    """
    return Config(
        data=DataConfig(image_size=1024, mask_interpolation="linear"),
        augment=AugmentConfig(hue=50.0, saturation=5.0, value=15.0, circular_hue=False),
        model=ModelConfig(),
        loss=LossConfig(bce_weight=1.0, dice_weight=1.0, dice_reduction="batch", dice_smooth=1.0),
        optim=OptimConfig(name="rmsprop", learning_rate=1e-4, schedule="plateau"),
        train=TrainConfig(num_epochs=100, batch_size=4, monitor="loss", early_stop_patience=8),
    )


def default() -> Config:
    """A modern recipe: AdamW, a learning rate that rises and falls once, gentle colour shifts, flips both ways."""
    return Config(
        data=DataConfig(image_size=256),
        augment=AugmentConfig(
            hue=10.0, saturation=15.0, value=20.0, rotate=15.0, border="reflect", vertical_flip_prob=0.5
        ),
        model=ModelConfig(
            widths=(16, 32, 64, 128),
            center_width=256,
            num_convs_up=2,
            batch_norm_momentum=0.9,
            head_bias="prior",
        ),
        optim=OptimConfig(name="adamw", learning_rate=2e-3, schedule="cosine", warmup_fraction=0.3),
        train=TrainConfig(num_epochs=25, batch_size=8),
    )


def small() -> Config:
    """A small network for a first try on a CPU, in a few minutes."""
    return Config(
        data=DataConfig(image_size=128),
        model=ModelConfig(
            widths=(8, 16, 32, 64),
            center_width=128,
            num_convs_up=2,
            batch_norm_momentum=0.9,
            head_bias="prior",
        ),
        optim=OptimConfig(name="adamw", learning_rate=4e-3, schedule="cosine", warmup_fraction=0.2),
        train=TrainConfig(num_epochs=15, batch_size=8),
    )


def auto() -> Config:
    """The settings that `unet-jax auto` begins with; it chooses size, network, batch and length for a data set."""
    config = default()
    return dataclasses.replace(config, model=dataclasses.replace(config.model, batch_norm_correction=True))


PRESETS: dict[str, Callable[[], Config]] = {"default": default, "seed": seed, "small": small}


def nearest_preset(config: Config) -> tuple[str, dict[str, Any]]:
    """Return the name of the preset with the fewest other values, and the settings that differ from it.

    Example:
      >>> nearest_preset(dataclasses.replace(small(), seed=7))
      ('small', {'seed': 7})
    """
    values = flatten_config(config)
    differing = {}
    for name, make_preset in PRESETS.items():
        theirs = flatten_config(make_preset())
        differing[name] = {setting: value for setting, value in values.items() if value != theirs[setting]}
    nearest = min(differing, key=lambda name: len(differing[name]))
    return nearest, differing[nearest]


def check_settings(config: Config) -> None:
    """Raise `InputError` for a setting that somebody gave and that does nothing in this config.

    Values of presets are not taken for given: a preset's momentum of batch normalisation stays in the config if
    somebody chooses group normalisation, and is no mistake.
    """
    check_used(config, preset_values())


def preset_values() -> dict[str, list[Any]]:
    """Return the values that each setting has in the presets, by dotted name."""
    values: dict[str, list[Any]] = {}
    for make_preset in PRESETS.values():
        for name, value in flatten_config(make_preset()).items():
            values.setdefault(name, []).append(value)
    return values
