"""Files of metrics over time: metrics.jsonl, which every run has, and TensorBoard files on request.

The training loop writes the metrics of a step one step later.
"""

import contextlib
import json
import math
from typing import Any

from etils import epath

from unet_jax._files import replace_text
from unet_jax._types import InputError


class MetricsFile:
    """The file `metrics.jsonl`: one JSON object per line, each with its `step`. It survives a kill and a resume."""

    def __init__(self, path: epath.Path):
        self._path = path

    def read(self) -> list[dict[str, Any]]:
        """Read all rows; lines that are not whole, as one that a kill cut off, are left out."""
        if not self._path.exists():
            return []
        rows = []
        for line in self._path.read_text().splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                rows.append(json.loads(line))
        return [row for row in rows if isinstance(row, dict) and "step" in row]

    def rewind(self, step: int) -> None:
        """Drop the rows after `step`, because a run that resumes from there writes them again."""
        rows = [row for row in self.read() if row["step"] <= step]
        replace_text(self._path, "".join(_line(row) for row in rows))

    def write(self, row: dict[str, Any]) -> None:
        """Append a row; one of its keys is `step`."""
        with self._path.open("a") as file:
            file.write(_line(row))


def _line(row: dict[str, Any]) -> str:
    """Return a row as a line of JSON. JSON has no NaN, so numbers that are not finite become text ("nan", "inf")."""
    clean = {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
    return json.dumps(clean) + "\n"


class TensorBoard:
    """The same numbers as TensorBoard event files, written by tensorboardX.

    Raises:
      InputError: tensorboardX is not installed.
    """

    def __init__(self, folder: epath.Path):
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise InputError("train.tensorboard needs the package tensorboardX: pip install tensorboardX.") from error
        self._writer = SummaryWriter(str(folder))

    def write(self, row: dict[str, Any]) -> None:
        """Write the numbers of a row as scalars at its `step`."""
        for name, value in row.items():
            if name != "step" and isinstance(value, int | float):
                self._writer.add_scalar(name, value, row["step"])
        self._writer.flush()
