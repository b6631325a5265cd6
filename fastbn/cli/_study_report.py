"""What ``fastbn study`` prints, and the page that it writes."""

import os
import re
from argparse import Namespace
from collections.abc import Iterable, Sequence
from pathlib import Path
from time import perf_counter

from fastbn.cli._console import console, heading, in_minutes, make_table, progress, say
from fastbn.study import Report
from fastbn.study._judge import FAILS, HOLDS, OPEN, Verdict
from fastbn.study._run import Step, run
from fastbn.study._study import label
from fastbn.study._table import find

COLORS = {HOLDS: "bold green", FAILS: "bold red", OPEN: "bold yellow"}


def study(names: Sequence[str], args: Namespace) -> None:
    """Run the studies one after the other; each is told, drawn and written when it is done."""
    begin = perf_counter()
    judged: list[Verdict] = []
    for number, name in enumerate(names, 1):
        about = find(name)
        heading(f"{about.title} ({name}, {number} of {len(names)})")
        say(about.about)
        start = perf_counter()
        report = run(name, quick=args.quick, seed=args.seed, progress=_tracked)
        picture = args.out / f"{name}.png"
        report.save_picture(picture)
        _say(report, picture, perf_counter() - start)
        if args.page is not None:
            write_page(args.page, report, picture)
        judged += report.verdicts
    if len(names) > 1:
        _say_all(judged, perf_counter() - begin)


def _tracked(steps: Sequence[Step]) -> Iterable[Step]:
    return progress(steps, lambda step: f"{label(step[1])}, seed {step[0]}", lines=True)


def _say(report: Report, picture: Path, seconds: float) -> None:
    head, *rows = report.rows()
    table = make_table(head)
    for row in rows:
        table.add_row(*row)
    console.print("", table, "", sep="\n")
    say(f"Mean of {report.seeds} seeds, with the least and the greatest. {in_minutes(seconds)}. {picture}")
    for verdict in report.verdicts:
        console.print()
        say(verdict.claim.text)
        say(verdict.words, 2, COLORS[verdict.words])
        say(f"{verdict}", 2)


def _say_all(judged: Sequence[Verdict], seconds: float) -> None:
    heading("All claims")
    table = make_table(("claim", "verdict"))
    table.columns[0].no_wrap = False
    for verdict in judged:
        table.add_row(verdict.claim.text, verdict.words, style=COLORS[verdict.words].removeprefix("bold "))
    console.print(table, "")
    counts = ", ".join(f"{sum(v.words == words for v in judged)} {words}" for words in COLORS)
    say(f"{len(judged)} claims: {counts}; in {in_minutes(seconds)}.")
    say(
        'Small networks on small data: what "holds here" need not hold elsewhere. Each interval is for its own claim, '
        "one in twenty of them misses."
    )


def write_page(path: Path, report: Report, picture: Path) -> None:
    """Put a report in the place of its last one, between its marks; or at the end of the page."""
    link = Path(os.path.relpath(picture, path.parent)).as_posix()
    begin, end = (f"<!-- {report.name}: {mark} -->" for mark in ("begin", "end"))
    section = f"{begin}\n{report.markdown(link)}{end}"
    page = path.read_text(encoding="utf-8") if path.exists() else "# Studies\n"
    old = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    page = old.sub(lambda _: section, page) if old.search(page) else f"{page.rstrip()}\n\n{section}\n"
    path.write_text(page, encoding="utf-8")
