"""Exact sums of integers and of their squares."""

from math import gcd, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn.engine import pace, views
from fastbn.engine.arrays import writable
from fastbn.kernels import numbers, pixels
from fastbn.kernels.plans import SumsOfColumns, SumsOfRuns
from fastbn.moments import _states
from fastbn.moments._chunks import CHUNK, arranged, chunks
from fastbn.moments._states import Exact

Array = NDArray[Any]

_LEAST = 4096  # elements: for fewer, NumPy is as fast
_LONG_RUN = 1024  # elements of a run that is summed by itself
_WIDEST = 4096  # columns that a few are repeated to at most, so that vectors are full
_FEW_ROWS = 16  # of columns: so many take no less time than their sums


def exact(x: Array, kept: tuple[int, ...], where: Array | None) -> Exact:
    """The count and exact sums of the selected integers or booleans; without a mask, of all of them."""
    x = x.view(np.uint8) if x.dtype == bool else x
    if where is None and x.itemsize <= 2 and x.size >= _LEAST:
        state = _by_kernels(x, kept)
        if state is not None:
            return state
    return _by_limbs(x, kept, where)


# By kernels -----------------------------------------------------------------------------------------------------------


def _by_kernels(x: Array, kept: tuple[int, ...]) -> Exact | None:
    """Of integers of 8 or 16 bits; None where the kept axes lie so that no kernel would be quick."""
    order = views.memory_order(x)
    if order is False:
        x = x.copy(order="K")
        order = views.memory_order(x)
        assert order is not False
    axes = tuple(range(x.ndim)) if order is None else order
    lengths = [x.shape[a] for a in axes]
    places = [k for k, a in enumerate(axes) if a in kept]
    first, last = (places[0], places[-1] + 1) if places else (0, 0)
    outer, inner = prod(lengths[:first]), prod(lengths[last:])
    block = lengths[first:last]
    groups = prod(block)
    flat = writable(x.transpose(axes).reshape(-1))
    sums = _of_runs(flat, groups, inner) if inner >= _LONG_RUN else _of_columns(flat, outer, groups, inner)
    if sums is None:
        return None
    if places:  # axes between the kept ones are summed as well, and the kept ones come in x's order
        between = tuple(k for k in range(len(block)) if axes[first + k] not in kept)
        sums = _summed(sums.reshape(2, *block), tuple(k + 1 for k in between))
        given = [a for a in axes[first:last] if a in kept]
        sums = sums.transpose(0, *(1 + given.index(a) for a in kept))
    else:
        sums = sums.reshape(2)
    n = np.full(sums.shape[1:], x.size // max(1, prod(sums.shape[1:])), np.int64)
    return Exact(n, sums[0], sums[1])


def _summed(sums: Array, axes: Any) -> Array:
    """The sum over some axes, in Python's integers where int64 might overflow."""
    terms = prod(sums.shape[a] for a in (axes if isinstance(axes, tuple) else (axes,)))
    largest = max(abs(int(sums.max())), abs(int(sums.min()))) if sums.size else 0
    wide = sums if sums.dtype == np.int64 and largest * terms < 1 << 63 else sums.astype(object)
    return np.asarray(wide.sum(axis=axes))


def _of_runs(x: Array, groups: int, inner: int) -> Array:
    """The sums, and those of squares, of x seen as (any, groups, inner)."""
    pieces = -(-inner // pixels.UNIT)
    units = x.size // inner * pieces
    sums = np.empty((units, 2), np.int64)
    _run(pixels.sums_of_runs, units, SumsOfRuns(length=inner, pieces=pieces), x, sums)
    return _summed(sums.reshape(-1, groups, pieces, 2), (0, 2)).T


def _of_columns(x: Array, outer: int, groups: int, inner: int) -> Array | None:
    """The same by columns, of which there are groups * inner; None if they have too few rows."""
    period = groups * inner
    width = period * numbers.COLUMNS // gcd(period, numbers.COLUMNS)
    width = width if width <= _WIDEST else period
    rows = x.size // width
    if rows < _FEW_ROWS:
        return None
    of_unit = max(_FEW_ROWS, 2 * pixels.UNIT // width)
    units = -(-rows // of_unit)
    sums = np.zeros((units, 2, width), np.int64)
    _run(pixels.sums_of_columns, units, SumsOfColumns(rows=rows, width=width, of_unit=of_unit), x, sums)
    total = _summed(_summed(sums, 0).reshape(2, -1, period), 1)
    rest = x[rows * width :].reshape(-1, period)  # fewer rows than were taken as one
    if rest.size:
        total = total + np.stack(_sums_of_limbs(rest.T))
    return _summed(total.reshape(2, groups, inner), 2)


def _run(kernel: Any, units: int, plan: tuple[int, ...], x: Array, sums: Array) -> None:
    told = np.array(plan, np.int64)

    def run(threads: int) -> None:
        kernel[threads > 1](units, told, x, sums.reshape(-1))

    pace.with_team((kernel.serial.__name__, x.dtype, *plan, units), x.nbytes, run)


# By NumPy -------------------------------------------------------------------------------------------------------------


def _by_limbs(x: Array, kept: tuple[int, ...], where: Array | None) -> Exact:
    """The count and exact sums of the selected integers or booleans; without a mask, of all of them."""
    x, selected = arranged(kept, x, np.array(True) if where is None else where)
    shape = x.shape[: len(kept)]
    groups = max(1, prod(shape))
    state = _states.nothing(shape)
    for place in chunks(x.shape[len(kept) :], max(1, CHUNK // groups)):
        part = (*[slice(None)] * len(kept), *place)
        chunk, counts = x[part].reshape(groups, -1), selected[part].reshape(groups, -1)
        n = counts.sum(axis=1, dtype=np.int64)
        sums = _sums_of_limbs(np.where(counts, chunk, chunk.dtype.type(0)))
        added = _states.merged(state, Exact(*(v.reshape(shape) for v in (n, *sums))))
        assert isinstance(added, Exact)
        state = added
    return state


def _sums_of_limbs(x: Array) -> tuple[Array, Array]:
    """The sums of integers and of their squares over each row, from pieces of 16 bits, whose products are small."""
    if x.itemsize <= 2:
        v = x.astype(np.int64)
        return v.sum(axis=1), (v * v).sum(axis=1)
    integer = x.dtype.type
    limbs = [x >> integer(16 * k) for k in range(x.itemsize // 2)]
    limbs = [(v & integer(0xFFFF)).astype(np.int64) for v in limbs[:-1]] + [limbs[-1].astype(np.int64)]
    s: Any = sum(v.sum(axis=1).astype(object) << 16 * k for k, v in enumerate(limbs))
    q: Any = sum(
        (u * v).sum(axis=1).astype(object) << 16 * (j + k) for j, u in enumerate(limbs) for k, v in enumerate(limbs)
    )
    sums, squares = (_states.integers([int(v) for v in total], total.shape) for total in (s, q))
    return sums, squares
