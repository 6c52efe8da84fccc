"""Tables of a study as CSV files whose lines have checksums, so that a damaged digit is not taken for a result."""

import csv
import io
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

from unet_jax._files import csv_text, plain_cell

_CHECKSUM = "crc"


def checked_csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Format a table as CSV, with the column "crc".

    It is the CRC-32 of the cells of the line and of all lines before it, begun with the number of lines.

    Example:
      >>> text = checked_csv(["id", "dice"], [("a", 0.5), ("=b", 1.0)])
      >>> print(text, end="")
      id,dice,crc
      a,0.5,616fd21f
      '=b,1.0,c946fdef
      >>> read_checked(text, ["id", "dice"])
      [{'id': 'a', 'dice': '0.5'}, {'id': '=b', 'dice': '1.0'}]
    """
    rows, checked = list(rows), []
    checksum = len(rows)
    for row in rows:
        checksum = _next(checksum, [str(cell) for cell in row])
        checked.append([*row, f"{checksum:08x}"])
    return csv_text([*columns, _CHECKSUM], checked)


def read_checked(text: str, columns: Sequence[str]) -> list[dict[str, str]]:
    """Return the rows of a table that `checked_csv` formatted, or an earlier version without checksums.

    Raises:
      ValueError: the text is no such table, or its cells are not those that were written.
    """
    try:
        header, *lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    except csv.Error as error:
        raise ValueError(str(error)) from error
    if header not in ([*columns], [*columns, _CHECKSUM]):
        raise ValueError(f"it has the columns {header}")
    if not lines:
        raise ValueError("it has no lines")
    rows, checksum = [], len(lines)
    for line in lines:
        cells = [plain_cell(cell) for cell in line]
        if len(cells) != len(header):
            raise ValueError(f"a line has {len(cells)} cells")
        checksum = _next(checksum, cells[: len(columns)])
        if len(cells) > len(columns) and cells[-1] != f"{checksum:08x}":
            raise ValueError("its cells are not those that were written")
        rows.append(dict(zip(columns, cells, strict=False)))
    return rows


def _next(checksum: int, cells: Sequence[str]) -> int:
    """Return the checksum of a line that follows lines with a checksum."""
    return zlib.crc32("\0".join(cells).encode(), checksum)
