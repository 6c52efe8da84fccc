"""Help of `unet-jax train PRESET`: the settings that a person needs first, on one screen."""

from unet_jax.config import Config
from unet_jax.config.dicts import flatten_config

# Dotted name and meaning; the value comes from the preset.
_GROUPS: dict[str, dict[str, str]] = {
    "data": {
        "data.image_size": "side in pixels, or height and width",
        "data.fit": "way to that size: stretch, pad or crop",
        "data.channels": "channels to use: 0,1,3; empty: all",
        "data.index_values": "classes in one file: cell=1 edge=2",
        "data.splits": "CSV file: the split of each id",
    },
    "network": {
        "model.widths": "channels, highest resolution first",
        "model.center_width": "channels of the lowest level",
        "model.dtype": "bfloat16: half the memory",
    },
    "training": {
        "train.num_epochs": "passes over the training images",
        "train.num_steps": "or updates; 0: counted in epochs",
        "train.batch_size": "images in an update",
        "train.early_stop_patience": "evaluations to wait; 0: never stop",
        "train.accumulation": "micro-batches, for less memory",
        "optim.name": "optimizer",
        "optim.learning_rate": "its highest learning rate",
        "loss.terms": "bce 'tversky(weight=0.5)' ...",
        "init_from": "run to take the weights from",
        "seed": "seed of all random numbers",
    },
    "changes of the training images": {
        "augment.rotate": "largest angle in degrees",
        "augment.scale": "largest change of size",
        "augment.horizontal_flip_prob": "probability of a flip",
        "augment.color_prob": "probability of other colours",
    },
}

_AUTO = [
    "auto chooses for the data and this machine; what you give stays.",
    "`unet-jax auto --data.root DATA` shows its choice without training.",
]


def short_help(preset: str, config: Config, more: dict[str, str]) -> str:
    """Return the text for a preset.

    Args:
      preset: name of the preset.
      config: settings of the preset.
      more: options of the command besides settings, with their meanings.
    """
    values = flatten_config(config)
    lines = [
        f"usage: unet-jax train {preset} --data.root DATA --out RUN [--NAME VALUE ...]",
        "",
        "Train a run, or continue the one in RUN from its newest checkpoint.",
        "",
        _line("--data.root DATA", "images/ID.png, masks/CLASS/ID.png ..."),
        _line("--out RUN", "run; the same command continues it"),
        *(_line(option, meaning) for option, meaning in more.items()),
    ]
    for title, settings in _GROUPS.items():
        lines += ["", f"{title}:"]
        for name, meaning in settings.items():
            flag = f"--{name}".replace("_", "-")
            lines.append(_line(f"{flag} {_text(values[name])}".rstrip(), meaning))
    lines += [
        "",
        *(_AUTO if preset == "auto" else [f"The values are those of the preset {preset}."]),
        f"All {len(values)} settings: `unet-jax train {preset} --help-all`.",
        "Settings may stand in a TOML file: --config FILE.",
    ]
    return "\n".join(lines)


def _line(option: str, meaning: str) -> str:
    """Return one line of at most 80 columns."""
    return f"  {option:38} {meaning}"


def _text(value: object) -> str:
    """Return a value as it is typed on the command line; empty ones as nothing."""
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else "" if value is None else str(value)
