"""Progress on standard error while a command works: lines that stay, and a bar if the output is a terminal."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column
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


class Quiet(Display):
    """A display that shows nothing."""

    def __init__(self) -> None:
        super().__init__(Console(quiet=True))


def make_display() -> Display:
    """Return a display that shows something on the first of the connected processes and nothing on the others."""
    from unet_jax.devices.processes import is_first

    return Display() if is_first() else Quiet()
