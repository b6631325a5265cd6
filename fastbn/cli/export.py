"""``fastbn export``: the kernels as a C library."""

import argparse
import sys
from pathlib import Path
from typing import Any

from fastbn.cli._errors import CommandError
from fastbn.cli._names import SEVERAL, chosen

OPERATIONS = ("layer_norm", "rms_norm", "batch_norm", "group_norm", "instance_norm")
DTYPES = ("float16", "bfloat16", "float32", "float64")
LAYOUTS = ("channels_first", "channels_last")
TARGETS = ("x86-64-v3", "aarch64", "riscv64", "wasm32", "host")


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "export",
        help="write a C library",
        description="Write a C library of operations, with a header, an example, and a self test that compares "
        "the bits of its results with those of Python's calls. Everything is compiled on this machine, whatever the "
        "target. docs/export.md says more.",
    )
    add = parser.add_argument
    add("--ops", **SEVERAL, required=True, metavar="OP", help=", ".join(OPERATIONS))
    add("--backward", action="store_true", help="the gradients too")
    add("--dtypes", **SEVERAL, metavar="DTYPE", help=f"{', '.join(DTYPES)} (float32)")
    add("--layouts", **SEVERAL, metavar="LAYOUT", help=f"of images: {', '.join(LAYOUTS)} (both)")
    add("--target", required=True, metavar="TARGET", help=", ".join(TARGETS))
    add("--cpu", metavar="NAME", help="compile for this processor, one of those that LLVM knows (the target's least)")
    add("--linker", metavar="NAME", help="what makes libfastbn.so or .wasm (the usual ones, where they are found)")
    add("-o", dest="folder", required=True, metavar="FOLDER", help="new, or empty")
    add("--force", action="store_true", help="write into a folder that is not empty")
    return parser


def run(args: argparse.Namespace) -> int:
    from fastbn._export.errors import ExportError
    from fastbn._export.library import Order, export

    order = Order(
        _chosen("--ops", args.ops, OPERATIONS),
        _chosen("--dtypes", args.dtypes, DTYPES) or ["float32"],
        _chosen("--layouts", args.layouts, LAYOUTS) or list(LAYOUTS),
        args.target,
        Path(args.folder),
        args.cpu,
        args.linker,
        args.force,
        args.backward,
    )
    if not args.folder:  # as of a variable that is not set, which would be the folder at hand
        raise CommandError("-o names nothing; expected a folder, or . for this one")
    try:
        made = export(order, _tell)
    except ExportError as error:
        raise CommandError(str(error)) from None
    print(f"{args.folder}: {', '.join(made.files)}")
    print(f"{made.functions} functions in {made.nbytes / 1000:.0f} kB, in {made.seconds:.1f} s")
    if made.linker is None:
        kind = "libfastbn.wasm: no wasm-ld" if args.target == "wasm32" else "libfastbn.so: no linker for the target"
        print(f"without {kind} was found; install one, such as LLVM's lld, or name it with --linker")
    return 0


def _chosen(option: str, words: list[list[str]] | None, known: tuple[str, ...]) -> list[str]:
    """What is named, once each, in the order of what there is."""
    names = chosen(option, words, known) or ()
    return [name for name in known if name in names]


def _tell(done: int, total: int, name: str) -> None:
    if sys.stderr.isatty():
        text = f"{done}/{total} {name}" if done < total else ""
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
