"""The table of which kind of device computes what in which of several equivalent ways."""

from collections.abc import Callable
from typing import Any

import jax

FORMULATIONS: dict[str, frozenset[str]] = {
    "cpu": frozenset({"small_grids_as_products", "joined_by_blocks"}),  # measured: docs/cpu.md
    # By the compiler's bytes; not timed on a card: docs/gpu.md.
    "gpu": frozenset(
        {
            "flat_gradients",
            "head_by_sums",
            "joined_by_transposition",
            "norm_in_kernel",
            "sums_in_one",
            "winner_in_int8",
        }
    ),
    "tpu": frozenset(),
}
"""Names of the formulations of each kind of device; without a name, it computes in the default way.

Parameters do not depend on them, and results only by rounding. A benchmark that compares formulations
replaces an entry before it builds a program, and calls `jax.clear_caches()` between two of them.

- `small_grids_as_products`: a convolution of a batch with few pixels is a matrix product over gathered patches.
- `joined_by_blocks`: the up-sampled part of a decoder's input is convolved at its own resolution, to blocks of 2x2
  pixels, instead of being created and concatenated with the skip connection.
- `joined_by_transposition`: the same, by a transposed convolution of stride 2, where images are large.
- `head_by_sums`: the output layer is one sum over channels for each class, if there are few classes.
- `winner_in_int8`: max pooling keeps the position of each block's largest pixel as a byte.
- `norm_in_kernel`: where running statistics normalise, they are multiplied into the convolution's kernel.
- `sums_in_one`: the two sums of batch normalisation, forward and backward, are one reduction of pairs.
- `flat_gradients`: the optimizer gets the gradients as vectors, and is not fused with what computed them.
"""

_PLATFORMS = {"gpu": ("cuda", "rocm")}  # names that XLA has for a kind of device, where they differ


def by_platform(default: Callable[..., Any], *arguments: Any, **formulations: Callable[..., Any]) -> Any:
    """Call the formulation that `FORMULATIONS` names for the platform that the program is lowered for.

    So a program that is compiled on a laptop for another device is the program of that device.

    Args:
      default: function of the arguments.
      arguments: arrays, or trees of arrays.
      formulations: functions that return the same up to rounding, by name. A device has at most one of these names.

    Example:
      >>> import jax.numpy as jnp
      >>> from unet_jax._formulations import by_platform
      >>> float(by_platform(lambda x: x + x, jnp.float32(3.0), joined_by_blocks=lambda x: 2.0 * x))
      6.0
    """
    chosen = {
        platform: function
        for kind, names in FORMULATIONS.items()
        for name, function in formulations.items()
        if name in names
        for platform in _PLATFORMS.get(kind, (kind,))
    }
    return jax.lax.platform_dependent(*arguments, default=default, **chosen) if chosen else default(*arguments)
