"""``fastbn warmup``: compile kernels ahead of their first call."""

import argparse
import sys
from time import perf_counter
from typing import Any

from fastbn._warmup import DATA, DTYPES, LAYOUTS, OPERATIONS, SUMS, Warmup, warmup
from fastbn.cli._errors import CommandError, require
from fastbn.cli._names import SEVERAL, chosen
from fastbn.engine import arguments

SECONDS_A_LINE = 10


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "warmup",
        help="compile kernels ahead of their first call",
        description="Compile kernels now and keep them on disk, so that no later process has to. They are kept in "
        "NUMBA_CACHE_DIR if it is set, else beside the package, else in the user's cache folder.",
    )
    add = parser.add_argument
    known = OPERATIONS + SUMS + DATA
    add("--ops", **SEVERAL, metavar="OP", help=f"{_list(known)} (the first five)")
    add("--dtypes", **SEVERAL, metavar="DTYPE", help=f"{_list(DTYPES)} (float32)")
    add(
        "--layouts",
        **SEVERAL,
        metavar="LAYOUT",
        help=f"{_list(LAYOUTS)} (both; layer and RMS norm over the last axis alone)",
    )
    names = tuple(arguments.ACTIVATIONS)
    add("--activation", choices=names, metavar="NAME", help=f"that later calls will have: {_list(names)} (none)")
    add("--residual", action="store_true", help="later calls will have one")
    add("--where", action="store_true", help="later calls will have a mask")
    return parser


def _list(names: tuple[str, ...]) -> str:
    return ", ".join(names)


def run(args: argparse.Namespace) -> int:
    ops = chosen("--ops", args.ops, OPERATIONS + SUMS + DATA)
    dtypes = chosen("--dtypes", args.dtypes, DTYPES) or ["float32"]
    layouts = chosen("--layouts", args.layouts, LAYOUTS)
    if "bfloat16" in dtypes:
        require("half", "ml_dtypes")
    more = {"activation": args.activation, "residual": args.residual, "where": args.where}
    done = warmup(ops, dtypes, layouts, progress=_Progress(), **more)
    if done.folder is None:
        raise CommandError("no folder can be written to, so nothing is kept: set NUMBA_CACHE_DIR")
    print(_summary(done))
    return 0


class _Progress:
    """Says how many kernels there are, then counts them as they come, in one line or from time to time in a new one."""

    def __init__(self) -> None:
        self.terminal, self.told = sys.stderr.isatty(), perf_counter()

    def __call__(self, done: int, total: int, name: str) -> None:
        if self.terminal:
            text = f"{done}/{total} {name}" if done < total else ""
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
        elif done == 0 and total:
            print(f"{total} kernels, a second or two each where the cache lacks them", file=sys.stderr, flush=True)
        elif done < total and perf_counter() - self.told > SECONDS_A_LINE:
            self.told = perf_counter()
            print(f"{done} of {total}", file=sys.stderr, flush=True)


def _summary(done: Warmup) -> str:
    return (
        f"{done.compiled + done.found} kernels: {done.compiled} compiled, {done.found} found, "
        f"in {done.seconds:.1f} s\n{done.folder}"
    )
