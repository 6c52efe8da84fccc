"""The crops of an epoch (`data.fit crop`): how many come from each image, and which class each is placed on."""

from collections.abc import Sequence

import numpy as np

_CROP_KEY = 2  # makes these random numbers independent of those of the order (0) and of augmentation (1 and 3)


def crops_of_area(height: int, width: int, crop_size: tuple[int, int]) -> int:
    """Return how many crops an image gives in an epoch: as many as fit into its area, rounded, and at least one."""
    return max(1, round(height * width / (crop_size[0] * crop_size[1])))


class CropPlan:
    """Crops of one epoch, as pure functions of seed, epoch and the number of the crop.

    Each image gives as many crops as fit into its area, rounded, and at least one. So an epoch shows about as many
    pixels as the images have.

    Args:
      sizes: height and width of each image at the resolution that crops are cut from.
      classes: numbers of the classes that each image has, in ascending order.
      crop_size: height and width of a crop.
      foreground: share of crops that are placed on a class (`data.crop_foreground`).
      by_class: choose the image of such a crop by class (`data.sample_by_class`).

    Example:
      >>> plan = CropPlan([(64, 64), (10, 10)], [(0, 1), ()], (32, 32), foreground=0.5, by_class=False)
      >>> len(plan), [plan.image_of(i) for i in range(len(plan))]
      (5, [0, 0, 0, 0, 1])
    """

    def __init__(
        self,
        sizes: Sequence[tuple[int, int]],
        classes: Sequence[Sequence[int]],
        crop_size: tuple[int, int],
        *,
        foreground: float,
        by_class: bool,
    ):
        self._ends = np.cumsum([crops_of_area(height, width, crop_size) for height, width in sizes])
        self._classes = [tuple(of_image) for of_image in classes]
        self._foreground, self._by_class = foreground, by_class
        self._images_of = {
            k: [i for i, of_image in enumerate(self._classes) if k in of_image]
            for k in sorted({k for of_image in self._classes for k in of_image})
        }

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def image_of(self, crop: int) -> int:
        """Return the image that a crop of an epoch belongs to by area."""
        return int(np.searchsorted(self._ends, crop, side="right"))

    def draw(self, seed: int, epoch: int, crop: int) -> tuple[int, int | None]:
        """Return the image of a crop, and the class that it is placed on, or None for a crop from anywhere.

        Every class of the image is equally likely. With `by_class`, every class of the data set is, and then every
        image that has it.
        """
        rng = np.random.default_rng((seed, _CROP_KEY, epoch, crop))
        image = self.image_of(crop)
        if rng.random() >= self._foreground:
            return image, None
        if self._by_class and self._images_of:
            class_ = int(rng.choice(list(self._images_of)))
            return int(rng.choice(self._images_of[class_])), class_
        classes = self._classes[image]
        return image, int(rng.choice(classes)) if classes else None
