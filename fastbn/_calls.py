"""The steps that all operations share: checked arguments -> view -> kernel -> result as the caller sees it."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn import _checks, _launch, _memory, _runtime, _views
from fastbn._quiet import cast, quietly
from fastbn.kernels import activations

Array = NDArray[Any]
ViewOf = Callable[..., _views.View | None]

ONLY_Y, VARIANCE, RSTD = 0, 1, 2  # what is kept of a forward, beside the mean

_EMPTY = np.empty(0)


# Memory ---------------------------------------------------------------------------------------------------------------


class _Alias:
    """Another array over the memory of a read-only one: kernels take one array type and never write to inputs."""

    def __init__(self, array: Array) -> None:
        self.array = array
        interface = array.__array_interface__
        self.__array_interface__ = interface | {"data": (interface["data"][0], False)}


def bits_of(dtype: np.dtype[Any]) -> Any:
    """As what the kernels take elements of half precision; None for others."""
    if dtype.itemsize != 2:
        return None
    return np.uint16 if dtype == np.float16 else np.int16


def flattened(a: Array, order: Any = None) -> Array:
    """A contiguous array as the kernels take it: one axis, in memory order, half precision by its bits."""
    a = np.asarray(a)  # a matrix would stay two-dimensional
    flat = (a if order is None else a.transpose(order)).reshape(-1)
    if flat.itemsize == 2:
        flat = flat.view(bits_of(flat.dtype))
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
    return g if given is None else cast(g, given.dtype)


def _statistics(view: _views.View, wanted: Any = True) -> Array:
    """Memory for a number a group, in the shape of its axes in memory; an empty array where it is not wanted."""
    return np.empty(view.stats_shape) if wanted else _EMPTY


def _as_seen(statistics: Array, view: _views.View) -> Array:
    """Those of every group with their axes as users see them."""
    return statistics if view.stats_axes is None or statistics is _EMPTY else statistics.transpose(view.stats_axes)


def flat_statistics(values: Array, view: _views.View) -> Array:
    """What users see, flat in memory order."""
    if view.stats_axes is not None:
        values = values.transpose(_inverse(view.stats_axes))
    return flattened(np.ascontiguousarray(values))


def rstd(var: Array, eps: float) -> Array:
    """1/sqrt(var + eps)."""
    values = cast(np.array(var), np.float64)
    _launch.take_roots(values, eps)
    return values


@quietly
def _inverse_square(values: Array) -> Array:
    return np.asarray(1.0 / (values * values))


# Calls ----------------------------------------------------------------------------------------------------------------


def normalize(
    x: Array,
    view_of: ViewOf,
    args: tuple[Any, ...],
    w: Array | None,
    b: Array | None,
    eps: float,
    out: Array | None,
    keep: int,
    centered: bool = True,
    key: Any = None,
    also: _checks.Also = _checks.NOTHING,
) -> tuple[Array, Array, Array]:
    """y, mean and variance of checked arguments; not centered: mean is empty and the variance a mean square.

    keep: ONLY_Y: the statistics are empty; RSTD: instead of the variance.  key: what to remember the call by, see
    `recall`.
    """
    x, order, view = seen(x, view_of, *args)
    mean, var = _statistics(view, keep and centered), _statistics(view, keep)
    y = target(x, order, out)
    if x.size:
        affine, more = (flat_weights(w, view), flat_weights(b, view)), _more(also, x, order)
        counts = None if also.counts is None else flat_statistics(also.counts, view)
        flat, statistics = (flattened(x, order), flattened(y, order)), (mean.reshape(-1), var.reshape(-1))
        call = _launch.Forward(*flat, *affine, eps, *statistics, centered, more, counts, rooted=keep == RSTD)
        _launch.forward(view, call)
        if key is not None and order is None:
            by_axes = any(v is not None and v.ndim > 1 for v in (w, b))
            _remember(key, _forward_again(x, view, eps, keep, centered, by_axes))
    elif keep:
        mean[...], var[...] = np.nan, np.nan  # of nothing
    return _deliver(y, out), _as_seen(mean, view), _as_seen(var, view)


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
    mean, var = _statistics(view, centered), _statistics(view)
    y, summed = target(x, None, out), target(x, None, None)
    if x.size:
        both, affine = (flattened(x), flattened(residual)), (flat_weights(w, view), flat_weights(b, view))
        statistics = mean.reshape(-1), var.reshape(-1)
        call = _launch.Forward(both, flattened(y), *affine, eps, *statistics, centered, summed=flattened(summed))
        _launch.forward(view, call)
    else:
        mean[...], var[...] = np.nan, np.nan
    return _deliver(y, out), summed, mean, var


def sums(x: Array, view_of: ViewOf, args: tuple[Any, ...]) -> tuple[Array, Array, Array]:
    """An element of every group of x, checked and not empty, and the sums of d and d^2; d: the distance from it."""
    x, order, view = seen(x, view_of, *args)
    shift, s, q = _statistics(view), _statistics(view), _statistics(view)
    _launch.sums(view, flattened(x, order), *(v.reshape(-1) for v in (shift, s, q)))
    return _as_seen(shift, view), _as_seen(s, view), _as_seen(q, view)


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
    """Normalize every channel of x with given statistics; key: what to remember the call by, see `recall`."""
    x, order, view = seen(x, _views.batch_view, axis, False)
    y = target(x, order, out)
    if x.size:
        affine, more = (flat_weights(w, view), flat_weights(b, view)), _more(also, x, order)
        statistics = flattened(mean), flattened(var)
        _launch.apply(
            view, _launch.Forward(flattened(x, order), flattened(y, order), *affine, eps, *statistics, more=more)
        )
        if key is not None and order is None:
            _remember(key, _scale_again(x, view, eps))
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
    remember the call by, see `recall`.
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
        w, b = (
            flat_weights(None if v is None else np.ascontiguousarray(cast(v, compute)), view) for v in (weight, bias)
        )
        m, counts = (None if v is None else flat_statistics(v, view) for v in (mean, also.counts))
        r, gx = flat_statistics(rstd, view), flattened(dx, order)
        more = _more(also, x, order, flattened(dy, order) if inner else None)
        added = _flat_like(dsum, x.shape, order)
        call = _launch.Backward(flattened(dz, order), flattened(x, order), gx, w, m, r, counts, added, b, more)
        if through_statistics:
            _launch.backward(view, call, dweight, dbias)
            if key is not None and order is None and (weight is None or weight.dtype == compute):
                _remember(key, _backward_again(x, view, shape, mean is not None))
        else:
            _launch.backward(view, call._replace(dx=None), dweight, dbias)
            scale = _launch.Forward(call.dy, gx, w, None, 0.0, np.zeros(view.groups), _inverse_square(r))
            _launch.apply(view, scale if call.where is None else scale._replace(more=(None, None, call.where, None)))
    gradients = (
        _deliver(dx, out),
        shaped_gradient(dweight, view, weight, shape),
        shaped_gradient(dbias, view, weight, shape),
    )
    return gradients if also.residual is None else (*gradients, dz)


# Calls like an earlier one --------------------------------------------------------------------------------------------

# On a small array the checks cost more than the arithmetic.  A call that passed them all is remembered by everything
# that decided it, as a function that takes the arrays of the next one like it straight to the kernel.

Again = Callable[..., Any]

_remembered: dict[Any, tuple[Again, bool]] = {}  # and whether all arrays own their memory
_MOST_REMEMBERED = 1024

_ndarray = np.ndarray


def recall(
    what: Any, arrays: tuple[Any, ...], out: Any = None, like: int = 1, updated: tuple[Any, ...] = ()
) -> tuple[Any, Again | None]:
    """What to remember a call by, for `_remember`, or else what does it, if one like it was remembered.

    what: the operation and its numbers; out: where the result goes, one of the first `like` arrays or another one;
    updated: those of the arrays that are written to, too.  Neither where an array is not ordinary, or one that is
    written to may overlap others.
    """
    key = what
    for a in arrays:
        if a is None:
            key = key, None
        elif type(a) is _ndarray:
            key = key, a.shape, a.dtype, a.flags.num
        else:
            return None, None
    if out is not None:
        if type(out) is not _ndarray:
            return None, None
        key = key, out.shape, out.dtype, out.flags.num
    found = _remembered.get(key)
    if found is None:
        flags = [a.flags for a in (*arrays, out) if a is not None]
        ordinary = all(f.carray for f in flags)  # C-contiguous, aligned and writeable
        return (key, all(f.owndata for f in flags)) if ordinary else None, None
    again, own = found
    written = (out, *updated) if out is not None else updated
    return None, again if not written or _apart(written, arrays, out, like, own) else None


def _apart(written: tuple[Any, ...], arrays: tuple[Any, ...], out: Any, like: int, own: bool) -> bool:
    """Whether none of the arrays that are written to may overlap others; own: whether all own their memory."""
    if out is not None and out is not arrays[0] and (like == 1 or out is not arrays[1]):
        arrays = out, *arrays
    for a in written:
        if a is not None:
            times = 0  # that it is met: as itself alone, if it is apart
            for b in arrays:
                if b is a or (not own and b is not None and np.may_share_memory(a, b)):
                    times += 1
            if times != 1:
                return False
    return True


def unchanged(key: Any, checked: tuple[Any, ...], given: tuple[Any, ...]) -> Any:
    """The key, if the checks took the arrays as they were given, so that the next ones may be taken so."""
    return key if all(a is b for a, b in zip(checked, given, strict=True)) else None


def _remember(key: Any, again: Again) -> None:
    if len(_remembered) >= _MOST_REMEMBERED:
        _remembered.clear()
    decisive, own = key
    _remembered[decisive] = again, own


def _forward_again(x: Array, view: _views.View, eps: float, keep: int, centered: bool, by_axes: bool) -> Again:
    """Of `normalize`: (x, w, b, out) -> y, mean, variance or rstd; by_axes: whether weights have more than one axis."""
    shape, dtype, nbytes, small = x.shape, x.dtype, x.nbytes, x.nbytes < _runtime.SERIAL_BYTES
    bits, direct = bits_of(dtype), _launch.direct_forward(view, x, centered, keep == RSTD)
    stats_shape, kind, with_mean = view.stats_shape, object(), keep and centered
    stats_are_flat = not keep or len(stats_shape) == 1
    empty = np.empty if nbytes < _memory.LEAST else _memory.empty

    def again(x: Array, w: Array | None, b: Array | None, out: Array | None) -> tuple[Array, Array, Array]:
        y = empty(shape, dtype) if out is None else out
        mean = np.empty(stats_shape) if with_mean else _EMPTY
        var = np.empty(stats_shape) if keep else _EMPTY
        fx, fy = x.ravel(), y.ravel()
        fmean, fvar = (mean, var) if stats_are_flat else (mean.ravel(), var.ravel())
        if bits is not None:
            fx, fy = fx.view(bits), fy.view(bits)
        if by_axes:
            w, b = w if w is None else w.ravel(), b if b is None else b.ravel()
        if small:
            direct(1, fx, fy, w, b, eps, fmean, fvar)
        else:
            args = fx, fy, w, b, eps, fmean, fvar
            _runtime.with_team(kind, nbytes, direct, *args)
        return y, mean, var

    return again


def _scale_again(x: Array, view: _views.View, eps: float) -> Again:
    """Of `apply`: (x, w, b, mean, var, out) -> y."""
    shape, dtype, nbytes, small = x.shape, x.dtype, x.nbytes, x.nbytes < _runtime.SERIAL_BYTES
    bits, direct, kind = bits_of(dtype), _launch.direct_apply(view, x), object()
    empty = np.empty if nbytes < _memory.LEAST else _memory.empty

    def again(x: Array, w: Array | None, b: Array | None, mean: Array, var: Array, out: Array | None) -> Array:
        y = empty(shape, dtype) if out is None else out
        fx, fy = x.ravel(), y.ravel()
        if bits is not None:
            fx, fy = fx.view(bits), fy.view(bits)
        if small:
            direct(1, fx, fy, w, b, eps, mean, var, None)
        else:
            args = fx, fy, w, b, eps, mean, var, None
            _runtime.with_team(kind, nbytes, direct, *args)
        return y

    return again


def _backward_again(x: Array, view: _views.View, weights: tuple[int, ...], centered: bool) -> Again:
    """Of `differentiate`: (dy, x, mean, rstd, w, out) -> dx, dweight, dbias."""
    shape, dtype, compute = x.shape, x.dtype, _checks.COMPUTED_IN[x.dtype]
    nbytes, small = x.nbytes, x.nbytes < _runtime.SERIAL_BYTES
    bits, reshaped, direct = bits_of(dtype), len(weights) != 1, _launch.direct_backward(view, x, centered)
    empty, kind = np.empty if nbytes < _memory.LEAST else _memory.empty, object()

    def again(dy: Array, x: Array, mean: Array | None, rstd: Array, w: Array | None, out: Array | None) -> Any:
        dx = empty(shape, dtype) if out is None else out
        dweight, dbias = np.empty(view.weights, compute), np.empty(view.weights, compute)
        fdy, fx, fdx, r = dy.ravel(), x.ravel(), dx.ravel(), rstd.ravel()
        if bits is not None:
            fdy, fx, fdx = fdy.view(bits), fx.view(bits), fdx.view(bits)
        w, m = w if w is None else w.ravel(), mean if mean is None else mean.ravel()
        args = fdy, fx, fdx, w, m, r, dweight, dbias
        if small:
            direct(1, *args)
        else:
            _runtime.with_team(kind, nbytes, direct, *args)
        return (dx, dweight.reshape(weights), dbias.reshape(weights)) if reshaped else (dx, dweight, dbias)

    return again
