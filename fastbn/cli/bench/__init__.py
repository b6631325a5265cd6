"""``fastbn bench``: fastbn against its peers, in one process, round by round, beside the limit that memory sets."""

import argparse
from pathlib import Path
from typing import Any

from fastbn.cli._errors import CommandError, require, require_writable, require_writable_png
from fastbn.cli._names import path
from fastbn.cli._numbers import at_least, positive

# What some suites do not take.
_NOT_TAKEN = {"torch": ("between", "seconds"), "data": ("between", "seconds", "png")}


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "bench",
        help="time every operation against other libraries and against a streaming copy",
        description="Time fastbn against NumPy, PyTorch, oneDNN, JAX, ONNX Runtime, OpenVINO and numbagg, as far as "
        "they are installed: all of them take a turn in every round, after their results were checked.",
    )
    add = parser.add_argument
    add(
        "--suite",
        default="quick",
        metavar="NAME",
        help="quick: a minute; networks: the layers of published networks, an hour (twenty minutes with --rounds 5 and "
        "without torch.compile); program: one call after other work, as programs call, five minutes; small: small "
        "calls, and new arrays against existing ones from 1 kB to 200 MB, two minutes; torch: training steps and "
        "inference of networks, with fastbn.torch, without and compiled, an hour (half with --peers torch); data: "
        "normalization and statistics of images and arrays, against OpenCV, albucore, numbagg and others, five minutes "
        "(%(default)s)",
    )
    add(
        "--between",
        metavar="WORK",
        help="other work before every timed call: matmul+copy (as in suite program: a matrix product on all cores, and "
        "a copy of 64 MB), matmul, copy or none (as in the others)",
    )
    add("--only", default="", metavar="REGEX", help="only the cells whose description it matches, such as 'layer norm'")
    add("--threads", type=at_least(1), metavar="N", help="threads for all libraries (as many as fastbn would use)")
    add("--peers", metavar="A,B", help="numpy, torch, torch.compile, onednn, jax, onnxruntime (torch.compile, which "
        "takes seconds a cell: only if asked for, or in suites networks and torch), openvino, numbagg; of suite data: "
        "numpy, opencv, albucore, torch, numbagg, bottleneck, sklearn")  # fmt: skip
    add("--seconds", type=positive, metavar="S", help="time for the rounds of one cell (the suite's own)")
    add("--rounds", type=at_least(1), metavar="N", help="this many rounds instead, however long they take")
    add("--json", type=path, metavar="PATH", help="write all that was measured")
    add(
        "--resume", action="store_true", help="suite torch: keep the cells that the --json file has, measure the others"
    )
    add("--png", type=path, metavar="PATH", help="write a picture")
    add("--compare", nargs=2, type=path, metavar=("A", "B"), help="measure nothing, compare two such JSON files")
    return parser


def run(args: argparse.Namespace) -> int:
    require("bench", "rich", *(["matplotlib"] if args.png else []))
    if args.compare:
        return _compare(*args.compare)
    if untaken := [name for name in _NOT_TAKEN.get(args.suite, ()) if getattr(args, name) is not None]:
        raise CommandError(f"--{untaken[0]} is no option of suite {args.suite}; leave it out")
    if args.resume and args.suite != "torch":
        raise CommandError(f"--resume is no option of suite {args.suite}; leave it out")
    if args.json:
        require_writable(args.json)
    if args.png:
        require_writable_png(args.png)
    if args.suite == "torch":
        require("torch", "torch")
        from fastbn.cli.bench import _torch_steps

        return _torch_steps.run(args)
    if args.suite == "data":
        from fastbn.cli.bench._data import run as run_data

        return run_data(args.only, args.peers, args.threads, args.rounds, args.json)
    from fastbn.cli.bench import _report as report
    from fastbn.cli.bench._session import measure_suite

    results = measure_suite(args.suite, args.only, args.peers, args.threads, args.seconds, args.rounds, args.between)
    if args.json:  # first of all: nothing that goes wrong below loses it
        results.save(args.json)
    report.show(results)
    if args.json:
        report.say_saved("Results", args.json)
    if args.png:
        _save_plot(results, args.png)
        report.say_saved("Picture", args.png)
    return 1 if any(measured.failed("fastbn") for measured in results.cells) else 0


def _compare(first: Path, second: Path) -> int:
    from fastbn.cli.bench import _report as report
    from fastbn.cli.bench._results import Results

    report.compare(Results.load(first), Results.load(second))
    return 0


def _save_plot(results: Any, path: Path) -> None:
    from fastbn.cli.bench._plot import plot

    try:
        plot(results, path)
    except OSError as error:
        raise CommandError(f"cannot write {path}: {error.strerror}") from None
