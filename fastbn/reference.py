"""The definitions: every operation in plain NumPy float64, written to be read, not to be fast.

Tests, ``fastbn demo``, ``fastbn bench`` and ``fastbn selfcheck`` compare the kernels with these functions.  They take
what the functions of the same name in :mod:`fastbn` take (without ``out``), compute in float64 whatever the input's
dtype, and return float64.  Nothing in the library itself calls them.
"""

from math import erf, exp, pi, sqrt

import numpy as np

from fastbn.engine import arguments

__all__ = [
    "add_layer_norm",
    "add_layer_norm_backward",
    "add_layer_norm_forward",
    "add_rms_norm",
    "add_rms_norm_backward",
    "add_rms_norm_forward",
    "batch_norm",
    "batch_norm_backward",
    "batch_norm_forward",
    "batch_renorm_backward",
    "batch_renorm_forward",
    "channel_layer_norm_backward",
    "channel_layer_norm_forward",
    "channel_rms_norm_backward",
    "channel_rms_norm_forward",
    "filter_response_norm_backward",
    "filter_response_norm_forward",
    "ghost_batch_norm_backward",
    "ghost_batch_norm_forward",
    "global_response_norm_backward",
    "global_response_norm_forward",
    "group_norm",
    "group_norm_backward",
    "group_norm_forward",
    "instance_norm",
    "instance_norm_backward",
    "instance_norm_forward",
    "layer_norm",
    "layer_norm_backward",
    "layer_norm_forward",
    "local_response_norm",
    "local_response_norm_backward",
    "rms_norm",
    "rms_norm_backward",
    "rms_norm_forward",
    "weight_standardization_backward",
    "weight_standardization_forward",
]


def _float64(x):
    return None if x is None else arguments.ndarray(x, "argument").astype(np.float64)


def _default_rms_eps(x):
    """torch's default: the machine epsilon of the type computed in (float32 for half precision)."""
    return float(np.finfo(np.float64 if arguments.ndarray(x, "x").dtype == np.float64 else np.float32).eps)


def _shape_tuple(normalized_shape):
    return (normalized_shape,) if np.ndim(normalized_shape) == 0 else tuple(normalized_shape)


def _moments(x, axes, where=True):
    """Mean and biased variance over `axes`, both kept as axes of length one.

    Two passes about a first element: exact for constant data, where NumPy's own mean may miss by a rounding.
    """
    shift = x[tuple(slice(0, 1) if a in axes else slice(None) for a in range(x.ndim))]
    with np.errstate(invalid="ignore"):  # Inf - Inf: the group becomes NaN, as IEEE arithmetic says
        mean = shift + (x - shift).mean(axes, keepdims=True, where=where)
        return mean, ((x - mean) ** 2).mean(axes, keepdims=True, where=where)


def _forward(x, axes, eps, where=True):
    x = np.where(where, x, 0.0)
    mean, var = _moments(x, axes, where)
    rstd = 1 / np.sqrt(var + eps)
    with np.errstate(invalid="ignore"):
        return (x - mean) * rstd, mean, rstd


def _backward(g, h, rstd, axes, where=True):
    """dx = r (g - avg(g) - h avg(g h)), the gradient through the mean, the variance and the value itself."""
    averages = (v.mean(axes, keepdims=True, where=where) for v in (g, g * h))
    return np.where(where, rstd * (g - next(averages) - h * next(averages)), 0.0)


def _along(v, ndim, axis):
    """A per-channel vector shaped so that it broadcasts along `axis`."""
    return v.reshape([-1 if a == axis else 1 for a in range(ndim)])


def _affine(h, weight, bias):
    return h * (1.0 if weight is None else weight) + (0.0 if bias is None else bias)


def _distribution(z):
    return np.vectorize(lambda v: (1 + erf(v / sqrt(2))) / 2, otypes=[float])(z)


def _density(z):
    return np.exp(-z * z / 2) / sqrt(2 * pi)


def _logistic(z):
    return np.vectorize(lambda v: 1 / (1 + exp(-v)) if v > 0 else exp(v) / (1 + exp(v)), otypes=[float])(z)


def _cubic(z):
    return 2 * sqrt(2 / pi) * (z + 0.044715 * z**3), 2 * sqrt(2 / pi) * (1 + 3 * 0.044715 * z**2)


def _gelu_tanh_slope(z):
    u, du = _cubic(z)
    s = _logistic(u)
    return s + z * s * (1 - s) * du


def _activation(activation):
    """The function and its derivative."""
    name, slope = activation if isinstance(activation, tuple) else (activation, 0.01)
    return {
        None: (lambda z: z, np.ones_like),
        "relu": (lambda z: np.maximum(z, 0), lambda z: np.where(z > 0, 1.0, 0.0)),
        "leaky_relu": (lambda z: np.where(z > 0, z, slope * z), lambda z: np.where(z > 0, 1.0, slope)),
        "sigmoid": (_logistic, lambda z: _logistic(z) * _logistic(-z)),
        "silu": (lambda z: z * _logistic(z), lambda z: _logistic(z) * (1 + z * _logistic(-z))),
        "gelu": (lambda z: z * _distribution(z), lambda z: _distribution(z) + z * _density(z)),
        "gelu_tanh": (lambda z: z * _logistic(_cubic(z)[0]), _gelu_tanh_slope),
    }[name]


def _finish(h, weight, bias, activation, residual, where):
    """y = activation(h weight + bias + residual); zero where the mask is false."""
    z = _affine(h, weight, bias) + (0.0 if residual is None else _float64(residual))
    return np.where(where, _activation(activation)[0](z), 0.0)


def _before(dy, h, weight, bias, activation, residual, where):
    """The gradient of what the activation takes."""
    z = _affine(h, weight, bias) + (0.0 if residual is None else _float64(residual))
    return np.where(where, dy * _activation(activation)[1](z), 0.0)


def _mask(where):
    return True if where is None else arguments.ndarray(where, "where")


def _sums(dy, h, axes, shape=None):
    dweight, dbias = (dy * h).sum(axes), dy.sum(axes)
    return (dweight, dbias) if shape is None else (dweight.reshape(shape), dbias.reshape(shape))


# batch norm: statistics per channel, shared over every other axis ---------------------------------------------------


def batch_norm_forward(
    x,
    weight=None,
    bias=None,
    running_mean=None,
    running_var=None,
    momentum=0.1,
    eps=1e-5,
    *,
    axis=1,
    activation=None,
    residual=None,
    where=None,
):
    """Batch normalization with batch statistics: (y, mean, rstd); running arrays are updated in place."""
    x, weight, bias, where = _float64(x), _float64(weight), _float64(bias), _mask(where)
    axis %= x.ndim
    axes = tuple(a for a in range(x.ndim) if a != axis)
    h, mean, rstd = _forward(x, axes, eps, where)
    if running_mean is not None:
        running_mean[...] = (1 - momentum) * _float64(running_mean) + momentum * mean.ravel()
    if running_var is not None:
        n = np.broadcast_to(where, x.shape).sum(axes)
        unbiased = _moments(np.where(where, x, 0.0), axes, where)[1].ravel() * (n / (n - 1))
        running_var[...] = (1 - momentum) * _float64(running_var) + momentum * unbiased
    w, b = (v if v is None else _along(v, x.ndim, axis) for v in (weight, bias))
    return _finish(h, w, b, activation, residual, where), mean.ravel(), rstd.ravel()


def batch_norm(
    x,
    running_mean=None,
    running_var=None,
    weight=None,
    bias=None,
    training=False,
    momentum=0.1,
    eps=1e-5,
    *,
    axis=1,
    activation=None,
    residual=None,
    where=None,
):
    """Batch normalization, with batch statistics (training) or the running ones."""
    more = {"activation": activation, "residual": residual, "where": where}
    if training:
        return batch_norm_forward(x, weight, bias, running_mean, running_var, momentum, eps, axis=axis, **more)[0]
    x = _float64(x)
    mean, var, w, b = (
        v if v is None else _along(_float64(v), x.ndim, axis % x.ndim)
        for v in (running_mean, running_var, weight, bias)
    )
    return _finish((x - mean) / np.sqrt(var + eps), w, b, activation, residual, _mask(where))


def batch_norm_backward(
    dy,
    x,
    mean,
    rstd,
    weight=None,
    *,
    axis=1,
    training=True,
    bias=None,
    activation=None,
    residual=None,
    where=None,
):
    """(dx, dweight, dbias), and dresidual with a residual; training=False: the statistics are constants."""
    dy, x, where = _float64(dy), _float64(x), _mask(where)
    axis %= x.ndim
    axes = tuple(a for a in range(x.ndim) if a != axis)
    mean, rstd = _along(_float64(mean), x.ndim, axis), _along(_float64(rstd), x.ndim, axis)
    w, b = (v if v is None else _along(_float64(v), x.ndim, axis) for v in (weight, bias))
    h = np.where(where, (x - mean) * rstd, 0.0)
    dz = _before(dy, h, w, b, activation, residual, where)
    g = dz if w is None else dz * w
    dx = _backward(g, h, rstd, axes, where) if training else rstd * g
    return dx, *_sums(dz, h, axes), *(() if residual is None else (dz,))


# layer and RMS norm: statistics per sample over the trailing axes ----------------------------------------------------


def layer_norm_forward(x, normalized_shape, weight=None, bias=None, eps=1e-5, *, activation=None, where=None):
    """(y, mean, rstd), statistics over the trailing axes of `normalized_shape`."""
    x, weight, bias, where = _float64(x), _float64(weight), _float64(bias), _mask(where)
    lead = x.shape[: x.ndim - len(_shape_tuple(normalized_shape))]
    h, mean, rstd = _forward(x, tuple(range(len(lead), x.ndim)), eps, where)
    return _finish(h, weight, bias, activation, None, where), mean.reshape(lead), rstd.reshape(lead)


def layer_norm(x, normalized_shape, weight=None, bias=None, eps=1e-5, *, activation=None, where=None):
    """Layer normalization over the trailing axes."""
    return layer_norm_forward(x, normalized_shape, weight, bias, eps, activation=activation, where=where)[0]


def layer_norm_backward(dy, x, mean, rstd, weight=None, *, bias=None, activation=None, where=None):
    """(dx, dweight, dbias); the normalized axes are those that `mean` lacks."""
    dy, x, mean, rstd, where = _float64(dy), _float64(x), _float64(mean), _float64(rstd), _mask(where)
    lead, axes = tuple(range(mean.ndim)), tuple(range(mean.ndim, x.ndim))
    ones = (1,) * len(axes)
    mean, rstd = mean.reshape(mean.shape + ones), rstd.reshape(rstd.shape + ones)
    h = np.where(where, (x - mean) * rstd, 0.0)
    dz = _before(dy, h, _float64(weight), _float64(bias), activation, None, where)
    g = dz if weight is None else dz * _float64(weight)
    return _backward(g, h, rstd, axes, where), *_sums(dz, h, lead)


def rms_norm_forward(x, normalized_shape, weight=None, eps=None, *, activation=None, where=None):
    """(y, rstd) with rstd = 1/sqrt(mean(x^2) + eps)."""
    eps = _default_rms_eps(x) if eps is None else eps
    x, weight, where = _float64(x), _float64(weight), _mask(where)
    x = np.where(where, x, 0.0)
    lead = x.shape[: x.ndim - len(_shape_tuple(normalized_shape))]
    axes = tuple(range(len(lead), x.ndim))
    rstd = 1 / np.sqrt((x * x).mean(axes, keepdims=True, where=where) + eps)
    return _finish(x * rstd, weight, None, activation, None, where), rstd.reshape(lead)


def rms_norm(x, normalized_shape, weight=None, eps=None, *, activation=None, where=None):
    """Root-mean-square normalization over the trailing axes."""
    return rms_norm_forward(x, normalized_shape, weight, eps, activation=activation, where=where)[0]


def rms_norm_backward(dy, x, rstd, weight=None, *, activation=None, where=None):
    """(dx, dweight)."""
    dy, x, rstd, where = _float64(dy), _float64(x), _float64(rstd), _mask(where)
    lead, axes = tuple(range(rstd.ndim)), tuple(range(rstd.ndim, x.ndim))
    rstd = rstd.reshape(rstd.shape + (1,) * len(axes))
    h = np.where(where, x * rstd, 0.0)
    dz = _before(dy, h, _float64(weight), None, activation, None, where)
    g = dz if weight is None else dz * _float64(weight)
    dx = np.where(where, rstd * (g - h * (g * h).mean(axes, keepdims=True, where=where)), 0.0)
    return dx, _sums(dz, h, lead)[0]


def _added(x, residual):
    """The sum in x's dtype, which is what is normalized."""
    x = arguments.ndarray(x, "x")
    return (_float64(x) + _float64(residual)).astype(x.dtype)


def add_layer_norm_forward(x, residual, normalized_shape, weight=None, bias=None, eps=1e-5):
    """(y, sum, mean, rstd)."""
    total = _added(x, residual)
    y, mean, rstd = layer_norm_forward(total, normalized_shape, weight, bias, eps)
    return y, _float64(total), mean, rstd


def add_layer_norm(x, residual, normalized_shape, weight=None, bias=None, eps=1e-5):
    """(y, sum)."""
    return add_layer_norm_forward(x, residual, normalized_shape, weight, bias, eps)[:2]


def add_layer_norm_backward(dy, dsum, sum, mean, rstd, weight=None):
    """(dx, dweight, dbias)."""
    dx, dweight, dbias = layer_norm_backward(dy, sum, mean, rstd, weight)
    return dx + (0.0 if dsum is None else _float64(dsum)), dweight, dbias


def add_rms_norm_forward(x, residual, normalized_shape, weight=None, eps=None):
    """(y, sum, rstd)."""
    total = _added(x, residual)
    y, rstd = rms_norm_forward(total, normalized_shape, weight, eps)
    return y, _float64(total), rstd


def add_rms_norm(x, residual, normalized_shape, weight=None, eps=None):
    """(y, sum)."""
    return add_rms_norm_forward(x, residual, normalized_shape, weight, eps)[:2]


def add_rms_norm_backward(dy, dsum, sum, rstd, weight=None):
    """(dx, dweight)."""
    dx, dweight = rms_norm_backward(dy, sum, rstd, weight)
    return dx + (0.0 if dsum is None else _float64(dsum)), dweight


# group and instance norm: statistics per sample and group of channels -------------------------------------------------


def _grouped(v, num_groups, axis):
    """(N, C, ...) with channels on `axis` -> (N, G, everything else of the group), and the way back."""
    moved = np.moveaxis(v, axis, 1)
    return moved.reshape(moved.shape[0], num_groups, -1), lambda u: np.moveaxis(u.reshape(moved.shape), 1, axis)


def group_norm_forward(
    x, num_groups, weight=None, bias=None, eps=1e-5, *, axis=1, activation=None, residual=None, where=None
):
    """(y, mean, rstd), mean and rstd of shape (N, G); group g holds the channels g*C/G to (g+1)*C/G - 1."""
    x, weight, bias, where = _float64(x), _float64(weight), _float64(bias), _mask(where)
    axis %= x.ndim
    grouped, back = _grouped(x, num_groups, axis)
    mask = _grouped(np.broadcast_to(where, x.shape), num_groups, axis)[0]
    h, mean, rstd = _forward(grouped, (2,), eps, mask)
    w, b = (v if v is None else _along(v, x.ndim, axis) for v in (weight, bias))
    return _finish(back(h), w, b, activation, residual, where), mean[..., 0], rstd[..., 0]


def group_norm(x, num_groups, weight=None, bias=None, eps=1e-5, *, axis=1, activation=None, residual=None, where=None):
    """Group normalization."""
    more = {"axis": axis, "activation": activation, "residual": residual, "where": where}
    return group_norm_forward(x, num_groups, weight, bias, eps, **more)[0]


def group_norm_backward(
    dy, x, mean, rstd, weight=None, *, axis=1, bias=None, activation=None, residual=None, where=None
):
    """(dx, dweight, dbias), and dresidual with a residual; the number of groups is mean.shape[1]."""
    dy, x, mean, rstd, where = _float64(dy), _float64(x), _float64(mean), _float64(rstd), _mask(where)
    axis %= x.ndim
    groups = mean.shape[1]
    grouped, back = _grouped(x, groups, axis)
    mask = _grouped(np.broadcast_to(where, x.shape), groups, axis)[0]
    h = np.where(mask, (grouped - mean[..., None]) * rstd[..., None], 0.0)
    w, b = (v if v is None else _along(_float64(v), x.ndim, axis) for v in (weight, bias))
    dz = _before(dy, back(h), w, b, activation, residual, where)
    g = dz if w is None else dz * w
    dx = back(_backward(_grouped(g, groups, axis)[0], h, rstd[..., None], (2,), mask))
    sums = _sums(dz, back(h), tuple(a for a in range(x.ndim) if a != axis))
    return dx, *sums, *(() if residual is None else (dz,))


def instance_norm_forward(x, weight=None, bias=None, eps=1e-5, *, axis=1, activation=None, where=None):
    """Group normalization with a group a channel: (y, mean, rstd), mean and rstd of shape (N, C)."""
    more = {"axis": axis, "activation": activation, "where": where}
    return group_norm_forward(x, np.shape(x)[axis], weight, bias, eps, **more)


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
    activation=None,
    where=None,
):
    """Instance normalization; running arrays receive the average of the instances' statistics."""
    more = {"axis": axis, "activation": activation, "where": where}
    if not use_input_stats:
        return batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps, **more)
    y, mean, _ = instance_norm_forward(x, weight, bias, eps, **more)
    channels, axis = np.shape(x)[axis], axis % np.ndim(x)
    grouped = _grouped(_float64(x), channels, axis)[0]
    mask = _grouped(np.broadcast_to(_mask(where), np.shape(x)), channels, axis)[0]
    n = mask.sum(2)
    if running_mean is not None:
        running_mean[...] = (1 - momentum) * _float64(running_mean) + momentum * mean.mean(0)
    if running_var is not None:
        unbiased = _moments(np.where(mask, grouped, 0.0), (2,), mask)[1][..., 0] * (n / (n - 1))
        running_var[...] = (1 - momentum) * _float64(running_var) + momentum * unbiased.mean(0)
    return y


def instance_norm_backward(dy, x, mean, rstd, weight=None, *, axis=1, bias=None, activation=None, where=None):
    """(dx, dweight, dbias)."""
    more = {"axis": axis, "bias": bias, "activation": activation, "where": where}
    return group_norm_backward(dy, x, mean, rstd, weight, **more)


# variants of batch norm ---------------------------------------------------------------------------------------------


def _ghosts(x, size):
    return [slice(first, first + size) for first in range(0, len(x), size)]


def ghost_batch_norm_forward(
    x,
    virtual_batch_size,
    weight=None,
    bias=None,
    running_mean=None,
    running_var=None,
    momentum=0.1,
    eps=1e-5,
    *,
    axis=1,
):
    """(y, mean, rstd), mean and rstd of shape (ghost batches, C); running arrays are updated by each in turn."""
    rest = weight, bias, running_mean, running_var, momentum, eps
    parts = [batch_norm_forward(x[part], *rest, axis=axis) for part in _ghosts(x, virtual_batch_size)]
    y, mean, rstd = zip(*parts, strict=True)
    return np.concatenate(y), np.stack(mean), np.stack(rstd)


def ghost_batch_norm_backward(dy, x, mean, rstd, virtual_batch_size, weight=None, *, axis=1):
    """(dx, dweight, dbias)."""
    parts = [
        batch_norm_backward(dy[part], x[part], m, r, weight, axis=axis)
        for part, m, r in zip(_ghosts(x, virtual_batch_size), mean, rstd, strict=True)
    ]
    dx, dweight, dbias = zip(*parts, strict=True)
    return np.concatenate(dx), sum(dweight), sum(dbias)


def batch_renorm_forward(
    x, running_mean, running_var, weight=None, bias=None, momentum=0.1, eps=1e-5, r_max=3.0, d_max=5.0, *, axis=1
):
    """(y, mean, rstd, r, d); running arrays are updated in place."""
    center, sigma = _float64(running_mean), np.sqrt(_float64(running_var) + eps)
    h, mean, rstd = batch_norm_forward(x, None, None, running_mean, running_var, momentum, eps, axis=axis)
    r, d = np.clip(1 / rstd / sigma, 1 / r_max, r_max), np.clip((mean - center) / sigma, -d_max, d_max)
    r_, d_, w, b = (v if v is None else _along(_float64(v), h.ndim, axis % h.ndim) for v in (r, d, weight, bias))
    return _affine(h * r_ + d_, w, b), mean, rstd, r, d


def batch_renorm_backward(dy, x, mean, rstd, r, d, weight=None, *, axis=1):
    """(dx, dweight, dbias), with r and d as constants."""
    scale = r if weight is None else r * _float64(weight)
    dx, dscale, dbias = batch_norm_backward(dy, x, mean, rstd, scale, axis=axis)
    return dx, r * dscale + d * dbias, dbias


# weight standardization: each output channel by itself ----------------------------------------------------------------


def _gains(weight, gain, gamma):
    """Factors of every output channel, of shape (C_out, 1, ...), and the part of them that is not `gain`."""
    factor = 1.0 if gamma is None else gamma / np.sqrt(weight[0].size)
    return _along(np.ones(len(weight)) if gain is None else _float64(gain), weight.ndim, 0) * factor, factor


def weight_standardization_forward(weight, gain=None, eps=1e-6, *, gamma=None):
    """(standardized weight, mean, rstd), mean and rstd of shape (C_out,)."""
    h, mean, rstd = _forward(_float64(weight), tuple(range(1, np.ndim(weight))), eps)
    return h * _gains(h, gain, gamma)[0], mean.ravel(), rstd.ravel()


def weight_standardization_backward(dy, weight, mean, rstd, gain=None, *, gamma=None):
    """(dweight, dgain)."""
    dy, weight = _float64(dy), _float64(weight)
    axes = tuple(range(1, weight.ndim))
    mean, rstd = (_along(v, weight.ndim, 0) for v in (mean, rstd))
    gains, factor = _gains(weight, gain, gamma)
    h = (weight - mean) * rstd
    return _backward(dy * gains, h, rstd, axes), factor * (dy * h).sum(axes)


# layer and RMS norm over the channels of each position ----------------------------------------------------------------


def _last(v, axis):
    return np.moveaxis(v, axis, -1)


def channel_layer_norm_forward(x, weight=None, bias=None, eps=1e-6, *, axis=1):
    """(y, mean, rstd), mean and rstd of x's shape without `axis`."""
    y, mean, rstd = layer_norm_forward(_last(x, axis), x.shape[axis], weight, bias, eps)
    return np.moveaxis(y, -1, axis), mean, rstd


def channel_layer_norm_backward(dy, x, mean, rstd, weight=None, *, axis=1):
    """(dx, dweight, dbias)."""
    dx, dweight, dbias = layer_norm_backward(_last(dy, axis), _last(x, axis), mean, rstd, weight)
    return np.moveaxis(dx, -1, axis), dweight, dbias


def channel_rms_norm_forward(x, weight=None, eps=1e-6, *, axis=1):
    """(y, rstd), rstd of x's shape without `axis`."""
    y, rstd = rms_norm_forward(_last(x, axis), x.shape[axis], weight, eps)
    return np.moveaxis(y, -1, axis), rstd


def channel_rms_norm_backward(dy, x, rstd, weight=None, *, axis=1):
    """(dx, dweight)."""
    dx, dweight = rms_norm_backward(_last(dy, axis), _last(x, axis), rstd, weight)
    return np.moveaxis(dx, -1, axis), dweight


# response norms -------------------------------------------------------------------------------------------------------


def _planes(x, axis):
    """x as (N, C, positions), and the way back."""
    return _grouped(_float64(x), np.shape(x)[axis], axis % np.ndim(x))


def _column(v, default):
    return default if v is None else _float64(v)[:, None]


def global_response_norm_forward(x, weight=None, bias=None, eps=1e-6, *, axis=1):
    """(y, norm), norm of shape (N, C)."""
    x, back = _planes(x, axis)
    norm = np.sqrt((x * x).sum(2, keepdims=True))
    response = norm / (norm.mean(1, keepdims=True) + eps)
    return back(x * response * _column(weight, 1.0) + _column(bias, 0.0) + x), norm[..., 0]


def global_response_norm_backward(dy, x, norm, weight=None, eps=1e-6, *, axis=1):
    """(dx, dweight, dbias)."""
    (dy, _), (x, back), norm = _planes(dy, axis), _planes(x, axis), norm[..., None]
    total, weight = norm.mean(1, keepdims=True) + eps, _column(weight, 1.0)
    dresponse = (dy * x * weight).sum(2, keepdims=True)
    dnorm = dresponse / total - (dresponse * norm).mean(1, keepdims=True) / total**2
    unit = np.divide(x, norm, out=np.zeros_like(x), where=norm > 0)  # the norm's gradient
    dx = dy * (1 + weight * norm / total) + unit * dnorm
    return back(dx), (dy * x * norm / total).sum((0, 2)), dy.sum((0, 2))


def filter_response_norm_forward(x, weight=None, bias=None, tau=None, eps=1e-6, *, axis=1):
    """(y, rstd), rstd of shape (N, C)."""
    x, back = _planes(x, axis)
    rstd = 1 / np.sqrt((x * x).mean(2, keepdims=True) + eps)
    y = x * rstd * _column(weight, 1.0) + _column(bias, 0.0)
    return back(np.maximum(y, _column(tau, -np.inf))), rstd[..., 0]


def filter_response_norm_backward(dy, x, rstd, weight=None, bias=None, tau=None, *, axis=1):
    """(dx, dweight, dbias, dtau); dtau is None without tau."""
    (dy, _), (x, back), rstd = _planes(dy, axis), _planes(x, axis), rstd[..., None]
    h, weight = x * rstd, _column(weight, 1.0)
    above = h * weight + _column(bias, 0.0) > _column(tau, -np.inf)
    dz = dy * above
    g = dz * weight
    dx = rstd * (g - h * (g * h).mean(2, keepdims=True))
    return back(dx), *_sums(dz, h, (0, 2)), None if tau is None else (dy - dz).sum((0, 2))


def _neighbours(v, before, after):
    """The sum over so many indices of axis 1 before and after each one."""
    return np.stack([v[:, max(0, c - before) : c + after + 1].sum(1) for c in range(v.shape[1])], axis=1)


def local_response_norm(x, size, alpha=1e-4, beta=0.75, k=1.0, *, axis=1):
    """Local response normalization over neighbouring channels."""
    x, back = _planes(x, axis)
    return back(x / (k + alpha / size * _neighbours(x * x, size // 2, (size - 1) // 2)) ** beta)


def local_response_norm_backward(dy, x, size, alpha=1e-4, beta=0.75, k=1.0, *, axis=1):
    """dx."""
    (dy, _), (x, back) = _planes(dy, axis), _planes(x, axis)
    base = k + alpha / size * _neighbours(x * x, size // 2, (size - 1) // 2)
    spread = _neighbours(dy * x * base ** (-beta - 1), (size - 1) // 2, size // 2)
    return back(dy * base**-beta - 2 * alpha * beta / size * x * spread)
