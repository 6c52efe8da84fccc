"""A study's progress: one line per run that is done, and on a terminal the whole grid of variants and seeds."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

from etils import epath
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from unet_jax.display import Display


class GridDisplay(Display):
    """What the runs themselves say goes to a file; warnings are shown once."""

    def __init__(self, console: Console | None = None):
        super().__init__(console)
        self._cells: dict[tuple[str, int], str] = {}
        self._names: Sequence[str] = ()
        self._seeds: Sequence[int] = ()
        self._current, self._name, self._num_done = "", "", 0
        self._log: epath.Path | None = None
        self._shown: set[str] = set()
        self._live: Live | None = None

    @contextlib.contextmanager
    def grid(self, names: Sequence[str], seeds: Sequence[int], log: epath.Path) -> Iterator[None]:
        """Shows the grid while in the block."""
        self._names, self._seeds, self._log = names, seeds, log
        with contextlib.ExitStack() as stack:
            if self.console.is_terminal:
                live = Live(console=self.console, transient=True, get_renderable=self._render, refresh_per_second=4)
                self._live = stack.enter_context(live)
            yield
        self._live = None

    @contextlib.contextmanager
    def cell(self, name: str, seed: int) -> Iterator[Callable[[str], None]]:
        """One run; gives a function for its result, to call when it is done."""
        self._name, self._cells[name, seed] = f"{name} seed {seed}", "..."

        def finish(result: str) -> None:
            self._num_done += 1
            self._cells[name, seed], self._current = result, ""
            total = len(self._names) * len(self._seeds)
            self.console.print(f"{self._num_done}/{total}  {name}  seed {seed}  {result}", markup=False)

        yield finish

    def line(self, text: str) -> None:
        """Into the file."""
        if self._log is not None:
            with self._log.open("a") as file:
                file.write(f"{self._name}: {text}\n")
        if "WARNING" in text and text not in self._shown:
            self._shown.add(text)
            self.console.print(text.strip(), markup=False)

    @contextlib.contextmanager
    def bar(self, title: str, total: int, completed: int = 0, unit: str = "") -> Iterator[Callable[[int, str], None]]:
        """A line below the grid."""

        def show(done: int, note: str = "") -> None:
            self._current = f"{self._name}: {title} {done}/{total} {unit}  {note}"

        show(completed)
        yield show

    def _render(self) -> Group:
        table = Table(title="mean Dice of the runs that are done, over images and classes", title_justify="left")
        table.add_column("variant")
        for seed in self._seeds:
            table.add_column(f"seed {seed}", justify="right")
        for name in self._names:
            table.add_row(Text(name), *(self._cells.get((name, seed), "") for seed in self._seeds))
        return Group(table, Text(self._current))
