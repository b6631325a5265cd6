"""What ``fastbn bench`` prints."""

from collections.abc import Iterable, Sequence
from itertools import chain
from operator import itemgetter
from pathlib import Path
from statistics import median

from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from fastbn.cli import info
from fastbn.cli._console import console, heading, make_table, say
from fastbn.cli.bench._between import in_words
from fastbn.cli.bench._cells import Cell
from fastbn.cli.bench._peers import PEERS, TITLES
from fastbn.cli.bench._problem import TOLERANCE_IN_WORDS
from fastbn.cli.bench._results import (
    FASTBN,
    LARGE_BYTES,
    NEW,
    OBJECT,
    Failure,
    Measured,
    Results,
    Summary,
    Timing,
    by_operation,
    mean,
)

NONE = "-"
Row = Sequence[str | Text]


def show(results: Results) -> None:
    """Everything: where, cell by cell, operation by operation, and who wins."""
    say_where(results)
    _show_cells(results)
    _show_failures(results)
    heading("Operation by operation")
    wide, narrow = (_tabulate(summary(results.cells, shown)) for shown in (peers_of(results.cells), []))
    _print(wide if _fit([wide]) else narrow)
    _say_verdict(results)


def say_where(results: Results) -> None:
    heading("What this ran on")
    console.print(info.as_text(results.machine | results.peers))
    for name, modules in results.missing.items():
        console.print(f"{TITLES[name]} is left out: {' and '.join(modules)} not installed", style="yellow")


# cells ----------------------------------------------------------------------------------------------------------------


def _show_cells(results: Results) -> None:
    heading("Every cell, in milliseconds")
    peers = [peer for peer in PEERS if any(peer in m.peers or m.failed(peer) for m in results.cells)]
    wide, narrow = (list(_sections(results.cells, shown)) for shown in (peers, None))
    for title, table in wide if _fit(table for _, table in wide) else narrow:
        console.print(title, style="bold")
        _print(table)
    say(
        f"float32; {results.where}; the shape is as it lies in memory, channels first or last. A time is the "
        "median of the rounds, in the faster of the forms that the library has: returning a new array or writing "
        f"into an existing one. {NONE}: no such operation. Before it was timed, everyone's answer agreed with "
        f"float64 within {TOLERANCE_IN_WORDS}. The limit is a streaming copy of x (backward: one and a half; "
        "a residual adds a half, and backward its gradient another)."
    )
    if results.between:
        say(
            f"Every call comes after other work, as in a program: {in_words(results.between)}. Results are new arrays "
            "where a library makes any."
        )
    if any((measured.fraction_of_copy or 0) > 1 for measured in results.cells):
        say(
            "More than 100 % of the limit: the copy is timed by itself, and where x is small, what an operation reads "
            "may partly lie in a cache still; then it can be faster than a copy from memory to memory."
        )


def _sections(cells: list[Measured], peers: list[str] | None) -> Iterable[tuple[str, Table]]:
    """A table an operation, all with the same widths; without `peers`, only the best of them is shown."""
    columns = [
        "shape, channels",
        "x",
        "fastbn",
        *(["best peer"] if peers is None else [TITLES[peer] for peer in peers]),
        "vs best",
        "of limit",
    ]
    if any(measured.cell.source for measured in cells) and peers:
        columns.append("where")
    sections: dict[str, list[Row]] = {}
    for part in by_operation(cells):
        sections.setdefault(part.name, []).extend(_cell_row(m, peers)[: len(columns)] for m in part.cells)
    widths = _widths([columns, *chain.from_iterable(sections.values())])
    for title, rows in sections.items():
        yield title, _tabulate([columns, *rows], widths)


def _fit(tables: Iterable[Table]) -> bool:
    """Whether tables with a column a peer have room; where no terminal shows them, lines may be of any length."""
    everything = console.options.update(width=1000)
    widths = (Measurement.get(console, everything, table).maximum for table in tables)
    return not console.is_terminal or max(widths) <= console.width


def _print(table: Table) -> None:
    """In full: told the terminal's width, rich leaves out columns of tables that are wider."""
    width = Measurement.get(console, console.options.update(width=1000), table).maximum
    console.print(table, crop=False, width=max(width, console.width))
    console.print()


def _widths(rows: Iterable[Row]) -> list[int]:
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def _tabulate(rows: Sequence[Row], widths: list[int] | None = None) -> Table:
    """A table that is shown in full, whatever the width; the first row is its head."""
    table = make_table(map(str, rows[0]))
    for column, width in zip(table.columns, widths or _widths(rows), strict=True):
        column.min_width = width
    for row in rows[1:]:
        table.add_row(*row)
    return table


def peers_of(cells: list[Measured]) -> list[str]:
    """The peers that were timed in any of the cells."""
    return [peer for peer in PEERS if any(peer in measured.peers for measured in cells)]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _cell_row(measured: Measured, peers: list[str] | None) -> Row:
    cell, best = measured.cell, measured.best_peer
    if peers is None:
        others = [NONE if best is None else f"{TITLES[best.contender]} {milliseconds(best)}"]
    else:
        others = [_peer_time(measured, peer) for peer in peers]
    return [
        short_name(cell),
        size(cell.nbytes),
        _peer_time(measured, FASTBN),
        *others,
        _speedup(measured),
        _percent(measured.fraction_of_copy),
        cell.source,
    ]


def short_name(cell: Cell) -> str:
    return f"{cell.size} {cell.layout}"


def size(nbytes: int) -> str:
    for unit, factor in (("MB", 1e6), ("kB", 1e3)):
        if nbytes >= factor:
            return f"{nbytes / factor:.0f} {unit}"
    return f"{nbytes} B"


def milliseconds(timing: Timing) -> str:
    return f"{1e3 * timing.median:#.3g}".rstrip(".")


def _peer_time(measured: Measured, peer: str) -> str:
    best = measured.best(peer)
    if best is None:
        return "failed" if measured.failed(peer) else NONE
    return milliseconds(best)


def _speedup(measured: Measured) -> Text:
    speedup, ours, theirs = measured.speedup(measured.best_peer), measured.best(FASTBN), measured.best_peer
    if speedup is None or ours is None or theirs is None:
        return Text(NONE)
    return Text(f"{speedup:.2f}", "" if speedup >= 1 else "yellow" if ours.overlaps(theirs) else "red")


def _percent(fraction: float | None) -> str:
    return NONE if fraction is None else f"{100 * fraction:.0f} %"


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}"


def _show_failures(results: Results) -> None:
    """A line a reason; of the cells it struck, the first."""
    struck: dict[Failure, list[Cell]] = {}
    for measured in results.cells:
        for failure in measured.failures:
            struck.setdefault(failure, []).append(measured.cell)
    if struck:
        heading("Not timed")
    for failure, cells in struck.items():
        form = f" ({failure.form})" if failure.form else ""
        more = f" and {len(cells) - 1} more" if len(cells) > 1 else ""
        say(f"{TITLES[failure.contender]}{form}, {cells[0].name}{more}: {failure.reason}", style="red")


# summaries ------------------------------------------------------------------------------------------------------------


def summary(cells: list[Measured], peers: list[str]) -> list[Row]:
    """The lines of a table, its head first, a line an operation, and the last for all."""
    titles = [TITLES[peer] for peer in peers]
    head = ["times as fast as", "channels", "cells", "best peer", "at least", *titles, "of limit"]
    return [head, *(_summary_row(part, peers) for part in (*by_operation(cells), Summary("all", "", cells)))]


def _summary_row(part: Summary, peers: list[str]) -> Row:
    speedups = part.against_best
    return [
        part.name,
        part.layout,
        str(len(part.cells)),
        _number(mean(speedups)),
        _number(min(speedups, default=None)),
        *(_number(mean(part.against(peer))) for peer in peers),
        _percent(part.fraction_of_copy),
    ]


def _say_verdict(results: Results) -> None:
    cells = results.cells
    say(
        f"Geometric means; the last column is the median over arrays past {LARGE_BYTES // 10**6} MB, where memory is "
        "the limit."
    )
    duels = [(m.speedup(m.best_peer), m.best(FASTBN), m.best_peer, m.cell) for m in cells]
    compared = [(s, ours, best, cell) for s, ours, best, cell in duels if s is not None and ours and best]
    lost = sorted((duel for duel in compared if duel[0] < 1), key=itemgetter(0))
    alone = {best.contender for _, _, best, _ in compared} == {"numpy"} and peers_of(cells) == ["numpy"]
    if alone:
        say(
            "NumPy is the only peer, which walks over memory once for every step of a formula: install torch, jax or "
            "onnxruntime to compare fastbn with libraries that have these operations.",
            style="yellow",
        )
    if compared and not lost and not alone:
        say(f"No peer is faster, in {_count(len(compared), 'cell')}.", style="green")
    if lost:
        say(f"A peer is faster in {len(lost)} of {_count(len(compared), 'cell')}:", style="red")
    for _, ours, best, cell in lost:
        noise = "; their quartiles overlap, so it may be noise" if best.overlaps(ours) else ""
        times = f"{TITLES[best.contender]} {milliseconds(best)} ms, fastbn {milliseconds(ours)} ms"
        say(f"{cell.name}: {times}{noise}", 2)
    _say_price_of_new(cells)
    _say_price_of_objects(cells)


def _say_price_of_new(cells: list[Measured]) -> None:
    prices = [(price, m.cell) for m in cells if (price := m.price_of_new) is not None]
    if prices:
        middle, (worst, where) = median(price for price, _ in prices), max(prices, key=itemgetter(0))
        say(
            f"A call of fastbn that returns a new array takes {middle:.2f} times as long as one that writes into an "
            f"existing one (median; at most {worst:.2f}: {where.name})."
        )


def _say_price_of_objects(cells: list[Measured]) -> None:
    pairs = [(m.form(FASTBN, OBJECT), m.form(FASTBN, NEW), m.cell) for m in cells]
    prices = [(1e6 * (layer.median - function.median), cell) for layer, function, cell in pairs if layer and function]
    if prices:
        middle, (worst, where) = median(price for price, _ in prices), max(prices, key=itemgetter(0))
        say(
            f"A call of a layer object takes {middle:+.2f} us beside the function (median; at most {worst:+.2f}: "
            f"{where.name})."
        )


def say_saved(what: str, path: Path) -> None:
    console.print(f"{what}: {path.resolve()}", soft_wrap=True)


# two files ------------------------------------------------------------------------------------------------------------


def compare(a: Results, b: Results) -> None:
    """Print how fastbn's times changed from one file to another."""
    heading("fastbn in two files")
    for letter, results in (("A", a), ("B", b)):
        say(f"{letter}: fastbn {results.machine.get('fastbn')}, {results.date}, {results.where}")
    console.print()
    theirs = {measured.cell.key: measured for measured in b.cells}
    pairs = [(m, theirs[m.cell.key]) for m in a.cells if m.cell.key in theirs]
    rows = [row for pair in pairs if (row := _changes(*pair)) is not None]
    if not rows:
        say("No cell is in both files.", style="yellow")
        return
    lines = [
        (
            f"{measured.cell.task}, {short_name(measured.cell)}",
            milliseconds(before),
            milliseconds(after),
            f"{ratio:.2f}",
            _number(in_copies),
            _verdict(before, after),
        )
        for measured, before, after, ratio, in_copies in rows
    ]
    _print(_tabulate([("", "A ms", "B ms", "A / B", "in copies", ""), *lines]))
    speed, speed_in_copies = mean([row[3] for row in rows]), mean([row[4] for row in rows if row[4] is not None])
    alone = len(a.cells) + len(b.cells) - 2 * len(pairs)
    say(
        f"B is {_number(speed)} times as fast as A, {_number(speed_in_copies)} times when each is measured in copies "
        f"of its own run (geometric means of {_count(len(rows), 'cell')}; in one file only: {alone})."
    )
    say(
        "Noise: where the quartiles of the two overlap the table says so, and the difference means nothing. Other work "
        "on the machine slows whole runs: then the copy is slower too, and only the column in copies is fair."
    )


def _changes(a: Measured, b: Measured) -> tuple[Measured, Timing, Timing, float, float | None] | None:
    before, after = a.best(FASTBN), b.best(FASTBN)
    if before is None or after is None:
        return None
    fractions = a.fraction_of_copy, b.fraction_of_copy
    in_copies = None if None in fractions else fractions[1] / fractions[0]  # type: ignore[operator]
    return a, before, after, before.median / after.median, in_copies


def _verdict(before: Timing, after: Timing) -> Text:
    if before.overlaps(after):
        return Text("quartiles overlap", "dim")
    return Text("B is faster", "green") if after.median < before.median else Text("B is slower", "red")
