"""Files of metrics over time: metrics.jsonl, which every run has, and TensorBoard files on request.

The training loop writes the metrics of a step one step later. Each line of metrics.jsonl ends with a checksum of its
numbers, "crc", so that a damaged digit is not taken for another result.
"""

import json
import math
import zlib
from typing import Any

from etils import epath

from unet_jax._files import named_error, replace_bytes, replace_text
from unet_jax._types import InputError

_CHECKSUM = "crc"


class MetricsFile:
    """The file `metrics.jsonl`: one JSON object per line, each with its `step`. It survives a kill and a resume."""

    def __init__(self, path: epath.Path):
        self._path = path

    def read(self) -> list[dict[str, Any]]:
        """Read all rows. Lines that cannot be read are left out; `damaged_lines` returns their numbers."""
        return [row for row in self._parsed() if row is not None]

    def damaged_lines(self) -> list[int]:
        """Return the numbers, from 1, of the lines that cannot be read, besides a last one that a kill cut off."""
        rows = self._parsed()
        numbers = [number for number, row in enumerate(rows, start=1) if row is None]
        was_cut = rows and rows[-1] is None and not self._path.read_bytes().endswith(b"\n")
        return numbers[:-1] if was_cut else numbers

    def rewind(self, step: int, wanted: int = 0) -> str:
        """Drop the rows after `step`, because a run that resumes from there writes them again.

        Args:
          step: step of the checkpoint that the run continues from.
          wanted: a step at or before it up to which there must be rows.

        Returns:
          A warning if lines could not be read or are not there, otherwise an empty text. If lines could not be read,
          the file is kept under another name.
        """
        damaged = self.damaged_lines()
        kept = self._path.parent / f"{self._path.name}.damaged"
        if damaged:
            replace_bytes(kept, self._path.read_bytes())
        rows = [row for row in self.read() if row["step"] <= step]
        replace_text(self._path, "".join(_line(row) for row in rows))
        if not damaged:
            last = max((row["step"] for row in rows), default=0)
            return (
                ""
                if last >= wanted
                else (
                    f"WARNING: {self._path}: ends at step {last}, but training continues from step {step}. What was "
                    f"measured in between is lost; the network is not affected."
                )
            )
        return (
            f"WARNING: {self._path}: {len(damaged)} lines cannot be read, the first is line {damaged[0]}. All others "
            f"are kept, and training goes on. The file as it was is {kept}."
        )

    def _parsed(self) -> list[dict[str, Any] | None]:
        """Return the row of each line, or None for a line that cannot be read."""
        if not self._path.exists():
            return []
        content = self._path.read_bytes()
        with_checksums = f'"{_CHECKSUM}"'.encode() in content  # earlier versions wrote none
        return [_row(line, with_checksums) for line in content.splitlines()]

    def write(self, row: dict[str, Any]) -> None:
        """Append a row; one of its keys is `step`."""
        try:
            with self._path.open("a") as file:
                file.write(_line(row))
        except OSError as error:
            raise named_error(error, self._path) from error


def _row(line: bytes, with_checksum: bool) -> dict[str, Any] | None:
    """Return the row in a line of JSON, or None if it is none that this class wrote."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or type(row.get("step")) is not int or row["step"] < 0:
        return None
    if with_checksum and row.pop(_CHECKSUM, None) != _checksum(row):
        return None
    fine = all(type(value) in (int, float) or value in ("nan", "inf", "-inf") for value in row.values())
    return row if fine else None


def read_history(run: epath.Path) -> list[dict[str, Any]]:
    """Read the evaluations of a run, one record each, which `pandas.DataFrame` takes as they are.

    Returns:
      The rows of metrics.jsonl that an evaluation wrote, oldest first, with numbers that are not finite as floats.
    """
    rows = MetricsFile(run / "metrics.jsonl").read()
    return [{k: _number(v) for k, v in row.items()} for row in rows if "eval/loss" in row]


def _number(value: Any) -> Any:
    """Return a number that `_line` wrote as text."""
    return float(value) if value in ("nan", "inf", "-inf") else value


def _line(row: dict[str, Any]) -> str:
    """Return a row as a line of JSON. JSON has no NaN, so numbers that are not finite become text ("nan", "inf")."""
    clean = {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
    return json.dumps({**clean, _CHECKSUM: _checksum(clean)}) + "\n"


def _checksum(row: dict[str, Any]) -> str:
    """Return the CRC-32 of a row as JSON, without its own checksum, in hexadecimal."""
    values = {name: value for name, value in row.items() if name != _CHECKSUM}
    return f"{zlib.crc32(json.dumps(values).encode()):08x}"


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
