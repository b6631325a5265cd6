"""Exact sums of integers and of their squares."""

from math import gcd, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn.engine.arrays import writable
from fastbn.kernels import numbers, pixels, selected
from fastbn.kernels.numbers import split_numbers
from fastbn.kernels.plans import SumsOfColumns, SumsOfRuns
from fastbn.kernels.simd import LANES
from fastbn.moments import _states
from fastbn.moments._chunks import CHUNK, LARGE_CHUNK, arranged, chunks
from fastbn.moments._laid import Beside, Laid, run, summed
from fastbn.moments._states import Exact, State

Array = NDArray[Any]

_LEAST = 1024  # elements: for fewer, NumPy is as fast
_LONG_RUN = 1024  # elements of a run that is summed by itself
_WIDEST = 4096  # columns that a few are repeated to at most, so that vectors are full
_FEW_ROWS = 16  # of columns: so many take no less time than their sums


def exact(x: Array, kept: tuple[int, ...], where: Array | None) -> Exact:
    """The count and exact sums of the selected integers or booleans; without a mask, of all of them."""
    x = x.view(np.uint8) if x.dtype == bool else x
    if x.size < _LEAST:
        return _by_chunks(x, kept, where, CHUNK, _by_limbs)
    state = _by_kernels(x, kept) if where is None and x.itemsize <= 2 else _by_halves(x, kept, where)
    return _by_chunks(x, kept, where, LARGE_CHUNK, _chunk_by_halves) if state is None else state


# By kernels -----------------------------------------------------------------------------------------------------------


def _by_kernels(x: Array, kept: tuple[int, ...]) -> Exact | None:
    """Of integers of 8 or 16 bits; None where the kept axes lie so that no kernel would be quick."""
    laid = Laid.of(x, kept)
    if laid is None:
        x = x.copy(order="K")
        laid = Laid.of(x, kept)
        assert laid is not None
    outer, groups, inner = laid.shape
    flat = writable(x.transpose(laid.axes).reshape(-1))
    sums = _of_runs(flat, groups, inner) if inner >= _LONG_RUN else _of_columns(flat, outer, groups, inner)
    if sums is None:
        return None
    sums = laid.of_kept(sums)
    n = np.full(sums.shape[1:], x.size // max(1, prod(sums.shape[1:])), np.int64)
    return Exact(n, sums[0], sums[1])


def _of_runs(x: Array, groups: int, inner: int) -> Array:
    """The sums, and those of squares, of x seen as (any, groups, inner)."""
    pieces = -(-inner // pixels.UNIT)
    units = x.size // inner * pieces
    sums = np.empty((units, 2), np.int64)
    run(pixels.sums_of_runs, units, SumsOfRuns(length=inner, pieces=pieces), (x, sums.reshape(-1)))
    return summed(sums.reshape(-1, groups, pieces, 2), (0, 2)).T


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
    plan = SumsOfColumns(rows=rows, width=width, of_unit=of_unit)
    run(pixels.sums_of_columns, units, plan, (x, sums.reshape(-1)))
    total = summed(summed(sums, 0).reshape(2, -1, period), 1)
    rest = x[rows * width :].reshape(-1, period)  # fewer rows than were taken as one
    if rest.size:
        total = total + np.stack(_sums_of_limbs(rest.T))
    return summed(total.reshape(2, groups, inner), 2)


def _by_halves(x: Array, kept: tuple[int, ...], where: Array | None) -> Exact | None:
    """Of integers of any kind, and a mask; None where they do not lie as a kernel reads them."""
    beside = Beside.of(x, kept, where)
    if beside is None:
        return None
    units, plan = beside.plan()
    parts = split_numbers(x.itemsize)
    if beside.columns:
        width = plan.groups * plan.inner
        sums = np.zeros((units // plan.pieces, -(-width // LANES), parts, LANES), np.int64)
        run(selected.split_columns, units, plan, (beside.x, beside.w, beside.kinds, sums.reshape(-1)))
        total = summed(sums, 0).transpose(1, 0, 2).reshape(parts, -1)[:, :width]
        total = summed(total.reshape(parts, plan.groups, plan.inner), 2)
    else:
        sums = np.empty((units // (plan.groups * plan.pieces), plan.groups, plan.pieces, parts), np.int64)
        run(selected.split_runs, units, plan, (beside.x, beside.w, beside.kinds, sums.reshape(-1)))
        total = summed(sums, (0, 2)).T
    return Exact(*_put_together(beside.laid.of_kept(total), x.dtype))


def _put_together(parts: Array, dtype: np.dtype[Any]) -> tuple[Array, Array, Array]:
    """The count, the sum and that of squares from what `numbers.add_split` adds up."""
    n, *rest = parts
    if dtype.itemsize < 8:
        s, low, high = rest
        return n, s, _joined(low, high)
    wide = [np.asarray(v.astype(object), object) for v in rest]
    s, *others = ((high << 32) + low for low, high in zip(wide[::2], wide[1::2], strict=True))
    q = others[0] + (others[1] << 33) + (others[2] << 64)
    if dtype == np.uint64:  # of each element less 2^63
        count = np.asarray(n.astype(object), object)
        s, q = s + (count << 63), q + (s << 64) + (count << 126)
    return n, _fitted(s), _fitted(q)


def _joined(low: Array, high: Array) -> Array:
    if low.dtype == high.dtype == np.int64 and max(high.max(initial=0), low.max(initial=0) >> 32) < 1 << 29:
        return np.asarray((high << 32) + low)
    return _fitted((high.astype(object) << 32) + low.astype(object))


def _fitted(values: Any) -> Array:
    values = np.asarray(values, object)
    return _states.integers([int(v) for v in values.ravel().tolist()], values.shape)


# Chunk by chunk -------------------------------------------------------------------------------------------------------


def _by_chunks(x: Array, kept: tuple[int, ...], where: Array | None, most: int, sums_of: Any) -> Exact:
    """The count and exact sums of the selected elements, of at most so many at a time."""
    x, mask = arranged(kept, x, np.array(True) if where is None else where)
    shape = x.shape[: len(kept)]
    groups = max(1, prod(shape))
    state: State = _states.nothing(shape)
    for place in chunks(x.shape[len(kept) :], max(1, most // groups)):
        part = (*[slice(None)] * len(kept), *place)
        found = sums_of(x[part].reshape(groups, -1), mask[part].reshape(groups, -1))
        state = _states.merged(state, Exact(*(v.reshape(shape) for v in found)))
    assert isinstance(state, Exact)
    return state


def _chunk_by_halves(x: Array, mask: Array) -> Exact:
    found = _by_halves(np.ascontiguousarray(x), (0,), np.ascontiguousarray(mask))
    assert found is not None, "both are contiguous"
    return found


def _by_limbs(x: Array, mask: Array) -> tuple[Array, Array, Array]:
    """By NumPy, of every row."""
    return mask.sum(axis=1, dtype=np.int64), *_sums_of_limbs(np.where(mask, x, x.dtype.type(0)))


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
