"""Layer norm and RMS norm over the channels, which need not be the last axis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastbn import functional as F
from fastbn._quiet import quietly
from fastbn.engine import arguments
from fastbn.variants._arguments import Array, read, read_gradient, result_for

__all__ = [
    "channel_layer_norm",
    "channel_layer_norm_backward",
    "channel_layer_norm_forward",
    "channel_rms_norm",
    "channel_rms_norm_backward",
    "channel_rms_norm_forward",
]


@quietly
def channel_layer_norm(
    x: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-6,
    *,
    axis: int = 1,
    activation: F.Activation = None,
    where: ArrayLike | None = None,
    out: Array | None = None,
) -> Array:
    """Layer normalization over the channels: each position of a sample by its mean and variance.

    Parameters
    ----------
    x : array_like, shape (N, C, ...)
        float16, bfloat16, float32 or float64, of two axes or more; axis 0 counts the samples.
    weight, bias : array_like, shape (C,), optional
        Float scale and shift of each channel; 1 and 0 where left out.
    eps : float
        Added to the variance; not negative.
    axis : int
        The channels' axis of x, any but the first.
    activation, where
        As `layer_norm` takes them.
    out : ndarray, shape and dtype of x, optional
        Where to write y; may be x.

    Returns
    -------
    y : ndarray, shape and dtype of x

    Raises
    ------
    TypeError
        If the type or dtype of an argument is not as above.
    ValueError
        If a shape does not fit x, `axis` is 0 or out of range, `eps` is negative or not finite, the activation is
        unknown, or `out` is read-only, misaligned, or overlaps itself or an argument other than x.

    Notes
    -----
    It is `layer_norm` with the channels last, as ConvNeXt has it [1]_; x is read and y written where they lie, without
    a transposed copy.

    References
    ----------
    .. [1] Z. Liu et al., "A ConvNet for the 2020s", CVPR 2022.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> x = np.array([[[1.0, 30.0], [3.0, 10.0]]])  # one sample of two channels with two positions
    >>> fastbn.channel_layer_norm(x).round(3)
    array([[[-1.,  1.],
            [ 1., -1.]]])
    """
    return channel_layer_norm_forward(x, weight, bias, eps, axis=axis, activation=activation, where=where, out=out)[0]


@quietly
def channel_layer_norm_forward(
    x: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-6,
    *,
    axis: int = 1,
    activation: F.Activation = None,
    where: ArrayLike | None = None,
    out: Array | None = None,
) -> tuple[Array, F.Statistics, F.Statistics]:
    """Layer normalization over the channels that also returns its statistics.

    Parameters
    ----------
    x, weight, bias, eps, axis, activation, where, out
        As `channel_layer_norm` takes them.

    Returns
    -------
    y : ndarray, shape and dtype of x
    mean, rstd : ndarray of float64, the shape of x without `axis`
        Mean and 1 / sqrt(var + eps) of each position.

    Raises
    ------
    TypeError, ValueError
        As `channel_layer_norm`.

    Examples
    --------
    >>> import fastbn
    >>> y, mean, rstd = fastbn.channel_layer_norm_forward([[[1.0, 30.0], [3.0, 10.0]]], eps=0)
    >>> mean, rstd
    (array([[ 2., 20.]]), array([[1. , 0.1]]))
    """
    y, mean, rstd = _over_channels(F.layer_norm_forward, x, (weight, bias), eps, axis, activation, where, out)
    return y, mean, rstd


@quietly
def channel_layer_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    mean: ArrayLike,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    axis: int = 1,
    bias: ArrayLike | None = None,
    activation: F.Activation = None,
    where: ArrayLike | None = None,
    y: ArrayLike | None = None,
    out: Array | None = None,
) -> tuple[Array, Array, Array]:
    """The gradients of layer normalization over the channels.

    Parameters
    ----------
    dy : array_like, shape and dtype of x
        Gradient of y.
    x, weight, axis, bias, activation, where
        Those of the forward; x is None with `y`.
    mean, rstd : array_like, the shape of x without `axis`
        What `channel_layer_norm_forward` returned.
    y : array_like, optional
        The result of the forward, to start from instead of x; see the module `fastbn.functional`.
    out : ndarray, shape and dtype of x, optional
        Where to write dx; may be x or dy.

    Returns
    -------
    dx : ndarray, shape and dtype of x
    dweight, dbias : ndarray, shape (C,)

    Raises
    ------
    TypeError, ValueError
        As `layer_norm_backward`; also if `axis` is 0 or out of range.

    Examples
    --------
    >>> import fastbn
    >>> x = [[[1.0, 30.0], [3.0, 10.0]]]
    >>> y, mean, rstd = fastbn.channel_layer_norm_forward(x, eps=0)
    >>> dx, dweight, dbias = fastbn.channel_layer_norm_backward([[[0.0, 1.0], [2.0, 1.0]]], x, mean, rstd)
    >>> dweight, dbias
    (array([1., 1.]), array([1., 3.]))
    """
    beside = {"bias": bias, "activation": activation}
    return _over_channels_backward(F.layer_norm_backward, (dy, x, y), (mean, rstd), weight, axis, beside, where, out)


@quietly
def channel_rms_norm(
    x: ArrayLike,
    weight: ArrayLike | None = None,
    eps: float = 1e-6,
    *,
    axis: int = 1,
    activation: F.Activation = None,
    where: ArrayLike | None = None,
    out: Array | None = None,
) -> Array:
    """RMS normalization over the channels: each position of a sample by its root mean square.

    Parameters
    ----------
    x, weight, axis, activation, where, out
        As `channel_layer_norm` takes them.
    eps : float
        Added to the mean square; not negative.

    Returns
    -------
    y : ndarray, shape and dtype of x

    Raises
    ------
    TypeError, ValueError
        As `channel_layer_norm`.

    Notes
    -----
    It is `rms_norm` with the channels last; x is read and y written where they lie, without a transposed copy.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> fastbn.channel_rms_norm(np.array([[[1.0], [-1.0], [7.0], [7.0]]])).round(3).ravel()
    array([ 0.2, -0.2,  1.4,  1.4])
    """
    return channel_rms_norm_forward(x, weight, eps, axis=axis, activation=activation, where=where, out=out)[0]


@quietly
def channel_rms_norm_forward(
    x: ArrayLike,
    weight: ArrayLike | None = None,
    eps: float = 1e-6,
    *,
    axis: int = 1,
    activation: F.Activation = None,
    where: ArrayLike | None = None,
    out: Array | None = None,
) -> tuple[Array, F.Statistics]:
    """RMS normalization over the channels that also returns its statistic.

    Parameters
    ----------
    x, weight, eps, axis, activation, where, out
        As `channel_rms_norm` takes them.

    Returns
    -------
    y : ndarray, shape and dtype of x
    rstd : ndarray of float64, the shape of x without `axis`
        1 / sqrt(avg(x * x) + eps).

    Raises
    ------
    TypeError, ValueError
        As `channel_rms_norm`.

    Examples
    --------
    >>> import fastbn
    >>> y, rstd = fastbn.channel_rms_norm_forward([[[1.0], [-1.0], [7.0], [7.0]]], eps=0)
    >>> rstd
    array([[0.2]])
    """
    y, rstd = _over_channels(F.rms_norm_forward, x, (weight,), eps, axis, activation, where, out)
    return y, rstd


@quietly
def channel_rms_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    axis: int = 1,
    activation: F.Activation = None,
    where: ArrayLike | None = None,
    y: ArrayLike | None = None,
    out: Array | None = None,
) -> tuple[Array, Array]:
    """The gradients of RMS normalization over the channels.

    Parameters
    ----------
    dy, x, rstd, weight, axis, activation, where, y, out
        As `channel_layer_norm_backward` takes them; rstd as `channel_rms_norm_forward` returned it.

    Returns
    -------
    dx : ndarray, shape and dtype of x
    dweight : ndarray, shape (C,)

    Raises
    ------
    TypeError, ValueError
        As `channel_layer_norm_backward`.

    Examples
    --------
    >>> import fastbn
    >>> x = [[[1.0], [-1.0], [7.0], [7.0]]]
    >>> y, rstd = fastbn.channel_rms_norm_forward(x, eps=0)
    >>> dx, dweight = fastbn.channel_rms_norm_backward([[[1.0], [1.0], [0.0], [0.0]]], x, rstd)
    >>> dweight
    array([ 0.2, -0.2,  0. ,  0. ])
    """
    beside = {"activation": activation}
    return _over_channels_backward(F.rms_norm_backward, (dy, x, y), (rstd,), weight, axis, beside, where, out)


def _over_channels(
    operation: Callable[..., tuple[Array, ...]],
    x: Any,
    affine: tuple[Any, ...],
    eps: Any,
    axis: Any,
    activation: Any,
    where: Any,
    out: Any,
) -> tuple[Array, ...]:
    """An operation over trailing axes, applied to a view of x that has its channels last."""
    given, (x, channel) = x, read(x, axis)
    mask = arguments.where(where, x)
    arguments.out(out, (x, given), *affine, where)
    y = result_for(x, out)
    moved, mask, target = (_last(v, channel) for v in (x, mask, y))
    named = {"activation": activation, "where": mask, "out": target}
    return y, *operation(moved, x.shape[channel], *affine, eps, **named)[1:]


def _over_channels_backward(
    operation: Callable[..., tuple[Array, ...]],
    arrays: tuple[Any, Any, Any],
    statistics: tuple[Any, ...],
    weight: Any,
    axis: Any,
    beside: dict[str, Any],
    where: Any,
    out: Any,
) -> Any:  # as many gradients as its caller says
    """The same backward; arrays: dy, and x or y, from which it starts."""
    dy, x, y = arrays
    given, (dy, start, channel) = (x, y, dy), read_gradient(dy, arguments.either(x, y), axis)
    arguments.float64_statistic(statistics[-1], "rstd", tuple(n for a, n in enumerate(start.shape) if a != channel))
    mask = arguments.where(where, start)
    arguments.out(out, (start, dy, *given), weight, *statistics, where, beside.get("bias"))
    dx = result_for(start, out)
    moved_dy, moved, mask, target = (_last(v, channel) for v in (dy, start, mask, dx))
    from_x, from_y = (moved, None) if y is None else (None, moved)
    named = {"where": mask, "y": from_y, "out": target} | beside
    return dx, *operation(moved_dy, from_x, *statistics, weight, **named)[1:]


def _last(v: Array | None, axis: int) -> Array | None:
    return None if v is None else np.moveaxis(v, axis, -1)
