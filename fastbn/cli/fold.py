"""``fastbn fold``: a file of trained weights without its batch norms."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from fastbn.cli._errors import CommandError, unreadable
from fastbn.cli._names import path
from fastbn.cli.inspect import escape

__all__ = ["add_parser", "run"]


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "fold",
        help="fold the batch norms of a file of trained weights into the weights beside them",
        description="Write a file of trained weights without its batch norms, which the weights beside them take over.",
    )
    parser.add_argument("file", metavar="FILE", type=path, help="the file")
    parser.add_argument(
        "-o", "--out", metavar="OUT", type=path, required=True, help="ONNX for ONNX, else .safetensors or .npz"
    )
    parser.add_argument(
        "--pair",
        metavar="NORM=WEIGHT[,transposed][,groups=N][,before]",
        action="append",
        default=[],
        help="a norm and the weight it is folded into, where the file holds no graph; may be given several times",
    )
    return parser


def parse_pair(text: str) -> tuple[str, dict[str, Any]]:
    """The norm's name, and what `File.fold` takes for it."""
    norm, equals, rest = text.partition("=")
    told: dict[str, Any] = {}
    while "," in rest:
        before, _, option = rest.rpartition(",")
        if option in ("transposed", "before"):
            told[option] = True
        elif option.startswith("groups=") and option.removeprefix("groups=").isdecimal():
            told["groups"] = int(option.removeprefix("groups="))
        else:
            break
        rest = before
    if not norm or not equals or not rest:
        raise CommandError(f"--pair is {text!r}; expected NORM=WEIGHT[,transposed][,groups=N][,before]")
    return norm, {"weight": rest, **told}


def run(args: argparse.Namespace) -> int:
    from fastbn.files import read

    if args.out.exists() and args.file.exists() and args.out.samefile(args.file):
        raise CommandError(f"{args.out} is the file itself; expected another name, for it would be lost")
    pairs = dict(parse_pair(text) for text in args.pair)
    if len(pairs) < len(args.pair):
        raise CommandError("two --pair name the same norm; expected one for each")
    try:
        with read(args.file) as file:
            count = _write_onnx(file, pairs, args.out) if file.format == "onnx" else _write(file, pairs, args.out)
    except OSError as error:
        raise CommandError(escape(unreadable(args.file, error))) from None
    except (ValueError, ImportError) as error:
        raise CommandError(escape(str(error))) from None
    print(f"{args.out}: {count}")
    return 0


@contextmanager
def _written(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CommandError(f"cannot write {out}: {error.strerror or error}") from None


def _write(file: Any, pairs: dict[str, Any], out: Path) -> str:
    from fastbn.files import write

    if any(out.exists() and out.samefile(part) for part in file._content.parts):
        raise CommandError(
            f"{out} is one of the files that the index names; expected another name, for it would be lost"
        )
    if out.suffix.lower() not in (".safetensors", ".npz"):
        raise CommandError(f"{out} has the suffix {out.suffix!r}; expected .safetensors or .npz")
    arrays = file.fold(pairs or None)
    with _written(out):
        write(out, arrays)
    return f"{len(arrays)} arrays, of {len(file.arrays)}"


def _write_onnx(file: Any, pairs: dict[str, Any], out: Path) -> str:
    from fastbn.files._save import replace

    if pairs:
        raise CommandError("an ONNX model tells by its graph what stands beside a norm; expected no --pair")
    if out.suffix.lower() != ".onnx":
        raise CommandError(f"{out} has the suffix {out.suffix!r}; expected .onnx, for it will be an ONNX model")
    model = file._content.graph.folded()
    data = model.SerializeToString()

    def fill(stream: IO[bytes]) -> None:
        stream.write(data)

    with _written(out):
        replace(out, fill)
    kind = "BatchNormalization"
    before = sum(node.op_type == kind for node in file._content.graph.nodes)
    after = sum(node.op_type == kind for node in model.graph.node)
    return f"{before - after} of {before} batch norms folded"
