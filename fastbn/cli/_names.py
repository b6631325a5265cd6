"""What is named on the command line: a path, or several things of a kind, apart by commas, spaces or both."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastbn.cli._errors import CommandError


def path(text: str) -> Path:
    """A path; no text, as of a variable that is not set, would be the folder at hand."""
    if not text:
        raise argparse.ArgumentTypeError("names nothing; expected a path")
    return Path(text)


def _parted(text: str) -> list[str]:
    """One of several words, each of which may name several itself: a,b c."""
    return [name for name in text.split(",") if name]


SEVERAL: dict[str, Any] = {"nargs": "+", "type": _parted, "action": "extend"}  # what `add_argument` takes for them


def chosen(option: str, words: list[list[str]] | None, known: Sequence[str]) -> list[str] | None:
    """What is named, of what there is; None where the option is left out."""
    if words is None:
        return None
    names = [name for word in words for name in word]
    for name in names:
        if name not in known:
            raise CommandError(f"{option} names {name!r}; expected some of {', '.join(known)}")
    if not names:
        raise CommandError(f"{option} names nothing; expected some of {', '.join(known)}")
    return names
