"""Other work between two calls, as a program does it: caches are cold, other threads have just been busy."""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from fastbn.cli._errors import CommandError

Between = Callable[[], object]

SIDE = 640  # of the matrices that are multiplied
COPIED_BYTES = 64_000_000


def _matmul(threads: int) -> Between:
    """A product on all cores: by torch, whose threads are its own, or by NumPy's BLAS."""
    a, b = np.random.default_rng(0).standard_normal((2, SIDE, SIDE), dtype=np.float32)
    if find_spec("torch") is None:
        return lambda: a @ b
    torch: Any = import_module("torch")
    torch.set_num_threads(threads)
    x, y = torch.from_numpy(a), torch.from_numpy(b)
    return lambda: torch.mm(x, y)


def _copy(threads: int) -> Between:
    source = np.random.default_rng(0).random(COPIED_BYTES // 8)
    target = np.empty_like(source)
    return lambda: np.copyto(target, source)


WORK = {"matmul": _matmul, "copy": _copy}


def make(names: str, threads: int) -> Between | None:
    """What "matmul+copy" or the like names; None for "none"."""
    if names in ("", "none"):
        return None
    unknown = [name for name in names.split("+") if name not in WORK]
    if unknown:
        raise CommandError(f"--between {names}: no work {unknown[0]!r}; expected none, or some of {'+'.join(WORK)}")
    steps = [WORK[name](threads) for name in names.split("+")]

    def between() -> None:
        for step in steps:
            step()

    return between


def in_words(names: str) -> str:
    """The same for a reader."""
    by = "torch" if find_spec("torch") else "NumPy"
    words = {
        "matmul": f"a product of {SIDE}x{SIDE} matrices on all cores by {by}",
        "copy": f"a copy of {COPIED_BYTES // 10**6} MB",
    }
    return " and ".join(words.get(name, name) for name in names.split("+"))
