"""``fastbn study``: what is claimed for normalization, run on real data and judged."""

import argparse
from pathlib import Path
from typing import Any

from fastbn.cli._errors import CommandError, require, require_writable
from fastbn.cli._names import path
from fastbn.cli._numbers import at_least

__all__ = ["add_parser", "run"]


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "study",
        help="run what is claimed for normalization on real data, and judge it",
        description="Train small networks on real data, with and without normalization, and say of each claim whether "
        'it "holds here", "does not", or is "not judged", because the seeds do not agree well enough.',
    )
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help="the studies to run (all); --list names them")
    add("--list", action="store_true", help="name the studies, and run none")
    add("--quick", action="store_true", help="two seeds instead of five: most claims are then not judged")
    add("--seed", type=at_least(0), default=0, metavar="N", help="the first seed (%(default)s)")
    add("--out", type=path, default=Path("fastbn-studies"), metavar="FOLDER", help="for the pictures (%(default)s)")
    add("--page", type=path, metavar="FILE", help="also write tables and verdicts as Markdown, over old ones")
    return parser


def run(args: argparse.Namespace) -> int:
    from fastbn.study import NAMES

    for name in args.names:
        if name not in NAMES:
            raise CommandError(f"there is no study {name!r}; choose from {', '.join(NAMES)}")
    if args.list:
        from fastbn.study._table import find

        width = max(map(len, NAMES))
        print("\n".join(f"{name:{width}}  {find(name).title}" for name in NAMES))
        return 0
    require("study", "matplotlib", "rich", "sklearn", "threadpoolctl")
    _make_folder(args.out)
    if args.page is not None:
        require_writable(args.page)
    from fastbn.cli._study_report import study

    study([name for name in NAMES if name in args.names or not args.names], args)
    return 0


def _make_folder(path: Path) -> None:
    """A folder in which a file can be made, which is seen before the work."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(f"cannot make the folder {path}: {error.strerror}") from None
    require_writable(path / "writable.png")
