"""The ``fastbn`` command.

A subcommand is a module of this package with ``add_parser(subparsers)`` and ``run(args) -> int``; it imports what it
needs inside ``run``, so that ``fastbn --help`` stays quick and works without the extras.
"""

import argparse
import errno
import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module

import fastbn
from fastbn.cli._errors import CommandError

COMMANDS = ("bench", "demo", "export", "fold", "info", "inspect", "selfcheck", "study", "warmup")

# A full disk, a quota or limit of size that is reached, an output that is open for reading alone
_CANNOT_WRITE = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EBADF)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fastbn", description=(fastbn.__doc__ or "").partition("\n")[0])
    parser.add_argument("--version", action="version", version=f"fastbn {fastbn.__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="command", required=True)
    for command in COMMANDS:
        module = import_module(f"fastbn.cli.{command}")
        module.add_parser(subparsers).set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand.

    0 is success, 1 a failed check, 2 a wrong call or an output that cannot be written, 130 an interrupt, 141 a pipe
    that was closed.
    """
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:  # closed by whoever started this
            setattr(sys, stream, open(os.devnull, "w"))  # noqa: SIM115 - as long as the process lives
    args = build_parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names may have signs that the terminal's encoding has not
    try:
        status: int = args.run(args)
        sys.stdout.flush()
        return status
    except CommandError as error:
        print(f"fastbn {args.command}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever reads has seen enough, as `head` has
        _write_no_more()
        return 141
    except OSError as error:
        if error.errno not in _CANNOT_WRITE:
            raise
        _write_no_more()
        told = f"cannot write {error.filename or 'the output'}: {error.strerror}"
        print(f"fastbn {args.command}: {told}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"fastbn {args.command}: interrupted", file=sys.stderr)
        return 130


def _write_no_more() -> None:
    """Have what Python still holds for standard output, and writes at its end, go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
