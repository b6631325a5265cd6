"""From the command's arguments to results: which cells, which contenders, how many threads."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import import_module
from typing import Any, TypeVar

from fastbn.cli import info
from fastbn.cli._console import progress
from fastbn.cli._errors import CommandError
from fastbn.cli.bench import _between
from fastbn.cli.bench._cells import SUITES, Cell, Suite
from fastbn.cli.bench._contender import Contender
from fastbn.cli.bench._peers import PEERS, Copy, FastBN, versions
from fastbn.cli.bench._problem import TOLERANCE
from fastbn.cli.bench._results import Results
from fastbn.cli.bench._timing import measure

T = TypeVar("T")


def measure_suite(
    name: str,
    only: str,
    peers: str | None,
    threads: int | None,
    seconds: float | None,
    rounds: int | None,
    between: str | None = None,
) -> Results:
    """Measure the cells of a suite in which the pattern `only` is found."""
    suite = _suite(name)
    work = suite.between if between is None else between
    _between.make(work, 1)  # a wrong name is told before anything is done
    cells = _cells(suite, only)
    asked = [PEERS[peer] for peer in _peers(suite, peers)]
    missing = {peer.name: modules for peer in asked if (modules := peer.missing())}
    present = [peer for peer in asked if peer.name not in missing]
    lineup: list[type[Contender]] = [Copy, FastBN, *present]
    measured = []
    with on_threads(threads) as count:
        contenders = [contender(count) for contender in lineup]
        other_work = _between.make(work, count)
        for cell in progress(cells, lambda cell: cell.name, lines=True):
            measured.append(measure(cell, contenders, seconds or suite.seconds, rounds, other_work))
        machine = info.config()
        del machine["cache"]  # a folder of the user's own, in a file that may be shown around
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return Results(
        name, date, count, machine, versions(present), missing, TOLERANCE, measured, work if other_work else ""
    )


def _suite(name: str) -> Suite:
    if name not in SUITES:
        raise CommandError(f"no suite {name!r}; the suites are {', '.join((*SUITES, 'torch', 'data'))}")
    return SUITES[name]


def _cells(suite: Suite, only: str) -> list[Cell]:
    return chosen(only, {f"{cell.name}, {cell.source}".removesuffix(", "): cell for cell in suite.cells()})


def chosen(only: str, cells: dict[str, T]) -> list[T]:
    """The cells in whose descriptions the pattern is found."""
    try:
        pattern = re.compile(only, re.IGNORECASE)
    except re.error as error:
        raise CommandError(f"--only {only!r} is not a regular expression: {error}") from None
    found = [cell for description, cell in cells.items() if pattern.search(description)]
    if not found:
        raise CommandError(f"--only {only!r} is found in no cell of the suite; one is {next(iter(cells))!r}")
    return found


def _peers(suite: Suite, asked: str | None) -> list[str]:
    if asked is None:
        return [name for name in PEERS if name != "torch.compile" or suite.compiles]
    return named(asked, PEERS)


def named(asked: str, peers: Iterable[str]) -> list[str]:
    """The peers that the argument --peers names, in their own order."""
    names = [name.strip() for name in asked.split(",")]
    known = list(peers)
    for name in names:
        if name not in known:
            raise CommandError(f"no peer {name!r}; the peers are {', '.join(known)}")
    return [name for name in known if name in names]


@contextmanager
def on_threads(threads: int | None) -> Iterator[int]:
    """Numba's threads while measuring, and so fastbn's; their number is everyone's."""
    numba: Any = import_module("numba")  # its type hints leave out names of its public face
    before = numba.get_num_threads()
    try:
        numba.set_num_threads(threads or before)
    except ValueError:
        raise CommandError(f"--threads {threads}: Numba has at most {numba.config.NUMBA_NUM_THREADS} here") from None
    try:
        yield threads or before
    finally:
        numba.set_num_threads(before)
