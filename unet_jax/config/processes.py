"""Settings of connected processes."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Processes:
    """Where the processes of one command meet. Cloud TPU pods and SLURM are found without it."""

    coordinator: str = ""
    """HOST:PORT where process 0 waits for the others. Give the same to every process, with the two below; nothing on
    one machine, on a Cloud TPU pod and under SLURM."""
    num_processes: int = 0
    """Processes that the same command is started in."""
    process_id: int = -1
    """Which of them this is: 0, 1, ..."""
