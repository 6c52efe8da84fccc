"""Symmetries of images for test-time augmentation: flips, and the eight symmetries of the square (D4)."""

import itertools
from typing import Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Shaped

Augmentation = Literal["none", "flips", "d4"]
"""Images that a prediction is averaged over: the image itself, its 4 flips, or its 8 flips and rotations."""


class Symmetry(NamedTuple):
    """A symmetry of an image: rows and columns are exchanged first, then their orders are reversed."""

    exchanges: bool
    reverses_rows: bool
    reverses_columns: bool

    def apply(self, images: Shaped[Array, "b h w c"]) -> Shaped[Array, "b h2 w2 c"]:
        """Transform images."""
        images = jnp.swapaxes(images, 1, 2) if self.exchanges else images
        return self._reversed(images)

    def undo(self, images: Shaped[Array, "b h2 w2 c"]) -> Shaped[Array, "b h w c"]:
        """Transform images back."""
        images = self._reversed(images)
        return jnp.swapaxes(images, 1, 2) if self.exchanges else images

    def _reversed(self, images: Array) -> Array:
        axes = [axis for axis, does in ((1, self.reverses_rows), (2, self.reverses_columns)) if does]
        return jnp.flip(images, axes) if axes else images


def symmetries_of(augmentation: Augmentation) -> list[Symmetry]:
    """Return the symmetries of a kind of test-time augmentation, the identity first.

    Example:
      >>> [len(symmetries_of(name)) for name in ("none", "flips", "d4")]
      [1, 4, 8]
    """
    choices = {"none": [(False,)] * 3, "flips": [(False,), (False, True), (False, True)], "d4": [(False, True)] * 3}
    return [Symmetry(*flags) for flags in itertools.product(*choices[augmentation])]
