"""`unet-jax synth`: parse, call, print."""

import dataclasses
from collections.abc import Sequence

import tyro
from etils import epath

from unet_jax.data.synthetic import write_synthetic


@dataclasses.dataclass(frozen=True)
class _Synth:
    """Make a data set of overlapping shapes."""

    out: str
    """Folder to write."""
    num_images: int = 64
    """Images to write."""
    image_size: int = 256
    """Height and width of each image in pixels."""
    num_classes: int = 2
    """Classes, each with a mask of its own; masks overlap."""
    seed: int = 0
    """Seed of the random shapes: the same seed writes the same files."""


def synth(args: Sequence[str]) -> None:
    """Run `unet-jax synth`."""
    options = tyro.cli(_Synth, args=args, prog="unet-jax synth")
    names = write_synthetic(
        epath.Path(options.out),
        num_images=options.num_images,
        image_size=options.image_size,
        num_classes=options.num_classes,
        seed=options.seed,
    )
    print(f"{options.num_images} images of {options.image_size}x{options.image_size} pixels in {options.out}")
    print(f"classes: {', '.join(names)}; splits: {options.out}/splits.csv")
