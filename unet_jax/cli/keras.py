"""The commands `unet-jax import-keras` and `unet-jax export-keras`: parse the options, convert, print the next step."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Literal

import tyro
from etils import epath

from unet_jax._types import InputError
from unet_jax.cli.options import RUN, check_run
from unet_jax.config.placeholders import File, Names, RunDir


@dataclasses.dataclass(frozen=True)
class _Import:
    """Make a run from weights of a Keras U-Net (.weights.h5, .keras, or the .h5 of Keras 2)."""

    file: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FILE")]
    """Keras file to read."""
    out: RunDir
    """Run directory to make."""
    classes: Names = ()
    """Names of the classes, in the order of the output channels. By default class0, class1, ..."""
    channels: Literal["bgr", "rgb"] = "bgr"
    """Order of the colour channels in the images that the Keras network was trained on. cv2.imread returns bgr."""
    image_size: int | None = None
    """Height and width in pixels that images were resized to. Needed if the file does not contain it."""
    check: Annotated[tuple[str, str] | None, tyro.conf.arg(metavar="IMAGE PROBS.npy")] = None
    """Image of that size, and a file of numpy.save with the probabilities that Keras computed for it: IMAGE PROBS.npy.
    The import is refused if the network's own differ."""


@dataclasses.dataclass(frozen=True)
class _Export:
    """Write the network of a run as weights for Keras 3."""

    run: RUN
    """Run directory."""
    out: File
    """File to write. Its name must end in .weights.h5."""
    channels: Literal["bgr", "rgb"] = "bgr"
    """Order of the colour channels in the images that the Keras program will give to the network."""
    checkpoint: Literal["best", "last"] = "best"
    """Checkpoint to export: best (the best on val) or last (the newest)."""


def import_command(args: Sequence[str]) -> None:
    """Run `unet-jax import-keras`."""
    options = tyro.cli(_Import, args=args, prog="unet-jax import-keras")
    if not epath.Path(options.file).exists():
        raise InputError(f"{options.file}: there is no such file.")
    from unet_jax.interop.keras import import_keras

    info = import_keras(
        options.file,
        options.out,
        class_names=options.classes,
        channels=options.channels,
        image_size=options.image_size,
        check=options.check,
    )
    if options.check:
        print(f"probabilities differ from {options.check[1]} by {info.audit['largest_difference']:.1e} at most")
    elif info.audit["assumed"]:
        print(f"{options.file} holds weights only. Assumed, because it does not say so:")
        for line in info.audit["assumed"]:
            print(f"  {line}")
        print("  To be sure, give an image and Keras's probabilities for it: --check IMAGE PROBS.npy")
    widths = " ".join(map(str, (*info.config.model.widths, info.config.model.center_width)))
    height, width = info.config.data.height_and_width
    print(f"{options.out}: widths {widths}, {width}x{height} pixels, channels: {', '.join(info.class_names)}")
    print(f"next: unet-jax predict {options.out} IMAGES --out MASKS, or unet-jax train ... --init-from {options.out}")


def export_command(args: Sequence[str]) -> None:
    """Run `unet-jax export-keras`."""
    options = tyro.cli(_Export, args=args, prog="unet-jax export-keras")
    check_run(options.run)
    from unet_jax.interop.keras import export_keras

    export_keras(options.run, options.out, channels=options.channels, checkpoint=options.checkpoint)
    print(f"{options.out}: written for model.load_weights of Keras 3 ({options.channels} images)")
