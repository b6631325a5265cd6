"""The state of one array: which of its elements count, and their sums."""

from collections.abc import Iterator
from functools import partial
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn import _checks, _views
from fastbn._moments import Sums, from_sums, of_groups, unwarned
from fastbn.moments import _states
from fastbn.moments._states import Exact, State

Array = NDArray[Any]

_CHUNK = 1 << 15  # elements of x that are widened to float64 at a time: twice as many took three times as long each
_FLOAT64 = np.dtype(np.float64)


# Arguments ------------------------------------------------------------------------------------------------------------


def axes_of(value: Any) -> tuple[int, ...]:
    """The argument axis."""
    try:
        return tuple(_checks.integer(v, "axis") for v in value)
    except TypeError:
        return (_checks.integer(value, "axis"),)


def kept_axes(axes: tuple[int, ...], x: Array) -> tuple[int, ...]:
    """The axes of x whose indices have their own statistics, in x's order."""
    kept = sorted(_checks.axis(a, x) for a in axes)
    if len(set(kept)) < len(kept):
        raise ValueError(f"axis is {axes}, which names an axis of x, of shape {x.shape}, twice")
    return tuple(kept)


def read(value: Any, name: str) -> tuple[Array, Array | None]:
    """Floats, integers or booleans as the kernels take them, and which of them count if a mask tells."""
    x, counted = _checks.unmasked(value, name)
    if x.dtype.kind not in "iub":
        return _checks.array(x, name), counted
    x = x.astype(x.dtype.newbyteorder("="), copy=False)
    return x if x.flags.aligned else x.copy(), counted


def _beside(value: Any, name: str, x: Array) -> Array:
    """An array that NumPy broadcasts to the shape of x."""
    v = _checks.ndarray(value, name)
    try:
        np.broadcast_to(v, x.shape)
    except ValueError:
        raise ValueError(f"{name} has shape {v.shape}; expected one that broadcasts to {x.shape}, x's") from None
    return v


def mask_of(value: Any, x: Array) -> Array:
    mask = _beside(True if value is None else value, "where", x)
    if mask.dtype != np.bool_:
        raise TypeError(f"where has dtype {mask.dtype}; expected bool, true where an element counts")
    return mask


def _weights(value: Any, x: Array) -> Array:
    weights = _beside(1.0 if value is None else value, "weights", x)
    if weights.dtype.kind not in "iu":
        weights = _checks.array(weights, "weights")
    if weights.size and not (weights.min() >= 0 and weights.max() < np.inf):
        raise ValueError("weights holds a negative number, infinity or NaN; expected finite weights from 0 up")
    return weights


# Sums -----------------------------------------------------------------------------------------------------------------


def measured(value: Any, axes: tuple[int, ...], where: Any, weights: Any, name: str = "x") -> State:
    """The state of one array."""
    x, counted = read(value, name)
    kept = kept_axes(axes, x)
    mask, weight = mask_of(where, x), _weights(weights, x)
    everything = where is None and counted is None
    if counted is not None:
        mask = mask & counted
    if not x.size:
        return _states.nothing(tuple(x.shape[a] for a in kept))
    if x.dtype.kind in "iub" and weights is None:
        return _exact(x, kept, None if everything else mask)
    if everything and weights is None:
        again = partial(_of_all, x, kept)
    else:
        again = partial(_of_selected, x, kept, mask, weight)
    with unwarned():
        return _states.rescued(again(), again) if x.dtype == _FLOAT64 else again()


def _of_all(x: Array, kept: tuple[int, ...], power: int = 0) -> Sums:
    """The state of all elements of x times 2**-power."""
    if power == 0:
        if len(kept) == 1 and x.ndim > 1:
            return of_groups(x, _views.batch_view, *kept)
        if kept == tuple(range(len(kept))):
            return of_groups(x, _views.layer_view, x.ndim - len(kept))
        if len(kept) == 2 and kept[0] == 0:
            return of_groups(x, _views.group_view, kept[1], x.shape[kept[1]])
    return _of_selected(x, kept, np.array(True), np.array(1.0), power)


def _arranged(kept: tuple[int, ...], x: Array, *beside: Array) -> list[Array]:
    """The arrays, of the shape of x, with the kept axes first and the others as they lie in memory."""
    reduced = sorted(set(range(x.ndim)) - set(kept), key=lambda a: -abs(x.strides[a]))
    return [np.broadcast_to(v, x.shape).transpose(*kept, *reduced) for v in (x, *beside)]


def _of_selected(x: Array, kept: tuple[int, ...], where: Array, weights: Array, power: int = 0) -> Sums:
    """The state of the selected elements times 2**-power, chunk by chunk."""
    x, where, weights = _arranged(kept, x, where, weights)
    shape = x.shape[: len(kept)]
    groups = max(1, prod(shape))
    state: State = _states.nothing(shape)
    for place in _chunks(x.shape[len(kept) :], max(1, _CHUNK // groups)):
        part = (*[slice(None)] * len(kept), *place)
        chunk, weight = (v[part].reshape(groups, -1).astype(np.float64) for v in (x, weights))
        selected = where[part].reshape(groups, -1) & (weight > 0)
        with unwarned():
            chunk = np.ldexp(chunk, -power) if power else chunk
        sums = _weighted_sums(chunk, np.where(selected, weight, 0.0), selected)
        state = _states.merged(state, from_sums(*(v.reshape(shape) for v in sums)))
    return _states.as_sums(state)


def _weighted_sums(x: Array, w: Array, selected: Array) -> tuple[Array, Array, Array, Array]:
    """Of every row the weight, the first selected element, and the weighted sums of d and d^2 about it."""
    rows = np.arange(len(x))
    first = selected.argmax(axis=1)
    shift = np.where(selected[rows, first], x[rows, first], 0.0)
    with unwarned():
        d = np.where(selected, x - shift[:, None], 0.0)
        wd = w * d
        return w.sum(axis=1), shift, wd.sum(axis=1), (wd * d).sum(axis=1)


def _exact(x: Array, kept: tuple[int, ...], where: Array | None) -> Exact:
    """The count and exact sums of the selected integers or booleans; without a mask, of all of them."""
    x = x.view(np.uint8) if x.dtype == bool else x
    x, selected = _arranged(kept, x, np.array(True) if where is None else where)
    shape = x.shape[: len(kept)]
    groups = max(1, prod(shape))
    state = _states.nothing(shape)
    for place in _chunks(x.shape[len(kept) :], max(1, _CHUNK // groups)):
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


def _chunks(shape: tuple[int, ...], most: int) -> Iterator[tuple[int | slice, ...]]:
    """Indices that cut an array of this shape into parts of at most so many elements."""
    if not shape:
        yield ()
        return
    axis = next(a for a in range(len(shape)) if prod(shape[a + 1 :]) <= most)
    step = most // max(1, prod(shape[axis + 1 :]))
    for lead in np.ndindex(*shape[:axis]):
        for start in range(0, shape[axis], step):
            yield *lead, slice(start, start + step)
