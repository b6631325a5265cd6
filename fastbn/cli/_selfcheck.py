"""What ``fastbn selfcheck`` checks, on the machine at hand; docs/numerics.md explains each promise.

A check returns what it measured, in words, and whether that is as promised.
"""

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from itertools import product
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from numba.core import config

import fastbn
from fastbn import reference
from fastbn.cli import _check
from fastbn.cli._check import LAYOUTS, OPERATIONS, TOLERANCES
from fastbn.engine import pace, plans

Array = np.ndarray[Any, Any]
Outcome = tuple[str, bool]
Forward = Callable[..., tuple[Array, ...]]

MEANS = (0.0, 1e2, 1e4, 1e6)
EPS = 1e-5
CONSTANTS = (1e-38, 3e-20, 1 / 3, 1e5, 1e30)
IN_PIECES = (1, 8, 199, 201)  # one sample, and so long that threads share even one group
BATCH = (300, 8, 9, 9)


class Check(NamedTuple):
    topic: str
    title: str
    run: Callable[[], Outcome]


def checks() -> Iterator[Check]:
    for operation in OPERATIONS:
        yield Check("error against float64, means 0 to 1e6", operation, partial(_accuracy, operation))
    for name in FORWARD:
        yield Check("data with exact moments", name, partial(_exact_moments, name))
    for name in FORWARD:
        if name != "RMS norm":
            yield Check("constants become the bias", name, partial(_constants, name))
    yield Check("huge and tiny values", "1e30 and 1e-30 to unit spread", _extremes)
    for name in FORWARD:
        yield Check("the same bits", f"{name}: {_thread_counts()[-1]} threads, one, again", partial(_threads, name))
    for title, check in (
        ("a sample alone and in its batch", _batches),
        ("at any address", _addresses),
        ("strided, read-only, in place", _memory),
        ("channels-last view and channels last", _views),
    ):
        yield Check("the same bits", title, check)
    for dtype in _halves():
        yield Check("all 65,536 codes, rounded once", str(dtype), partial(_codes, dtype))


# Operations by name, channels first: (y, statistics...) ---------------------------------------------------------------


def _layer_norm(lib: Any, x: Array, weight: Array, bias: Array, **named: Any) -> tuple[Array, ...]:
    shape = x.shape[1:]
    return lib.layer_norm_forward(x, shape, _spread(weight, shape), _spread(bias, shape), **named)


def _rms_norm(lib: Any, x: Array, weight: Array, bias: Array, **named: Any) -> tuple[Array, ...]:
    return lib.rms_norm_forward(x, x.shape[1:], _spread(weight, x.shape[1:]), **named)


def _spread(v: Array, shape: tuple[int, ...]) -> Array:
    return np.broadcast_to(v.reshape(-1, *(1,) * (len(shape) - 1)), shape).copy()


FORWARD: dict[str, Forward] = {
    "batch norm": lambda lib, x, w, b, **named: lib.batch_norm_forward(x, w, b, **named),
    "layer norm": _layer_norm,
    "group norm": lambda lib, x, w, b, **named: lib.group_norm_forward(x, 2, w, b, **named),
    "instance norm": lambda lib, x, w, b, **named: lib.instance_norm_forward(x, w, b, **named),
    "RMS norm": _rms_norm,
}


def _backward(name: str, dy: Array, x: Array, weight: Array, saved: Sequence[Array]) -> tuple[Array, ...]:
    function = getattr(fastbn, f"{name.lower().replace(' ', '_')}_backward")
    if name in ("layer norm", "RMS norm"):
        weight = _spread(weight, x.shape[1:])
    gradients: tuple[Array, ...] = function(dy, x, *saved, weight)
    return gradients


def _parameters(channels: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(1)
    return rng.uniform(0.5, 1.5, channels).astype(np.float32), rng.uniform(-0.5, 0.5, channels).astype(np.float32)


def _normal(shape: tuple[int, ...], mean: float = 0.0, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape, np.float32) + np.float32(mean)


def _equal(a: Sequence[Array], b: Sequence[Array]) -> bool:
    """The same bits, of which 0 and -0 differ."""
    return all(x.shape == y.shape and x.tobytes() == y.tobytes() for x, y in zip(a, b, strict=True))


def _bits(same: bool) -> Outcome:
    return "identical" if same else "different", same


# The checks -----------------------------------------------------------------------------------------------------------


def _accuracy(operation: str) -> Outcome:
    worst = [0.0, 0.0]
    for layout, mean, shape in product(LAYOUTS, MEANS, _check.SHAPES):
        case = _check.make_case(shape, mean, "float32", layout)
        # np.maximum, unlike max, hands a NaN on
        worst = list(np.maximum(worst, _check.errors(OPERATIONS[operation], case)))
    passed = [error <= TOLERANCES["float32", way] for error, way in zip(worst, _check.DIRECTIONS, strict=True)]
    return f"{worst[0]:.1e}, gradients {worst[1]:.1e}", all(passed)


def _exact_moments(name: str) -> Outcome:
    """Values in pairs x + x' = 2 mean, in any order: every partial sum is exact, so the moments are."""
    rng = np.random.default_rng(0)
    deviations = rng.integers(1, 100, (4, 6, 60, 30))
    values = np.stack((deviations, -deviations), -1).reshape(4, 6, -1) / 16  # pairs within a channel
    mean = 12.5 if name == "RMS norm" else 1e6  # of more, a few squares do not fit a float32
    x = rng.permuted(values + mean, axis=-1).astype(np.float32)
    squares = np.rint((values * 16) ** 2).astype(np.int64)
    per_group = {
        "batch norm": squares.sum((0, 2)),
        "group norm": squares.reshape(4, 2, -1).sum(2),
        "instance norm": squares.sum(2),
    }.get(name, squares.reshape(4, -1).sum(1))
    count = x.size // per_group.size
    offset = Fraction(mean) ** 2 if name == "RMS norm" else 0
    var = np.array([float(Fraction(int(s), 256 * count) + offset) for s in per_group.flat]).reshape(per_group.shape)
    _, *means, rstd = FORWARD[name](fastbn, x, *_parameters(6), eps=EPS)
    same = all((m == mean).all() for m in means) and bool((rstd == 1 / np.sqrt(var + EPS)).all())
    return "to the bit" if same else "off", same


def _constants(name: str) -> Outcome:
    weight, bias = _parameters(4)
    for value in (*CONSTANTS, *(-c for c in CONSTANTS)):
        x = np.full((3, 4, 61), value, np.float32)
        if (FORWARD[name](fastbn, x, weight, bias)[0] != bias[:, None]).any():
            return f"not at {value:g}", False
    return "exactly", True


def _extremes() -> Outcome:
    worst = 0.0
    for name, size in product(FORWARD, (1e30, 1e-30)):
        x = _normal((5, 4, 99)) * np.float32(size)
        y, expected = (FORWARD[name](lib, x, *_parameters(4), eps=1e-70)[0] for lib in (fastbn, reference))
        worst = float(np.maximum(worst, np.abs(y - expected).max() / np.abs(expected).max()))
    return f"{worst:.1e}", worst <= TOLERANCES["float32", "forward"]


def _everything(name: str, x: Array, dy: Array) -> list[Array]:
    weight, bias = _parameters(x.shape[1])
    y, *saved = FORWARD[name](fastbn, x, weight, bias)
    return [y, *saved, *_backward(name, dy, x, weight, saved)]


def _thread_counts() -> list[int]:
    most = config.NUMBA_NUM_THREADS
    return sorted({1, min(2, most), min(5, most), most})


@contextmanager
def _shared_by(threads: int) -> Iterator[None]:
    """As if every array were large enough for all threads."""
    plans.clear()  # those made before know the size that was large enough then
    with mock.patch.multiple(pace, SERIAL_BYTES=0, TEAM_BYTES=0), fastbn.num_threads(threads):
        yield
    plans.clear()


def _in_pieces() -> tuple[Sequence[Array], Sequence[Array]]:
    """x and dy, channels first and channels last in memory."""
    pair = _normal(IN_PIECES, 100.0), _normal(IN_PIECES, seed=1)
    return pair, [np.moveaxis(np.moveaxis(a, 1, -1).copy(), -1, 1) for a in pair]


_ahead: list[BaseProcess] = []  # what `_threads` waits for


def compile_ahead() -> None:
    """Have a second process compile for many threads, if there are, while this one compiles all else."""
    if len(_thread_counts()) == 1:
        return
    _ahead.append(get_context("spawn").Process(target=_shared_by_all, daemon=True))
    _ahead[-1].start()


def _shared_by_all() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both, and the first process ends this one
    for name, given, threads in product(FORWARD, _in_pieces(), _thread_counts()[1:]):
        with _shared_by(threads):
            _everything(name, *given)


def _threads(name: str) -> Outcome:
    while _ahead:
        _ahead.pop().join()
    for given in _in_pieces():
        with fastbn.num_threads(1):
            expected = _everything(name, *given)
        for threads in _thread_counts()[::-1]:
            with _shared_by(threads):
                if not _equal(_everything(name, *given), expected):
                    return f"different with {threads}", False
    return _bits(True)


BY_SAMPLE = [name for name in FORWARD if name != "batch norm"]


def _of_samples(name: str, x: Array, dy: Array) -> list[Array]:
    """y, statistics and dx, which belong to one sample each."""
    return _everything(name, x, dy)[: 3 if name == "RMS norm" else 4]


def _batches() -> Outcome:
    x, dy = _normal(BATCH, 100.0), _normal(BATCH, seed=1)
    for name in BY_SAMPLE:
        whole = _of_samples(name, x, dy)
        for some in (slice(7, 8), slice(100, 103)):
            if not _equal(_of_samples(name, x[some], dy[some]), [a[some] for a in whole]):
                return f"different: {name}", False
    return _bits(True)


def _addresses() -> Outcome:
    x, dy = _normal((2, 4, 5, 7), 100.0), _normal((2, 4, 5, 7), seed=1)
    room = np.empty(x.size + 16, np.float32)
    for name, offset in product(FORWARD, range(16)):
        moved = room[offset:][: x.size].reshape(x.shape)
        moved[...] = x
        if not _equal(_everything(name, moved, dy), _everything(name, x, dy)):
            return f"different: {name}", False
    return _bits(True)


def _memory() -> Outcome:
    x, dy = _normal((4, 6, 35), 100.0), _normal((4, 6, 35), seed=1)
    weight, bias = _parameters(6)
    room = np.full((4, 6, 70), np.nan, np.float32)
    steps, frozen = room[..., ::2], x.copy()
    steps[...] = x
    frozen.flags.writeable = False
    for name in FORWARD:
        expected = _everything(name, x, dy)
        inside = x.copy()
        FORWARD[name](fastbn, inside, weight, bias, out=inside)
        same = all(_equal(_everything(name, given, dy), expected) for given in (steps, frozen))
        if not (same and _equal([inside], expected[:1])):
            return f"different: {name}", False
    return _bits(True)


def _views() -> Outcome:
    last = _normal((4, 9, 11, 6), 100.0)
    view = np.moveaxis(last, -1, 1)
    weight, bias = _parameters(6)
    pairs = (
        (fastbn.batch_norm_forward(a, weight, bias, axis=axis) for a, axis in ((last, -1), (view, 1))),
        (fastbn.group_norm_forward(a, 2, weight, bias, axis=axis) for a, axis in ((last, -1), (view, 1))),
        (fastbn.instance_norm_forward(a, weight, bias, axis=axis) for a, axis in ((last, -1), (view, 1))),
    )
    return _bits(all(_equal(a, (np.moveaxis(b[0], 1, -1), *b[1:])) for a, b in pairs))


def _halves() -> list[np.dtype[Any]]:
    """The half-precision types that can be had here."""
    try:
        from ml_dtypes import bfloat16
    except ImportError:
        return [np.dtype(np.float16)]
    return [np.dtype(np.float16), np.dtype(bfloat16)]


def _codes(dtype: np.dtype[Any]) -> Outcome:
    """With statistics that change nothing every code comes back; scaled, it is float32's product rounded once."""
    codes = np.arange(1 << 16, dtype=np.uint16).view(dtype)[None, None]
    zeros, ones = np.zeros(1, np.float32), np.ones(1, np.float32)
    wrong = 0
    for scale in (1.0, 1 / 3):
        y = fastbn.batch_norm(codes, zeros, ones, np.array([scale], np.float32), eps=0)
        with np.errstate(over="ignore", invalid="ignore"):
            expected = (codes.astype(np.float32) * np.float32(scale)).astype(dtype)
            wide, wide_expected = y.astype(np.float32), expected.astype(np.float32)
        wrong += int(((wide != wide_expected) & ~(np.isnan(wide) & np.isnan(wide_expected))).sum())
    return "all right" if not wrong else f"{wrong} wrong", not wrong
