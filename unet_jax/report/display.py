"""Progress on standard error while a command works: lines that stay, and a bar if the output is a terminal."""

import contextlib
import copy
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from unet_jax.data.listing import printable_lines


class _NoteColumn(ProgressColumn):
    """The note, cut off where the line ends, so that bar, count and time left keep their places."""

    def render(self, task: Task) -> Text:
        return Text(task.fields["note"], no_wrap=True, overflow="ellipsis")


class Display:
    """Lines and bars on standard error, so that standard output stays free for results."""

    def __init__(self, console: Console | None = None):
        self.console = console or Console(stderr=True, highlight=False, soft_wrap=True)

    def line(self, text: str) -> None:
        """Print a line that stays."""
        self.console.print(printable_lines(text), markup=False)

    def fitted(self, parts: Sequence[str], more: Sequence[str]) -> str:
        """Join the parts of a line, and those of `more` that fit the terminal; all of them if it is no terminal."""
        line = "  ".join(parts)
        for part in more:
            if not self.console.is_terminal or len(line) + 2 + len(part) <= self.console.width:
                line = f"{line}  {part}"
        return line

    @contextlib.contextmanager
    def bar(self, title: str, total: int, completed: int = 0, unit: str = "") -> Iterator[Callable[[int, str], None]]:
        """Show a progress bar during the `with` block if the output is a terminal, and nothing otherwise.

        The bar shows the title, the count, the time left and a note.

        Args:
          title: text to the left of the bar.
          total: count at the end.
          completed: count at the beginning.
          unit: what is counted, in the plural.

        Yields:
          A function `(completed, note)` that updates the bar.
        """
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=12),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TextColumn(unit),
            TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
            _NoteColumn(table_column=Column()),
        )
        progress = Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal)
        with progress:
            task = progress.add_task(title, total=total, completed=completed, note="")
            yield lambda done, note="": progress.update(task, completed=done, note=note)


def print_table(table: Table, width: int = 110, terminal: Console | None = None) -> None:
    """Print a table on standard output, so that a narrow terminal does not tear its lines or cut its numbers.

    In a terminal that is too narrow, the table loses its rules; if that is not enough, titles and texts are wrapped
    between words; and if that is not enough, it becomes several tables that all begin with the names of the rows, which
    are the first columns as far as they are justified to the left.

    Args:
      table: the table.
      width: largest number of characters in a line where the output is no terminal.
      terminal: another output than the standard one.
    """
    terminal = terminal or Console()
    if not terminal.is_terminal:
        terminal.width = width
        terminal.print(table)
        return
    if _measure(terminal, table).maximum > terminal.width:
        table.box, table.padding, table.show_edge, table.pad_edge = box.SIMPLE_HEAD, (0, 1, 0, 0), False, False
        for column in table.columns[1:]:
            column.no_wrap = False
    names = list(itertools.takewhile(lambda column: column.justify == "left", table.columns))
    others = table.columns[len(names) :]
    while True:
        fitting = (k for k in range(len(others), 0, -1) if _fits(terminal, _part(table, [*names, *others[:k]])))
        num_columns = next(fitting, 1)
        terminal.print(_wrapped(terminal, _part(table, [*names, *others[:num_columns]])))
        others = others[num_columns:]
        if not others:
            return


def _part(table: Table, columns: list[Column]) -> Table:
    """Return the same table with some of its columns."""
    part = copy.copy(table)
    part.columns = [dataclasses.replace(column, _index=k) for k, column in enumerate(columns)]
    return part


def _wrapped(terminal: Console, table: Table) -> Table:
    """Return the table with a width for each column: at least its longest word, and more where there is room."""
    whole = _measure(terminal, table)
    if whole.maximum > terminal.width:
        room = terminal.width - whole.minimum
        limits = [_measure(terminal, _part(table, [column])) for column in table.columns]
        for column, limit in sorted(zip(table.columns, limits, strict=True), key=lambda pair: pair[1].span):
            column.width = limit.minimum + max(0, min(room, limit.span))
            room -= limit.span
    return table


def _fits(terminal: Console, table: Table) -> bool:
    return _measure(terminal, table).minimum <= terminal.width


def _measure(terminal: Console, table: Table) -> Measurement:
    """Return the widths that a table needs: with every column at its longest word, and with nothing wrapped."""
    return terminal.measure(table, options=terminal.options.update(max_width=1000))


class Quiet(Display):
    """A display that shows nothing."""

    def __init__(self) -> None:
        super().__init__(Console(quiet=True))


def make_display() -> Display:
    """Return a display that shows something on the first of the connected processes and nothing on the others."""
    from unet_jax.devices.processes import is_first

    return Display() if is_first() else Quiet()
