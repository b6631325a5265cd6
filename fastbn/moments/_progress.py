"""A progress bar, where it can be seen."""

import sys
from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any

from fastbn.engine import arguments


def tracked(items: Iterable[Any], description: str, progress: Any, total: int | None = None) -> Iterable[Any]:
    """The items, with a progress bar beside them where it can be seen; total: how many there are, if that is known."""
    if not (arguments.flag(progress, "progress") and sys.stderr.isatty() and find_spec("rich")):
        return items
    from rich.console import Console
    from rich.progress import track

    return track(items, description, total=total, console=Console(stderr=True), transient=True)
