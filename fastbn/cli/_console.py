"""The terminal: text and tables on standard output, progress on standard error."""

import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from time import perf_counter
from typing import TypeVar

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

Step = TypeVar("Step")

SECONDS_A_LINE = 30  # where there is no terminal

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


def progress(steps: Sequence[Step], name: Callable[[Step], str], *, lines: bool = False) -> Iterator[Step]:
    """The steps one by one, with the time left told on standard error.

    A bar tells it, which leaves no trace; where there is no terminal, nothing, or with `lines` a line now and then.
    """
    screen = Console(stderr=True)
    if not screen.is_terminal:
        yield from _told_in_lines(steps, name) if lines else steps
        return
    columns = (
        BarColumn(20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=screen, transient=True) as bar:
        for step in bar.track(steps):
            bar.update(bar.task_ids[0], description=name(step))
            yield step


def _told_in_lines(steps: Sequence[Step], name: Callable[[Step], str]) -> Iterator[Step]:
    begin = told = perf_counter()
    for done, step in enumerate(steps):
        now = perf_counter()
        if done and now - told > SECONDS_A_LINE:
            left = (now - begin) / done * (len(steps) - done)
            print(f"{done} of {len(steps)}, about {in_minutes(left)} left: {name(step)}", file=sys.stderr, flush=True)
            told = now
        yield step


def in_minutes(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
