"""Ghost batch norm: each few consecutive samples by their own statistics."""

from __future__ import annotations

from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike

from fastbn import _running
from fastbn import functional as F
from fastbn._quiet import quietly
from fastbn.engine import arguments
from fastbn.norms.batch import BATCH
from fastbn.norms.shared import norm_with_running
from fastbn.variants._arguments import (
    Array,
    counts_of,
    gradient_dtype,
    of_samples,
    read,
    read_beside,
    read_gradient,
    result_for,
    whole_number,
)

__all__ = [
    "ghost_batch_norm_backward",
    "ghost_batch_norm_forward",
]


@quietly
def ghost_batch_norm_forward(
    x: ArrayLike,
    virtual_batch_size: int,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    running_mean: Array | None = None,
    running_var: Array | None = None,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    axis: int = 1,
    activation: F.Activation = None,
    residual: ArrayLike | None = None,
    where: ArrayLike | None = None,
    out: Array | None = None,
) -> tuple[Array, F.Statistics, F.Statistics]:
    """Batch normalization of each `virtual_batch_size` consecutive samples by their own statistics.

    Parameters
    ----------
    x : array_like, shape (N, C, ...)
        float16, bfloat16, float32 or float64, of two axes or more; axis 0 counts the samples.
    virtual_batch_size : int
        Samples of a ghost batch.  The last one has what is left, which may be fewer.
    weight, bias, momentum, eps, activation, residual, where, out
        As `batch_norm` takes them.
    running_mean, running_var : ndarray, shape (C,), optional
        Updated in place, by each ghost batch in turn.
    axis : int
        The channels' axis of x, any but the first.

    Returns
    -------
    y : ndarray, shape and dtype of x
    mean, rstd : ndarray of float64, shape (G, C)
        Mean and 1 / sqrt(var + eps) of each channel of each of the G ghost batches.

    Raises
    ------
    TypeError, ValueError
        As `batch_norm` in training; also if `axis` is 0, `virtual_batch_size` is less than 1, or a ghost batch has
        fewer than two values a channel.

    Notes
    -----
    Each ghost batch is normalized as `batch_norm` normalizes a batch [1]_.  An empty x is one ghost batch.  Evaluation
    is `batch_norm` with the running statistics.

    References
    ----------
    .. [1] E. Hoffer, I. Hubara and D. Soudry, "Train longer, generalize better: closing the generalization gap in large
       batch training of neural networks", NeurIPS 2017.

    Examples
    --------
    >>> import fastbn
    >>> y, mean, rstd = fastbn.ghost_batch_norm_forward([[1.0], [3.0], [10.0], [30.0]], 2)
    >>> y.round(3).ravel(), mean.ravel()
    (array([-1.,  1., -1.,  1.]), array([ 2., 20.]))
    """
    affine, running = (weight, bias), (running_mean, running_var, None)
    settings, others = (eps, activation), (residual, where, out)
    return ghost_batch_norm_with_running(x, virtual_batch_size, affine, running, momentum, axis, settings, others)


def ghost_batch_norm_with_running(
    x: Any,
    virtual_batch_size: Any,
    affine: tuple[Any, Any],
    running: tuple[Any, Any, Any],
    momentum: Any,
    axis: Any,
    settings: tuple[Any, Any],
    others: tuple[Any, Any, Any],
) -> tuple[Array, Array, Array]:
    """Ghost batch normalization, of what `norm_with_running` takes."""
    residual, where, out = others
    given, (x, channel) = x, read(x, axis)
    parts = _ghost_batches(x, virtual_batch_size)
    mask, added = read_beside(where, residual, x)
    if x.size and any(counts_of(x[part], channel, of_samples(mask, part)).min() < 2 for part in parts):
        raise ValueError(
            f"virtual_batch_size is {virtual_batch_size} and x has shape {x.shape}; expected more than one value a "
            f"channel in each part{' that where leaves' * (mask is not None)}"
        )
    arguments.running(*running[:2], (x.shape[channel],), x, *affine, residual, where)
    arguments.out(out, (x, given), *affine, *running[:2], residual, where)
    y = result_for(x, out)
    after = [v if v is None else v.copy() for v in running]  # the running ones take in every part, or none
    rest = affine, (after[0], after[1], after[2]), momentum, channel, settings
    statistics = []
    for part in parts:
        beside = of_samples(added, part), of_samples(mask, part), y[part]
        statistics.append(norm_with_running(BATCH, x[part], *rest, beside)[1:])
    mean, rstd = (np.stack(values) for values in zip(*statistics, strict=True))
    _running.commit(*([v for v in values if v is not None] for values in (running, after)))
    return y, mean, rstd


@overload
def ghost_batch_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    mean: ArrayLike,
    rstd: ArrayLike,
    virtual_batch_size: int,
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
def ghost_batch_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    mean: ArrayLike,
    rstd: ArrayLike,
    virtual_batch_size: int,
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
def ghost_batch_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    mean: ArrayLike,
    rstd: ArrayLike,
    virtual_batch_size: int,
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
    """The gradients of ghost batch normalization.

    Parameters
    ----------
    dy, x, weight, bias, activation, residual, where, y, out
        As `batch_norm_backward` takes them.
    mean, rstd : array_like, shape (G, C)
        What `ghost_batch_norm_forward` returned.
    virtual_batch_size, axis
        Those of the forward.

    Returns
    -------
    dx : ndarray, shape and dtype of x
    dweight, dbias : ndarray, shape (C,)
    dresidual : ndarray, shape and dtype of x
        Only with a residual.

    Raises
    ------
    TypeError, ValueError
        As `batch_norm_backward`; also if `axis` is 0 or `virtual_batch_size` is less than 1.

    Examples
    --------
    >>> import fastbn
    >>> x = [[1.0], [3.0], [10.0], [30.0]]
    >>> y, mean, rstd = fastbn.ghost_batch_norm_forward(x, 2)
    >>> dx, dweight, dbias = fastbn.ghost_batch_norm_backward([[0.0], [1.0], [2.0], [2.0]], x, mean, rstd, 2)
    >>> dweight.round(3), dbias
    (array([1.]), array([5.]))
    """
    from_y, given = y is not None, (x, y, dy)
    dy, x, channel = read_gradient(dy, arguments.either(x, y), axis)
    parts = _ghost_batches(x, virtual_batch_size)
    shape = (x.shape[channel],)
    m, r = (arguments.float64_statistic(v, name, (len(parts), *shape)) for v, name in ((mean, "mean"), (rstd, "rstd")))
    w = arguments.vector(weight, "weight", shape)
    mask, added = read_beside(where, residual, x)
    arguments.out(out, (x, dy, *given), weight, mean, rstd, bias, residual, where)
    dx, dresidual = result_for(x, out), None if added is None else result_for(x, None)
    wide = None if w is None else w.astype(np.float64)  # so that the parts' gradients are not rounded to w's dtype
    sums, of_all = np.zeros((2, *shape)), {"axis": channel, "bias": bias, "activation": activation}
    for i, part in enumerate(parts):
        named: dict[str, Any] = {"residual": of_samples(added, part), "where": of_samples(mask, part), "out": dx[part]}
        named |= of_all | ({"x": None, "y": x[part]} if from_y else {"x": x[part]})
        _, dweight, dbias, *rest = F.batch_norm_backward(dy[part], mean=m[i], rstd=r[i], weight=wide, **named)
        sums += dweight, dbias
        if dresidual is not None:
            dresidual[part] = rest[0]
    dweight, dbias = sums.astype(gradient_dtype(w, x))
    return (dx, dweight, dbias) if dresidual is None else (dx, dweight, dbias, dresidual)


def _ghost_batches(x: Array, virtual_batch_size: Any) -> list[slice]:
    size = whole_number(virtual_batch_size, "virtual_batch_size")
    return [slice(first, first + size) for first in range(0, max(1, len(x)), size)]
