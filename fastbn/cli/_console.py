"""The terminal: text and tables on standard output, progress on standard error."""

import textwrap
from collections.abc import Iterable

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

console = Console(highlight=False, markup=False)


def heading(text: str) -> None:
    console.print(f"\n{text}\n", style="bold")


def say(text: str, indent: int = 0, style: str = "") -> None:
    """Print a paragraph; unlike rich's own wrapping, with no spaces at the ends of its lines."""
    margin = " " * indent
    console.print(textwrap.fill(text, console.width, initial_indent=margin, subsequent_indent=margin), style=style)


def make_table(columns: Iterable[str]) -> Table:
    """An empty table: the first column to the left, numbers to the right."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", no_wrap=True)
    return table


def progress_bar() -> Progress:
    """A bar that leaves no trace, and that is not drawn at all where standard error is no terminal."""
    screen = Console(stderr=True)
    columns = (BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    return Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal)
