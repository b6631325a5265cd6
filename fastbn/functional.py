"""The operations on arrays: each as y alone, as `_forward` with its statistics, and as `_backward`."""

import numpy as np

from fastbn import _checks, _launch, _views

_EMPTY = np.empty(0)


# Shared steps ---------------------------------------------------------------------------------------------------------


class _Alias:
    """Another array over the memory of a read-only one: kernels take one array type and never write to inputs."""

    def __init__(self, array):
        self.array = array
        interface = array.__array_interface__
        self.__array_interface__ = interface | {"data": (interface["data"][0], False)}


def _flat(a, order):
    """A contiguous array as the kernels take it: one axis, in memory order, half precision by its bits."""
    flat = (a if order is None else a.transpose(order)).reshape(-1)
    if flat.itemsize == 2:
        flat = flat.view(np.uint16 if flat.dtype == np.float16 else np.int16)
    return flat if flat.flags.writeable else np.asarray(_Alias(flat))


def _seen(x, view_of, *args):
    """x, its memory order and its view; x is copied where no kernel reads it as it lies."""
    order = _views.memory_order(x)
    view = None if order is False else view_of(x.shape, order, *args)
    if view is None:
        x, order = np.ascontiguousarray(x), None
        view = view_of(x.shape, None, *args)
    return x, order, view


def _in_order(a, order):
    """a with the given memory order, copied if it has another."""
    if order is None:
        return np.ascontiguousarray(a)
    return np.ascontiguousarray(a.transpose(order)).transpose(_inverse(order))


def _inverse(order):
    return sorted(range(len(order)), key=order.__getitem__)


def _like(x, order):
    """An empty array of x's shape and dtype in the given memory order."""
    if order is None:
        return np.empty(x.shape, x.dtype)
    return np.empty([x.shape[a] for a in order], x.dtype).transpose(_inverse(order))


def _target(x, order, out):
    """`out` if its memory order is the one written, else a new array."""
    if out is not None and (out if order is None else out.transpose(order)).flags.c_contiguous:
        return out
    return _like(x, order)


def _deliver(y, out):
    """The result in `out`, if there is one and it was not written in place."""
    if out is None or out is y:
        return y
    out[...] = y
    return out


def _weights(w, view):
    """A weight or bias in the order of the elements in memory."""
    if w is None or view.weight_order is None:
        return w if w is None else _flat(w, None)
    shape, tail = view.weight_order
    return w.reshape(shape).transpose(tail).reshape(-1)


def _gradients(g, view, given, shape):
    """A weight's gradient in the weight's own order, shape and dtype."""
    if view.weight_order is not None:
        lengths, tail = view.weight_order
        g = g.reshape([lengths[a] for a in tail]).transpose(_inverse(tail))
    g = g.reshape(shape)
    return g if given is None else g.astype(np.asarray(given).dtype, copy=False)


def _statistics(values, view):
    """Flat statistics in the shape users see."""
    values = values.reshape(view.stats_shape)
    return values if view.stats_axes is None else values.transpose(view.stats_axes)


def _flat_statistics(values, view):
    """What users see, flat in memory order."""
    if view.stats_axes is not None:
        values = values.transpose(_inverse(view.stats_axes))
    return _flat(np.ascontiguousarray(values), None)


def _normalize(x, view_of, args, w, b, eps, out, keep, centered=True):
    """y, and mean and rstd (None where not kept) of checked arguments."""
    x, order, view = _seen(x, view_of, *args)
    y = _target(x, order, out)
    mean = np.empty(view.groups) if keep and centered else _EMPTY
    rstd = np.empty(view.groups) if keep else _EMPTY
    if x.size:
        _launch.forward(view, _flat(x, order), _flat(y, order), _weights(w, view), _weights(b, view), eps, centered, mean, rstd)
    else:
        mean[:], rstd[:] = np.nan, np.nan
    y = _deliver(y, out)
    if not keep:
        return y, None, None
    return y, _statistics(mean, view) if centered else None, _statistics(rstd, view)


def _back(dy, x, mean, rstd, view_of, args, weight, shape, out, through_statistics=True):
    """dx, dweight and dbias of checked arguments; mean: None for RMS norm; weight: as given, of this shape."""
    x, order, view = _seen(x, view_of, *args)
    dy = _in_order(dy, order)
    dx = _target(x, order, out)
    compute = _checks.COMPUTED_IN[x.dtype]
    dweight, dbias = np.zeros(view.weights, compute), np.zeros(view.weights, compute)
    if x.size:
        w = _weights(_checks.vector(weight, "weight", shape, compute), view)
        m = None if mean is None else _flat_statistics(mean, view)
        r = _flat_statistics(rstd, view)
        flat = _flat(dy, order), _flat(x, order), _flat(dx, order)
        if through_statistics:
            _launch.backward(view, *flat, w, m, r, dweight, dbias)
        else:
            _launch.backward(view, flat[0], flat[1], None, w, m, r, dweight, dbias)
            _launch.apply(view, flat[0], flat[2], w, None, np.zeros(view.groups), r)
    return _deliver(dx, out), _gradients(dweight, view, weight, shape), _gradients(dbias, view, weight, shape)


def _operands(x, weight, bias, shape_of):
    """x, weight and bias checked; the affine in the type computed in."""
    compute = _checks.COMPUTED_IN[x.dtype]
    return _checks.vector(weight, "weight", shape_of, compute), _checks.vector(bias, "bias", shape_of, compute)


def _saved(value, name, shape):
    """mean or rstd as saved by a forward call."""
    if value is None:
        raise TypeError(f"{name} is None; expected what the forward call returned, an array of shape {shape}")
    return _checks.vector(value, name, shape, np.float64)


def _update(running, batch, momentum):
    """running <- (1 - momentum) running + momentum batch, in float64 and in place."""
    if running is not None:
        running[...] = (1 - momentum) * running.astype(np.float64) + momentum * batch


# Batch norm -----------------------------------------------------------------------------------------------------------


def batch_norm(
    x, running_mean=None, running_var=None, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5, *, axis=1, out=None
):
    """Batch normalization."""
    if training:
        return batch_norm_forward(x, weight, bias, running_mean, running_var, momentum, eps, axis=axis, out=out)[0]
    x = _checks.array(x, "x")
    _checks.rank(x, 2)
    axis = _checks.axis(axis, x)
    w, b = _operands(x, weight, bias, (x.shape[axis],))
    eps = _checks.eps(eps)
    if running_mean is None or running_var is None:
        missing = "running_mean" if running_mean is None else "running_var"
        raise ValueError(f"{missing} is None; evaluation (training=False) needs running_mean and running_var")
    mean = _checks.vector(running_mean, "running_mean", (x.shape[axis],), np.float64)
    var = _checks.vector(running_var, "running_var", (x.shape[axis],), np.float64)
    _checks.out(out, x, x, running_mean, running_var, weight, bias)
    return _apply(x, axis, mean, var, w, b, eps, out)


def _apply(x, axis, mean, var, w, b, eps, out):
    x, order, view = _seen(x, _views.batch_view, axis)
    y = _target(x, order, out)
    if x.size:
        rstd = 1.0 / np.sqrt(var + eps)
        _launch.apply(view, _flat(x, order), _flat(y, order), _weights(w, view), _weights(b, view), _flat(mean, None), rstd)
    return _deliver(y, out)


def batch_norm_forward(
    x, weight=None, bias=None, running_mean=None, running_var=None, momentum=0.1, eps=1e-5, *, axis=1, out=None
):
    """Batch normalization with batch statistics."""
    x = _checks.array(x, "x")
    _checks.rank(x, 2)
    axis = _checks.axis(axis, x)
    channels = x.shape[axis]
    w, b = _operands(x, weight, bias, (channels,))
    eps, momentum = _checks.eps(eps), _checks.real(momentum, "momentum")
    _checks.running(running_mean, "running_mean", channels)
    _checks.running(running_var, "running_var", channels)
    _checks.out(out, x, x, weight, bias, running_mean, running_var)
    count = x.size // channels if channels else 0
    if count == 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {x.shape}")
    y, mean, rstd = _normalize(x, _views.batch_view, (axis,), w, b, eps, out, keep=True)
    if count:
        _update(running_mean, mean, momentum)
        if running_var is not None:
            _update(running_var, (1 / (rstd * rstd) - eps) * (count / (count - 1)), momentum)
    return y, mean, rstd


def batch_norm_backward(dy, x, mean, rstd, weight=None, *, axis=1, training=True, out=None):
    """Gradients of batch normalization."""
    dy, x = _checks.array(dy, "dy"), _checks.array(x, "x")
    _checks.rank(x, 2)
    _checks.same_shape(dy, "dy", x)
    axis = _checks.axis(axis, x)
    shape = (x.shape[axis],)
    mean, rstd = _saved(mean, "mean", shape), _saved(rstd, "rstd", shape)
    _checks.vector(weight, "weight", shape, np.float64)
    _checks.out(out, x, x, dy, weight)
    return _back(dy, x, mean, rstd, _views.batch_view, (axis,), weight, shape, out, bool(training))


# Layer norm and RMS norm ----------------------------------------------------------------------------------------------


def _layer(x, normalized_shape, weight, bias, eps, out, keep, centered=True):
    x = _checks.array(x, "x")
    shape = _checks.normalized_shape(normalized_shape, x)
    w, b = _operands(x, weight, bias, shape)
    eps = _checks.eps(eps)
    _checks.out(out, x, x, weight, bias)
    return _normalize(x, _views.layer_view, (len(shape),), w, b, eps, out, keep, centered)


def _layer_back(dy, x, mean, rstd, weight, out):
    dy, x = _checks.array(dy, "dy"), _checks.array(x, "x")
    _checks.same_shape(dy, "dy", x)
    kept = np.ndim(rstd)
    if kept >= x.ndim:
        raise ValueError(f"rstd has shape {np.shape(rstd)}; expected the leading axes of x, which has shape {x.shape}")
    lead, shape = x.shape[:kept], x.shape[kept:]
    rstd = _saved(rstd, "rstd", lead)
    mean = None if mean is None else _saved(mean, "mean", lead)
    _checks.vector(weight, "weight", shape, np.float64)
    _checks.out(out, x, x, dy, weight)
    return _back(dy, x, mean, rstd, _views.layer_view, (len(shape),), weight, shape, out)


def layer_norm(x, normalized_shape, weight=None, bias=None, eps=1e-5, *, out=None):
    """Layer normalization."""
    return _layer(x, normalized_shape, weight, bias, eps, out, keep=False)[0]


def layer_norm_forward(x, normalized_shape, weight=None, bias=None, eps=1e-5, *, out=None):
    """Layer normalization with its statistics."""
    return _layer(x, normalized_shape, weight, bias, eps, out, keep=True)


def layer_norm_backward(dy, x, mean, rstd, weight=None, *, out=None):
    """Gradients of layer normalization."""
    if mean is None:
        raise TypeError("mean is None; expected what layer_norm_forward returned")
    return _layer_back(dy, x, mean, rstd, weight, out)


def _rms_eps(x, eps):
    return float(np.finfo(_checks.COMPUTED_IN[_checks.array(x, "x").dtype]).eps) if eps is None else eps


def rms_norm(x, normalized_shape, weight=None, eps=None, *, out=None):
    """RMS normalization."""
    return _layer(x, normalized_shape, weight, None, _rms_eps(x, eps), out, keep=False, centered=False)[0]


def rms_norm_forward(x, normalized_shape, weight=None, eps=None, *, out=None):
    """RMS normalization with its statistic."""
    y, _, rstd = _layer(x, normalized_shape, weight, None, _rms_eps(x, eps), out, keep=True, centered=False)
    return y, rstd


def rms_norm_backward(dy, x, rstd, weight=None, *, out=None):
    """Gradients of RMS normalization."""
    return _layer_back(dy, x, None, rstd, weight, out)[:2]


# Group norm and instance norm -----------------------------------------------------------------------------------------


def _group(x, num_groups, weight, bias, eps, axis, out, keep):
    x = _checks.array(x, "x")
    _checks.rank(x, 2)
    axis = _checks.sample_axis(axis, x)
    num_groups = x.shape[axis] if num_groups is None else _checks.groups(num_groups, x.shape[axis])
    w, b = _operands(x, weight, bias, (x.shape[axis],))
    eps = _checks.eps(eps)
    _checks.out(out, x, x, weight, bias)
    return _normalize(x, _views.group_view, (axis, num_groups), w, b, eps, out, keep)


def _group_back(dy, x, mean, rstd, num_groups, weight, axis, out):
    dy, x = _checks.array(dy, "dy"), _checks.array(x, "x")
    _checks.rank(x, 2)
    _checks.same_shape(dy, "dy", x)
    axis = _checks.sample_axis(axis, x)
    num_groups = x.shape[axis] if num_groups is None else _checks.groups(num_groups, x.shape[axis])
    saved = (x.shape[0], num_groups)
    mean, rstd = _saved(mean, "mean", saved), _saved(rstd, "rstd", saved)
    shape = (x.shape[axis],)
    _checks.vector(weight, "weight", shape, np.float64)
    _checks.out(out, x, x, dy, weight)
    return _back(dy, x, mean, rstd, _views.group_view, (axis, num_groups), weight, shape, out)


def group_norm(x, num_groups, weight=None, bias=None, eps=1e-5, *, axis=1, out=None):
    """Group normalization."""
    return _group(x, num_groups, weight, bias, eps, axis, out, keep=False)[0]


def group_norm_forward(x, num_groups, weight=None, bias=None, eps=1e-5, *, axis=1, out=None):
    """Group normalization with its statistics."""
    return _group(x, num_groups, weight, bias, eps, axis, out, keep=True)


def group_norm_backward(dy, x, mean, rstd, weight=None, *, axis=1, out=None):
    """Gradients of group normalization."""
    if np.ndim(rstd) != 2:
        raise ValueError(f"rstd has shape {np.shape(rstd)}; expected (N, G), as group_norm_forward returned it")
    return _group_back(dy, x, mean, rstd, np.shape(rstd)[1], weight, axis, out)


def instance_norm_forward(x, weight=None, bias=None, eps=1e-5, *, axis=1, out=None):
    """Instance normalization with its statistics."""
    x = _checks.array(x, "x")
    _checks.rank(x, 2)
    axis = _checks.sample_axis(axis, x)
    if x.size and x.size == x.shape[0] * x.shape[axis]:
        raise ValueError(f"Expected more than 1 spatial element when training, got input size {x.shape}")
    return _group(x, None, weight, bias, eps, axis, out, keep=True)


def instance_norm(
    x,
    running_mean=None,
    running_var=None,
    weight=None,
    bias=None,
    use_input_stats=True,
    momentum=0.1,
    eps=1e-5,
    *,
    axis=1,
    out=None,
):
    """Instance normalization."""
    if not use_input_stats:
        x = _checks.array(x, "x")
        _checks.rank(x, 2)
        axis = _checks.sample_axis(axis, x)
        return batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps, axis=axis, out=out)
    x = _checks.array(x, "x")
    _checks.rank(x, 2)
    channels = x.shape[_checks.sample_axis(axis, x)]
    momentum = _checks.real(momentum, "momentum")
    _checks.running(running_mean, "running_mean", channels)
    _checks.running(running_var, "running_var", channels)
    _checks.out(out, x, running_mean, running_var)
    y, mean, rstd = instance_norm_forward(x, weight, bias, eps, axis=axis, out=out)
    if x.size:
        count = x.size // mean.size
        _update(running_mean, mean.mean(0), momentum)
        if running_var is not None:
            _update(running_var, (1 / (rstd * rstd) - eps).mean(0) * (count / (count - 1)), momentum)
    return y


def instance_norm_backward(dy, x, mean, rstd, weight=None, *, axis=1, out=None):
    """Gradients of instance normalization."""
    return _group_back(dy, x, mean, rstd, None, weight, axis, out)
