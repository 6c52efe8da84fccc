"""The table of which kind of device computes what in which of several equivalent ways."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import jax

FORMULATIONS: dict[str, frozenset[str]] = {
    "cpu": frozenset(
        {"small_grids_as_products", "joined_by_blocks", "norm_by_parts", "random_blocks"}
    ),  # measured: docs/cpu.md
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
- `norm_by_parts`: for the norm of the gradient, those of all vectors are joined, and squares are not kept.
- `random_blocks`: the first weights are drawn in blocks of one size.
- `flat_gradients`: the optimizer gets the gradients as vectors, and is not fused with what computed them.
"""

_KIND = jax.make_user_context(None)  # jax keeps what is traced in different contexts apart
_PLATFORMS = {"gpu": ("cuda", "rocm")}  # names that XLA has for a kind of device, where they differ


def traced_for(kind: str) -> AbstractContextManager[None]:
    """Return a context in which `by_platform` traces only what one kind of device ("cpu", "gpu", "tpu") computes.

    Without it, all formulations are traced, with their gradients, and all but one are dropped when the program is
    lowered: for the original's training step this takes as long as all the rest of the tracing.
    """
    return _KIND(kind)


def by_platform(default: Callable[..., Any], *arguments: Any, **formulations: Callable[..., Any]) -> Any:
    """Call the formulation that `FORMULATIONS` names for the kind of device that is traced for (`traced_for`).

    Where that is not said, the choice is made when the program is lowered, for the platform that it is lowered for. In
    both cases, a program that is compiled on a laptop for another device is the program of that device.

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
    if _KIND.value is not None:
        names = FORMULATIONS.get(_KIND.value, frozenset())
        return next((function for name, function in formulations.items() if name in names), default)(*arguments)
    chosen = {
        platform: function
        for kind, names in FORMULATIONS.items()
        for name, function in formulations.items()
        if name in names
        for platform in _PLATFORMS.get(kind, (kind,))
    }
    return jax.lax.platform_dependent(*arguments, default=default, **chosen) if chosen else default(*arguments)
