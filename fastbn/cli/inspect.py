"""``fastbn inspect``: the normalizations of a file of trained weights, and their health."""

import argparse
import json
import math
from pathlib import Path
from typing import Any

from fastbn.cli._errors import CommandError, require, require_writable_png, unreadable
from fastbn.cli._names import path

__all__ = ["add_parser", "run"]


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "inspect",
        help="show the normalizations of a file of trained weights",
        description="Show the normalizations of a file of trained weights, of any system: a row each, with its health.",
    )
    parser.add_argument("file", metavar="FILE", type=path, help="the file, or the folder of an orbax checkpoint")
    parser.add_argument("--json", action="store_true", help="write JSON instead of a table")
    parser.add_argument("--png", metavar="OUT", type=path, help="draw the statistics of all of them")
    return parser


def run(args: argparse.Namespace) -> int:
    from fastbn.files import read
    from fastbn.files._health import rows

    if args.png is not None:
        require("demo", "matplotlib")
        require_writable_png(args.png)
    try:
        with read(args.file) as file:
            found, unknown, format = rows(file), file.unknown, file.format
    except OSError as error:
        raise CommandError(escape(unreadable(args.file, error))) from None
    except (ValueError, ImportError) as error:
        raise CommandError(escape(str(error))) from None
    print(as_json(args.file, format, found, unknown) if args.json else as_table(format, found, unknown))
    if args.png is not None:
        from fastbn.cli._statistics_plot import plot

        plot(found, args.png)
    return 0


def escape(text: str) -> str:
    """Text without what a terminal would obey or hide: control characters and marks of direction are written out."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def _name(name: str) -> str:
    return escape(name).replace("\n", "\\n")


def as_json(path: Path, format: str, rows: list[Any], unknown: dict[str, str]) -> str:
    from fastbn.files._health import TEXTS

    norms = [
        {
            "name": row.name,
            "kind": row.kind,
            "channels": row.channels,
            "eps": row.eps,
            "eps_assumed": row.eps_assumed,
            "ranges": {role: [_finite(value) for value in pair] for role, pair in row.ranges.items()},
            "mean_over_std": None if row.far is None else _finite(row.far),
            "health": [{"finding": f, "where": where, "text": TEXTS[f]} for f, where in row.health.items()],
        }
        for row in rows
    ]
    told = {"file": str(path), "format": format, "norms": norms, "unknown": unknown}
    return json.dumps(told, indent=2, allow_nan=False)


def _finite(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)  # JSON has no number for these


def as_table(format: str, rows: list[Any], unknown: dict[str, str]) -> str:
    from fastbn.files._health import TEXTS

    head = ("name", "kind", "channels", "eps", "mean", "variance", "health")
    body = [
        (
            _name(row.name),
            row.kind,
            str(row.channels),
            ("-" if row.eps is None else f"{row.eps:.7g}") + (" (assumed)" if row.eps_assumed else ""),
            _range(row.ranges.get("running_mean")),
            _range(row.ranges.get("running_var")),
            "; ".join(f"{finding} ({where})" if where else finding for finding, where in row.health.items()) or "-",
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    lines = [f"{format}: {len(rows)} normalizations, {len(unknown)} unknown", ""]
    if body:
        lines += [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in (head, *body)
        ]
    findings = [finding for finding in TEXTS if any(finding in row.health for row in rows)]
    lines += [""] * bool(findings) + [f"{finding}: {TEXTS[finding]}." for finding in findings]
    lines += [""] * bool(unknown) + [f"unknown: {_name(name)}: {_name(why)}" for name, why in unknown.items()]
    return "\n".join(lines)


def _range(pair: tuple[float, float] | None) -> str:
    return "-" if pair is None else f"{pair[0]:.3g} to {pair[1]:.3g}"
