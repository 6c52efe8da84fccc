"""Containers that all parts of the library share, and its two exceptions that are not bugs: bad input and a signal."""

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np

PyTree = Any


class InputError(ValueError):
    """Error for input from the user that cannot be used: the message names it, the value found and the remedy.

    The command line prints the message without a traceback; from Python it is an ordinary `ValueError`.

    Example:
      >>> import unet_jax
      >>> try:
      ...     unet_jax.replace(unet_jax.PRESETS["small"](), {"data.image_size": 0})
      ... except unet_jax.InputError as error:
      ...     print("data.image_size" in str(error))
      True
    """


class Preempted(SystemExit):
    """Exit after SIGTERM or Ctrl-C during training: the step under way was finished and saved.

    The same call continues from there. A script that does not catch the exception ends with exit status 75, which is
    EX_TEMPFAIL of sysexits.h, "try again". It is not an `Exception`, so that a loop over several runs that goes on
    after errors stops too.

    Args:
      path: run directory, which holds the saved checkpoint.
      step: number of training steps done and saved.

    Example:
      >>> from unet_jax import Preempted
      >>> print(Preempted("RUN", 40))
      stopped at step 40, saved in RUN. The same command continues from there.
      >>> Preempted("RUN", 40).code
      75
    """

    EXIT_STATUS = 75

    def __init__(self, path: object, step: int):
        super().__init__(self.EXIT_STATUS)
        self.path, self.step = path, step

    def __str__(self) -> str:
        return f"stopped at step {self.step}, saved in {self.path}. The same command continues from there."


class Sample(NamedTuple):
    """One image with its stacked class masks, on the host.

    Mask values are membership in 256 levels: 0 is outside, 255 is inside, and values between appear only where soft
    masks were asked for. Classes are independent channels and may overlap.

    Args:
      image: `[h w 3]` uint8, RGB, 0 to 255.
      mask: `[h w k]` uint8, 0 to 255, one channel per class; 0 where the pixel is ignored.
      valid: `[h w k]` uint8: 255 where the class was annotated, 0 where the pixel is ignored. None: all annotated.

    Example:
      >>> import numpy as np
      >>> from unet_jax import Sample
      >>> sample = Sample(np.zeros((4, 6, 3), np.uint8), np.full((4, 6, 2), 255, np.uint8))
      >>> sample.mask.shape
      (4, 6, 2)
    """

    image: "np.ndarray"  # [h w 3] uint8, RGB
    mask: "np.ndarray"  # [h w k] uint8
    valid: "np.ndarray | None" = None  # [h w k] uint8, 0 or 255


class Batch(NamedTuple):
    """Input of one step: the same container on the host (NumPy arrays) and on the devices (`jax.Array`).

    Image, label and valid may be packed (see `unet_jax.data.packing`); the shapes below are those of unpacked batches.

    Args:
      image: `[b h w 3]` uint8, RGB, 0 to 255.
      label: `[b h w k]` uint8, the class masks, 0 (outside) to 255 (inside).
      weight: `[b]` float32, 1 for a sample and 0 for padding.
      valid: `[b h w k]` uint8: 255 where the class was annotated, 0 where the pixel is ignored. None: all annotated.

    Example:
      >>> import numpy as np
      >>> from unet_jax import Batch
      >>> batch = Batch(np.zeros((2, 4, 4, 3), np.uint8), np.zeros((2, 4, 4, 1), np.uint8), np.ones(2, np.float32))
      >>> batch.label.shape
      (2, 4, 4, 1)
    """

    image: Any  # [b h w 3] uint8, RGB
    label: Any  # [b h w k] uint8, 0 to 255
    weight: Any  # [b] float32: 1 for a sample, 0 for padding
    valid: Any = None  # [b h w k] uint8: 255 where annotated, 0 where ignored


class Share(NamedTuple):
    """Part of every global batch that one process reads: block `index` of `count` equal blocks of consecutive rows."""

    index: int = 0
    count: int = 1
