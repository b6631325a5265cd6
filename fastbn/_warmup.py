"""Compile ahead of the first call: in an image's build, before a server forks, in a test's setup."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import product
from threading import get_ident
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from numba.core import config
from numpy.typing import NDArray

from fastbn import functional
from fastbn._quiet import quiet
from fastbn.engine import arguments, pace, plans, threads
from fastbn.kernels.jit import Driver
from fastbn.moments import Moments
from fastbn.preprocessing import denormalize, normalize

OPERATIONS = ("batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm")
SUMS = ("add_layer_norm", "add_rms_norm")  # compiled where they are asked for
DATA = ("normalize", "denormalize", "moments")  # likewise: of 8-bit integers, and of each dtype
LAYOUTS = ("channels_first", "channels_last")
DTYPES = ("float16", "bfloat16", "float32", "float64")

Array = NDArray[Any]

# (N, C, S), through every kernel of a family: a small array (serial), one whose groups keep all threads busy, and one
# that has too few groups for that.  All but the first are large enough for threads, even in half precision, and the
# second has enough sums of blocks for them.  Of runs, there are short and long ones that keep threads busy.
_RUNS = ((2, 16, 256), (8, 1024, 128), (2, 64, 2048), (1, 1, 1 << 18))
_COLUMNS = ((2, 16, 256), (8, 1024, 128), (1, 64, 4096))
_FEATURES = ((8, 16, 1), (64, 8192, 1), (4096, 64, 1))  # for batch norm these are columns in either layout
_ROWS = ((8, 64), (256, 1024), (1, 1 << 18))
_OVER_CHANNELS = ((2, 16, 256), (8, 64, 512), (1, 4096, 64))
_IMAGES = ((2, 8, 8), (2, 64, 64), (8, 256, 256))  # (N, H, W): of short runs and of long ones, and for threads
_CALLS = 2  # of each kind: one that is checked, and one like it


class Warmup(NamedTuple):
    """What `warmup` did."""

    compiled: int
    found: int
    folder: str | None
    seconds: float


def warmup(
    ops: Iterable[str] | None = None,
    dtypes: Iterable[str] = ("float32",),
    layouts: Iterable[str] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    *,
    activation: functional.Activation = None,
    residual: bool = False,
    where: bool = False,
) -> Warmup:
    """Compile the kernels of some operations now, and keep them on disk for other processes.

    Parameters
    ----------
    ops : iterable of str, optional
        Of "batch_norm", "layer_norm", "group_norm", "instance_norm" and "rms_norm", all of which where left out, and
        of "add_layer_norm", "add_rms_norm", "normalize", "denormalize" and "moments".
    dtypes : iterable of str
        Of "float16", "bfloat16" (for which ml_dtypes must be installed), "float32" and "float64".
    layouts : iterable of str, optional
        Of "channels_first" and "channels_last".  Where left out, both; but layer and RMS norm over the last axis alone,
        which is what they are mostly called for: "channels_first" has them compiled for a channel axis before others.
    progress : callable, optional
        Called as ``progress(done, total, name)`` before each kernel, and at the end with ``done == total``.
    activation : str or tuple, optional
        What calls give as theirs.
    residual, where : bool
        Whether calls give one.

    Returns
    -------
    done : Warmup
        ``compiled`` and ``found`` (in the cache) count kernels, ``folder`` is where they are kept (None: nowhere) and
        ``seconds`` what it took.

    Raises
    ------
    ValueError
        If a name is unknown.
    TypeError
        If the activation is of another type.
    ImportError
        If "bfloat16" is asked for and ml_dtypes is not installed.

    Notes
    -----
    "normalize" and "denormalize" have the kernels of 8-bit integers to and from a dtype compiled, and of a dtype to
    itself, into both layouts; "moments" those of both.

    Kernels are those of calls on small arrays and on some that are large enough for threads, forward and backward, with
    weight and bias and without; and with an activation, a residual and a mask exactly as told, by those operations that
    take them.  Later calls like these compile nothing, but for weights without bias.  On a single CPU,
    NUMBA_NUM_THREADS=2 adds the parallel kernels.

    Examples
    --------
    >>> import fastbn
    >>> done = fastbn.warmup(ops=["rms_norm"], layouts=["channels_first"])  # doctest: +SKIP
    >>> print(f"{done.compiled} compiled, {done.found} found")  # doctest: +SKIP
    0 compiled, 19 found
    """
    steps = list(_steps(ops, dtypes, layouts))
    arguments.activation(activation)
    start, before = perf_counter(), _counts()
    with quiet(), _asked_for() as kernels:  # kernels are named and not run: what they would fill holds anything
        for op, dtype, layout in steps:
            for (x, axis), affine in product(_inputs(op, dtype, layout), (True, False)):
                _ask(op, x, axis, affine, activation, residual, where)
    for done, (build, types) in enumerate(kernels):
        if progress:
            progress(done, len(kernels), build.py_func.__qualname__)
        build.compile(types)
    if progress:
        progress(len(kernels), len(kernels), "")
    compiled, found = (after - b for after, b in zip(_counts(), before, strict=True))
    return Warmup(compiled, found, _folder(), perf_counter() - start)


@contextmanager
def _asked_for() -> Iterator[list[tuple[Any, Any]]]:
    """The kernels, as builds and types, that calls of this thread lack: meanwhile these are noted, not compiled.

    A call then computes nothing, so that all of them are known within a second.
    """
    kernels: dict[tuple[int, Any], tuple[Any, Any]] = {}
    noted: list[tuple[Any, Any]] = []
    thread, builds, counting = get_ident(), _builds(), True

    def noting(build: Any, compile_now: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def compile_later(types: Any) -> Any:
            if get_ident() != thread or types in build.overloads:  # who calls meanwhile wants results
                return compile_now(types)
            kernels.setdefault((id(build), types), (build, types))

            def entry(*args: Any) -> Any:
                """What plans that are made now keep: it computes for whoever else calls it, and for everyone later."""
                return None if counting and get_ident() == thread else compile_now(types)(*args)

            return entry

        return compile_later

    try:
        for build in builds:
            build.compile = noting(build, build.compile)
        yield noted
    finally:
        counting = False
        for build in builds:
            del build.compile
        plans.clear()  # those of this time go a longer way to their kernels
        noted += kernels.values()


def _steps(
    ops: Iterable[str] | None, dtypes: Iterable[str], layouts: Iterable[str] | None
) -> Iterator[tuple[str, np.dtype[Any], str]]:
    kinds = [_dtype(name) for name in _known(dtypes, DTYPES, "dtypes")]
    asked = None if layouts is None else _known(layouts, LAYOUTS, "layouts")
    for op in _known(OPERATIONS if ops is None else ops, OPERATIONS + SUMS + DATA, "ops"):
        images = op in ("batch_norm", "group_norm", "instance_norm", *DATA)
        for dtype, layout in product(kinds, asked or (LAYOUTS if images else LAYOUTS[1:])):
            yield op, dtype, layout


def _known(names: Iterable[str], known: tuple[str, ...], argument: str) -> list[str]:
    names = [names] if isinstance(names, str) else list(names)
    for name in names:
        if name not in known:
            raise ValueError(f"{argument} names {name!r}; expected some of {', '.join(known)}")
    return names


def _dtype(name: str) -> np.dtype[Any]:
    if name == "bfloat16":
        try:
            from ml_dtypes import bfloat16
        except ImportError:
            raise ImportError('"bfloat16" needs ml_dtypes: pip install "fastbn[half]"') from None

        return np.dtype(bfloat16)
    return np.dtype(name)


def _inputs(op: str, dtype: np.dtype[Any], layout: str) -> Iterator[tuple[Array, int]]:
    """Arrays for an operation, each with the axis of its channels."""
    first = layout == "channels_first"
    if op in DATA:
        yield from ((_array((n, 3, *s) if first else (n, *s, 3), dtype), 1 if first else -1) for n, *s in _IMAGES)
        return
    if op not in ("batch_norm", "group_norm", "instance_norm"):
        yield from ((_array(shape, dtype), -1) for shape in _ROWS)
        if first and op not in SUMS:
            yield from ((_array(shape, dtype).swapaxes(1, 2), -1) for shape in _OVER_CHANNELS)
        return
    if op == "batch_norm":
        yield from ((_array(shape, dtype), 1) for shape in _FEATURES)
    for n, c, s in _RUNS if first else _COLUMNS:
        yield (_array((n, c, s), dtype), 1) if first else (_array((n, s, c), dtype), -1)


def _array(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    return np.resize(np.array([-1.0, 0.0, 2.0], dtype), shape)


def _ask(op: str, x: Array, axis: int, affine: bool, activation: Any, residual: bool, where: bool) -> None:
    """Have calls of a kind ask for their kernels, serial ones and those of two threads."""
    with pace.all_ways(), threads.num_threads(min(2, config.NUMBA_NUM_THREADS)):
        for _ in range(_CALLS):
            _call(op, x, axis, affine, activation, residual, where)


def _call(op: str, x: Array, axis: int, affine: bool, activation: Any, residual: bool, where: bool) -> None:
    """One operation both ways, and with given statistics where it takes them."""
    if op in DATA:
        return _call_data(op, x, axis) if affine else None
    names = ("weight",) if op.endswith("rms_norm") else ("weight", "bias")
    weights = {name: np.ones(x.shape[axis], x.dtype) if affine else None for name in names}
    forward, backward = getattr(functional, f"{op}_forward"), getattr(functional, f"{op}_backward")
    dy = np.zeros_like(x)  # whose sums are not too large for any dtype
    if op in SUMS:
        _, total, *statistics = forward(x, x, x.shape[-1], **weights)
        backward(dy, dy, total, *statistics, weights["weight"])
        return
    more: dict[str, Any] = {"activation": activation, "where": np.ones_like(x, bool) if where else None}
    args: tuple[int, ...] = ()
    if op in ("layer_norm", "rms_norm"):
        args = (x.shape[-1],)
    else:
        more["axis"] = axis
    if op == "group_norm":
        args = (1,)
    given = {"residual": x if residual else None} if op in ("batch_norm", "group_norm") else {}
    keywords = weights | more | given
    _, *statistics = forward(x, *args, **keywords)
    backward(dy, x, *statistics, **keywords)
    if op == "batch_norm":
        backward(dy, x, *statistics, **keywords, training=False)
    for dtype in (np.float32, np.float64):  # those of layers, and those that a forward returns
        running = np.ones(x.shape[axis], dtype), np.ones(x.shape[axis], dtype)
        if op == "batch_norm":
            functional.batch_norm(x, *running, **keywords)
        elif op == "instance_norm":
            functional.instance_norm(x, *running, **keywords, use_input_stats=False)


def _call_data(op: str, x: Array, axis: int) -> None:
    """What is done with data before a network sees it, of images and of arrays of the dtype."""
    pixels = np.zeros(x.shape, np.uint8)
    if op == "moments":
        for data in (pixels, x):
            Moments(axis).update(data)
        return
    one = np.ones(3)
    for layout in (None, *LAYOUTS):
        if op == "normalize":
            for data in (pixels, x):
                normalize(data, one, one, axis=axis, dtype=x.dtype, layout=layout)
        else:
            for dtype in (np.dtype(np.uint8), x.dtype):
                denormalize(x, one, one, axis=axis, dtype=dtype, layout=layout)


def _builds() -> list[Any]:
    """Every compiled function, serial and parallel; none where Numba is switched off."""
    if config.DISABLE_JIT:
        return []
    modules = [module for name, module in sys.modules.items() if name.startswith("fastbn.kernels.")]
    found = {id(value): value for module in modules for value in vars(module).values() if isinstance(value, Driver)}
    return [build for driver in found.values() for build in driver]


def _counts() -> tuple[int, int]:
    """How many kernels this process has compiled, and how many it has found in the cache."""
    stats = [build.stats for build in _builds()]
    return sum(sum(s.cache_misses.values()) for s in stats), sum(sum(s.cache_hits.values()) for s in stats)


def _folder() -> str | None:
    return next((build.stats.cache_path for build in _builds()), None)
