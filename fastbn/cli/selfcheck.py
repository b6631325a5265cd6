"""``fastbn selfcheck``: whether the promises about errors and bits hold on this machine."""

import argparse
from time import perf_counter
from typing import Any

from fastbn.cli._errors import require


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "selfcheck",
        help="check on this machine that errors are small and bits always the same",
        description="Check on this machine that errors do not grow with the mean, that exact data has exact moments, "
        "and that threads, batches, addresses and layouts change no bit.  The exit code is 1 if a check fails.",
    )
    return parser


def run(args: argparse.Namespace) -> int:
    require("demo", "rich")
    from rich.text import Text

    from fastbn.cli import info
    from fastbn.cli._console import console, heading, make_table, progress, say
    from fastbn.cli._selfcheck import checks, compile_ahead

    heading("What this runs on")
    console.print(info.as_text(info.config()))
    heading("What is promised, and what was found")
    start, failed, topic = perf_counter(), 0, ""
    table = make_table(("", "found", ""))
    plan = list(checks())
    compile_ahead()
    for check in progress(plan, lambda check: f"{check.title} (a first run compiles)"):
        found, passed = check.run()
        failed += not passed
        if check.topic != topic:
            topic = check.topic
            table.add_row(Text(topic, "bold"))
        table.add_row(f"  {check.title}", found, Text("pass", "green") if passed else Text("FAIL", "bold red"))
    console.print(table, "")
    verdict = f"{failed} of {len(plan)} fail" if failed else f"All {len(plan)} pass"
    say(f"{verdict} ({perf_counter() - start:.0f} s).", style="bold red" if failed else "green")
    return 1 if failed else 0
