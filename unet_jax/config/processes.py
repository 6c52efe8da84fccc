"""Settings of several processes that train one run together."""

import dataclasses

from unet_jax.config.placeholders import Address


@dataclasses.dataclass(frozen=True)
class Processes:
    """Address and number of the processes that run one command. Cloud TPU pods and SLURM need none of it."""

    coordinator: Address = ""
    """HOST:PORT where process 0 waits for the others. Give all three options to every process, or none of them.
    One machine, Cloud TPU pods and SLURM need none."""
    num_processes: int = 0
    """Number of processes that run the command."""
    process_id: int = -1
    """Number of this process: 0, 1, ..."""
