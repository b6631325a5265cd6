"""Global and filter response normalization: a scale a sample and channel."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fastbn import _moments
from fastbn import functional as F
from fastbn._quiet import quiet, quietly
from fastbn.engine import arguments, forward, groups, plans, views
from fastbn.norms.shared import Kind, forward_of
from fastbn.variants._arguments import (
    Array,
    along_channels,
    gradient_dtype,
    of_samples,
    read,
    read_gradient,
    result_for,
)
from fastbn.variants._planes import kept_of, scale_planes, scale_planes_backward, slabs

__all__ = [
    "filter_response_norm",
    "filter_response_norm_backward",
    "filter_response_norm_forward",
    "global_response_norm",
    "global_response_norm_backward",
    "global_response_norm_forward",
]


@quietly
def global_response_norm(
    x: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-6,
    *,
    axis: int = 1,
    where: ArrayLike | None = None,
    out: Array | None = None,
) -> Array:
    """Global response normalization: each channel of a sample by its norm relative to the other channels', plus x.

    Parameters
    ----------
    x, axis, where, out
        As `channel_layer_norm` takes them.
    weight, bias : array_like, shape (C,), optional
        Float scale and shift of each channel; 1 and 0 where left out.
    eps : float
        Added to the average norm; not negative.

    Returns
    -------
    y : ndarray, shape and dtype of x

    Raises
    ------
    TypeError, ValueError
        As `channel_layer_norm`.

    Notes
    -----
    With the norm over all positions of a channel of a sample, and its average over the channels [1]_::

        norm = sqrt(sum(x * x))
        y = x * norm / (avg(norm) + eps) * weight + bias + x

    References
    ----------
    .. [1] S. Woo et al., "ConvNeXt V2: Co-designing and Scaling ConvNets with Masked Autoencoders", CVPR 2023.

    Examples
    --------
    >>> import fastbn
    >>> x = [[[3.0, 4.0], [0.0, 15.0]]]  # norms 5 and 15, on average 10
    >>> fastbn.global_response_norm(x, eps=0)
    array([[[ 4.5,  6. ],
            [ 0. , 37.5]]])
    """
    return global_response_norm_forward(x, weight, bias, eps, axis=axis, where=where, out=out)[0]


@quietly
def global_response_norm_forward(
    x: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-6,
    *,
    axis: int = 1,
    where: ArrayLike | None = None,
    out: Array | None = None,
) -> tuple[Array, F.Statistics]:
    """Global response normalization that also returns the norms.

    Parameters
    ----------
    x, weight, bias, eps, axis, where, out
        As `global_response_norm` takes them.

    Returns
    -------
    y : ndarray, shape and dtype of x
    norm : ndarray of float64, shape (N, C)
        The norm of each channel of each sample.

    Raises
    ------
    TypeError, ValueError
        As `global_response_norm`.

    Examples
    --------
    >>> import fastbn
    >>> y, norm = fastbn.global_response_norm_forward([[[3.0, 4.0], [0.0, 15.0]]])
    >>> norm
    array([[ 5., 15.]])
    """
    given, (x, channel) = x, read(x, axis)
    shape = (x.shape[channel],)
    w, b = (arguments.vector(v, name, shape, np.float64) for v, name in ((weight, "weight"), (bias, "bias")))
    eps, mask = arguments.eps(eps), arguments.where(where, x)
    arguments.out(out, (x, given), weight, bias, where)
    y, norm = result_for(x, out), np.full((len(x), *shape), np.nan)
    for part in slabs(x):
        kept = kept_of(mask, part, x[part])
        counted = x[part] if kept is None else np.where(kept, x[part], x.dtype.type(0))
        norm[part] = _moments.of_groups(counted, views.group_view, channel, *shape).root_of_squares()
        scale_planes(x[part], channel, _response(norm[part], w, eps), b, y[part], kept)
    return y, norm


@quietly
def global_response_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    norm: ArrayLike,
    weight: ArrayLike | None = None,
    eps: float = 1e-6,
    *,
    axis: int = 1,
    where: ArrayLike | None = None,
    out: Array | None = None,
) -> tuple[Array, Array, Array]:
    """The gradients of global response normalization.

    Parameters
    ----------
    dy, x, weight, axis, where, out
        As `channel_layer_norm_backward` takes them.
    norm : array_like, shape (N, C)
        What `global_response_norm_forward` returned.
    eps : float
        That of the forward.

    Returns
    -------
    dx : ndarray, shape and dtype of x
    dweight, dbias : ndarray, shape (C,)

    Raises
    ------
    TypeError, ValueError
        As `channel_layer_norm_backward`.

    Notes
    -----
    With s = 1 + weight * norm / t, t = avg(norm) + eps, p = sum(dy * x) over the positions, and avg over the channels::

        dx = dy * s + x / norm * (weight * p - avg(weight * p * norm) / t) / t        (x / norm = 0 where norm = 0)
        dweight = sum over samples of p * norm / t
        dbias = sum(dy)

    Examples
    --------
    >>> import fastbn
    >>> x = [[[3.0, 4.0], [0.0, 15.0]]]
    >>> y, norm = fastbn.global_response_norm_forward(x, eps=0)
    >>> dx, dweight, dbias = fastbn.global_response_norm_backward([[[1.0, 0.0], [0.0, 1.0]]], x, norm, eps=0)
    >>> dweight, dbias
    (array([ 1.5, 22.5]), array([1., 1.]))
    """
    given, (dy, x, channel) = (x, dy), read_gradient(dy, x, axis)
    shape = (x.shape[channel],)
    saved = arguments.float64_statistic(norm, "norm", (len(x), *shape))
    w = arguments.vector(weight, "weight", shape)
    eps, mask = arguments.eps(eps), arguments.where(where, x)
    arguments.out(out, (x, dy, *given), weight, norm, where)
    dx = result_for(x, out)
    wide = np.ones(shape) if w is None else w.astype(np.float64)
    sums, compute = np.zeros((2, *shape)), arguments.COMPUTED_IN[x.dtype]
    with quiet():
        for part in slabs(x):
            v, g = x[part].astype(compute, copy=False), dy[part].astype(compute, copy=False)
            own, kept = saved[part], kept_of(mask, part, v)
            direct, products, of_dy = scale_planes_backward(g, v, channel, _response(own, wide, eps), where=kept)
            total, pulled = _total(own, eps), wide * products
            pulled = (pulled - (pulled * own).mean(axis=1, keepdims=True) / total) / total
            slope = np.divide(pulled, own, out=np.zeros_like(own), where=own != 0)
            scale_planes(v, channel, slope, None, dx[part], kept, direct)
            sums += (products * own / total).sum(axis=0), of_dy.sum(axis=0)
    dweight, dbias = sums.astype(gradient_dtype(w, x))
    return dx, dweight, dbias


def _response(norm: Array, weight: Array | None, eps: float) -> Array:
    """What a sample's channels are multiplied by."""
    with quiet():
        response = norm / _total(norm, eps)
    return 1.0 + (response if weight is None else weight * response)


def _total(norm: Array, eps: float) -> Array:
    """The average norm of each sample, plus eps: (N, 1)."""
    return norm.sum(axis=1, keepdims=True) / max(1, norm.shape[1]) + eps


@quietly
def filter_response_norm(
    x: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    tau: ArrayLike | None = None,
    eps: float = 1e-6,
    *,
    axis: int = 1,
    where: ArrayLike | None = None,
    out: Array | None = None,
) -> Array:
    """Filter response normalization: each channel of a sample by its root mean square, with a thresholded linear unit.

    Parameters
    ----------
    x, axis, where, out
        As `channel_layer_norm` takes them.
    weight, bias : array_like, shape (C,), optional
        Float scale and shift of each channel; 1 and 0 where left out.
    tau : array_like, shape (C,), optional
        What y of each channel is at least; without it, there is no threshold.
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
    With avg over all positions of a channel of a sample [1]_::

        y = max(x / sqrt(avg(x * x) + eps) * weight + bias, tau)

    References
    ----------
    .. [1] S. Singh and S. Krishnan, "Filter Response Normalization Layer: Eliminating Batch Dependence in the Training
       of Deep Neural Networks", CVPR 2020, pp. 11237-11246.

    Examples
    --------
    >>> import fastbn
    >>> fastbn.filter_response_norm([[[1.0, -1.0, 7.0, 7.0]]], tau=[0.0], eps=0)
    array([[[0.2, 0. , 1.4, 1.4]]])
    """
    return filter_response_norm_forward(x, weight, bias, tau, eps, axis=axis, where=where, out=out)[0]


@quietly
def filter_response_norm_forward(
    x: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    tau: ArrayLike | None = None,
    eps: float = 1e-6,
    *,
    axis: int = 1,
    where: ArrayLike | None = None,
    out: Array | None = None,
) -> tuple[Array, F.Statistics]:
    """Filter response normalization that also returns its statistic.

    Parameters
    ----------
    x, weight, bias, tau, eps, axis, where, out
        As `filter_response_norm` takes them.

    Returns
    -------
    y : ndarray, shape and dtype of x
    rstd : ndarray of float64, shape (N, C)
        1 / sqrt(avg(x * x) + eps) of each channel of each sample.

    Raises
    ------
    TypeError, ValueError
        As `filter_response_norm`.

    Examples
    --------
    >>> import fastbn
    >>> y, rstd = fastbn.filter_response_norm_forward([[[1.0, -1.0, 7.0, 7.0]]], eps=0)
    >>> rstd
    array([[0.2]])
    """
    given, (x, channel) = x, read(x, axis)
    w, b, t = _response_parameters(weight, bias, tau, x.shape[channel])
    eps = arguments.eps(eps)
    extras = arguments.extras_with_counts(x, None, where, None, (0, channel))
    arguments.out(out, (x, given), weight, bias, tau, where)
    compute, channels = arguments.COMPUTED_IN[x.dtype], x.shape[channel]
    w, b = (None if v is None else v.astype(compute) for v in (w, b))
    y, rstd = result_for(x, out), np.full((len(x), channels), np.nan)
    for part in [slice(None)] if t is None else slabs(x):
        mask = of_samples(extras.where, part)
        rstd[part] = plans.call(_ROOT_MEAN_SQUARES, (channel, eps, None), x[part], w, b, (None, mask, y[part]))[2]
        if t is not None:
            kept = True if mask is None else mask
            np.maximum(y[part], along_channels(t, x, channel).astype(x.dtype), out=y[part], where=kept)
    return y, rstd


_ROOT_MEAN_SQUARES = forward_of(Kind(groups.of_instances, centered=False), forward.RSTD)


@quietly
def filter_response_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    tau: ArrayLike | None = None,
    *,
    axis: int = 1,
    where: ArrayLike | None = None,
    out: Array | None = None,
) -> tuple[Array, Array, Array, Array | None]:
    """The gradients of filter response normalization.

    Parameters
    ----------
    dy, x, axis, where, out
        As `channel_layer_norm_backward` takes them.
    rstd : array_like, shape (N, C)
        What `filter_response_norm_forward` returned.
    weight, bias, tau : array_like, shape (C,), optional
        Those of the forward.

    Returns
    -------
    dx : ndarray, shape and dtype of x
    dweight, dbias : ndarray, shape (C,)
    dtau : ndarray, shape (C,), or None
        None without tau.

    Raises
    ------
    TypeError, ValueError
        As `channel_layer_norm_backward`.

    Notes
    -----
    With h = x * rstd, dz = dy where h * weight + bias > tau and 0 elsewhere, g = dz * weight, avg over the positions::

        dx = rstd * (g - h * avg(g * h))
        dweight = sum(dz * h)
        dbias = sum(dz)
        dtau = sum(dy - dz)

    Examples
    --------
    >>> import fastbn
    >>> x, tau = [[[1.0, -1.0, 7.0, 7.0]]], [0.0]
    >>> y, rstd = fastbn.filter_response_norm_forward(x, tau=tau, eps=0)
    >>> dx, dweight, dbias, dtau = fastbn.filter_response_norm_backward([[[1.0, 2.0, 0.0, 0.0]]], x, rstd, tau=tau)
    >>> dweight, dbias, dtau
    (array([0.2]), array([1.]), array([2.]))
    """
    given, (dy, x, channel) = (x, dy), read_gradient(dy, x, axis)
    shape = (x.shape[channel],)
    saved = arguments.float64_statistic(rstd, "rstd", (len(x), *shape))
    w, b, t = _response_parameters(weight, bias, tau, *shape)
    extras = arguments.extras_with_counts(x, None, where, None, (0, channel))
    arguments.out(out, (x, dy, *given), weight, bias, tau, rstd, where)
    dx = result_for(x, out)
    counts = np.full(saved.shape, x.size / max(1, saved.size)) if extras.counts is None else extras.counts
    saved = np.where(counts > 0, saved, 0.0)  # of nothing it is NaN
    scale = saved if w is None else saved * w
    shift = None if t is None else -t if b is None else b - t  # y is more than tau where x * scale + shift is positive
    compute, sums = arguments.COMPUTED_IN[x.dtype], np.zeros((3, *shape))
    with quiet():
        for part in slabs(x):
            v, g = x[part].astype(compute, copy=False), dy[part].astype(compute, copy=False)
            own, kept = saved[part], kept_of(extras.where, part, v)
            if t is not None:
                counted = g if kept is None else np.where(kept, g, compute.type(0))
                sums[2] += _moments.of_groups(counted, views.batch_view, channel).sum()
            direct, products, of_dz = scale_planes_backward(g, v, channel, scale[part], shift, kept)
            slope = -scale[part] * own * own * products / np.maximum(counts[part], 1)
            scale_planes(v, channel, slope, None, dx[part], kept, direct)
            sums[:2] += (products * own).sum(axis=0), of_dz.sum(axis=0)
    sums[2] -= sums[1]
    parameters = _response_parameters(weight, bias, tau, *shape, dtype=None)
    dweight, dbias, dtau = (s.astype(gradient_dtype(v, x)) for s, v in zip(sums, parameters, strict=True))
    return dx, dweight, dbias, None if tau is None else dtau


def _response_parameters(
    weight: Any, bias: Any, tau: Any, channels: int, dtype: DTypeLike | None = np.float64
) -> list[Array | None]:
    named = {"weight": weight, "bias": bias, "tau": tau}
    return [arguments.vector(v, name, (channels,), dtype) for name, v in named.items()]
