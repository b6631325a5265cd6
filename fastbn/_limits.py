"""How much memory this process may use, for what is told of small machines."""

import os
from pathlib import Path

from fastbn.engine import threads

SMALL = 1 << 30  # bytes under which it is worth a word
_UNLIMITED = 1 << 60  # what version 1 of control groups says where there is no limit is a little under 2**63


def memory() -> tuple[int, bool] | None:
    """Bytes that this process may use, and whether it is the control group that says so; None if nothing tells."""
    total, group = _of_machine(), _of_group()
    if group is not None and (total is None or group < total):
        return group, True
    return None if total is None else (total, False)


def _of_machine() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows has none of it
        return None


def _of_group() -> int | None:
    limits = []
    for folder, unified in threads.group_folders("memory"):
        limit = _number(folder / ("memory.max" if unified else "memory.limit_in_bytes"))
        if limit is not None and limit < _UNLIMITED:
            limits.append(limit)
    return min(limits, default=None)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # no such group, or "max"
        return None
