"""The steps that all operations share: checked arguments -> view -> kernel -> result as the caller sees it."""

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastbn import _checks, _launch, _memory, _runtime, _views
from fastbn.kernels import activations, columns, runs

Array = NDArray[Any]
ViewOf = Callable[..., _views.View | None]

_EMPTY = np.empty(0)


# Memory ---------------------------------------------------------------------------------------------------------------


class _Alias:
    """Another array over the memory of a read-only one: kernels take one array type and never write to inputs."""

    def __init__(self, array: Array) -> None:
        self.array = array
        interface = array.__array_interface__
        self.__array_interface__ = interface | {"data": (interface["data"][0], False)}


def flattened(a: Array, order: Any = None) -> Array:
    """A contiguous array as the kernels take it: one axis, in memory order, half precision by its bits."""
    a = np.asarray(a)  # a matrix would stay two-dimensional
    flat = (a if order is None else a.transpose(order)).reshape(-1)
    if flat.itemsize == 2:
        flat = flat.view(np.uint16 if flat.dtype == np.float16 else np.int16)
    return flat if flat.flags.writeable else np.asarray(_Alias(flat))


def _inverse(order: Any) -> list[int]:
    return sorted(range(len(order)), key=order.__getitem__)


def seen(x: Array, view_of: ViewOf, *args: Any) -> tuple[Array, Any, _views.View]:
    """x, its memory order and its view; x is copied where no kernel reads it as it lies."""
    order = _views.memory_order(x)
    if order is False:  # holes or overlaps: the same order without them
        x = x.copy(order="K")
        order = _views.memory_order(x)
    view = view_of(x.shape, order, *args)
    if view is None:
        x, order = np.ascontiguousarray(x), None
        view = view_of(x.shape, None, *args)
        assert view is not None, "every operation reads C-contiguous arrays"
    return x, order, view


def in_order(a: Array, order: Any) -> Array:
    """a with the given memory order, copied if it has another."""
    if order is None:
        return np.ascontiguousarray(a)
    return np.ascontiguousarray(a.transpose(order)).transpose(_inverse(order))


def _flat_like(a: Array | None, shape: tuple[int, ...], order: Any) -> Array | None:
    """An array, if there is one, as the kernels take it, broadcast and in the given memory order."""
    if a is None:
        return None
    flat = flattened(in_order(np.broadcast_to(a, shape), order), order)
    return flat.view(np.uint8) if flat.dtype == bool else flat


def target(x: Array, order: Any, out: Array | None) -> Array:
    """`out` if it has the memory order that is written, else a new array."""
    if out is not None and (out if order is None else out.transpose(order)).flags.c_contiguous:
        return out
    if order is None:
        return _memory.empty(x.shape, x.dtype)
    return _memory.empty([x.shape[a] for a in order], x.dtype).transpose(_inverse(order))


def _deliver(y: Array, out: Array | None) -> Array:
    """The result in `out`, if there is one and it was not written in place."""
    if out is None or out is y:
        return y
    out[...] = y
    return out


# Weights and statistics -----------------------------------------------------------------------------------------------


def flat_weights(w: Array | None, view: _views.View) -> Array | None:
    """A weight or bias, flat, in the order of the elements in memory."""
    if w is None or view.weight_order is None:
        return w if w is None else flattened(w)
    shape, tail = view.weight_order
    return w.reshape(shape).transpose(tail).reshape(-1)


def shaped_gradient(g: Array, view: _views.View, given: Array | None, shape: tuple[int, ...]) -> Array:
    """A weight's gradient in the weight's own order, shape and dtype."""
    if view.weight_order is not None:
        lengths, tail = view.weight_order
        g = g.reshape([lengths[a] for a in tail]).transpose(_inverse(tail))
    g = g.reshape(shape)
    return g if given is None else g.astype(given.dtype, copy=False)


def _statistics(values: Array, view: _views.View) -> Array:
    """Flat statistics in the shape that users see."""
    values = values.reshape(view.stats_shape)
    return values if view.stats_axes is None else values.transpose(view.stats_axes)


def flat_statistics(values: Array, view: _views.View) -> Array:
    """What users see, flat in memory order."""
    if view.stats_axes is not None:
        values = values.transpose(_inverse(view.stats_axes))
    return flattened(np.ascontiguousarray(values))


def rstd(var: Array, eps: float) -> Array:
    """1/sqrt(var + eps)."""
    if not eps:
        with np.errstate(divide="ignore"):  # a constant group
            return np.asarray(1.0 / np.sqrt(var + eps))
    values = np.asarray(var + eps)
    np.sqrt(values, values)
    return np.divide(1.0, values, values)


# Calls ----------------------------------------------------------------------------------------------------------------


def normalize(
    x: Array,
    view_of: ViewOf,
    args: tuple[Any, ...],
    w: Array | None,
    b: Array | None,
    eps: float,
    out: Array | None,
    keep: bool,
    centered: bool = True,
    key: Any = None,
    also: _checks.Also = _checks.NOTHING,
) -> tuple[Array, Array, Array]:
    """y, mean and variance of checked arguments; not centered: mean is empty and the variance a mean square.

    keep: whether the statistics are wanted; they are empty if not.  key: what to remember the call by, see `key`.
    """
    x, order, view = seen(x, view_of, *args)
    mean = np.empty(view.groups) if keep and centered else _EMPTY
    var = np.empty(view.groups) if keep else _EMPTY
    y = target(x, order, out)
    if x.size:
        affine, more = (flat_weights(w, view), flat_weights(b, view)), _more(also, x, order)
        counts = None if also.counts is None else flat_statistics(also.counts, view)
        call = _launch.Forward(
            flattened(x, order), flattened(y, order), *affine, eps, mean, var, centered, more, counts
        )
        _launch.forward(view, call)
        _remember(key, x, order, view, eps, centered)
    elif keep:
        mean[...], var[...] = np.nan, np.nan  # of nothing
    y = _deliver(y, out)
    if not keep:
        return y, mean, var
    return y, _statistics(mean, view) if centered else mean, _statistics(var, view)


def _more(also: _checks.Also, x: Array, order: Any, dy: Array | None = None) -> tuple[Any, ...] | None:
    """What kernels take beside weights and biases, or None; dy: flat."""
    if also is _checks.NOTHING:
        return None
    residual, where = (_flat_like(a, x.shape, order) for a in (also.residual, also.where))
    return residual, activations.packed(also.activation), where, dy


def normalize_sum(
    x: Array,
    residual: Array,
    trailing: int,
    w: Array | None,
    b: Array | None,
    eps: float,
    out: Array | None,
    centered: bool,
) -> tuple[Array, Array, Array, Array]:
    """y, x + residual, and of this sum mean and variance over the trailing axes; arguments are checked."""
    x, residual = np.ascontiguousarray(x), np.ascontiguousarray(residual)
    view: Any = _views.layer_view(x.shape, None, trailing)
    mean, var = np.empty(view.groups) if centered else _EMPTY, np.empty(view.groups)
    y, summed = target(x, None, out), target(x, None, None)
    if x.size:
        both, affine = (flattened(x), flattened(residual)), (flat_weights(w, view), flat_weights(b, view))
        call = _launch.Forward(both, flattened(y), *affine, eps, mean, var, centered, summed=flattened(summed))
        _launch.forward(view, call)
    else:
        mean[...], var[...] = np.nan, np.nan
    y = _deliver(y, out)
    return y, summed, _statistics(mean, view) if centered else mean, _statistics(var, view)


def sums(x: Array, view_of: ViewOf, args: tuple[Any, ...]) -> tuple[Array, Array, Array]:
    """An element of every group of x, checked and not empty, and the sums of d and d^2; d: the distance from it."""
    x, order, view = seen(x, view_of, *args)
    shift, s, q = np.empty(view.groups), np.empty(view.groups), np.empty(view.groups)
    _launch.sums(view, flattened(x, order), shift, s, q)
    return _statistics(shift, view), _statistics(s, view), _statistics(q, view)


def apply(
    x: Array,
    axis: int,
    w: Array | None,
    b: Array | None,
    eps: float,
    mean: Array,
    var: Array,
    out: Array | None,
    key: Any = None,
    also: _checks.Also = _checks.NOTHING,
) -> Array:
    """Normalize every channel of x with given statistics; key: what to remember the call by, see `key`."""
    x, order, view = seen(x, _views.batch_view, axis, False)
    y = target(x, order, out)
    if x.size:
        affine, more = (flat_weights(w, view), flat_weights(b, view)), _more(also, x, order)
        statistics = flattened(mean), flattened(var)
        _launch.apply(
            view, _launch.Forward(flattened(x, order), flattened(y, order), *affine, eps, *statistics, more=more)
        )
        _remember(key, x, order, view, eps, True)
    return _deliver(y, out)


def differentiate(
    dy: Array,
    x: Array,
    mean: Array | None,
    rstd: Array,
    view_of: ViewOf,
    args: tuple[Any, ...],
    weight: Array | None,
    shape: tuple[int, ...],
    out: Array | None,
    through_statistics: bool = True,
    also: _checks.Also = _checks.NOTHING,
    bias: Array | None = None,
    dsum: Array | None = None,
    key: Any = None,
) -> Any:
    """dx, dweight, dbias, and dresidual where there is a residual, of checked arguments.

    mean: None for RMS norm; weight, bias: of the given shape, any dtype; dsum: what is added to dx; key: what to
    remember the call by, see `key`.
    """
    x, order, view = seen(x, view_of, *args)
    dy = in_order(dy, order)
    dx = target(x, order, out)
    # The gradient before the activation: that of a residual if there is one, else it waits where dx will be.
    inner = also.activation is not None or (also.residual is not None and also.where is not None)
    dz = dy
    if also.residual is not None:
        dz = target(x, order, None) if inner else dy.copy(order="K")
    elif inner:
        dz = dx if not np.may_share_memory(dx, x) else target(x, order, None)
    compute = _checks.COMPUTED_IN[x.dtype]
    dweight, dbias = np.zeros(view.weights, compute), np.zeros(view.weights, compute)
    if x.size:
        w, b = (flat_weights(None if v is None else np.ascontiguousarray(v, compute), view) for v in (weight, bias))
        m, counts = (None if v is None else flat_statistics(v, view) for v in (mean, also.counts))
        r, gx = flat_statistics(rstd, view), flattened(dx, order)
        more = _more(also, x, order, flattened(dy, order) if inner else None)
        added = _flat_like(dsum, x.shape, order)
        call = _launch.Backward(flattened(dz, order), flattened(x, order), gx, w, m, r, counts, added, b, more)
        if through_statistics:
            _launch.backward(view, call, dweight, dbias)
            if weight is None or weight.dtype == compute:
                _remember(key, x, order, view, 0.0, mean is not None, shape)
        else:
            _launch.backward(view, call._replace(dx=None), dweight, dbias)
            scale = _launch.Forward(call.dy, gx, w, None, 0.0, np.zeros(view.groups), 1.0 / (r * r))
            _launch.apply(view, scale if call.where is None else scale._replace(more=(None, None, call.where, None)))
    gradients = (
        _deliver(dx, out),
        shaped_gradient(dweight, view, weight, shape),
        shaped_gradient(dbias, view, weight, shape),
    )
    return gradients if also.residual is None else (*gradients, dz)


# Calls like an earlier one --------------------------------------------------------------------------------------------

# On a small array the checks cost more than the arithmetic.  What a call that passed them all came to is remembered by
# everything that decided it; the next one like it, of ordinary arrays, goes straight to the kernel.


class _Remembered(NamedTuple):
    view: _views.View
    eps: float
    centered: bool
    by_channel: bool
    units: int  # of a forward
    pieces: int  # of a group, by runs
    compute: np.dtype[Any]
    weights: tuple[int, ...]  # their shape, for their gradients


_remembered: dict[Any, _Remembered] = {}
_MOST_REMEMBERED = 1024
_ORDINARY = 0x1 | 0x100 | 0x400  # flags of an array that is C-contiguous, aligned and writeable
_OWN = 0x4  # of one with memory of its own, which no other such array overlaps

recalled = _remembered.get


def key(what: Any, arrays: tuple[Any, ...], out: Any = None, like: int = 1, updated: tuple[Any, ...] = ()) -> Any:
    """All that decides a call; None where its arrays are not ordinary or one that is written may overlap another.

    what: the operation and its numbers; arrays: the first is like `out`, which may be one of the first `like` (1 or 2);
    updated: those that are written, too.
    """
    flags, decisive = _ORDINARY | _OWN, [what]
    for a in arrays:
        if type(a) is np.ndarray:
            flags &= a.flags.num
            decisive += a.shape, a.dtype
        elif a is None:
            decisive.append(None)
        else:
            return None
    if out is not None:
        updated = (out, *updated)
        if out is not arrays[0] and (like == 1 or out is not arrays[1]):
            if type(out) is not np.ndarray or out.shape != decisive[1] or out.dtype != decisive[2]:
                return None
            flags &= out.flags.num
            arrays = (out, *arrays)
    if flags & _ORDINARY != _ORDINARY or (updated and not _apart(arrays, updated, flags & _OWN)):
        return None
    return tuple(decisive)


def _apart(arrays: tuple[Any, ...], written: tuple[Any, ...], own: int) -> bool:
    """Whether what is written surely overlaps nothing else; own: not 0 if all arrays have memory of their own."""
    near: Any = operator.is_ if own else np.may_share_memory
    present = [a for a in arrays if a is not None]
    return all(sum([near(a, b) for b in present]) == 1 for a in written if a is not None)  # itself


def unchanged(key: Any, checked: tuple[Any, ...], given: tuple[Any, ...]) -> Any:
    """The key, if the checks took the arrays as they were given, so that the next ones may be taken so."""
    return key if all(a is b for a, b in zip(checked, given, strict=True)) else None


def _remember(
    key: Any, x: Array, order: Any, view: _views.View, eps: float, centered: bool, weights: tuple[int, ...] = ()
) -> None:
    if key is None or order is not None:
        return
    if len(_remembered) >= _MOST_REMEMBERED:
        _remembered.clear()
    if view.columns:
        units, pieces = view.blocks * _launch.extent(view)[1], 0
    else:
        count, units, parts, length, _ = view.geometry
        pieces = runs.pieces(count, parts * length)
    by_channel, compute = view.affine == "channel", _checks.COMPUTED_IN[x.dtype]
    _remembered[key] = _Remembered(view, eps, centered, by_channel, units, pieces, compute, weights)


def _flat(a: Array) -> Array:
    """As `flattened` gives an ordinary array."""
    return flattened(a) if a.itemsize == 2 else a.ravel()


def _place(x: Array, out: Array | None) -> Array:
    if out is not None:
        return out
    return np.empty(x.shape, x.dtype) if x.nbytes < _memory.LEAST else _memory.empty(x.shape, x.dtype)


def normalize_again(
    call: _Remembered, x: Array, w: Array | None, b: Array | None, out: Array | None, keep: bool
) -> tuple[Array, Array, Array]:
    """What `normalize` gives, for a call that is remembered."""
    view, eps, centered, by_channel, units, pieces, compute, _ = call
    mean = np.empty(view.groups) if keep and centered else _EMPTY
    var = np.empty(view.groups) if keep else _EMPTY
    y = _place(x, out)
    w, b = w if w is None else w.ravel(), b if b is None else b.ravel()
    affine = (w, b, None, None) if by_channel else (None, None, w, b)
    if x.nbytes >= _runtime.SERIAL_BYTES:
        _launch.forward(view, _launch.Forward(_flat(x), _flat(y), w, b, eps, mean, var, centered))
    elif view.columns:
        mean, var = (mean, var) if keep else (np.empty(view.groups), np.empty(view.groups))
        rest = eps, centered, 0, mean, var, np.empty(0, compute), None, None
        columns.forward.serial(units, _flat(x), _flat(y), view.geometry, *affine, *rest)
    else:
        memory = 0, 0, mean, var
        runs.forward.serial(
            units, _flat(x), _flat(y), view.geometry, pieces, *affine, eps, centered, *memory, None, None, None
        )
    if keep and len(view.stats_shape) != 1:
        mean, var = mean.reshape(view.stats_shape) if centered else mean, var.reshape(view.stats_shape)
    return y, mean, var


def apply_again(
    call: _Remembered, x: Array, w: Array | None, b: Array | None, mean: Array, var: Array, out: Array | None
) -> Array:
    """What `apply` gives, for a call that is remembered."""
    view, eps, _, _, _, _, compute, _ = call
    y = _place(x, out)
    if x.nbytes >= _runtime.SERIAL_BYTES:
        _launch.apply(view, _launch.Forward(_flat(x), _flat(y), w, b, eps, mean, var))
    elif view.columns:
        statistics = mean.astype(np.float64, copy=False), var.astype(np.float64, copy=False)
        rest = eps, 0, *statistics, np.empty(0, compute), None
        columns.scale.serial(1, _flat(x), _flat(y), view.geometry, 1, w, b, None, None, *rest)
    else:
        count, groups, _, length, _ = view.geometry
        units = runs.pieces(count * groups, length)
        runs.scale.serial(units, _flat(x), _flat(y), view.geometry, w, b, eps, 0, mean, var, None)
    return y


def differentiate_again(
    call: _Remembered, dy: Array, x: Array, mean: Array | None, rstd: Array, w: Array | None, out: Array | None
) -> tuple[Array, Array, Array]:
    """What `differentiate` gives, for a call that is remembered."""
    view, shape = call.view, call.weights
    dx = _place(x, out)
    dweight, dbias = np.zeros(view.weights, call.compute), np.zeros(view.weights, call.compute)
    w, mean = w if w is None else w.ravel(), mean if mean is None else mean.ravel()
    backward = _launch.Backward(_flat(dy), _flat(x), _flat(dx), w, mean, rstd.ravel())
    _launch.backward(view, backward, dweight, dbias)
    return (dx, dweight, dbias) if len(shape) == 1 else (dx, dweight.reshape(shape), dbias.reshape(shape))
