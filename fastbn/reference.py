"""The definitions: every operation in plain NumPy float64, written to be read, not to be fast.

Tests, ``fastbn demo``, ``fastbn bench`` and ``fastbn selfcheck`` compare the kernels with these functions.  They take
what the functions of the same name in :mod:`fastbn` take (without ``out``), compute in float64 whatever the input's
dtype, and return float64.  Nothing in the library itself calls them.
"""

import numpy as np

__all__ = [
    "batch_norm",
    "batch_norm_backward",
    "batch_norm_forward",
    "group_norm",
    "group_norm_backward",
    "group_norm_forward",
    "instance_norm",
    "instance_norm_backward",
    "instance_norm_forward",
    "layer_norm",
    "layer_norm_backward",
    "layer_norm_forward",
    "rms_norm",
    "rms_norm_backward",
    "rms_norm_forward",
]


def _float64(x):
    return None if x is None else np.asarray(x).astype(np.float64)


def _default_rms_eps(x):
    """torch's default: the machine epsilon of the type computed in (float32 for half precision)."""
    return float(np.finfo(np.float64 if np.asarray(x).dtype == np.float64 else np.float32).eps)


def _shape_tuple(normalized_shape):
    return (normalized_shape,) if np.ndim(normalized_shape) == 0 else tuple(normalized_shape)


def _moments(x, axes):
    """Mean and biased variance over `axes`, both kept as axes of length one.

    Two passes about a first element: exact for constant data, where NumPy's own mean may miss by a rounding.
    """
    shift = x[tuple(slice(0, 1) if a in axes else slice(None) for a in range(x.ndim))]
    with np.errstate(invalid="ignore"):  # Inf - Inf: the group becomes NaN, as IEEE arithmetic says
        mean = shift + (x - shift).mean(axes, keepdims=True)
        return mean, ((x - mean) ** 2).mean(axes, keepdims=True)


def _forward(x, axes, eps):
    mean, var = _moments(x, axes)
    rstd = 1 / np.sqrt(var + eps)
    with np.errstate(invalid="ignore"):
        return (x - mean) * rstd, mean, rstd


def _backward(g, h, rstd, axes):
    """dx = r (g - avg(g) - h avg(g h)), the gradient through the mean, the variance and the value itself."""
    return rstd * (g - g.mean(axes, keepdims=True) - h * (g * h).mean(axes, keepdims=True))


def _along(v, ndim, axis):
    """A per-channel vector shaped so that it broadcasts along `axis`."""
    return v.reshape([-1 if a == axis else 1 for a in range(ndim)])


def _affine(h, weight, bias):
    return h * (1.0 if weight is None else weight) + (0.0 if bias is None else bias)


def _sums(dy, h, axes, shape=None):
    dweight, dbias = (dy * h).sum(axes), dy.sum(axes)
    return (dweight, dbias) if shape is None else (dweight.reshape(shape), dbias.reshape(shape))


# batch norm: statistics per channel, shared over every other axis ---------------------------------------------------


def batch_norm_forward(
    x, weight=None, bias=None, running_mean=None, running_var=None, momentum=0.1, eps=1e-5, *, axis=1
):
    """Batch normalization with batch statistics: (y, mean, rstd); running arrays are updated in place."""
    x, weight, bias = _float64(x), _float64(weight), _float64(bias)
    axis %= x.ndim
    axes = tuple(a for a in range(x.ndim) if a != axis)
    h, mean, rstd = _forward(x, axes, eps)
    n = x.size // x.shape[axis]
    if running_mean is not None:
        running_mean[...] = (1 - momentum) * _float64(running_mean) + momentum * mean.ravel()
    if running_var is not None:
        unbiased = _moments(x, axes)[1].ravel() * (n / (n - 1))
        running_var[...] = (1 - momentum) * _float64(running_var) + momentum * unbiased
    w, b = (v if v is None else _along(v, x.ndim, axis) for v in (weight, bias))
    return _affine(h, w, b), mean.ravel(), rstd.ravel()


def batch_norm(
    x, running_mean=None, running_var=None, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5, *, axis=1
):
    """Batch normalization, with batch statistics (training) or the running ones."""
    if training:
        return batch_norm_forward(x, weight, bias, running_mean, running_var, momentum, eps, axis=axis)[0]
    x = _float64(x)
    mean, var, w, b = (
        v if v is None else _along(_float64(v), x.ndim, axis % x.ndim)
        for v in (running_mean, running_var, weight, bias)
    )
    return _affine((x - mean) / np.sqrt(var + eps), w, b)


def batch_norm_backward(dy, x, mean, rstd, weight=None, *, axis=1, training=True):
    """(dx, dweight, dbias); training=False: the statistics are constants."""
    dy, x = _float64(dy), _float64(x)
    axis %= x.ndim
    axes = tuple(a for a in range(x.ndim) if a != axis)
    mean, rstd = _along(_float64(mean), x.ndim, axis), _along(_float64(rstd), x.ndim, axis)
    g = dy if weight is None else dy * _along(_float64(weight), x.ndim, axis)
    h = (x - mean) * rstd
    return _backward(g, h, rstd, axes) if training else rstd * g, *_sums(dy, h, axes)


# layer and RMS norm: statistics per sample over the trailing axes ----------------------------------------------------


def layer_norm_forward(x, normalized_shape, weight=None, bias=None, eps=1e-5):
    """(y, mean, rstd), statistics over the trailing axes of `normalized_shape`."""
    x, weight, bias = _float64(x), _float64(weight), _float64(bias)
    lead = x.shape[: x.ndim - len(_shape_tuple(normalized_shape))]
    h, mean, rstd = _forward(x, tuple(range(len(lead), x.ndim)), eps)
    return _affine(h, weight, bias), mean.reshape(lead), rstd.reshape(lead)


def layer_norm(x, normalized_shape, weight=None, bias=None, eps=1e-5):
    """Layer normalization over the trailing axes."""
    return layer_norm_forward(x, normalized_shape, weight, bias, eps)[0]


def layer_norm_backward(dy, x, mean, rstd, weight=None):
    """(dx, dweight, dbias); the normalized axes are those that `mean` lacks."""
    dy, x, mean, rstd = _float64(dy), _float64(x), _float64(mean), _float64(rstd)
    lead, axes = tuple(range(mean.ndim)), tuple(range(mean.ndim, x.ndim))
    ones = (1,) * len(axes)
    mean, rstd = mean.reshape(mean.shape + ones), rstd.reshape(rstd.shape + ones)
    h = (x - mean) * rstd
    g = dy if weight is None else dy * _float64(weight)
    return _backward(g, h, rstd, axes), *_sums(dy, h, lead)


def rms_norm_forward(x, normalized_shape, weight=None, eps=None):
    """(y, rstd) with rstd = 1/sqrt(mean(x^2) + eps)."""
    eps = _default_rms_eps(x) if eps is None else eps
    x, weight = _float64(x), _float64(weight)
    lead = x.shape[: x.ndim - len(_shape_tuple(normalized_shape))]
    axes = tuple(range(len(lead), x.ndim))
    rstd = 1 / np.sqrt((x * x).mean(axes, keepdims=True) + eps)
    return _affine(x * rstd, weight, None), rstd.reshape(lead)


def rms_norm(x, normalized_shape, weight=None, eps=None):
    """Root-mean-square normalization over the trailing axes."""
    return rms_norm_forward(x, normalized_shape, weight, eps)[0]


def rms_norm_backward(dy, x, rstd, weight=None):
    """(dx, dweight)."""
    dy, x, rstd = _float64(dy), _float64(x), _float64(rstd)
    lead, axes = tuple(range(rstd.ndim)), tuple(range(rstd.ndim, x.ndim))
    rstd = rstd.reshape(rstd.shape + (1,) * len(axes))
    h = x * rstd
    g = dy if weight is None else dy * _float64(weight)
    dx = rstd * (g - h * (g * h).mean(axes, keepdims=True))
    return dx, _sums(dy, h, lead)[0]


# group and instance norm: statistics per sample and group of channels -------------------------------------------------


def _grouped(v, num_groups, axis):
    """(N, C, ...) with channels on `axis` -> (N, G, everything else of the group), and the way back."""
    moved = np.moveaxis(v, axis, 1)
    return moved.reshape(moved.shape[0], num_groups, -1), lambda u: np.moveaxis(u.reshape(moved.shape), 1, axis)


def group_norm_forward(x, num_groups, weight=None, bias=None, eps=1e-5, *, axis=1):
    """(y, mean, rstd), mean and rstd of shape (N, G); group g holds the channels g*C/G to (g+1)*C/G - 1."""
    x, weight, bias = _float64(x), _float64(weight), _float64(bias)
    axis %= x.ndim
    grouped, back = _grouped(x, num_groups, axis)
    h, mean, rstd = _forward(grouped, (2,), eps)
    w, b = (v if v is None else _along(v, x.ndim, axis) for v in (weight, bias))
    return _affine(back(h), w, b), mean[..., 0], rstd[..., 0]


def group_norm(x, num_groups, weight=None, bias=None, eps=1e-5, *, axis=1):
    """Group normalization."""
    return group_norm_forward(x, num_groups, weight, bias, eps, axis=axis)[0]


def group_norm_backward(dy, x, mean, rstd, weight=None, *, axis=1):
    """(dx, dweight, dbias); the number of groups is mean.shape[1]."""
    dy, x, mean, rstd = _float64(dy), _float64(x), _float64(mean), _float64(rstd)
    axis %= x.ndim
    grouped, back = _grouped(x, mean.shape[1], axis)
    h = (grouped - mean[..., None]) * rstd[..., None]
    g = dy if weight is None else dy * _along(_float64(weight), x.ndim, axis)
    dx = back(_backward(_grouped(g, mean.shape[1], axis)[0], h, rstd[..., None], (2,)))
    return dx, *_sums(dy, back(h), tuple(a for a in range(x.ndim) if a != axis))


def instance_norm_forward(x, weight=None, bias=None, eps=1e-5, *, axis=1):
    """Group normalization with a group a channel: (y, mean, rstd), mean and rstd of shape (N, C)."""
    return group_norm_forward(x, np.shape(x)[axis], weight, bias, eps, axis=axis)


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
):
    """Instance normalization; running arrays receive the average of the instances' statistics."""
    if not use_input_stats:
        return batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps, axis=axis)
    y, mean, _ = instance_norm_forward(x, weight, bias, eps, axis=axis)
    grouped = _grouped(_float64(x), np.shape(x)[axis], axis % np.ndim(x))[0]
    n = grouped.shape[2]
    if running_mean is not None:
        running_mean[...] = (1 - momentum) * _float64(running_mean) + momentum * mean.mean(0)
    if running_var is not None:
        var = _moments(grouped, (2,))[1][..., 0].mean(0) * (n / (n - 1))
        running_var[...] = (1 - momentum) * _float64(running_var) + momentum * var
    return y


def instance_norm_backward(dy, x, mean, rstd, weight=None, *, axis=1):
    """(dx, dweight, dbias)."""
    return group_norm_backward(dy, x, mean, rstd, weight, axis=axis)
