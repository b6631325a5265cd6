"""Arrays to kernels.pixels: every element by the statistics of its channel, from one place in memory to another."""

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastbn.engine import pace, views
from fastbn.engine.arrays import flattened, writable
from fastbn.engine.integers import PAST_CACHE_BYTES
from fastbn.kernels import pixels
from fastbn.kernels.plans import Moved, Planes, Repeating

Array = NDArray[Any]

_LONG_RUN = 128  # elements: shorter ones of a channel are taken as columns
_PERIOD = 256  # columns at least, of which the statistics are laid out
_LEAST, _MOST = 1e-30, 1e30  # of numbers for which float32 does
_NARROWEST, _WIDEST = 1e-290, 1e290  # and of those for which float64 does, without a division
_LINE = 64


class Numbers(NamedTuple):
    """y = (x - hi) a + t: float64 arrays of one shape, the lengths of x along the kept axes."""

    hi: Array
    a: Array
    t: Array

    def fit(self) -> bool:
        """Whether no number is near the ends of float64, where it would lose digits."""
        factors = abs(self.a), *(np.where(v == 0, 1.0, abs(v)) for v in (self.hi, self.t))
        return all(bool(((v > _NARROWEST) & (v < _WIDEST)).all()) for v in factors)

    def in_type(self, narrow: bool) -> "Numbers":
        """In float32, where it does, else in float64; t makes up for what hi loses."""
        magnitudes = abs(self.a), np.where(self.hi == 0, 1.0, abs(self.hi)), np.where(self.t == 0, 1.0, abs(self.t))
        dtype: type[np.floating[Any]] = np.float64
        if narrow and all(((v > _LEAST) & (v < _MOST)).all() for v in magnitudes):
            dtype = np.float32
        hi = self.hi.astype(dtype)
        t = self.t - (self.hi - hi) * self.a
        return Numbers(hi, self.a.astype(dtype), t.astype(dtype))


class _Place(NamedTuple):
    """Where the elements lie in two arrays, in the order of memory of the first."""

    outer: int
    channels: int
    inner: int
    numbers: Numbers  # flat, one a channel


def apply(x: Array, y: Array, axes: tuple[int, ...], numbers: Numbers, narrow: bool) -> None:
    """Write (x - hi) a + t to y, which has the axes of x and may lie otherwise in memory; all are checked.

    axes: sorted; those along which the numbers change.  narrow: whether float32 is wide enough for x and y.
    """
    if not x.size:
        return
    numbers = numbers.in_type(narrow)
    order = _order(y)
    if order is None:
        target = np.empty(y.shape, y.dtype)
        apply(x, target, axes, numbers, narrow)
        y[...] = target
        return
    own = _order(x)
    if own is None:
        x = x.copy(order="K")
        own = _order(x)
        assert own is not None
    if own != order and not _moved(x, y, axes, (own, order), numbers):
        x, own = np.ascontiguousarray(x.transpose(_all(order, x))).transpose(_inverse(_all(order, x))), order
    if own == order:
        _in_place(x, y, axes, own, numbers)


def _order(a: Array) -> tuple[int, ...] | None:
    """The axes longer than one from the slowest to the fastest in memory; None where there are holes or overlaps."""
    order = views.memory_order(a)
    if order is False:
        return None
    return tuple(k for k in (range(a.ndim) if order is None else order) if a.shape[k] > 1)


def _all(order: tuple[int, ...], a: Array) -> tuple[int, ...]:
    return (*(k for k in range(a.ndim) if a.shape[k] <= 1), *order)


def _inverse(order: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted(range(len(order)), key=order.__getitem__))


def _flat(a: Array, order: tuple[int, ...]) -> Array:
    """One axis, in memory order; booleans and half precision by their bits."""
    if a.dtype.kind not in "iub":
        return flattened(a, _all(order, a))
    flat = a.transpose(_all(order, a)).reshape(-1)
    return writable(flat.view(np.uint8) if flat.dtype == bool else flat)


def _kinds(x: Array, y: Array) -> tuple[int | None, int | None]:
    """See kernels.pixels."""
    whole, target = (1 if v.dtype.kind in "iub" else None for v in (x, y))
    return whole, target


def _run(kernel: Any, units: int, plan: tuple[int, ...], x: Array, y: Array, rest: tuple[Any, ...]) -> None:
    told = np.array(plan, np.int64)

    def run(threads: int) -> None:
        kernel[threads > 1](units, told, x, y, *rest)

    pace.with_team((kernel.serial.__name__, x.dtype, y.dtype, *plan, units), y.nbytes, run)


# Where all lies as before ---------------------------------------------------------------------------------------------


def _in_place(x: Array, y: Array, axes: tuple[int, ...], order: tuple[int, ...], numbers: Numbers) -> None:
    place = _place(x, axes, order, numbers)
    past_cache = int(y.nbytes >= PAST_CACHE_BYTES)
    flat, kinds = (_flat(x, order), _flat(y, order)), _kinds(x, y)
    if place.channels == 1 or place.inner >= _LONG_RUN:
        length = place.inner if place.channels > 1 else x.size
        pieces = -(-length // pixels.UNIT)
        plan = Planes(channels=place.channels, length=length, pieces=pieces, past_cache=past_cache)
        _run(pixels.runs, x.size // length * pieces, plan, *flat, (kinds, *place.numbers))
        return
    period = place.channels * place.inner
    times = -(-_PERIOD // period)
    columns = tuple(_repeated(v, place.inner, times) for v in place.numbers)
    units = -(-x.size // pixels.UNIT)
    plan_of_columns = Repeating(size=x.size, period=period * times, past_cache=past_cache)
    _run(pixels.columns, units, plan_of_columns, *flat, (kinds, *columns))


def _repeated(values: Array, inner: int, times: int) -> Array:
    columns = np.tile(np.repeat(values, inner), times)
    return np.concatenate([columns, columns[:32]])


def _place(x: Array, axes: tuple[int, ...], order: tuple[int, ...], numbers: Numbers) -> _Place:
    """The numbers laid out for the axes between the first and the last of those along which they change."""
    kept = [k for k in order if k in axes]
    if not kept:
        flat = Numbers(*(np.ascontiguousarray(v).reshape(-1) for v in numbers))
        return _Place(1, 1, x.size, flat)
    lengths = [x.shape[k] for k in order]
    first, last = order.index(kept[0]), order.index(kept[-1]) + 1
    short = [axes.index(k) for k in axes if k not in kept]
    moved = [axes.index(k) for k in kept]
    shape = [n if k in axes else 1 for k, n in zip(order[first:last], lengths[first:last], strict=True)]

    def laid_out(v: Array) -> Array:
        across = v.transpose(*short, *moved).reshape(shape)
        return np.ascontiguousarray(np.broadcast_to(across, lengths[first:last])).reshape(-1)

    flat = Numbers(*(laid_out(v) for v in numbers))
    return _Place(prod(lengths[:first]), prod(lengths[first:last]), prod(lengths[last:]), flat)


# Where channels change their place ------------------------------------------------------------------------------------


def _moved(
    x: Array, y: Array, axes: tuple[int, ...], orders: tuple[tuple[int, ...], tuple[int, ...]], numbers: Numbers
) -> bool:
    """Do it where one axis of channels is the last in one array and before others in the other; whether it was done."""
    if len(axes) != 1:
        return False
    (channel,), (own, order) = axes, orders
    rest = [k for k in own if k != channel]
    if channel not in own or rest != [k for k in order if k != channel]:
        return False
    if own[-1] == channel:
        kernel, before = pixels.to_first, order.index(channel)
    elif order[-1] == channel:
        kernel, before = pixels.to_last, own.index(channel)
    else:
        return False
    outer, length, channels = (
        prod(x.shape[k] for k in rest[:before]),
        prod(x.shape[k] for k in rest[before:]),
        x.shape[channel],
    )
    blocks = -(-length // pixels.POSITIONS)
    aligned = kernel is pixels.to_last or length * y.itemsize % _LINE == 0
    past_cache = int(y.nbytes >= PAST_CACHE_BYTES and aligned)
    plan = Moved(length=length, channels=channels, blocks=blocks, past_cache=past_cache)
    flat = tuple(np.ascontiguousarray(v).reshape(-1) for v in numbers)
    _run(kernel, outer * blocks, plan, _flat(x, own), _flat(y, order), (_kinds(x, y), *flat))
    return True


Function = Callable[[Array, Any], Array]


def by_definition(x: Array, y: Array, axes: tuple[int, ...], function: Function) -> None:
    """y = function(x in float64, k), k being what broadcasts statistics to x, some samples at a time, in NumPy."""
    index = tuple(slice(None) if a in axes else None for a in range(x.ndim))
    if not x.ndim:
        y[...] = function(x.astype(np.float64), ())
        return
    step = max(1, (1 << 16) // max(1, x[:1].size))
    with np.errstate(all="ignore"):
        for start in range(0, len(x), step):
            part = slice(start, start + step)
            k = (part, *index[1:]) if axes and axes[0] == 0 else index
            y[part] = function(x[part].astype(np.float64), k)
