"""The state of one array: which of its elements count, and their sums."""

from functools import partial
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn._moments import Sums, from_sums, of_groups, unwarned
from fastbn.engine import arguments, views
from fastbn.moments import _states
from fastbn.moments._chunks import CHUNK, LARGE_CHUNK, arranged, chunks
from fastbn.moments._integers import exact
from fastbn.moments._selected import selected_sums
from fastbn.moments._states import State

Array = NDArray[Any]

_FLOAT64 = np.dtype(np.float64)
_LEAST = 512  # elements: for fewer, NumPy does as well
_MUCH_LESS = 16  # times as few elements may be made beside x


# Arguments ------------------------------------------------------------------------------------------------------------


def axes_of(value: Any) -> tuple[int, ...]:
    """The argument axis."""
    try:
        return tuple(arguments.integer(v, "axis") for v in value)
    except TypeError:
        return (arguments.integer(value, "axis"),)


def kept_axes(axes: tuple[int, ...], x: Array) -> tuple[int, ...]:
    """The axes of x whose indices have their own statistics, in x's order."""
    kept = sorted(arguments.axis(a, x) for a in axes)
    if len(set(kept)) < len(kept):
        raise ValueError(f"axis is {axes}, which names an axis of x, of shape {x.shape}, twice")
    return tuple(kept)


def read(value: Any, name: str) -> tuple[Array, Array | None]:
    """Floats, integers or booleans as the kernels take them, and which of them count if a mask tells."""
    x, counted = arguments.unmasked(value, name)
    if x.dtype.kind not in "iub":
        return arguments.array(x, name), counted
    x = x.astype(x.dtype.newbyteorder("="), copy=False)
    return x if x.flags.aligned else x.copy(), counted


def _beside(value: Any, name: str, x: Array) -> Array:
    """An array that NumPy broadcasts to the shape of x."""
    v = arguments.ndarray(value, name)
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
    weights = _beside(value, "weights", x)
    if weights.dtype == np.bool_:
        raise TypeError("weights has dtype bool; expected numbers, or where=, which takes what counts as booleans")
    if weights.dtype.kind not in "iu":
        weights = arguments.array(weights, "weights")
    if weights.size and not (weights.min() >= 0 and weights.max() < np.inf):
        raise ValueError("weights holds a negative number, infinity or NaN; expected finite weights from 0 up")
    return weights


# Sums -----------------------------------------------------------------------------------------------------------------


def measured(value: Any, axes: tuple[int, ...], where: Any, weights: Any, name: str = "x") -> State:
    """The state of one array."""
    x, counted = read(value, name)
    kept = kept_axes(axes, x)
    everything = where is None and counted is None
    mask = None if everything else mask_of(where, x)
    weight = None if weights is None else _weights(weights, x)
    if mask is not None and counted is not None:
        mask = mask & counted
    if not x.size:
        return _states.nothing(tuple(x.shape[a] for a in kept))
    if x.dtype.kind in "iub" and weight is None:
        return exact(x, kept, mask)
    if mask is None and weight is None:
        sum_up = partial(_of_all, x, kept)
    else:
        mask, weight = np.array(True) if mask is None else mask, np.array(1.0) if weight is None else weight
        sum_up = partial(_of_selected, x, kept, mask, weight)
    with unwarned():
        return _states.rescued(sum_up(), sum_up) if x.dtype == _FLOAT64 else sum_up()


def _of_all(x: Array, kept: tuple[int, ...], power: int = 0) -> Sums:
    """The state of all elements of x times 2**-power."""
    if power == 0:
        if len(kept) == 1 and x.ndim > 1:
            return of_groups(x, views.batch_view, *kept)
        if kept == tuple(range(len(kept))):
            return of_groups(x, views.layer_view, x.ndim - len(kept))
        if len(kept) == 2 and kept[0] == 0:
            return of_groups(x, views.group_view, kept[1], x.shape[kept[1]])
    return _of_selected(x, kept, np.array(True), np.array(1.0), power)


def _of_selected(x: Array, kept: tuple[int, ...], where: Array, weights: Array, power: int = 0) -> Sums:
    """The state of the selected elements times 2**-power."""
    by_kernels = power == 0 and x.size >= _LEAST
    w = _together(where, weights, x.size) if by_kernels else None
    state = None if w is None else selected_sums(x, kept, w)
    return _by_chunks(x, kept, (where, weights), power, by_kernels) if state is None else state


def _together(where: Array, weights: Array, size: int) -> Array | None:
    """Weights that are 0 where no element counts, or a mask, as kernels read them; None: it would be too large."""
    if weights.ndim == 0 and weights == 1:
        return where
    if where.ndim == 0 and where and weights.dtype in (np.float32, np.float64):
        return weights
    if prod(np.broadcast_shapes(where.shape, weights.shape)) > size // _MUCH_LESS:
        return None
    return np.where(where, weights.astype(np.float64), 0.0)


def _by_chunks(x: Array, kept: tuple[int, ...], beside: tuple[Array, Array], power: int, by_kernels: bool) -> Sums:
    x, where, weights = arranged(kept, x, *beside)
    shape = x.shape[: len(kept)]
    groups = max(1, prod(shape))
    state: State = _states.nothing(shape)
    for place in chunks(x.shape[len(kept) :], max(1, (LARGE_CHUNK if by_kernels else CHUNK) // groups)):
        part = (*[slice(None)] * len(kept), *place)
        chunk, weight, counts = (v[part].reshape(groups, -1) for v in (x, weights, where))
        weight = np.where(counts, weight.astype(np.float64), 0.0)
        if by_kernels:
            sums = selected_sums(np.ascontiguousarray(chunk), (0,), np.ascontiguousarray(weight))
            assert sums is not None, "both are contiguous"
        else:
            sums = from_sums(*_weighted_sums(_times_power(chunk.astype(np.float64), -power), weight, weight > 0))
        state = _states.merged(state, Sums(*(np.broadcast_to(v, groups).reshape(shape) for v in sums)))
    return _states.as_sums(state)


def _times_power(x: Array, power: int) -> Array:
    with unwarned():
        return np.ldexp(x, power) if power else x


def _weighted_sums(x: Array, w: Array, selected: Array) -> tuple[Array, Array, Array, Array]:
    """Of every row the weight, the first selected element, and the weighted sums of d and d^2 about it."""
    rows = np.arange(len(x))
    first = selected.argmax(axis=1)
    shift = np.where(selected[rows, first], x[rows, first], 0.0)
    with unwarned():
        d = np.where(selected, x - shift[:, None], 0.0)
        wd = w * d
        return w.sum(axis=1), shift, wd.sum(axis=1), (wd * d).sum(axis=1)
