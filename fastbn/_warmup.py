"""Compile ahead of the first call: in an image's build, before a server forks, in a test's setup."""

from collections.abc import Callable, Iterable, Iterator
from itertools import product
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from numba.core import config
from numpy.typing import NDArray

from fastbn import functional

OPERATIONS = ("batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm")
LAYOUTS = ("channels_first", "channels_last")
DTYPES = ("float16", "bfloat16", "float32", "float64")

Array = NDArray[Any]

# Arrays that go through every kernel there is for a layout: a small one (serial) and two that all threads share, by
# groups and, with fewer groups than threads, by pieces.  Channels first has planes that are too small to be runs.
_SHAPES = {
    "channels_first": ((2, 16, 16, 16), (8, 2, 2, 2), (8, 64, 128, 128), (4, 1, 2048, 1024), (32768, 64, 2, 2)),
    "channels_last": ((2, 16, 8, 8), (8, 64, 128, 128), (2048, 1, 64, 64), (1, 64, 512, 256)),
}
_ROWS = {
    "channels_first": ((8, 64), (8192, 1024), (3, 1 << 22)),
}


class Warmup(NamedTuple):
    """What `warmup` did."""

    compiled: int
    found: int
    folder: str | None
    seconds: float


def warmup(
    ops: Iterable[str] | None = None,
    dtypes: Iterable[str] = ("float32",),
    layouts: Iterable[str] = LAYOUTS,
    progress: Callable[[int, int, str], None] | None = None,
) -> Warmup:
    """Compile the kernels of some operations now, and keep them on disk for other processes.

    Parameters
    ----------
    ops : iterable of str, optional
        Of "batch_norm", "layer_norm", "group_norm", "instance_norm" and "rms_norm"; all where left out.
    dtypes : iterable of str
        Of "float16", "bfloat16" (for which ml_dtypes must be installed), "float32" and "float64".
    layouts : iterable of str
        Of "channels_first" and "channels_last".
    progress : callable, optional
        Called as ``progress(done, total, name)`` before each step, and at the end with ``done == total``.

    Returns
    -------
    done : Warmup
        ``compiled`` and ``found`` (in the cache) count kernels, ``folder`` is where they are kept (None: nowhere) and
        ``seconds`` what it took.

    Raises
    ------
    ValueError
        If a name is unknown.

    Notes
    -----
    It computes on arrays of up to 64 MB, forward and backward, with weight and bias and without.  Calls then compile
    nothing, but for weights without bias.

    Examples
    --------
    >>> import fastbn
    >>> done = fastbn.warmup(ops=["rms_norm"], layouts=["channels_first"])  # doctest: +SKIP
    >>> done.compiled + done.found  # doctest: +SKIP
    6
    """
    steps = list(
        product(
            _known(OPERATIONS if ops is None else ops, OPERATIONS, "ops"),
            [np.dtype(_loaded(name)) for name in _known(dtypes, DTYPES, "dtypes")],
            _known(layouts, LAYOUTS, "layouts"),
        )
    )
    start, before = perf_counter(), _counts()
    for done, (op, dtype, layout) in enumerate(steps):
        name = f"{op}, {dtype}, {layout}"
        if progress:
            progress(done, len(steps), name)
        for x, affine in product(_inputs(op, dtype, layout), (True, False)):
            _run(op, x, layout, affine)
    if progress:
        progress(len(steps), len(steps), "")
    compiled, found = (after - b for after, b in zip(_counts(), before, strict=True))
    return Warmup(compiled, found, _folder(), perf_counter() - start)
