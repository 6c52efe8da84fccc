"""Progress of a study: one line for each run that is done, and on a terminal the grid of variants and seeds."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence

from etils import epath
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from unet_jax.data.listing import printable
from unet_jax.report.display import Display


class GridDisplay(Display):
    """Display of all runs of a study, or of the trials of its tuning.

    Lines of the runs themselves go to a log file; a warning is also shown, once.
    """

    def __init__(self, console: Console | None = None):
        super().__init__(console)
        self._cells: dict[tuple[str, str], str] = {}
        self._bars: dict[str, str] = {}  # newest progress text of each run that is being computed
        self._names: Sequence[str] = ()
        self._columns: Sequence[str] = ()
        self._total = 0
        self._num_done = 0
        self._log: epath.Path | None = None
        self._shown: set[str] = set()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def grid(self, cells: Sequence[tuple[str, str]], log: epath.Path) -> Iterator[None]:
        """Show the grid of variants and runs during the `with` block, and write the runs' lines to the file `log`.

        Args:
          cells: row and column of each run: the name of its variant, and what it is called there, such as "seed 0".
          log: file to write to.
        """
        self._names, self._columns = (list(dict.fromkeys(cell[i] for cell in cells)) for i in (0, 1))
        self._total, self._log = len(cells), log
        self._cells, self._num_done = {}, 0
        with contextlib.ExitStack() as stack:
            if self.console.is_terminal:
                stack.enter_context(
                    Live(console=self.console, transient=True, get_renderable=self._render, refresh_per_second=4)
                )
            yield

    def cell(self, name: str, column: str) -> "RunDisplay":
        """Return the display of one run, which begins now."""
        self._cells[name, column] = "..."
        return RunDisplay(self, f"{name} {column}")

    def elsewhere(self, name: str, column: str, holder: str) -> None:
        """Show that another process does a run, and say it once."""
        if self._cells.get((name, column)) != "elsewhere":
            self._cells[name, column] = "elsewhere"
            self.line(f"{name}  {column}  is done by another process ({holder})")

    def finish(self, name: str, column: str, result: str) -> None:
        """Show that a run is done, with its result."""
        with self._lock:
            self._num_done += 1
            self._cells[name, column] = result
            self._bars.pop(f"{name} {column}", None)
            self.line(f"{self._num_done}/{self._total}  {name}  {column}  {result}")

    def line_of(self, run: str, text: str) -> None:
        """Write a line of a run to the log file, and show it if it is a new warning."""
        with self._lock:
            if self._log is not None:
                with self._log.open("a") as file:
                    file.write(f"{run}: {text}\n")
            if "WARNING" in text and text not in self._shown:
                self._shown.add(text)
                self.line(text.strip())

    def bar_of(self, run: str, text: str) -> None:
        """Show the progress of a run below the grid."""
        with self._lock:
            self._bars[run] = text

    def _render(self) -> Group:
        table = Table(title="mean Dice of the runs that are done, over images and classes", title_justify="left")
        table.add_column("variant")
        for column in self._columns:
            table.add_column(column, justify="right")
        for name in self._names:
            table.add_row(Text(printable(name)), *(self._cells.get((name, column), "") for column in self._columns))
        with self._lock:
            bars = [Text(f"{run}: {text}") for run, text in self._bars.items()]
        return Group(table, *bars)


class RunDisplay(Display):
    """Display of one run, which passes everything to its `GridDisplay`."""

    def __init__(self, grid: GridDisplay, name: str):
        super().__init__(grid.console)
        self._grid, self._name = grid, name

    def line(self, text: str) -> None:
        self._grid.line_of(self._name, text)

    @contextlib.contextmanager
    def bar(self, title: str, total: int, completed: int = 0, unit: str = "") -> Iterator[Callable[[int, str], None]]:
        def show(done: int, note: str = "") -> None:
            self._grid.bar_of(self._name, f"{title} {done}/{total} {unit}  {note}")

        show(completed)
        yield show
