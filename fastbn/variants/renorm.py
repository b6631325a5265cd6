"""Batch renormalization: training that agrees with evaluation, as far as limits allow."""

from __future__ import annotations

from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike

from fastbn import _moments, _running
from fastbn import functional as F
from fastbn._quiet import quietly
from fastbn.engine import arguments, plans, views
from fastbn.norms.batch import EVALUATION, STATISTICS_OF_BATCH
from fastbn.norms.shared import rstd_of
from fastbn.variants._arguments import Array, at_least, counts_of, gradient_dtype

__all__ = [
    "batch_renorm_backward",
    "batch_renorm_forward",
]


@quietly
def batch_renorm_forward(
    x: ArrayLike,
    running_mean: Array,
    running_var: Array,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    momentum: float = 0.1,
    eps: float = 1e-5,
    r_max: float = 3.0,
    d_max: float = 5.0,
    *,
    axis: int = 1,
    activation: F.Activation = None,
    residual: ArrayLike | None = None,
    where: ArrayLike | None = None,
    out: Array | None = None,
) -> tuple[Array, F.Statistics, F.Statistics, F.Statistics, F.Statistics]:
    """Batch normalization in training that agrees with evaluation, as far as the limits allow.

    Parameters
    ----------
    x, weight, bias, momentum, eps, axis, activation, residual, where, out
        As `batch_norm` takes them.
    running_mean, running_var : ndarray, shape (C,)
        The statistics that y is made to agree with; updated in place afterwards.
    r_max : float
        Limit of r, which lies between 1 / r_max and r_max; at least 1.
    d_max : float
        Limit of d, which lies between -d_max and d_max; not negative.  Limits of 1 and 0 make it `batch_norm`.

    Returns
    -------
    y : ndarray, shape and dtype of x
    mean, rstd : ndarray of float64, shape (C,)
        Mean and 1 / sqrt(var + eps) of each channel of x.
    r, d : ndarray of float64, shape (C,)
        How y was corrected.

    Raises
    ------
    TypeError, ValueError
        As `batch_norm` in training; also if a running array is missing, `r_max` is less than 1 or `d_max` negative.

    Notes
    -----
    With sigma = sqrt(running_var + eps), before the update [1]_::

        r = clip(sqrt(var + eps) / sigma, 1 / r_max, r_max)
        d = clip((mean - running_mean) / sigma, -d_max, d_max)
        y = activation(((x - mean) * rstd * r + d) * weight + bias + residual)

    The running arrays are updated as those of `batch_norm`.  The paper begins with limits of 1 and 0 and relaxes them
    to 3 and 5 in the course of the training.  Evaluation is `batch_norm`.

    References
    ----------
    .. [1] S. Ioffe, "Batch Renormalization: Towards Reducing Minibatch Dependence in Batch-Normalized Models",
       NeurIPS 2017.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> running_mean, running_var = np.zeros(1), np.ones(1)
    >>> y, mean, rstd, r, d = fastbn.batch_renorm_forward([[1.0], [5.0]], running_mean, running_var)
    >>> y.round(3).ravel(), r.round(3), d.round(3)  # as in evaluation
    (array([1., 5.]), array([2.]), array([3.]))
    """
    affine, running, limits = (weight, bias), (running_mean, running_var, None), (r_max, d_max)
    settings, others = (eps, activation), (residual, where, out)
    return batch_renorm_with_running(x, affine, running, momentum, limits, axis, settings, others)


@quietly
def batch_renorm_with_running(
    x: Any,
    affine: tuple[Any, Any],
    running: tuple[Any, Any, Any],
    momentum: Any,
    limits: tuple[Any, Any],
    axis: Any,
    settings: tuple[Any, Any],
    others: tuple[Any, Any, Any],
) -> tuple[Array, Array, Array, Array, Array]:
    """Batch renormalization, of what `norm_with_running` takes; limits: r_max and d_max."""
    (weight, bias), (eps, activation), (residual, where, out) = affine, settings, others
    (running_mean, running_var, _), (r_max, d_max) = running, limits
    given, x = x, arguments.array(x, "x")
    arguments.rank(x, 2)
    channel = arguments.axis(axis, x)
    shape = (x.shape[channel],)
    w, b = (arguments.vector(v, name, shape, np.float64) for v, name in ((weight, "weight"), (bias, "bias")))
    eps, momentum = arguments.eps(eps, zero=False), arguments.real(momentum, "momentum")
    r_max, d_max = at_least(r_max, "r_max", 1.0), at_least(d_max, "d_max", 0.0)
    arguments.running(running_mean, running_var, shape, x, weight, bias, residual, where)
    center = arguments.float64_statistic(running_mean, "running_mean", shape)
    sigma = np.sqrt(arguments.float64_statistic(running_var, "running_var", shape) + eps)
    extras = arguments.extras_with_counts(x, activation, where, residual, (channel,))
    arguments.out(out, (x, given), weight, bias, running_mean, running_var, residual, where)
    count = counts_of(x, channel, None) if extras.counts is None else extras.counts
    if x.size and count.min() < 2:
        left = f", of which where leaves {int(count.min())} in channel {int(count.argmin())}" * (where is not None)
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {x.shape}{left}")
    if x.size and where is None:
        mean, var = _moments.of_groups(x, views.batch_view, channel).mean_and_variance()
    else:  # the kernels take a mask where they normalize, too
        masked = None, extras.where, None
        _, mean, var, _ = plans.call(STATISTICS_OF_BATCH, (channel, eps, None), x, None, None, masked)
    r = np.clip(np.sqrt(var + eps) / sigma, 1.0 / r_max, r_max)
    d = np.clip((mean - center) / sigma, -d_max, d_max)
    if not x.size:  # nothing is corrected, and no gradient spoilt
        r, d = np.ones(shape), np.zeros(shape)
    scale, shift = (v.astype(arguments.COMPUTED_IN[x.dtype]) for v in _corrected(w, b, r, d))
    beside = mean, var, extras.residual, extras.where, out
    y = plans.call(EVALUATION, (channel, eps, activation, 0.0), x, scale, shift, beside)
    rstd = rstd_of(var, eps)
    if x.size:
        unbiased = np.ascontiguousarray(var * (count / (count - 1)))
        _running.update(running, np.ascontiguousarray(mean), unbiased, 1.0, momentum)
    return y, mean, rstd, r, d


@overload
def batch_renorm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    mean: ArrayLike,
    rstd: ArrayLike,
    r: ArrayLike,
    d: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    axis: int = 1,
    bias: ArrayLike | None = None,
    activation: F.Activation = None,
    residual: None = None,
    where: ArrayLike | None = None,
    y: ArrayLike | None = None,
    out: Array | None = None,
) -> tuple[Array, Array, Array]: ...


@overload
def batch_renorm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    mean: ArrayLike,
    rstd: ArrayLike,
    r: ArrayLike,
    d: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    axis: int = 1,
    bias: ArrayLike | None = None,
    activation: F.Activation = None,
    residual: ArrayLike,
    where: ArrayLike | None = None,
    y: ArrayLike | None = None,
    out: Array | None = None,
) -> tuple[Array, Array, Array, Array]: ...


@quietly
def batch_renorm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    mean: ArrayLike,
    rstd: ArrayLike,
    r: ArrayLike,
    d: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    axis: int = 1,
    bias: ArrayLike | None = None,
    activation: F.Activation = None,
    residual: ArrayLike | None = None,
    where: ArrayLike | None = None,
    y: ArrayLike | None = None,
    out: Array | None = None,
) -> tuple[Array, ...]:
    """The gradients of batch renormalization, in which r and d are constants.

    Parameters
    ----------
    dy, x, weight, axis, bias, activation, residual, where, y, out
        As `batch_norm_backward` takes them.
    mean, rstd, r, d : array_like, shape (C,)
        What `batch_renorm_forward` returned.

    Returns
    -------
    dx : ndarray, shape and dtype of x
    dweight, dbias : ndarray, shape (C,)
    dresidual : ndarray, shape and dtype of x
        Only with a residual.

    Raises
    ------
    TypeError, ValueError
        As `batch_norm_backward`.

    Notes
    -----
    dx and dz are those of `batch_norm_backward` for the weight weight * r and the bias weight * d + bias, and with
    h = (x - mean) * rstd::

        dweight = sum(dz * (h * r + d))
        dbias = sum(dz)

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> x = [[1.0], [5.0]]
    >>> y, *saved = fastbn.batch_renorm_forward(x, np.zeros(1), np.ones(1))
    >>> dx, dweight, dbias = fastbn.batch_renorm_backward([[1.0], [0.0]], x, *saved)
    >>> dweight.round(3), dbias
    (array([1.]), array([1.]))
    """
    given, (dy, start) = (x, y, dy), arguments.gradient(dy, arguments.either(x, y))
    arguments.rank(start, 2)
    channel = arguments.axis(axis, start)
    shape = (start.shape[channel],)
    r64, d64 = arguments.float64_statistic(r, "r", shape), arguments.float64_statistic(d, "d", shape)
    w, b = arguments.vector(weight, "weight", shape), arguments.vector(bias, "bias", shape, np.float64)
    arguments.out(out, (start, dy, *given), weight, mean, rstd, r, d, bias, residual, where)
    scale, shift = _corrected(w, b, r64, d64)
    named: dict[str, Any] = {"activation": activation, "residual": residual, "where": where, "y": y, "out": out}
    dx, dscale, dshift, *rest = F.batch_norm_backward(dy, x, mean, rstd, scale, axis=channel, bias=shift, **named)
    dtype = gradient_dtype(w, start)
    return dx, (r64 * dscale + d64 * dshift).astype(dtype), dshift.astype(dtype), *rest


def _corrected(weight: Array | None, bias: Array | None, r: Array, d: Array) -> tuple[Array, Array]:
    """What normalized x is multiplied by, and what is added then."""
    scale, shift = (r, d) if weight is None else (weight * r, weight * d)
    return scale, shift if bias is None else shift + bias
