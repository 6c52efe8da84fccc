"""`unet-jax import-keras` and `unet-jax export-keras`: parse, call, print."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import tyro

from unet_jax.interop.keras import export_keras, import_keras


@dataclasses.dataclass(frozen=True)
class _Import:
    """Make a run from Keras weights (.weights.h5, .keras, or Keras 2's .h5)."""

    file: tyro.conf.Positional[str]
    """The Keras file."""
    out: str
    """Run directory to begin."""
    classes: tuple[str, ...] = ()
    """Names of the output channels, in order; by default class0, class1, ..."""
    channels: Literal["bgr", "rgb"] = "bgr"
    """Order of colours that the Keras program fed its network with; cv2.imread gives bgr."""
    image_size: int | None = None
    """What images were resized to, where the file does not say it."""


@dataclasses.dataclass(frozen=True)
class _Export:
    """Write a run's network as weights for Keras 3."""

    run: tyro.conf.Positional[str]
    """Run directory."""
    out: str
    """File to write, X.weights.h5."""
    channels: Literal["bgr", "rgb"] = "bgr"
    """Order of colours that the Keras program feeds its network with."""
    checkpoint: Literal["best", "last"] = "best"


def import_command(args: Sequence[str]) -> None:
    """Run `unet-jax import-keras`."""
    options = tyro.cli(_Import, args=args, prog="unet-jax import-keras")
    info = import_keras(
        options.file,
        options.out,
        class_names=options.classes,
        channels=options.channels,
        image_size=options.image_size,
    )
    widths = " ".join(map(str, (*info.config.model.widths, info.config.model.center_width)))
    size = info.config.data.image_size
    print(f"{options.out}: widths {widths}, {size}x{size} pixels, channels: {', '.join(info.class_names)}")
    print(f"next: unet-jax predict {options.out} IMAGES --out MASKS, or unet-jax train ... --init-from {options.out}")


def export_command(args: Sequence[str]) -> None:
    """Run `unet-jax export-keras`."""
    options = tyro.cli(_Export, args=args, prog="unet-jax export-keras")
    export_keras(options.run, options.out, channels=options.channels, checkpoint=options.checkpoint)
    print(f"{options.out}: written for model.load_weights of Keras 3 ({options.channels} images)")
