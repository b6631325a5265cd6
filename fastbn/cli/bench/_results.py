"""What was measured, what follows from it, and its JSON."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any, Self

from fastbn.cli._errors import CommandError
from fastbn.cli.bench import _json
from fastbn.cli.bench._cells import DIRECTIONS, OPERATIONS, Cell

FASTBN, COPY = "fastbn", "copy"
NEW, OUT, OBJECT = "new", "out", "layer"  # forms: a new array, an existing one, a layer object called
FORMAT = 1
LARGE_BYTES = 40_000_000  # of x: more than most caches hold, so that memory is the limit


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: the median and the quartiles of the rounds, each the mean of `calls` in a row."""

    contender: str
    form: str
    median: float
    quartiles: tuple[float, float]
    rounds: int
    calls: int

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.median <= self.high:
            raise ValueError(f"not a time: {self}")

    @property
    def low(self) -> float:
        return self.quartiles[0]

    @property
    def high(self) -> float:
        return self.quartiles[1]

    def overlaps(self, other: "Timing") -> bool:
        return self.low <= other.high and other.low <= self.high


@dataclass(frozen=True)
class Failure:
    """Why a contender, or one of its forms, has no time."""

    contender: str
    form: str
    reason: str


@dataclass(frozen=True)
class Measured:
    """One cell; best times are None where nobody of that kind gave the right answer."""

    cell: Cell
    timings: list[Timing]
    failures: list[Failure]

    def best(self, contender: str) -> Timing | None:
        """The contender's fastest form."""
        return self._fastest(t for t in self.timings if t.contender == contender and t.form != OBJECT)

    def form(self, contender: str, form: str) -> Timing | None:
        return self._fastest(t for t in self.timings if (t.contender, t.form) == (contender, form))

    @property
    def best_peer(self) -> Timing | None:
        return self._fastest(t for t in self.timings if t.contender not in (FASTBN, COPY))

    @property
    def peers(self) -> list[str]:
        return [name for name in dict.fromkeys(t.contender for t in self.timings) if name not in (FASTBN, COPY)]

    def speedup(self, peer: Timing | None) -> float | None:
        """How many times as fast as the peer fastbn is."""
        return _quotient(peer, self.best(FASTBN))

    @property
    def fraction_of_copy(self) -> float | None:
        """Of the speed that copying allows."""
        copies = _quotient(self.best(COPY), self.best(FASTBN))
        return None if copies is None else self.cell.copies * copies

    @property
    def price_of_new(self) -> float | None:
        """A call that returns a new array, in calls that write into an existing one."""
        return _quotient(self.form(FASTBN, NEW), self.form(FASTBN, OUT))

    def failed(self, contender: str) -> bool:
        return any(failure.contender == contender for failure in self.failures)

    def bandwidth(self, timing: Timing) -> float:
        """Bytes a second that must move."""
        return 2 * self.cell.copies * self.cell.nbytes / timing.median

    @staticmethod
    def _fastest(timings: Iterable[Timing]) -> Timing | None:
        return min(timings, key=lambda timing: timing.median, default=None)


def _quotient(above: Timing | None, below: Timing | None) -> float | None:
    return None if above is None or below is None else above.median / below.median


@dataclass(frozen=True)
class Results:
    """One run of ``fastbn bench``."""

    suite: str
    date: str
    threads: int
    machine: dict[str, str]
    peers: dict[str, str]  # versions of the libraries behind them
    missing: dict[str, list[str]]  # peers that were to take part, and what was not installed
    tolerance: float
    cells: list[Measured]
    between: str = ""  # other work before every call; without any, calls follow one another

    @property
    def where(self) -> str:
        return f"{self.machine.get('cpu')}, {self.threads} thread{'' if self.threads == 1 else 's'}"

    def save(self, path: Path) -> None:
        _json.save({"format": FORMAT, **asdict(self)}, path)

    @classmethod
    def load(cls, path: Path) -> Self:
        record = _json.load(path)
        try:
            if record.pop("format") != FORMAT:
                raise ValueError
            cells = [_measured(cell) for cell in record["cells"]]
            return cls(**(record | {"cells": cells, "machine": dict(record["machine"])}))
        except (AttributeError, LookupError, TypeError, ValueError):
            raise CommandError(f"{path} is not a file that this version of fastbn bench wrote") from None


def _measured(record: dict[str, Any]) -> Measured:
    timings = [Timing(**(t | {"quartiles": tuple(t["quartiles"])})) for t in record["timings"]]
    return Measured(Cell.from_json(record["cell"]), timings, [Failure(**failure) for failure in record["failures"]])


# summaries ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Summary:
    """Cells of one operation, direction and memory order, or all."""

    name: str
    layout: str
    cells: list[Measured]

    def speedups(self, peer: Callable[[Measured], Timing | None]) -> list[float]:
        speedups = (measured.speedup(peer(measured)) for measured in self.cells)
        return [speedup for speedup in speedups if speedup is not None]

    @property
    def against_best(self) -> list[float]:
        return self.speedups(lambda measured: measured.best_peer)

    def against(self, peer: str) -> list[float]:
        return self.speedups(lambda measured: measured.best(peer))

    @property
    def fraction_of_copy(self) -> float | None:
        """The median over arrays past the caches."""
        large = (m.fraction_of_copy for m in self.cells if m.cell.nbytes > LARGE_BYTES)
        fractions = [fraction for fraction in large if fraction is not None]
        return median(fractions) if fractions else None


def mean(speedups: list[float]) -> float | None:
    """The geometric mean; None of nothing."""
    return geometric_mean(speedups) if speedups else None


def by_operation(cells: list[Measured]) -> Iterator[Summary]:
    def order(measured: Measured) -> tuple[Any, ...]:
        cell = measured.cell
        return OPERATIONS.index(cell.operation), cell.fused, DIRECTIONS.index(cell.direction), cell.layout

    for _, group in groupby(sorted(cells, key=order), key=order):
        members = list(group)
        yield Summary(members[0].cell.task, members[0].cell.layout, members)
