"""Where numbers go: a JSON-lines file always, TensorBoard on request. Written one step late by the loop."""

import json
import math
from typing import Any

from etils import epath

from unet_jax._files import replace_text
from unet_jax._types import InputError


class MetricsFile:
    """`metrics.jsonl`: one object per line, each with its `step`; survives a kill and a resume."""

    def __init__(self, path: epath.Path):
        self._path = path

    def read(self) -> list[dict[str, Any]]:
        """All complete lines; a last line cut off by a kill is left out."""
        if not self._path.exists():
            return []
        rows = []
        for line in self._path.read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return rows

    def rewind(self, step: int) -> None:
        """Drops lines after `step`, which a run that resumes from there writes again."""
        rows = [row for row in self.read() if row["step"] <= step]
        replace_text(self._path, "".join(_line(row) for row in rows))

    def write(self, row: dict[str, Any]) -> None:
        with self._path.open("a") as file:
            file.write(_line(row))


def _line(row: dict[str, Any]) -> str:
    """JSON has no NaN: what is not finite becomes its name."""
    clean = {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
    return json.dumps(clean) + "\n"


class TensorBoard:
    """The same scalars as event files, by tensorboardX."""

    def __init__(self, folder: epath.Path):
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise InputError("train.tensorboard needs the package tensorboardX: pip install tensorboardX.") from error
        self._writer = SummaryWriter(str(folder))

    def write(self, row: dict[str, Any]) -> None:
        for name, value in row.items():
            if name != "step" and isinstance(value, int | float):
                self._writer.add_scalar(name, value, row["step"])
        self._writer.flush()
