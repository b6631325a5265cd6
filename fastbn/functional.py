"""The operations on arrays: each as y alone, as `_forward` with its statistics, and as `_backward`."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastbn import _calls, _checks, _views

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

Array = NDArray[Any]


def _affine(weight: Any, bias: Any, shape: tuple[int, ...], x: Array) -> tuple[Array | None, Array | None]:
    """weight and bias in the type that x is computed in."""
    compute = _checks.COMPUTED_IN[x.dtype]
    return _checks.vector(weight, "weight", shape, compute), _checks.vector(bias, "bias", shape, compute)


def _update(running: Array | None, batch: Array, momentum: float) -> None:
    """running <- (1 - momentum) running + momentum batch, in float64 and in place."""
    if running is not None:
        running[...] = (1 - momentum) * running.astype(np.float64) + momentum * batch


# Batch norm -----------------------------------------------------------------------------------------------------------


def batch_norm(
    x: ArrayLike,
    running_mean: ArrayLike | None = None,
    running_var: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    axis: int = 1,
    out: Array | None = None,
) -> Array:
    """Batch normalization."""
    if training:
        return _batch(x, weight, bias, running_mean, running_var, momentum, eps, axis, out)[0]
    x = _checks.array(x, "x")
    _checks.rank(x, 2)
    channel = _checks.axis(axis, x)
    shape = (x.shape[channel],)
    w, b = _affine(weight, bias, shape, x)
    _checks.real(momentum, "momentum")
    eps = _checks.eps(eps)
    mean = _checks.given(running_mean, "running_mean", shape)
    var = _checks.given(running_var, "running_var", shape)
    _checks.out(out, x, x, running_mean, running_var, weight, bias)
    return _calls.apply(x, channel, w, b, eps, mean, var, out)


def batch_norm_forward(
    x: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    running_mean: Array | None = None,
    running_var: Array | None = None,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    axis: int = 1,
    out: Array | None = None,
) -> tuple[Array, Array, Array]:
    """Batch normalization with batch statistics."""
    return _batch(x, weight, bias, running_mean, running_var, momentum, eps, axis, out)


def _batch(
    x: Any,
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_var: Any,
    momentum: Any,
    eps: Any,
    axis: Any,
    out: Any,
) -> tuple[Array, Array, Array]:
    x = _checks.array(x, "x")
    _checks.rank(x, 2)
    channel = _checks.axis(axis, x)
    shape = (x.shape[channel],)
    w, b = _affine(weight, bias, shape, x)
    eps, momentum = _checks.eps(eps), _checks.real(momentum, "momentum")
    _checks.running(running_mean, running_var, shape, x, weight, bias)
    _checks.out(out, x, x, weight, bias, running_mean, running_var)
    count = x.size // x.shape[channel] if x.size else 0
    if count == 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {x.shape}")
    y, mean, var = _calls.normalize(x, _views.batch_view, (channel,), w, b, eps, out, keep=True)
    if count:
        _update(running_mean, mean, momentum)
        _update(running_var, var * (count / (count - 1)), momentum)
    return y, mean, _calls.rstd(var, eps)


def batch_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    mean: ArrayLike,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    axis: int = 1,
    training: bool = True,
    out: Array | None = None,
) -> tuple[Array, Array, Array]:
    """Gradients of batch normalization."""
    dy, x = _checks.gradient(dy, x)
    _checks.rank(x, 2)
    channel = _checks.axis(axis, x)
    shape = (x.shape[channel],)
    m, r = _checks.given(mean, "mean", shape), _checks.given(rstd, "rstd", shape)
    w = _checks.vector(weight, "weight", shape)
    _checks.out(out, x, x, dy, weight, mean, rstd)
    return _calls.differentiate(dy, x, m, r, _views.batch_view, (channel,), w, shape, out, bool(training))


# Layer norm and RMS norm ----------------------------------------------------------------------------------------------


def layer_norm(
    x: ArrayLike,
    normalized_shape: int | tuple[int, ...],
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    out: Array | None = None,
) -> Array:
    """Layer normalization."""
    return _trailing(x, normalized_shape, weight, bias, eps, out, centered=True)


def layer_norm_forward(
    x: ArrayLike,
    normalized_shape: int | tuple[int, ...],
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    out: Array | None = None,
) -> tuple[Array, Array, Array]:
    """Layer normalization with its statistics."""
    return _trailing_forward(x, normalized_shape, weight, bias, eps, out, centered=True)


def layer_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    mean: ArrayLike,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    out: Array | None = None,
) -> tuple[Array, Array, Array]:
    """Gradients of layer normalization."""
    return _trailing_backward(dy, x, mean, rstd, weight, out, centered=True)


def rms_norm(
    x: ArrayLike,
    normalized_shape: int | tuple[int, ...],
    weight: ArrayLike | None = None,
    eps: float | None = None,
    *,
    out: Array | None = None,
) -> Array:
    """RMS normalization."""
    return _trailing(x, normalized_shape, weight, None, eps, out, centered=False)


def rms_norm_forward(
    x: ArrayLike,
    normalized_shape: int | tuple[int, ...],
    weight: ArrayLike | None = None,
    eps: float | None = None,
    *,
    out: Array | None = None,
) -> tuple[Array, Array]:
    """RMS normalization with its statistic."""
    y, _, rstd = _trailing_forward(x, normalized_shape, weight, None, eps, out, centered=False)
    return y, rstd


def rms_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    out: Array | None = None,
) -> tuple[Array, Array]:
    """Gradients of RMS normalization."""
    return _trailing_backward(dy, x, None, rstd, weight, out, centered=False)[:2]


def _trailing(x: Any, normalized_shape: Any, weight: Any, bias: Any, eps: Any, out: Any, centered: bool) -> Array:
    key = None
    if out is None:
        try:
            key = (centered, x.shape, x.dtype, normalized_shape, eps)
            y = _calls.again(key, x, weight, bias)
        except (AttributeError, TypeError):  # not an array, or an argument that cannot be a key
            key = y = None
        if y is not None:
            return y
    x, w, b, eps, trailing = _trailing_arguments(x, normalized_shape, weight, bias, eps, out, centered)
    return _calls.normalize(x, _views.layer_view, (trailing,), w, b, eps, out, False, centered, key)[0]


def _trailing_forward(
    x: Any, normalized_shape: Any, weight: Any, bias: Any, eps: Any, out: Any, centered: bool
) -> tuple[Array, Array, Array]:
    x, w, b, eps, trailing = _trailing_arguments(x, normalized_shape, weight, bias, eps, out, centered)
    y, mean, var = _calls.normalize(x, _views.layer_view, (trailing,), w, b, eps, out, True, centered)
    return y, mean, _calls.rstd(var, eps)


def _trailing_arguments(
    x: Any, normalized_shape: Any, weight: Any, bias: Any, eps: Any, out: Any, centered: bool
) -> tuple[Array, Array | None, Array | None, float, int]:
    x = _checks.array(x, "x")
    shape = _checks.normalized_shape(normalized_shape, x)
    w, b = _affine(weight, bias, shape, x)
    if eps is None and not centered:  # torch's default for RMS norm
        eps = float(np.finfo(_checks.COMPUTED_IN[x.dtype]).eps)
    eps = _checks.eps(eps)
    _checks.out(out, x, x, weight, bias)
    return x, w, b, eps, len(shape)


def _trailing_backward(
    dy: Any, x: Any, mean: Any, rstd: Any, weight: Any, out: Any, centered: bool
) -> tuple[Array, Array, Array]:
    dy, x = _checks.gradient(dy, x)
    lead, shape = _checks.leading(rstd, "rstd", x)
    r = _checks.given(rstd, "rstd", lead)
    m = _checks.given(mean, "mean", lead) if centered else None
    w = _checks.vector(weight, "weight", shape)
    _checks.out(out, x, x, dy, weight, mean, rstd)
    return _calls.differentiate(dy, x, m, r, _views.layer_view, (len(shape),), w, shape, out)


# Group norm and instance norm -----------------------------------------------------------------------------------------


def group_norm(
    x: ArrayLike,
    num_groups: int,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    axis: int = 1,
    out: Array | None = None,
) -> Array:
    """Group normalization."""
    return _group(x, num_groups, weight, bias, eps, axis, out, keep=False)[0]


def group_norm_forward(
    x: ArrayLike,
    num_groups: int,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    axis: int = 1,
    out: Array | None = None,
) -> tuple[Array, Array, Array]:
    """Group normalization with its statistics."""
    y, mean, var = _group(x, num_groups, weight, bias, eps, axis, out, keep=True)
    return y, mean, _calls.rstd(var, eps)


def group_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    mean: ArrayLike,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    axis: int = 1,
    out: Array | None = None,
) -> tuple[Array, Array, Array]:
    """Gradients of group normalization."""
    return _group_backward(dy, x, mean, rstd, weight, axis, out, num_groups=_checks.groups_of(rstd))


def instance_norm(
    x: ArrayLike,
    running_mean: ArrayLike | None = None,
    running_var: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    axis: int = 1,
    out: Array | None = None,
) -> Array:
    """Instance normalization."""
    if use_input_stats:
        return instance_norm_with_running(x, weight, bias, running_mean, running_var, momentum, eps, axis, out)[0]
    x = _checks.array(x, "x")
    _checks.rank(x, 2)
    _checks.sample_axis(axis, x)
    return batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps, axis=axis, out=out)


def instance_norm_forward(
    x: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    axis: int = 1,
    out: Array | None = None,
) -> tuple[Array, Array, Array]:
    """Instance normalization with its statistics."""
    return instance_norm_with_running(x, weight, bias, None, None, 0.0, eps, axis, out)


def instance_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    mean: ArrayLike,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    axis: int = 1,
    out: Array | None = None,
) -> tuple[Array, Array, Array]:
    """Gradients of instance normalization."""
    return _group_backward(dy, x, mean, rstd, weight, axis, out, num_groups=None)


def _group(
    x: Any, num_groups: Any, weight: Any, bias: Any, eps: Any, axis: Any, out: Any, keep: bool
) -> tuple[Array, Array, Array]:
    """y, mean and variance."""
    x = _checks.array(x, "x")
    _checks.rank(x, 2)
    channel = _checks.sample_axis(axis, x)
    channels = x.shape[channel]
    args = (channel, _checks.groups(num_groups, channels))
    w, b = _affine(weight, bias, (channels,), x)
    eps = _checks.eps(eps)
    _checks.out(out, x, x, weight, bias)
    return _calls.normalize(x, _views.group_view, args, w, b, eps, out, keep)


def _group_backward(
    dy: Any, x: Any, mean: Any, rstd: Any, weight: Any, axis: Any, out: Any, num_groups: int | None
) -> tuple[Array, Array, Array]:
    """num_groups: None for a group a channel."""
    dy, x = _checks.gradient(dy, x)
    _checks.rank(x, 2)
    channel = _checks.sample_axis(axis, x)
    channels = x.shape[channel]
    groups = channels if num_groups is None else _checks.groups(num_groups, channels)
    m, r = (_checks.given(v, name, (x.shape[0], groups)) for v, name in ((mean, "mean"), (rstd, "rstd")))
    w = _checks.vector(weight, "weight", (channels,))
    _checks.out(out, x, x, dy, weight, mean, rstd)
    return _calls.differentiate(dy, x, m, r, _views.group_view, (channel, groups), w, (channels,), out)


def instance_norm_with_running(
    x: Any,
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_var: Any,
    momentum: Any,
    eps: Any,
    axis: Any,
    out: Any,
) -> tuple[Array, Array, Array]:
    """Instance normalization with the instances' statistics, whose averages go into the running ones."""
    x = _checks.array(x, "x")
    _checks.rank(x, 2)
    channel = _checks.sample_axis(axis, x)
    channels = x.shape[channel]
    momentum = _checks.real(momentum, "momentum")
    _checks.running(running_mean, running_var, (channels,), x, weight, bias)
    _checks.out(out, x, running_mean, running_var)
    count = x.size // (x.shape[0] * channels) if x.size else 0
    if count == 1:
        raise ValueError(f"Expected more than 1 spatial element when training, got input size {x.shape}")
    y, mean, var = _group(x, channels, weight, bias, eps, axis, out, keep=True)
    if count:
        _update(running_mean, mean.mean(0), momentum)
        _update(running_var, var.mean(0) * (count / (count - 1)), momentum)
    return y, mean, _calls.rstd(var, eps)
