"""``fastbn warmup``: compile kernels ahead of their first call."""

import argparse
import sys
from typing import Any

from fastbn import _checks
from fastbn._warmup import DTYPES, LAYOUTS, OPERATIONS, SUMS, Warmup, warmup
from fastbn.cli._errors import CommandError, require


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "warmup",
        help="compile kernels ahead of their first call",
        description="Compile kernels now and keep them on disk, so that no later process has to. They are kept in "
        "NUMBA_CACHE_DIR if it is set, else beside the package, else in the user's cache folder.",
    )
    add = parser.add_argument
    known = OPERATIONS + SUMS
    add("--ops", nargs="+", choices=known, default=OPERATIONS, metavar="OP", help=f"{_list(known)} (all but the last)")
    add("--dtypes", nargs="+", choices=DTYPES, default=["float32"], metavar="DTYPE", help=f"{_list(DTYPES)} (float32)")
    add("--layouts", nargs="+", choices=LAYOUTS, default=LAYOUTS, metavar="LAYOUT", help=f"{_list(LAYOUTS)} (both)")
    names = tuple(_checks.ACTIVATIONS)
    add("--activation", choices=names, metavar="NAME", help=f"of the calls to come: {_list(names)} (none)")
    add("--residual", action="store_true", help="calls will have one")
    add("--where", action="store_true", help="calls will have a mask")
    return parser


def _list(names: tuple[str, ...]) -> str:
    return ", ".join(names)


def run(args: argparse.Namespace) -> int:
    if "bfloat16" in args.dtypes:
        require("half", "ml_dtypes")
    progress = _show if sys.stderr.isatty() else None
    more = {"activation": args.activation, "residual": args.residual, "where": args.where}
    done = warmup(args.ops, args.dtypes, args.layouts, progress, **more)
    if done.folder is None:
        raise CommandError("no folder can be written to, so nothing is kept: set NUMBA_CACHE_DIR")
    print(_summary(done))
    return 0


def _show(done: int, total: int, name: str) -> None:
    """One line that is written over, and gone at the end."""
    text = f"{done}/{total} {name}" if done < total else ""
    print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def _summary(done: Warmup) -> str:
    return (
        f"{done.compiled + done.found} kernels: {done.compiled} compiled, {done.found} found, "
        f"in {done.seconds:.1f} s\n{done.folder}"
    )
