"""``fastbn demo``: check every operation, then train a small network with and without normalization."""

import argparse
from pathlib import Path
from typing import Any

from fastbn.cli._errors import CommandError, require, require_writable_png
from fastbn.cli._names import path
from fastbn.cli._numbers import at_least

EPOCHS, SEEDS = 8, 5
QUICK_EPOCHS, QUICK_SEEDS = 3, 2


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "demo",
        help="check every operation, then train a small network on real images",
        description="Check every operation against its definition, then train a small convolutional network on "
        "handwritten digits with batch norm, group norm and no norm, at a modest and at a high learning rate; then "
        "show what is new in this version, on one screen.",
    )
    add = parser.add_argument
    add("--output", type=path, default=Path("fastbn-demo.png"), metavar="PATH", help="the picture (%(default)s)")
    add("--no-plot", action="store_true", help="write no picture")
    add("--epochs", type=at_least(1), metavar="N", help=f"epochs of each training ({EPOCHS})")
    add("--seed", type=at_least(0), default=0, metavar="N", help=f"the first of {SEEDS} seeds (%(default)s)")
    add("--quick", action="store_true", help=f"{QUICK_EPOCHS} epochs and {QUICK_SEEDS} seeds")
    return parser


def run(args: argparse.Namespace) -> int:
    require("demo", "rich", "sklearn", *([] if args.no_plot else ["matplotlib"]))
    if not args.no_plot:
        require_writable_png(args.output)
    from fastbn.cli import _ahead
    from fastbn.cli import _report as report

    report.say_where()
    with _ahead.compiling():
        passed = report.check()
    if not passed:
        return 1
    epochs = args.epochs or (QUICK_EPOCHS if args.quick else EPOCHS)
    trials = report.train(epochs, range(args.seed, args.seed + (QUICK_SEEDS if args.quick else SEEDS)))
    report.say_findings(trials)
    if not args.no_plot:
        _save_plot(trials, args.output)
        report.say_saved(args.output)
    report.say_news()
    return 0


def _save_plot(trials: Any, path: Path) -> None:
    from fastbn.cli._plot import plot

    try:
        plot(trials, path)
    except OSError as error:
        raise CommandError(f"cannot write {path}: {error.strerror}") from None
