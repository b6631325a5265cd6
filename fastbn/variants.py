"""Variants of the normalizations, composed of the operations of `fastbn.functional`.

What is said there about arrays, accuracy, `out` and errors holds here too, except that the powers and sums that NumPy
takes for the response norms may differ in the last bit from processor to processor.  Axis 0 of x
counts the samples.  Where copies are needed, they are of a few samples at a time.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from math import prod, sqrt
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastbn import _checks, _moments, _running, _runtime, _views
from fastbn import functional as F
from fastbn._powers import power
from fastbn._quiet import quiet, quietly
from fastbn.engine import forward, plans

__all__ = [
    "batch_renorm_backward",
    "batch_renorm_forward",
    "channel_layer_norm",
    "channel_layer_norm_backward",
    "channel_layer_norm_forward",
    "channel_rms_norm",
    "channel_rms_norm_backward",
    "channel_rms_norm_forward",
    "filter_response_norm",
    "filter_response_norm_backward",
    "filter_response_norm_forward",
    "ghost_batch_norm_backward",
    "ghost_batch_norm_forward",
    "global_response_norm",
    "global_response_norm_backward",
    "global_response_norm_forward",
    "local_response_norm",
    "local_response_norm_backward",
    "weight_standardization",
    "weight_standardization_backward",
    "weight_standardization_forward",
]

Array = NDArray[Any]
Block = tuple[slice, ...]

_SLAB_BYTES = 1 << 19  # that are taken at a time, as computed: with what is made of them, they stay near a core


# Arguments and results ------------------------------------------------------------------------------------------------


def _read(x: Any, axis: Any) -> tuple[Array, int]:
    """x of samples and channels, and the channels' axis."""
    x = _checks.array(x, "x")
    _checks.rank(x, 2)
    return x, _checks.sample_axis(axis, x)


def _read_gradient(dy: Any, x: Any, axis: Any) -> tuple[Array, Array, int]:
    dy, x = _checks.gradient(dy, x)
    return dy, *_read(x, axis)


def _at_least(value: Any, name: str, least: float) -> float:
    number = _checks.real(value, name)
    if number < least:
        raise ValueError(f"{name} is {value!r}; expected at least {least:g}")
    return number


def _count(value: Any, name: str) -> int:
    return int(_at_least(_checks.integer(value, name), name, 1))


def _target(x: Array, out: Array | None) -> Array:
    """Where the result goes, sample by sample."""
    return np.empty_like(x, subok=False) if out is None else out


def _gradient_dtype(parameter: Array | None, x: Array) -> DTypeLike:
    return _checks.COMPUTED_IN[x.dtype] if parameter is None else parameter.dtype


def _along(v: Array, x: Array, axis: int) -> Array:
    """Numbers of the channels, or of the samples and channels, in x's computing type, shaped to broadcast to x."""
    lengths = [x.shape[a] if a == axis or (a == 0 and v.ndim == 2) else 1 for a in range(x.ndim)]
    return v.astype(_checks.COMPUTED_IN[x.dtype]).reshape(lengths)


def _beside(where: Any, residual: Any, x: Array) -> tuple[Array | None, Array | None]:
    """The mask and the residual."""
    return _checks.where(where, x), None if residual is None else _checks.like(residual, "residual", x)


def _samples(values: Array | None, part: slice) -> Array | None:
    """Those of an array like x, or of a mask, which may have one for all samples."""
    return values if values is None or len(values) == 1 else values[part]


def _counts(x: Array, channel: int, mask: Array | None) -> Array:
    """How many values each channel has."""
    return _checks.counts(np.ones((1,) * x.ndim, bool) if mask is None else mask, x.shape, (channel,), 0)


# Ghost batch norm -----------------------------------------------------------------------------------------------------


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
    running, more = (running_mean, running_var, None), (activation, residual, where)
    return ghost_batch_norm_with_running(x, virtual_batch_size, weight, bias, running, momentum, eps, axis, out, *more)


def ghost_batch_norm_with_running(
    x: Any,
    virtual_batch_size: Any,
    weight: Any,
    bias: Any,
    running: Any,
    momentum: Any,
    eps: Any,
    axis: Any,
    out: Any = None,
    activation: Any = None,
    residual: Any = None,
    where: Any = None,
) -> tuple[Array, Array, Array]:
    """Ghost batch normalization; running: with the counter of batches, all updated as one."""
    given, (x, channel) = x, _read(x, axis)
    parts = _ghost_batches(x, virtual_batch_size)
    mask, added = _beside(where, residual, x)
    if x.size and any(_counts(x[part], channel, _samples(mask, part)).min() < 2 for part in parts):
        raise ValueError(
            f"virtual_batch_size is {virtual_batch_size} and x has shape {x.shape}; expected more than one value a "
            f"channel in each part{' that where leaves' * (mask is not None)}"
        )
    _checks.running(*running[:2], (x.shape[channel],), x, weight, bias, residual, where)
    _checks.out(out, (x, given), weight, bias, *running[:2], residual, where)
    y = _target(x, out)
    after = [v if v is None else v.copy() for v in running]  # the running ones take in every part, or none
    rest = weight, bias, after, momentum, eps, channel
    statistics = []
    for part in parts:
        named = _fused(activation, added, mask, part) | {"out": y[part]}
        statistics.append(F.batch_norm_with_running(x[part], *rest, **named)[1:])
    mean, rstd = (np.stack(values) for values in zip(*statistics, strict=True))
    _running.commit(*([v for v in values if v is not None] for values in (running, after)))
    return y, mean, rstd


@quietly
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
    dy, x, channel = _read_gradient(dy, _checks.either(x, y), axis)
    parts = _ghost_batches(x, virtual_batch_size)
    shape = (x.shape[channel],)
    m, r = (_checks.given(v, name, (len(parts), *shape)) for v, name in ((mean, "mean"), (rstd, "rstd")))
    w = _checks.vector(weight, "weight", shape)
    mask, added = _beside(where, residual, x)
    _checks.out(out, (x, dy, *given), weight, mean, rstd, bias, residual, where)
    dx, dresidual = _target(x, out), None if added is None else np.empty_like(x, subok=False)
    wide = None if w is None else w.astype(np.float64)  # so that the parts' gradients are not rounded to w's dtype
    sums = np.zeros((2, *shape))
    for i, part in enumerate(parts):
        named = _fused(activation, added, mask, part) | {"axis": channel, "bias": bias, "out": dx[part]}
        named |= {"x": None, "y": x[part]} if from_y else {"x": x[part]}
        _, dweight, dbias, *rest = F.batch_norm_backward(dy[part], mean=m[i], rstd=r[i], weight=wide, **named)
        sums += dweight, dbias
        if dresidual is not None:
            dresidual[part] = rest[0]
    dweight, dbias = sums.astype(_gradient_dtype(w, x))
    return (dx, dweight, dbias) if dresidual is None else (dx, dweight, dbias, dresidual)


def _ghost_batches(x: Array, virtual_batch_size: Any) -> list[slice]:
    size = _count(virtual_batch_size, "virtual_batch_size")
    return [slice(first, first + size) for first in range(0, max(1, len(x)), size)]


def _fused(activation: Any, residual: Array | None, mask: Array | None, part: slice) -> dict[str, Any]:
    """What the operations on some samples are asked for beside the normalization."""
    return {"activation": activation, "residual": _samples(residual, part), "where": _samples(mask, part)}


# Batch renormalization ------------------------------------------------------------------------------------------------


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
        What the batch is brought to agree with, and then updated with, in place.
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
    running, more = (running_mean, running_var, None), (activation, residual, where)
    return batch_renorm_with_running(x, weight, bias, running, momentum, eps, (r_max, d_max), axis, out, *more)


@quietly
def batch_renorm_with_running(
    x: Any,
    weight: Any,
    bias: Any,
    running: Any,
    momentum: Any,
    eps: Any,
    limits: Any,
    axis: Any,
    out: Any = None,
    activation: Any = None,
    residual: Any = None,
    where: Any = None,
) -> tuple[Array, Array, Array, Array, Array]:
    """Batch renormalization; running: with the counter of batches, all updated as one."""
    (running_mean, running_var, _), (r_max, d_max) = running, limits
    given, x = x, _checks.array(x, "x")
    _checks.rank(x, 2)
    channel = _checks.axis(axis, x)
    shape = (x.shape[channel],)
    w, b = (_checks.vector(v, name, shape, np.float64) for v, name in ((weight, "weight"), (bias, "bias")))
    eps, momentum = _checks.eps(eps, zero=False), _checks.real(momentum, "momentum")
    r_max, d_max = _at_least(r_max, "r_max", 1.0), _at_least(d_max, "d_max", 0.0)
    _checks.running(running_mean, running_var, shape, x, weight, bias, residual, where)
    center = _checks.given(running_mean, "running_mean", shape)
    sigma = np.sqrt(_checks.given(running_var, "running_var", shape) + eps)
    also = _checks.also(x, activation, where, residual, (channel,))
    _checks.out(out, (x, given), weight, bias, running_mean, running_var, residual, where)
    count = _counts(x, channel, None) if also.counts is None else also.counts
    if x.size and count.min() < 2:
        left = f", of which where leaves {int(count.min())} in channel {int(count.argmin())}" * (where is not None)
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {x.shape}{left}")
    if x.size and where is None:
        mean, var = _moments.of_groups(x, _views.batch_view, channel).mean_and_variance()
    else:  # the kernels take a mask where they normalize, too
        masked = None, also.where, None
        _, mean, var, _ = plans.call(F.STATISTICS_OF_BATCH, (channel, eps, None), x, None, None, masked)
    r = np.clip(np.sqrt(var + eps) / sigma, 1.0 / r_max, r_max)
    d = np.clip((mean - center) / sigma, -d_max, d_max)
    if not x.size:  # nothing is corrected, and no gradient spoilt
        r, d = np.ones(shape), np.zeros(shape)
    scale, shift = (v.astype(_checks.COMPUTED_IN[x.dtype]) for v in _corrected(w, b, r, d))
    others = mean, var, also.residual, also.where, out
    y = plans.call(F.EVALUATION, (channel, eps, 0.0, activation), x, scale, shift, others)
    rstd = F.rstd_of(var, eps)
    if x.size:
        unbiased = np.ascontiguousarray(var * (count / (count - 1)))
        _running.update(running, np.ascontiguousarray(mean), unbiased, 1.0, momentum)
    return y, mean, rstd, r, d


@quietly
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
    given, (dy, start) = (x, y, dy), _checks.gradient(dy, _checks.either(x, y))
    _checks.rank(start, 2)
    channel = _checks.axis(axis, start)
    shape = (start.shape[channel],)
    r64, d64 = _checks.given(r, "r", shape), _checks.given(d, "d", shape)
    w, b = _checks.vector(weight, "weight", shape), _checks.vector(bias, "bias", shape, np.float64)
    _checks.out(out, (start, dy, *given), weight, mean, rstd, r, d, bias, residual, where)
    scale, shift = _corrected(w, b, r64, d64)
    named: dict[str, Any] = {"activation": activation, "residual": residual, "where": where, "y": y, "out": out}
    dx, dscale, dshift, *rest = F.batch_norm_backward(dy, x, mean, rstd, scale, axis=channel, bias=shift, **named)
    dtype = _gradient_dtype(w, start)
    return dx, (r64 * dscale + d64 * dshift).astype(dtype), dshift.astype(dtype), *rest


def _corrected(weight: Array | None, bias: Array | None, r: Array, d: Array) -> tuple[Array, Array]:
    """What normalized x is multiplied by, and what is added then."""
    scale, shift = (r, d) if weight is None else (weight * r, weight * d)
    return scale, shift if bias is None else shift + bias


# Weight standardization -----------------------------------------------------------------------------------------------


@quietly
def weight_standardization(
    weight: ArrayLike,
    gain: ArrayLike | None = None,
    eps: float = 1e-6,
    *,
    gamma: float | None = None,
    out: Array | None = None,
) -> Array:
    """Weight standardization: each output channel of a convolution's weight by its mean and variance.

    Parameters
    ----------
    weight : array_like, shape (C_out, ...)
        float16, bfloat16, float32 or float64, of two axes or more, with more than one element for an output channel.
    gain : array_like, shape (C_out,), optional
        Float scale of each output channel; 1 where left out.
    eps : float
        Added to the variance; positive.
    gamma : float, optional
        Scale by gamma / sqrt(fan-in) as well, where gamma belongs to the activation (1.7139 for ReLU).
    out : ndarray, shape and dtype of weight, optional
        Where to write the result; may be weight.

    Returns
    -------
    standardized : ndarray, shape and dtype of weight

    Raises
    ------
    TypeError
        If the type or dtype of an argument is not as above.
    ValueError
        If the fan-in is 1, gain has another shape, `eps` is not positive, a number is not finite, or `out` is
        read-only, misaligned, or overlaps itself or gain.

    Notes
    -----
    With mean and (biased) var over all axes but the first, and the fan-in the number of elements there [1]_, [2]_::

        standardized = (weight - mean) / sqrt(var + eps) * gain * (gamma / sqrt(fan-in), or 1)

    References
    ----------
    .. [1] S. Qiao, H. Wang, C. Liu, W. Shen and A. Yuille, "Micro-Batch Training with Batch-Channel Normalization and
       Weight Standardization", arXiv:1903.10520, 2019.
    .. [2] A. Brock, S. De and S. L. Smith, "Characterizing signal propagation to close the performance gap in
       unnormalized ResNets", ICLR 2021.

    Examples
    --------
    >>> import fastbn
    >>> fastbn.weight_standardization([[1.0, 3.0], [10.0, 30.0]], [1.0, 2.0]).round(3)
    array([[-1.,  1.],
           [-2.,  2.]])
    """
    return weight_standardization_forward(weight, gain, eps, gamma=gamma, out=out)[0]


@quietly
def weight_standardization_forward(
    weight: ArrayLike,
    gain: ArrayLike | None = None,
    eps: float = 1e-6,
    *,
    gamma: float | None = None,
    out: Array | None = None,
) -> tuple[Array, F.Statistics, F.Statistics]:
    """Weight standardization that also returns its statistics.

    Parameters
    ----------
    weight, gain, eps, gamma, out
        As `weight_standardization` takes them.

    Returns
    -------
    standardized : ndarray, shape and dtype of weight
    mean, rstd : ndarray of float64, shape (C_out,)
        Mean and 1 / sqrt(var + eps) of each output channel.

    Raises
    ------
    TypeError, ValueError
        As `weight_standardization`.

    Examples
    --------
    >>> import fastbn
    >>> standardized, mean, rstd = fastbn.weight_standardization_forward([[1.0, 3.0], [10.0, 30.0]])
    >>> mean, rstd.round(3)
    (array([ 2., 20.]), array([1. , 0.1]))
    """
    given, w = weight, _checks.array(weight, "weight")
    scale, _ = _gain(w, gain, gamma)
    _checks.out(out, (w, given), gain)
    return F.batch_norm_forward(w, scale, eps=eps, axis=0, out=out)


@quietly
def weight_standardization_backward(
    dy: ArrayLike,
    weight: ArrayLike,
    mean: ArrayLike,
    rstd: ArrayLike,
    gain: ArrayLike | None = None,
    *,
    gamma: float | None = None,
    out: Array | None = None,
) -> tuple[Array, Array]:
    """The gradients of weight standardization.

    Parameters
    ----------
    dy : array_like, shape and dtype of weight
        Gradient of the standardized weight.
    weight, gain, gamma
        Those of the forward.
    mean, rstd : array_like, shape (C_out,)
        What `weight_standardization_forward` returned.
    out : ndarray, shape and dtype of weight, optional
        Where to write dweight; may be weight or dy.

    Returns
    -------
    dweight : ndarray, shape and dtype of weight
    dgain : ndarray, shape (C_out,)

    Raises
    ------
    TypeError, ValueError
        As `batch_norm_backward`; also if the fan-in is 1.

    Examples
    --------
    >>> import fastbn
    >>> weight = [[1.0, 3.0], [10.0, 30.0]]
    >>> standardized, mean, rstd = fastbn.weight_standardization_forward(weight)
    >>> dweight, dgain = fastbn.weight_standardization_backward([[0.0, 1.0], [2.0, 1.0]], weight, mean, rstd)
    >>> dgain.round(3)
    array([ 1., -1.])
    """
    given, (dy, w) = (weight, dy), _checks.gradient(dy, weight, "weight")
    scale, factor = _gain(w, gain, gamma)
    _checks.out(out, (w, dy, *given), gain, mean, rstd)
    dweight, dscale, _ = F.batch_norm_backward(dy, w, mean, rstd, scale, axis=0, out=out)
    g = _checks.vector(gain, "gain", w.shape[:1])
    return dweight, (dscale * factor).astype(_gradient_dtype(g, w))


def _gain(weight: Array, gain: Any, gamma: Any) -> tuple[Array, float]:
    """What the standardized weight is multiplied by, and its part without `gain`."""
    _checks.rank(weight, 2, "weight")
    fan_in = prod(weight.shape[1:])
    if fan_in == 1:
        raise ValueError(f"weight has shape {weight.shape}; expected more than one element for each index of axis 0")
    g = _checks.vector(gain, "gain", weight.shape[:1], np.float64)
    factor = 1.0 if gamma is None else _checks.real(gamma, "gamma") / sqrt(max(fan_in, 1))
    return (np.ones(len(weight)) if g is None else g) * factor, factor


# Layer norm and RMS norm over the channels ----------------------------------------------------------------------------


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
        The result of the forward, to start from instead of x, see the module `fastbn.functional`.
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
    return _over_channels_backward(F.layer_norm_backward, dy, x, (mean, rstd), weight, axis, beside, where, y, out)


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
    return _over_channels_backward(F.rms_norm_backward, dy, x, (rstd,), weight, axis, beside, where, y, out)


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
    given, (x, channel) = x, _read(x, axis)
    mask = _checks.where(where, x)
    _checks.out(out, (x, given), *affine, where)
    y = _target(x, out)
    moved, mask, target = (_last(v, channel) for v in (x, mask, y))
    named = {"activation": activation, "where": mask, "out": target}
    return y, *operation(moved, x.shape[channel], *affine, eps, **named)[1:]


def _over_channels_backward(
    operation: Callable[..., tuple[Array, ...]],
    dy: Any,
    x: Any,
    statistics: tuple[Any, ...],
    weight: Any,
    axis: Any,
    beside: dict[str, Any],
    where: Any,
    y: Any,
    out: Any,
) -> Any:  # as many gradients as its caller says
    given, (dy, start, channel) = (x, y, dy), _read_gradient(dy, _checks.either(x, y), axis)
    _checks.given(statistics[-1], "rstd", tuple(n for a, n in enumerate(start.shape) if a != channel))
    mask = _checks.where(where, start)
    _checks.out(out, (start, dy, *given), weight, *statistics, where, beside.get("bias"))
    dx = _target(start, out)
    moved_dy, moved, mask, target = (_last(v, channel) for v in (dy, start, mask, dx))
    from_x, from_y = (moved, None) if y is None else (None, moved)
    named = {"where": mask, "y": from_y, "out": target} | beside
    return dx, *operation(moved_dy, from_x, *statistics, weight, **named)[1:]


def _last(v: Array | None, axis: int) -> Array | None:
    return None if v is None else np.moveaxis(v, axis, -1)


# Response norms: a scale a sample and channel -------------------------------------------------------------------------


def _slabs(x: Array) -> Iterator[slice]:
    """All samples, some at a time."""
    if x.size:
        step = _step(x, len(x))
        yield from (slice(first, first + step) for first in range(0, len(x), step))


def _step(x: Array, length: int) -> int:
    """How many indices of an axis of this length have as many elements of x as are taken at a time."""
    return max(1, _SLAB_BYTES * length // (x.size * _checks.COMPUTED_IN[x.dtype].itemsize))


def _planes(channel: int, *arrays: Array | None) -> Iterator[tuple[slice, int, list[Any]]]:
    """Samples, the channels' axis, and the arrays there: all samples at once where their channels can be one axis."""
    shape = next(a.shape for a in arrays if a is not None)
    if channel == 1 and all(a is None or a.flags.c_contiguous for a in arrays):
        rows = shape[0] * shape[1]
        yield slice(shape[0]), 0, [None if a is None else a.reshape(rows, prod(shape[2:])) for a in arrays]
        return
    for i in range(shape[0]):
        yield slice(i, i + 1), channel, [None if a is None else a[i : i + 1] for a in arrays]


def _no_statistics(groups: int) -> tuple[Array, Array]:
    """A mean and a variance, or rstd, that change nothing."""
    return np.zeros(groups), np.ones(groups)


def _scale(
    x: Array,
    channel: int,
    scale: Array,
    shift: Array | None,
    y: Array,
    where: Array | None = None,
    added: Array | None = None,
) -> None:
    """y <- x * scale + shift + added, with a scale a sample and channel, and a shift a channel."""
    compute = _checks.COMPUTED_IN[x.dtype]
    scale, shift = scale.astype(compute), None if shift is None else shift.astype(compute)
    for samples, axis, (part, result, mask, residual) in _planes(channel, x, y, where, added):
        a = scale[samples].ravel()
        b = None if shift is None else np.resize(shift, a.size)
        others = *_no_statistics(a.size), residual, mask, result
        plans.call(F.EVALUATION, (axis, 0.0, 0.0, None), part, a, b, others)


def _scale_backward(
    dy: Array, x: Array, channel: int, scale: Array, shift: Array | None = None, where: Array | None = None
) -> tuple[Array, Array, Array]:
    """dz * scale, and the sums of dz * x and dz of every channel of every sample.

    dz is dy, or with a shift, one a channel, the part of it where x * scale + shift is positive.
    """
    direct, products, of_dz = np.empty_like(x, subok=False), np.empty(scale.shape), np.empty(scale.shape)
    for samples, axis, (g, part, result, mask) in _planes(channel, dy, x, direct, where):
        a = scale[samples].ravel()
        named: dict[str, Any] = {"axis": axis, "training": False, "where": mask, "out": result}
        if shift is not None:
            named |= {"bias": np.resize(shift, a.size), "activation": "relu"}
        _, p, s = F.batch_norm_backward(g, part, *_no_statistics(a.size), a, **named)
        products[samples], of_dz[samples] = p.reshape(-1, scale.shape[1]), s.reshape(-1, scale.shape[1])
    return direct, products, of_dz


def _kept(mask: Array | None, part: slice, x: Array) -> Array | None:
    """A mask for some samples, whose elements are x, an element each."""
    mask = _samples(mask, part)
    return None if mask is None else np.ascontiguousarray(np.broadcast_to(mask, x.shape))


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
    given, (x, channel) = x, _read(x, axis)
    shape = (x.shape[channel],)
    w, b = (_checks.vector(v, name, shape, np.float64) for v, name in ((weight, "weight"), (bias, "bias")))
    eps, mask = _checks.eps(eps), _checks.where(where, x)
    _checks.out(out, (x, given), weight, bias, where)
    y, norm = _target(x, out), np.full((len(x), *shape), np.nan)
    for part in _slabs(x):
        kept = _kept(mask, part, x[part])
        counted = x[part] if kept is None else np.where(kept, x[part], x.dtype.type(0))
        norm[part] = _moments.of_groups(counted, _views.group_view, channel, *shape).root_of_squares()
        _scale(x[part], channel, _response(norm[part], w, eps), b, y[part], kept)
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
    given, (dy, x, channel) = (x, dy), _read_gradient(dy, x, axis)
    shape = (x.shape[channel],)
    saved = _checks.given(norm, "norm", (len(x), *shape))
    w = _checks.vector(weight, "weight", shape)
    eps, mask = _checks.eps(eps), _checks.where(where, x)
    _checks.out(out, (x, dy, *given), weight, norm, where)
    dx = _target(x, out)
    wide = np.ones(shape) if w is None else w.astype(np.float64)
    sums, compute = np.zeros((2, *shape)), _checks.COMPUTED_IN[x.dtype]
    with quiet():
        for part in _slabs(x):
            v, g = x[part].astype(compute, copy=False), dy[part].astype(compute, copy=False)
            own, kept = saved[part], _kept(mask, part, v)
            direct, products, of_dy = _scale_backward(g, v, channel, _response(own, wide, eps), where=kept)
            total, pulled = _total(own, eps), wide * products
            pulled = (pulled - (pulled * own).mean(axis=1, keepdims=True) / total) / total
            slope = np.divide(pulled, own, out=np.zeros_like(own), where=own != 0)
            _scale(v, channel, slope, None, dx[part], kept, direct)
            sums += (products * own / total).sum(axis=0), of_dy.sum(axis=0)
    dweight, dbias = sums.astype(_gradient_dtype(w, x))
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
    given, (x, channel) = x, _read(x, axis)
    w, b, t = _response_parameters(weight, bias, tau, x.shape[channel])
    eps = _checks.eps(eps)
    also = _checks.also(x, None, where, None, (0, channel))
    _checks.out(out, (x, given), weight, bias, tau, where)
    compute, channels = _checks.COMPUTED_IN[x.dtype], x.shape[channel]
    w, b = (None if v is None else v.astype(compute) for v in (w, b))
    y, rstd = _target(x, out), np.full((len(x), channels), np.nan)
    for part in [slice(None)] if t is None else _slabs(x):
        mask = _samples(also.where, part)
        rstd[part] = plans.call(_ROOT_MEAN_SQUARES, (channel, eps), x[part], w, b, (None, mask, y[part]))[2]
        if t is not None:
            kept = True if mask is None else mask
            np.maximum(y[part], _along(t, x, channel).astype(x.dtype), out=y[part], where=kept)
    return y, rstd


def _check_instances(
    settings: tuple[int, float], operands: tuple[Any, ...]
) -> tuple[tuple[Any, ...], forward.Statistics]:
    """What is decided about instances of checked arguments, which are divided by their root mean squares."""
    channel, eps = settings
    channels = operands[0].shape[channel]
    args, kept = (channel, channels), (0, channel)
    return operands, forward.Statistics(_views.group_view, args, eps, forward.RSTD, False, kept=kept, groups=channels)


_ROOT_MEAN_SQUARES = plans.Operation("x weight bias residual where out", _check_instances, forward.plan)


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
    given, (dy, x, channel) = (x, dy), _read_gradient(dy, x, axis)
    shape = (x.shape[channel],)
    saved = _checks.given(rstd, "rstd", (len(x), *shape))
    w, b, t = _response_parameters(weight, bias, tau, *shape)
    also = _checks.also(x, None, where, None, (0, channel))
    _checks.out(out, (x, dy, *given), weight, bias, tau, rstd, where)
    dx = _target(x, out)
    counts = np.full(saved.shape, x.size / max(1, saved.size)) if also.counts is None else also.counts
    saved = np.where(counts > 0, saved, 0.0)  # of nothing it is NaN
    scale = saved if w is None else saved * w
    shift = None if t is None else -t if b is None else b - t  # y is more than tau where x * scale + shift is positive
    compute, sums = _checks.COMPUTED_IN[x.dtype], np.zeros((3, *shape))
    with quiet():
        for part in _slabs(x):
            v, g = x[part].astype(compute, copy=False), dy[part].astype(compute, copy=False)
            own, kept = saved[part], _kept(also.where, part, v)
            if t is not None:
                counted = g if kept is None else np.where(kept, g, compute.type(0))
                sums[2] += _moments.of_groups(counted, _views.batch_view, channel).sum()
            direct, products, of_dz = _scale_backward(g, v, channel, scale[part], shift, kept)
            slope = -scale[part] * own * own * products / np.maximum(counts[part], 1)
            _scale(v, channel, slope, None, dx[part], kept, direct)
            sums[:2] += (products * own).sum(axis=0), of_dz.sum(axis=0)
    sums[2] -= sums[1]
    parameters = _response_parameters(weight, bias, tau, *shape, dtype=None)
    dweight, dbias, dtau = (s.astype(_gradient_dtype(v, x)) for s, v in zip(sums, parameters, strict=True))
    return dx, dweight, dbias, None if tau is None else dtau


def _response_parameters(
    weight: Any, bias: Any, tau: Any, channels: int, dtype: DTypeLike | None = np.float64
) -> list[Array | None]:
    named = {"weight": weight, "bias": bias, "tau": tau}
    return [_checks.vector(v, name, (channels,), dtype) for name, v in named.items()]


# Local response norm --------------------------------------------------------------------------------------------------


@quietly
def local_response_norm(
    x: ArrayLike,
    size: int,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 1.0,
    *,
    axis: int = 1,
    out: Array | None = None,
) -> Array:
    """Local response normalization: each element by the squares in the neighbouring channels at its position.

    Parameters
    ----------
    x, axis, out
        As `channel_layer_norm` takes them.
    size : int
        How many channels are neighbours, the element's own included; of an even number, one more lies before it.
    alpha, beta, k : float
        See Notes.

    Returns
    -------
    y : ndarray, shape and dtype of x

    Raises
    ------
    TypeError, ValueError
        As `channel_layer_norm`; also if `size` is less than 1 or a number is not finite.

    Notes
    -----
    With the sum over the channels from c - size // 2 to c + (size - 1) // 2, as far as they exist [1]_::

        y = x / (k + alpha / size * sum(x * x)) ** beta

    alpha / size is as in PyTorch; the paper's alpha is the quotient.

    References
    ----------
    .. [1] A. Krizhevsky, I. Sutskever and G. E. Hinton, "ImageNet Classification with Deep Convolutional Neural
       Networks", NeurIPS 2012.

    Examples
    --------
    >>> import fastbn
    >>> fastbn.local_response_norm([[1.0, 2.0, 2.0]], size=3, alpha=3.0, beta=1.0, k=0.0).round(3)
    array([[0.2  , 0.222, 0.25 ]])
    """
    given, (x, channel) = x, _read(x, axis)
    size, alpha, beta, k = _neighbourhood(size, alpha, beta, k)
    _checks.out(out, (x, given))
    y, compute = _target(x, out), _checks.COMPUTED_IN[x.dtype]

    def normalize(block: Block) -> None:
        v = x[block].astype(compute, copy=False)
        scale = _base(v, channel, size, alpha, k)
        y[block] = np.divide(v, power(scale, beta), out=scale)

    _by_blocks(normalize, x, channel)
    return y


@quietly
def local_response_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    size: int,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 1.0,
    *,
    axis: int = 1,
    out: Array | None = None,
) -> Array:
    """The gradient of local response normalization.

    Parameters
    ----------
    dy, x, axis, out
        As `channel_layer_norm_backward` takes them.
    size, alpha, beta, k
        Those of the forward.

    Returns
    -------
    dx : ndarray, shape and dtype of x

    Raises
    ------
    TypeError, ValueError
        As `channel_layer_norm_backward`; also as `local_response_norm`.

    Notes
    -----
    With b = k + alpha / size * sum(x * x), and the second sum over those channels that the element is a neighbour of::

        dx = dy * b ** -beta - 2 * alpha * beta / size * x * sum(dy * x * b ** (-beta - 1))

    Examples
    --------
    >>> import fastbn
    >>> fastbn.local_response_norm_backward([[1.0, 0.0]], [[1.0, 2.0]], size=1, alpha=1.0, beta=1.0)
    array([[0., 0.]])
    """
    given, (dy, x, channel) = (x, dy), _read_gradient(dy, x, axis)
    size, alpha, beta, k = _neighbourhood(size, alpha, beta, k)
    _checks.out(out, (x, dy, *given))
    dx, compute = _target(x, out), _checks.COMPUTED_IN[x.dtype]

    def differentiate(block: Block) -> None:
        v, g = (a[block].astype(compute, copy=False) for a in (x, dy))
        base = _base(v, channel, size, alpha, k)
        pulled = g / power(base, beta)
        np.divide(pulled * v, base, out=base)
        spread = _neighbours(base, channel, (size - 1) // 2, size // 2)
        spread *= v
        spread *= -2.0 * alpha * beta / size
        spread += pulled
        dx[block] = spread

    _by_blocks(differentiate, x, channel)
    return dx


def _by_blocks(work: Callable[[Block], None], x: Array, channel: int) -> None:
    """Call `work` with the indices of blocks of x that have all channels, on as many threads as are good for it."""

    def unwarned(block: Block) -> None:
        with quiet():  # which holds for a thread
            work(block)

    def run(threads: int) -> None:
        if threads == 1:
            for block in _blocks(x, channel):
                unwarned(block)
            return
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(unwarned, _blocks(x, channel)))

    _runtime.with_team((work.__qualname__, x.shape, x.strides, x.dtype), x.nbytes, run)


def _blocks(x: Array, channel: int) -> Iterator[Block]:
    """Some samples each, or some positions of one along the longest of their axes."""
    positions = [a for a in range(1, x.ndim) if a != channel]
    for samples in _slabs(x):
        if not positions:
            yield (samples,)
            continue
        axis = max(positions, key=x.shape.__getitem__)
        step = _step(x[samples], x.shape[axis])
        for first in range(0, x.shape[axis], step):
            yield samples, *[slice(None)] * (axis - 1), slice(first, first + step)


def _neighbourhood(size: Any, alpha: Any, beta: Any, k: Any) -> tuple[int, float, float, float]:
    return _count(size, "size"), _checks.real(alpha, "alpha"), _checks.real(beta, "beta"), _checks.real(k, "k")


def _base(x: Array, axis: int, size: int, alpha: float, k: float) -> Array:
    """k + alpha / size * sum(x * x) over the neighbours."""
    total = _neighbours(x * x, axis, size // 2, (size - 1) // 2)
    total *= alpha / size
    total += k
    return total


def _neighbours(v: Array, axis: int, before: int, after: int) -> Array:
    """The sum over the index on `axis`, so many before it and so many after it."""
    total = v.copy(order="K")
    summed, terms = np.moveaxis(total, axis, 0), np.moveaxis(v, axis, 0)
    for step in range(1, min(before, len(terms) - 1) + 1):
        summed[step:] += terms[:-step]
    for step in range(1, min(after, len(terms) - 1) + 1):
        summed[:-step] += terms[step:]
    return total
