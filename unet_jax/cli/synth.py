"""The command `unet-jax synth`: parse the options, write a synthetic data set, print its classes."""

import dataclasses
from collections.abc import Sequence

import tyro
from etils import epath


@dataclasses.dataclass(frozen=True)
class _Synth:
    """Write a synthetic data set of overlapping shapes, to try things on."""

    out: str
    """Folder to write."""
    num_images: int = 64
    """Number of images."""
    image_size: int = 256
    """Height and width of each image, in pixels."""
    num_classes: int = 2
    """Number of classes. Each class is one kind of shape with its own mask, and masks overlap."""
    seed: int = 0
    """Seed of the random shapes: the same seed writes the same files."""


def synth(args: Sequence[str]) -> None:
    """Run `unet-jax synth`."""
    options = tyro.cli(_Synth, args=args, prog="unet-jax synth")
    from unet_jax.data.synthetic import write_synthetic

    names = write_synthetic(
        epath.Path(options.out),
        num_images=options.num_images,
        image_size=options.image_size,
        num_classes=options.num_classes,
        seed=options.seed,
    )
    print(f"{options.num_images} images of {options.image_size}x{options.image_size} pixels in {options.out}")
    print(f"classes: {', '.join(names)}; splits: {options.out}/splits.csv")
