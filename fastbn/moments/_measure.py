"""The state of one array: which of its elements count, and their sums."""

from functools import partial
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn._moments import Sums, from_sums, of_groups, unwarned
from fastbn.engine import arguments, forward, plans, views
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
    if type(value) is int:
        return (value,)
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
    return arguments.numbers(x, name), counted


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


def without_nan(x: Any, mask: Any) -> Any:
    """The mask, and no NaN."""
    values = np.asarray(x.data if isinstance(x, np.ma.MaskedArray) else x)
    if values.dtype.kind in "iub":
        return mask
    with unwarned():
        known = values == values
    return known if mask is None else mask_of(mask, values) & known


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


_again: dict[Any, Any] = {}  # shape, dtype, flags and axes of arrays -> what measures others like them
_MOST = 1024  # of these
plans.elsewhere.append(_again)


def measured(value: Any, axes: tuple[int, ...], where: Any, weights: Any, name: str = "x") -> State:
    """The state of one array."""
    if where is None and weights is None and type(value) is np.ndarray:
        again = _again.get((value.shape, value.dtype, value.flags.num, axes))
        if again is not None:  # beside a kernel, each step of Python is slow whose code has left the cache
            state: State = again(value)
            return state
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
        if x is value and x.flags.c_contiguous and (how := _view_of(x, kept)):
            _remember((x.shape, x.dtype, x.flags.num, axes), x, kept, how)
    else:
        mask, weight = np.array(True) if mask is None else mask, np.array(1.0) if weight is None else weight
        sum_up = partial(_of_selected, x, kept, mask, weight)
    with unwarned():
        return _states.rescued(sum_up(), sum_up) if x.dtype == _FLOAT64 else sum_up()


def _of_all(x: Array, kept: tuple[int, ...], power: int = 0) -> Sums:
    """The state of all elements of x times 2**-power."""
    how = None if power else _view_of(x, kept)
    if how is not None:
        return of_groups(x, *how)
    return _of_selected(x, kept, np.array(True), np.array(1.0), power)


def _view_of(x: Array, kept: tuple[int, ...]) -> tuple[Any, ...] | None:
    """A function of `views` that has these groups, and its arguments, if there is one."""
    if len(kept) == 1 and x.ndim > 1:
        return views.batch_view, *kept
    if kept == tuple(range(len(kept))):
        return views.layer_view, x.ndim - len(kept)
    if len(kept) == 2 and kept[0] == 0:
        return views.group_view, kept[1], x.shape[kept[1]]
    return None


def _remember(key: Any, x: Array, kept: tuple[int, ...], how: tuple[Any, ...]) -> None:
    """Have arrays like x measured in fewer steps from now on."""
    sum_up = forward.plan_of_sums((how[0], how[1:]), (x,))
    shape, wide = tuple(x.shape[a] for a in kept), x.dtype == _FLOAT64
    n = np.full(shape, x.size / prod(shape))
    n.flags.writeable = False

    def again(x: Array) -> Sums:
        with unwarned():
            shift, s, q = sum_up(x)
            offset = s / n
            sums = Sums(n, shift, offset, np.maximum(q - s * offset, 0.0))
            return _states.rescued(sums, partial(_of_all, x, kept)) if wide else sums

    if len(_again) >= _MOST:
        _again.clear()
    _again[key] = again


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
