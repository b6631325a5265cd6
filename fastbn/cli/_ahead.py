"""A second process that compiles what ``fastbn demo`` is about to use, while the demo begins to use it.

Compiling keeps Python's lock, so another thread would not help.  Both processes go through the same kernels, one from
each end, and find in the folder of compiled kernels what the other one has done.  Without such a folder, or a second
CPU, or if anything is wrong with the second process, the demo compiles everything itself.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import product

from numba.core import config

from fastbn.engine import threads
from fastbn.kernels import folders, sources


@contextmanager
def compiling() -> Iterator[None]:
    """Have a second process compile during this block."""
    process = _start()
    try:
        yield
    finally:
        if process is not None:
            process.terminate()
            process.wait()


def _start() -> subprocess.Popen[bytes] | None:
    kept = not config.DISABLE_JIT and sources.digest() is not None and folders.ours().kept is not None
    if not kept or threads.get_num_threads() < 2 or not sys.executable or getattr(sys, "frozen", False):
        return None
    code = f"import sys; sys.path[:] = {sys.path!r}; from fastbn.cli import _ahead; _ahead.compile_everything()"
    nothing = subprocess.DEVNULL
    with suppress(OSError):
        return subprocess.Popen([sys.executable, "-c", code], stdin=nothing, stdout=nothing, stderr=nothing)
    return None


def compile_everything() -> None:
    """What the end of the demo needs first, then the checks of operations from the last one on."""
    import fastbn
    from fastbn.cli import _check, _news

    for item in _news.news():
        item.show()
    for operation, dtype, layout in reversed(list(product(_check.OPERATIONS, _check.DTYPES, _check.LAYOUTS))):
        for shape in _check.SHAPES:
            _check.OPERATIONS[operation](fastbn, _check.make_case(shape, 0.0, dtype, layout))
