"""The operations on arrays: each as y alone, as `_forward` with its statistics, and as `_backward`.

What holds for all of them:

Arrays
    x is anything that NumPy reads as an array of float16, bfloat16 (of ml_dtypes), float32 or float64: strided,
    read-only, memory-mapped, misaligned, of either byte order, but not masked.  Weights and statistics may have any
    float dtype.
    The result is an ndarray of x's shape and dtype.  Channels first and channels last are read where they lie, and the
    result lies in memory in the same order.
Accuracy
    Sums are taken in float64, of a few float32 terms each where that is as good: in forward about an element of the
    group (RMS norm: about 0), so that a large mean costs no digits and a constant group becomes exactly its bias [1]_.
    y and dx are computed in float32 for float16, bfloat16 and float32 x, in float64 for float64 x, and rounded once to
    x's dtype.  dweight and dbias have the dtype of weight; without a weight, the one computed in.  mean and rstd are
    float64.
Bits
    No result depends in any bit on the number of threads or on the processor; only NaN may be another NaN.
activation
    What y goes through in the same pass over memory: "relu", "leaky_relu" (or, with its slope, ("leaky_relu", 0.01)),
    "sigmoid", "silu", "gelu" or "gelu_tanh", its common approximation.  Nothing is kept for the way back: there it is
    computed again, from x and the arguments of the forward, bias and residual among them.
residual
    Has the shape and dtype of x and is added to y before the activation.  Its gradient is the last that backward
    returns.
where
    A mask: bool, of a shape that broadcasts to that of x.  Where it is false, an element counts in no statistic and in
    no gradient, and y and dx are 0.  Statistics of a group without any element are NaN.
y
    Backward can start from y instead of x (None), so that x need not be kept.  weight must have no zeros then, and the
    activation, if any, be "leaky_relu"; half precision pays with one more rounding.
out
    Takes the result and is returned.  It has x's shape and dtype and any memory order; it may be x itself, in backward
    also dy, but overlap no argument otherwise.
Errors
    Are raised before anything is written.
Units
    mean has the unit of x, eps its square, rstd its inverse; so (x - mean) * rstd has none, and y has that of weight
    and bias.

References
----------
.. [1] T. F. Chan, G. H. Golub and R. J. LeVeque, "Algorithms for Computing the Sample Variance: Analysis and
   Recommendations", The American Statistician 37(3), 1983, pp. 242-247.
"""

from functools import partial
from math import inf
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastbn import _checks, _running, _views
from fastbn._quiet import cast, quietly
from fastbn.engine import backward, forward, plans
from fastbn.engine.by_runs import take_roots
from fastbn.kernels.activations import LeakyRelu

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
Statistics = NDArray[np.float64]
ActivationName = Literal["relu", "leaky_relu", "sigmoid", "silu", "gelu", "gelu_tanh"]
Activation = ActivationName | tuple[Literal["leaky_relu"], float] | None


def _affine(weight: Any, bias: Any, shape: tuple[int, ...], x: Array) -> tuple[Array | None, Array | None]:
    """weight and bias in the type that x is computed in."""
    compute = _checks.COMPUTED_IN[x.dtype]
    return _checks.vector(weight, "weight", shape, compute), _checks.vector(bias, "bias", shape, compute)


def rstd_of(var: Array, eps: float) -> Array:
    """1/sqrt(var + eps)."""
    values = cast(np.array(var), np.float64)
    take_roots(values, eps)
    return values


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
    activation: Activation = None,
    residual: ArrayLike | None = None,
    where: ArrayLike | None = None,
    out: Array | None = None,
) -> Array:
    """Batch normalization: each channel by its mean and variance over the batch and all positions.

    Parameters
    ----------
    x : array_like, shape (N, C, ...)
        float16, bfloat16, float32 or float64, of two axes or more.
    running_mean, running_var : array_like, shape (C,), optional
        The statistics that normalize where `training` is false.  In training, ndarrays that are updated in place.
    weight, bias : array_like, shape (C,), optional
        Float scale and shift of each channel; 1 and 0 where left out.
    training : bool
        Whether to normalize by the statistics of x.
    momentum : float
        Weight of x in the running statistics.
    eps : float
        Added to the variance; positive in training, otherwise not negative.
    axis : int
        The channels' axis of x.
    activation : str or tuple, optional
        What y goes through, see the module `fastbn.functional`.
    residual : array_like, shape and dtype of x, optional
        Added to y before the activation.
    where : array_like of bool, optional
        Which elements count, see the module `fastbn.functional`.
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
        If a shape does not fit x, `axis` is out of range, `eps` is negative, a number is not finite, the activation is
        unknown, or `out` is read-only, misaligned, or overlaps itself or an argument other than x.  In training: if
        `eps` is 0, a channel has fewer than two values, or a running array is read-only or overlaps itself or another
        argument.  Otherwise: if a running array is missing.

    Notes
    -----
    Training takes mean and (biased) var of the n elements of each channel and then updates::

        y = activation((x - mean) / sqrt(var + eps) * weight + bias + residual)
        running_mean <- (1 - momentum) * running_mean + momentum * mean
        running_var  <- (1 - momentum) * running_var  + momentum * var * n / (n - 1)

    An empty batch leaves the running arrays as they are.  Evaluation puts them in the place of mean and var.

    For accuracy, memory, units and the like, which all operations share, see the module `fastbn.functional`.

    References
    ----------
    .. [1] S. Ioffe and C. Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal
       Covariate Shift", ICML 2015, section 3.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> x = np.array([[1.0, 10.0], [3.0, 30.0]])
    >>> running_mean, running_var = np.zeros(2), np.ones(2)
    >>> fastbn.batch_norm(x, running_mean, running_var, training=True).round(3)
    array([[-1., -1.],
           [ 1.,  1.]])
    >>> running_mean, running_var
    (array([0.2, 2. ]), array([ 1.1, 20.9]))
    >>> fastbn.batch_norm(x, running_mean, running_var).round(2)
    array([[0.76, 1.75],
           [2.67, 6.12]])
    """
    if type(axis) is not int:
        axis = _checks.integer(axis, "axis")
    if training is not False and _checks.flag(training, "training"):
        others: Any = None if residual is where is out is None else (residual, where, out)
        if running_mean is running_var is None:
            _checks.real(momentum, "momentum")
            return plans.call(_BATCH, (axis, eps, activation), x, weight, bias, others)
        given = (x, weight, bias), (running_mean, running_var, None), others
        return _train(_BATCH_TRAINING, (axis, eps, activation), *given, momentum, wanted=False)[0]
    others = running_mean, running_var
    if not (residual is where is out is None):
        others = running_mean, running_var, residual, where, out
    return plans.call(EVALUATION, (axis, eps, momentum, activation), x, weight, bias, others)


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
    activation: Activation = None,
    residual: ArrayLike | None = None,
    where: ArrayLike | None = None,
    out: Array | None = None,
) -> tuple[Array, Statistics, Statistics]:
    """Batch normalization by the statistics of x, which it returns as well.

    Parameters
    ----------
    x, weight, bias, momentum, eps, axis, activation, residual, where, out
        As `batch_norm` takes them.
    running_mean, running_var : ndarray, shape (C,), optional
        Updated in place.

    Returns
    -------
    y : ndarray, shape and dtype of x
    mean, rstd : ndarray of float64, shape (C,)
        Mean and 1 / sqrt(var + eps) of each channel; NaN for an empty batch.

    Raises
    ------
    TypeError, ValueError
        As `batch_norm` in training.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> y, mean, rstd = fastbn.batch_norm_forward([[1.0, 10.0], [3.0, 30.0]])
    >>> mean, rstd.round(3)
    (array([ 2., 20.]), array([1. , 0.1]))
    """
    running, extras = (running_mean, running_var, None), (activation, residual, where)
    return batch_norm_with_running(x, weight, bias, running, momentum, eps, axis, out, *extras)


def batch_norm_with_running(
    x: Any,
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
    """Batch normalization by the statistics of x; running: with the counter of batches, all updated as one."""
    if type(axis) is not int:
        axis = _checks.integer(axis, "axis")
    others = None if residual is where is out is None else (residual, where, out)
    if running[0] is running[1] is None:
        _checks.real(momentum, "momentum")
        return plans.call(_BATCH_FORWARD, (axis, eps, activation), x, weight, bias, others)
    return _train(_BATCH_TRAINING, (axis, eps, activation), (x, weight, bias), running, others, momentum)


@overload
def batch_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    mean: ArrayLike,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    axis: int = 1,
    training: bool = True,
    bias: ArrayLike | None = None,
    activation: Activation = None,
    residual: None = None,
    where: ArrayLike | None = None,
    y: ArrayLike | None = None,
    out: Array | None = None,
) -> tuple[Array, Array, Array]: ...
@overload
def batch_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    mean: ArrayLike,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    axis: int = 1,
    training: bool = True,
    bias: ArrayLike | None = None,
    activation: Activation = None,
    residual: ArrayLike,
    where: ArrayLike | None = None,
    y: ArrayLike | None = None,
    out: Array | None = None,
) -> tuple[Array, Array, Array, Array]: ...
def batch_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    mean: ArrayLike,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    axis: int = 1,
    training: bool = True,
    bias: ArrayLike | None = None,
    activation: Activation = None,
    residual: ArrayLike | None = None,
    where: ArrayLike | None = None,
    y: ArrayLike | None = None,
    out: Array | None = None,
) -> tuple[Array, ...]:
    """The gradients of batch normalization.

    Parameters
    ----------
    dy : array_like, shape and dtype of x
        Gradient of y.
    x : array_like, shape (N, C, ...), or None
        The input of the forward; None with `y`.
    mean, rstd : array_like, shape (C,)
        What `batch_norm_forward` returned.  With `training` false: running_mean and 1 / sqrt(running_var + eps).
    weight : array_like, shape (C,), optional
        The weight of the forward.
    axis : int
        The channels' axis of x.
    training : bool
        Whether mean and rstd are functions of x; if false, they are constants.
    bias, activation, residual, where
        Those of the forward.
    y : array_like, shape (N, C, ...), optional
        The result of the forward, to start from instead of x, see the module `fastbn.functional`.
    out : ndarray, shape and dtype of x, optional
        Where to write dx; may be x or dy.

    Returns
    -------
    dx : ndarray, shape and dtype of x
    dweight, dbias : ndarray, shape (C,)
    dresidual : ndarray, shape and dtype of x
        Only with a residual.

    Raises
    ------
    TypeError
        If the type or dtype of an argument is not as above.
    ValueError
        If a shape does not fit x, `axis` is out of range, the activation is unknown, `y` is given and cannot be
        undone, or `out` is read-only, misaligned, or overlaps itself or an argument other than x and dy.

    Notes
    -----
    With h = (x - mean) * rstd, z = h * weight + bias + residual, dz = dy * activation'(z), g = dz * weight, and avg
    over the elements of a channel::

        dx = rstd * (g - avg(g) - h * avg(g * h))    or, with `training` false, rstd * g
        dweight = sum(dz * h)
        dbias = sum(dz)
        dresidual = dz

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> x = np.array([[1.0, 10.0], [3.0, 30.0]])
    >>> y, mean, rstd = fastbn.batch_norm_forward(x)
    >>> dx, dweight, dbias = fastbn.batch_norm_backward(np.array([[0.0, 1.0], [2.0, 1.0]]), x, mean, rstd)
    >>> dweight.round(3), dbias
    (array([2., 0.]), array([2., 2.]))
    """
    if type(axis) is not int:
        axis = _checks.integer(axis, "axis")
    if training is not True:
        training = _checks.flag(training, "training")
    others: Any = mean, weight
    if not (bias is residual is where is out is None):
        others = mean, weight, bias, residual, where, None, out
    if y is not None:
        _checks.either(x, y)
        return _from_y(_BATCH_BACKWARD, (axis, training, activation), dy, y, rstd, others)
    return plans.call(_BATCH_BACKWARD, (axis, training, activation), dy, x, rstd, others)


def _check_statistics_of_batch(
    keep: int, settings: tuple[Any, ...], operands: tuple[Any, ...]
) -> tuple[tuple[Any, ...], forward.Statistics]:
    axis, eps, activation = settings
    x, weight, bias, *running, residual, where, out = operands
    x = _checks.array(x, "x")
    _checks.rank(x, 2)
    channel = _checks.axis(axis, x)
    shape = (x.shape[channel],)
    w, b = _affine(weight, bias, shape, x)
    eps = _checks.eps(eps, zero=False)
    if running:
        _checks.running(*running, shape)
    activation, mask, added = _checks.extras(x, activation, where, residual)
    _checks.out(out, (x,))
    if x.size == shape[0] > 0:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {x.shape}")
    decided = forward.Statistics(
        _views.batch_view, (channel,), eps, keep, True, activation, (channel,), 0, _accept_of_channels
    )
    return (x, w, b, *running, added, mask, out), decided


def _accept_of_channels(counts: Array) -> None:
    if counts.min() < 2:
        few = int(counts.argmin())
        raise ValueError(
            f"where leaves {int(counts[few])} of the values of channel {few}; expected more than 1 when training"
        )


def _check_evaluation(settings: tuple[Any, ...], operands: tuple[Any, ...]) -> tuple[tuple[Any, ...], forward.Given]:
    axis, eps, momentum, activation = settings
    x, weight, bias, running_mean, running_var, residual, where, out = operands
    x = _checks.array(x, "x")
    _checks.rank(x, 2)
    channel = _checks.axis(axis, x)
    shape = (x.shape[channel],)
    w, b = _affine(weight, bias, shape, x)
    _checks.real(momentum, "momentum")
    eps = _checks.eps(eps)
    mean = _checks.statistic(running_mean, "running_mean", shape)
    var = _checks.statistic(running_var, "running_var", shape)
    activation, mask, added = _checks.extras(x, activation, where, residual)
    _checks.out(out, (x,))
    return (x, w, b, mean, var, added, mask, out), forward.Given(channel, eps, activation, (channel,))


def _check_batch_backward(
    settings: tuple[Any, ...], operands: tuple[Any, ...]
) -> tuple[tuple[Any, ...], backward.Gradients]:
    axis, training, activation = settings
    dy, x, rstd, mean, weight, bias, residual, where, dsum, out = operands
    dy, x = _checks.gradient(dy, x)
    _checks.rank(x, 2)
    channel = _checks.axis(axis, x)
    shape = (x.shape[channel],)
    r = _checks.given(rstd, "rstd", shape)
    w, b = _checks.vector(weight, "weight", shape), _checks.vector(bias, "bias", shape)
    activation, mask, added = _checks.extras(x, activation, where, residual)
    _checks.out(out, (x, dy))
    m = _checks.given(mean, "mean", shape)
    decided = backward.Gradients(_views.batch_view, (channel,), shape, True, training, activation, (channel,))
    return (dy, x, r, m, w, b, added, mask, dsum, out), decided


def _train(
    operation: plans.Operation,
    settings: Any,
    operands: Any,
    running: Any,
    others: Any,
    momentum: Any,
    wanted: bool = True,
) -> tuple[Array, Array, Array]:
    """y, mean and rstd (if wanted), which have gone into the running arrays; settings: eps is the last but one."""
    if type(momentum) is not float or not -inf < momentum < inf:
        momentum = _checks.real(momentum, "momentum")
    x, weight, bias = operands
    others = running[:2] if others is None else (*running[:2], *others)
    y, mean, var, counts = plans.call(operation, settings, x, weight, bias, others)
    eps = float(settings[-2]) if wanted else -1.0
    if mean.ndim == 2:
        if y.size:
            _update_by_samples(running, mean, var, y.size // mean.size if counts is None else counts, momentum, eps)
    elif y.size:
        count: Any = y.size // mean.size if counts is None else counts
        _running.update(running, mean, var, count / (count - 1), momentum, eps)
    return y, mean, var


@quietly
def _update_by_samples(
    running: _running.Running, mean: Array, var: Array, count: Any, momentum: float, eps: float
) -> None:
    """Take the averages over the samples into running statistics; then put rstd in the place of var."""
    unbiased = var * (count / (count - 1))
    _running.update(running, mean.mean(0), unbiased.mean(0), 1.0, momentum)
    if eps >= 0:
        take_roots(var, eps)


_FORWARD_OPERANDS = "x weight bias residual where out"
_TRAINING_OPERANDS = "x weight bias running_mean running_var residual where out"
_BACKWARD_OPERANDS = "dy x rstd mean weight bias residual where dsum out"

_BATCH = plans.Operation(_FORWARD_OPERANDS, partial(_check_statistics_of_batch, forward.ONLY_Y), forward.plan)
_BATCH_FORWARD = plans.Operation(_FORWARD_OPERANDS, partial(_check_statistics_of_batch, forward.RSTD), forward.plan)
STATISTICS_OF_BATCH = plans.Operation(
    _FORWARD_OPERANDS, partial(_check_statistics_of_batch, forward.VARIANCE), forward.plan
)
_BATCH_TRAINING = plans.Operation(
    _TRAINING_OPERANDS, partial(_check_statistics_of_batch, forward.VARIANCE), forward.plan
)
EVALUATION = plans.Operation(
    _TRAINING_OPERANDS.replace("running_", ""), _check_evaluation, forward.plan_with_statistics
)
_BATCH_BACKWARD = plans.Operation(_BACKWARD_OPERANDS, _check_batch_backward, backward.plan, same=2)


def _from_y(operation: plans.Operation, settings: Any, dy: Any, y: Any, rstd: Any, others: tuple[Any, ...]) -> Any:
    """A backward that starts from y; the mean, first of the others, counts for nothing."""
    operands = operation.all(dy, y, rstd, others)
    checked, decided = operation.check(settings, (dy, y, rstd, rstd, *operands[4:]))
    plans.check_apart(operation, operands)
    dy, y, rstd, mean, weight, bias, residual, *rest = checked
    if residual is not None:
        raise ValueError("a residual is given; expected none where backward starts from y")
    view, spread = decided.view_of, [1] * y.ndim  # the shape in which weights broadcast to y
    if view is _views.layer_view:
        along, spread = rstd.reshape(rstd.shape + (1,) * len(decided.shape)), list(decided.shape)
    else:
        channels = spread[decided.args[0]] = y.shape[decided.args[0]]
        each = np.repeat(rstd, channels // max(rstd.shape[-1], 1), axis=-1)
        along = each.reshape([len(each), *spread[1:]] if each.ndim == 2 else spread)
    w, b = (None if v is None else v.reshape(spread) for v in (weight, bias))
    x = _undone(y, decided.activation, along, w, b)
    mean = None if mean is None else np.zeros(rstd.shape)
    return plans.call(operation, settings, dy, x, rstd, (mean, weight, bias, residual, *rest))


@quietly
def _undone(y: Array, activation: Any, rstd: Array, weight: Array | None, bias: Array | None) -> Array:
    """x - mean, from y; the other arrays broadcast to it."""
    if activation is not None and (type(activation) is not LeakyRelu or activation.parameter <= 0):
        raise ValueError("the activation cannot be undone; expected None or 'leaky_relu' where backward starts from y")
    if weight is not None and not np.all(weight):
        raise ValueError("weight has zeros; expected none where backward starts from y")
    compute = _checks.COMPUTED_IN[y.dtype]
    scale = (rstd if weight is None else rstd * weight).astype(compute)
    z = y.astype(compute)
    if activation is not None:
        np.divide(z, compute.type(activation.parameter), out=z, where=z < 0)
    if bias is not None:
        z -= bias.astype(compute)
    z /= scale
    return z.astype(y.dtype, copy=False)


# Layer norm and RMS norm ----------------------------------------------------------------------------------------------


def layer_norm(
    x: ArrayLike,
    normalized_shape: int | tuple[int, ...],
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    activation: Activation = None,
    where: ArrayLike | None = None,
    out: Array | None = None,
) -> Array:
    """Layer normalization: the trailing axes together, by their mean and variance.

    Parameters
    ----------
    x : array_like, shape (..., normalized_shape)
        float16, bfloat16, float32 or float64.
    normalized_shape : int or tuple of int
        The lengths of the trailing axes that share statistics.
    weight, bias : array_like, shape `normalized_shape`, optional
        Float scale and shift of each element; 1 and 0 where left out.
    eps : float
        Added to the variance; not negative.
    activation : str or tuple, optional
        What y goes through, see the module `fastbn.functional`.
    where : array_like of bool, optional
        Which elements count, see the module `fastbn.functional`.
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
        If x does not end in `normalized_shape`, weight or bias has another shape, `eps` is negative or not finite, the
        activation is unknown, `where` does not broadcast to x, or `out` is read-only, misaligned, or overlaps itself or
        an argument other than x.

    Notes
    -----
    With mean and (biased) var over the trailing axes::

        y = activation((x - mean) / sqrt(var + eps) * weight + bias)

    For accuracy, memory, units and the like, which all operations share, see the module `fastbn.functional`.

    References
    ----------
    .. [1] J. L. Ba, J. R. Kiros and G. E. Hinton, "Layer Normalization", arXiv:1607.06450, 2016, section 3.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> x = np.array([[0.0, 2.0, 4.0, 6.0]])
    >>> fastbn.layer_norm(x, 4).round(3)
    array([[-1.342, -0.447,  0.447,  1.342]])
    >>> bool(np.all(fastbn.layer_norm(x + 1e9, 4) == fastbn.layer_norm(x, 4)))
    True
    """
    if type(normalized_shape) is not int:
        normalized_shape = _checks.lengths(normalized_shape)
    others = None if where is out is None else (None, where, out)
    return plans.call(_LAYER, (normalized_shape, eps, activation), x, weight, bias, others)


def layer_norm_forward(
    x: ArrayLike,
    normalized_shape: int | tuple[int, ...],
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    activation: Activation = None,
    where: ArrayLike | None = None,
    out: Array | None = None,
) -> tuple[Array, Statistics, Statistics]:
    """Layer normalization that also returns its statistics.

    Parameters
    ----------
    x, normalized_shape, weight, bias, eps, activation, where, out
        As `layer_norm` takes them.

    Returns
    -------
    y : ndarray, shape and dtype of x
    mean, rstd : float64, the shape of x without the normalized axes
        Mean and 1 / sqrt(var + eps).

    Raises
    ------
    TypeError, ValueError
        As `layer_norm`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> y, mean, rstd = fastbn.layer_norm_forward([[1.0, 3.0], [10.0, 30.0]], 2, eps=0)
    >>> mean, rstd
    (array([ 2., 20.]), array([1. , 0.1]))
    """
    if type(normalized_shape) is not int:
        normalized_shape = _checks.lengths(normalized_shape)
    others = None if where is out is None else (None, where, out)
    return plans.call(_LAYER_FORWARD, (normalized_shape, eps, activation), x, weight, bias, others)


def layer_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    mean: ArrayLike,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    bias: ArrayLike | None = None,
    activation: Activation = None,
    where: ArrayLike | None = None,
    y: ArrayLike | None = None,
    out: Array | None = None,
) -> tuple[Array, Array, Array]:
    """The gradients of layer normalization.

    Parameters
    ----------
    dy : array_like, shape and dtype of x
        Gradient of y.
    x : array_like or None
        The input of the forward; None with `y`.
    mean, rstd : array_like
        What `layer_norm_forward` returned.  The axes of x that rstd lacks are the normalized ones.
    weight : array_like, shape of the normalized axes, optional
        The weight of the forward.
    bias, activation, where
        Those of the forward.
    y : array_like, optional
        The result of the forward, to start from instead of x, see the module `fastbn.functional`.
    out : ndarray, shape and dtype of x, optional
        Where to write dx; may be x or dy.

    Returns
    -------
    dx : ndarray, shape and dtype of x
    dweight, dbias : ndarray, shape of the normalized axes

    Raises
    ------
    TypeError
        If the type or dtype of an argument is not as above.
    ValueError
        If a shape does not fit x, the activation is unknown, `y` is given and cannot be undone, or `out` is read-only,
        misaligned, or overlaps itself or an argument other than x and dy.

    Notes
    -----
    The formulas are those of `batch_norm_backward`, with avg over the normalized axes and the sums over all others.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> x = np.array([[1.0, 3.0], [10.0, 30.0]])
    >>> y, mean, rstd = fastbn.layer_norm_forward(x, 2, eps=0)
    >>> dx, dweight, dbias = fastbn.layer_norm_backward(np.array([[0.0, 1.0], [2.0, 1.0]]), x, mean, rstd)
    >>> dweight, dbias
    (array([-2.,  2.]), array([2., 2.]))
    """
    others: Any = mean, weight
    if not (bias is where is out is None):
        others = mean, weight, bias, None, where, None, out
    if y is not None:
        _checks.either(x, y)
        return _from_y(_LAYER_BACKWARD, (activation,), dy, y, rstd, others)
    return plans.call(_LAYER_BACKWARD, (activation,), dy, x, rstd, others)


def rms_norm(
    x: ArrayLike,
    normalized_shape: int | tuple[int, ...],
    weight: ArrayLike | None = None,
    eps: float | None = None,
    *,
    activation: Activation = None,
    where: ArrayLike | None = None,
    out: Array | None = None,
) -> Array:
    """RMS normalization: the trailing axes together, by their root mean square.

    Parameters
    ----------
    x, normalized_shape, activation, where, out
        As `layer_norm` takes them.
    weight : array_like, shape `normalized_shape`, optional
        Float scale of each element; 1 where left out.
    eps : float, optional
        Added to the mean square; not negative.  The machine epsilon of the type computed in where left out: that of
        float64 for float64 x, else of float32.

    Returns
    -------
    y : ndarray, shape and dtype of x

    Raises
    ------
    TypeError, ValueError
        As `layer_norm`.

    Notes
    -----
    With avg over the trailing axes::

        y = activation(x / sqrt(avg(x * x) + eps) * weight)

    For accuracy, memory, units and the like, which all operations share, see the module `fastbn.functional`.

    References
    ----------
    .. [1] B. Zhang and R. Sennrich, "Root Mean Square Layer Normalization", NeurIPS 2019, section 4.

    Examples
    --------
    >>> import fastbn
    >>> fastbn.rms_norm([[1.0, -1.0, 7.0, 7.0]], 4)
    array([[ 0.2, -0.2,  1.4,  1.4]])
    """
    if type(normalized_shape) is not int:
        normalized_shape = _checks.lengths(normalized_shape)
    others = None if where is out is None else (None, where, out)
    return plans.call(_RMS, (normalized_shape, eps, activation), x, weight, None, others)


def rms_norm_forward(
    x: ArrayLike,
    normalized_shape: int | tuple[int, ...],
    weight: ArrayLike | None = None,
    eps: float | None = None,
    *,
    activation: Activation = None,
    where: ArrayLike | None = None,
    out: Array | None = None,
) -> tuple[Array, Statistics]:
    """RMS normalization that also returns its statistic.

    Parameters
    ----------
    x, normalized_shape, weight, eps, activation, where, out
        As `rms_norm` takes them.

    Returns
    -------
    y : ndarray, shape and dtype of x
    rstd : float64, the shape of x without the normalized axes
        1 / sqrt(avg(x * x) + eps).

    Raises
    ------
    TypeError, ValueError
        As `rms_norm`.

    Examples
    --------
    >>> import fastbn
    >>> y, rstd = fastbn.rms_norm_forward([[1.0, -1.0, 7.0, 7.0]], 4)
    >>> rstd
    array([0.2])
    """
    if type(normalized_shape) is not int:
        normalized_shape = _checks.lengths(normalized_shape)
    others = None if where is out is None else (None, where, out)
    y, _, rstd = plans.call(_RMS_FORWARD, (normalized_shape, eps, activation), x, weight, None, others)
    return y, rstd


def rms_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    activation: Activation = None,
    where: ArrayLike | None = None,
    y: ArrayLike | None = None,
    out: Array | None = None,
) -> tuple[Array, Array]:
    """The gradients of RMS normalization.

    Parameters
    ----------
    dy, x, rstd, weight, activation, where, y, out
        As `layer_norm_backward` takes them; rstd as `rms_norm_forward` returned it.

    Returns
    -------
    dx : ndarray, shape and dtype of x
    dweight : ndarray, shape of the normalized axes

    Raises
    ------
    TypeError, ValueError
        As `layer_norm_backward`.

    Notes
    -----
    With h = x * rstd, dz = dy * activation'(h * weight), g = dz * weight, avg over the normalized axes and the sum over
    all others::

        dx = rstd * (g - h * avg(g * h))
        dweight = sum(dz * h)

    Examples
    --------
    >>> import fastbn
    >>> x = [[1.0, -1.0, 7.0, 7.0]]
    >>> y, rstd = fastbn.rms_norm_forward(x, 4)
    >>> dx, dweight = fastbn.rms_norm_backward([[1.0, 1.0, 0.0, 0.0]], x, rstd)
    >>> dx, dweight
    (array([[0.2, 0.2, 0. , 0. ]]), array([ 0.2, -0.2,  0. ,  0. ]))
    """
    others: Any = None, weight
    if not (where is out is None):
        others = None, weight, None, None, where, None, out
    if y is not None:
        _checks.either(x, y)
        return _from_y(_RMS_BACKWARD, (activation,), dy, y, rstd, others)[:2]
    return plans.call(_RMS_BACKWARD, (activation,), dy, x, rstd, others)[:2]


def _check_statistics_of_rows(
    keep: int, centered: bool, settings: tuple[Any, ...], operands: tuple[Any, ...]
) -> tuple[tuple[Any, ...], forward.Statistics]:
    normalized_shape, eps, activation = settings
    x, weight, bias, residual, where, out = operands
    x = _checks.array(x, "x")
    shape = _checks.normalized_shape(normalized_shape, x)
    w, b = _affine(weight, bias, shape, x)
    eps = _checks.eps(eps if centered else _rms_eps(eps, x))
    activation, mask, added = _checks.extras(x, activation, where, residual)
    _checks.out(out, (x,))
    kept = tuple(range(x.ndim - len(shape)))
    decided = forward.Statistics(_views.layer_view, (len(shape),), eps, keep, centered, activation, kept)
    return (x, w, b, added, mask, out), decided


def _check_rows_backward(
    centered: bool, settings: tuple[Any, ...], operands: tuple[Any, ...]
) -> tuple[tuple[Any, ...], backward.Gradients]:
    (activation,) = settings
    dy, x, rstd, mean, weight, bias, residual, where, dsum, out = operands
    dy, x = _checks.gradient(dy, x)
    lead, shape = _checks.leading(rstd, "rstd", x)
    r = _checks.given(rstd, "rstd", lead)
    w, b = _checks.vector(weight, "weight", shape), _checks.vector(bias, "bias", shape)
    activation, mask, added = _checks.extras(x, activation, where, residual)
    if dsum is not None:
        dsum = _checks.like(dsum, "dsum", x)
    _checks.out(out, (x, dy))
    m = _checks.given(mean, "mean", lead) if centered else None
    kept = tuple(range(len(lead)))
    decided = backward.Gradients(_views.layer_view, (len(shape),), shape, centered, True, activation, kept)
    return (dy, x, r, m, w, b, added, mask, dsum, out), decided


_LAYER, _LAYER_FORWARD, _RMS, _RMS_FORWARD, _ADD_LAYER, _ADD_RMS = (
    plans.Operation(_FORWARD_OPERANDS, partial(_check_statistics_of_rows, keep, centered), plan)
    for keep, centered, plan in (
        (forward.ONLY_Y, True, forward.plan),
        (forward.RSTD, True, forward.plan),
        (forward.ONLY_Y, False, forward.plan),
        (forward.RSTD, False, forward.plan),
        (forward.RSTD, True, forward.plan_of_sum),
        (forward.RSTD, False, forward.plan_of_sum),
    )
)
_LAYER_BACKWARD, _RMS_BACKWARD = (
    plans.Operation(_BACKWARD_OPERANDS, partial(_check_rows_backward, centered), backward.plan, same=2)
    for centered in (True, False)
)


# Layer norm and RMS norm of a sum -------------------------------------------------------------------------------------


def add_layer_norm(
    x: ArrayLike,
    residual: ArrayLike,
    normalized_shape: int | tuple[int, ...],
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    out: Array | None = None,
) -> tuple[Array, Array]:
    """Layer normalization of x + residual, which it returns as well, as in the blocks of a transformer.

    Parameters
    ----------
    x, normalized_shape, weight, bias, eps
        As `layer_norm` takes them.
    residual : array_like, shape and dtype of x
        What is added to x.
    out : ndarray, shape and dtype of x, optional
        Where to write y; may be x.

    Returns
    -------
    y, sum : ndarray, shape and dtype of x

    Raises
    ------
    TypeError, ValueError
        As `layer_norm`; also if the residual has another shape or dtype than x.

    Notes
    -----
    The result is that of ``sum = x + residual; y = layer_norm(sum, ...)``, in one pass over memory.

    References
    ----------
    .. [1] A. Vaswani et al., "Attention Is All You Need", NeurIPS 2017, section 3.1.

    Examples
    --------
    >>> import fastbn
    >>> y, total = fastbn.add_layer_norm([[0.0, 1.0, 2.0, 3.0]], [[0.0, 1.0, 2.0, 3.0]], 4)
    >>> y.round(3), total
    (array([[-1.342, -0.447,  0.447,  1.342]]), array([[0., 2., 4., 6.]]))
    """
    if type(normalized_shape) is not int:
        normalized_shape = _checks.lengths(normalized_shape)
    if residual is None:
        residual = _checks.array(residual, "residual")
    operands = x, weight, bias, (residual, None, out)
    return plans.call(_ADD_LAYER, (normalized_shape, eps, None), *operands)[:2]


def add_layer_norm_forward(
    x: ArrayLike,
    residual: ArrayLike,
    normalized_shape: int | tuple[int, ...],
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    out: Array | None = None,
) -> tuple[Array, Array, Statistics, Statistics]:
    """Layer normalization of x + residual that also returns its statistics.

    Parameters
    ----------
    x, residual, normalized_shape, weight, bias, eps, out
        As `add_layer_norm` takes them.

    Returns
    -------
    y, sum : ndarray, shape and dtype of x
    mean, rstd : float64, the shape of x without the normalized axes
        Those of the sum.

    Raises
    ------
    TypeError, ValueError
        As `add_layer_norm`.

    Examples
    --------
    >>> import fastbn
    >>> y, total, mean, rstd = fastbn.add_layer_norm_forward([[1.0, 3.0]], [[9.0, 27.0]], 2, eps=0)
    >>> mean, rstd
    (array([20.]), array([0.1]))
    """
    if type(normalized_shape) is not int:
        normalized_shape = _checks.lengths(normalized_shape)
    if residual is None:
        residual = _checks.array(residual, "residual")
    operands = x, weight, bias, (residual, None, out)
    return plans.call(_ADD_LAYER, (normalized_shape, eps, None), *operands)


def add_layer_norm_backward(
    dy: ArrayLike,
    dsum: ArrayLike | None,
    sum: ArrayLike,
    mean: ArrayLike,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    out: Array | None = None,
) -> tuple[Array, Array, Array]:
    """The gradients of `add_layer_norm`.

    Parameters
    ----------
    dy : array_like, shape and dtype of the sum
        Gradient of y.
    dsum : array_like, shape and dtype of the sum, or None
        Gradient of the sum by other ways than y; None for zeros.
    sum, mean, rstd : array_like
        What `add_layer_norm_forward` returned.
    weight, out
        As `layer_norm_backward` takes them.

    Returns
    -------
    dx : ndarray, shape and dtype of the sum
        Gradient of x, which is that of the residual as well.
    dweight, dbias : ndarray, shape of the normalized axes

    Raises
    ------
    TypeError, ValueError
        As `layer_norm_backward`.

    Notes
    -----
    dx is that of `layer_norm_backward` plus dsum, in one pass over memory.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> y, total, mean, rstd = fastbn.add_layer_norm_forward([[1.0, 3.0]], [[9.0, 27.0]], 2, eps=0)
    >>> dx, dweight, dbias = fastbn.add_layer_norm_backward(np.ones((1, 2)), np.ones((1, 2)), total, mean, rstd)
    >>> dx, dweight, dbias
    (array([[1., 1.]]), array([-1.,  1.]), array([1., 1.]))
    """
    return plans.call(_LAYER_BACKWARD, (None,), dy, sum, rstd, (mean, weight, None, None, None, dsum, out))


def add_rms_norm(
    x: ArrayLike,
    residual: ArrayLike,
    normalized_shape: int | tuple[int, ...],
    weight: ArrayLike | None = None,
    eps: float | None = None,
    *,
    out: Array | None = None,
) -> tuple[Array, Array]:
    """RMS normalization of x + residual, which it returns as well.

    Parameters
    ----------
    x, residual, normalized_shape, out
        As `add_layer_norm` takes them.
    weight, eps
        As `rms_norm` takes them.

    Returns
    -------
    y, sum : ndarray, shape and dtype of x

    Raises
    ------
    TypeError, ValueError
        As `add_layer_norm`.

    Examples
    --------
    >>> import fastbn
    >>> fastbn.add_rms_norm([[1.0, -1.0, 3.0, 3.0]], [[0.0, 0.0, 4.0, 4.0]], 4)
    (array([[ 0.2, -0.2,  1.4,  1.4]]), array([[ 1., -1.,  7.,  7.]]))
    """
    if type(normalized_shape) is not int:
        normalized_shape = _checks.lengths(normalized_shape)
    if residual is None:
        residual = _checks.array(residual, "residual")
    operands = x, weight, None, (residual, None, out)
    return plans.call(_ADD_RMS, (normalized_shape, eps, None), *operands)[:2]


def add_rms_norm_forward(
    x: ArrayLike,
    residual: ArrayLike,
    normalized_shape: int | tuple[int, ...],
    weight: ArrayLike | None = None,
    eps: float | None = None,
    *,
    out: Array | None = None,
) -> tuple[Array, Array, Statistics]:
    """RMS normalization of x + residual that also returns its statistic.

    Parameters
    ----------
    x, residual, normalized_shape, weight, eps, out
        As `add_rms_norm` takes them.

    Returns
    -------
    y, sum : ndarray, shape and dtype of x
    rstd : float64, the shape of x without the normalized axes

    Raises
    ------
    TypeError, ValueError
        As `add_layer_norm`.

    Examples
    --------
    >>> import fastbn
    >>> y, total, rstd = fastbn.add_rms_norm_forward([[1.0, -1.0, 3.0, 3.0]], [[0.0, 0.0, 4.0, 4.0]], 4)
    >>> rstd
    array([0.2])
    """
    if type(normalized_shape) is not int:
        normalized_shape = _checks.lengths(normalized_shape)
    if residual is None:
        residual = _checks.array(residual, "residual")
    operands = x, weight, None, (residual, None, out)
    y, total, _, rstd = plans.call(_ADD_RMS, (normalized_shape, eps, None), *operands)
    return y, total, rstd


def add_rms_norm_backward(
    dy: ArrayLike,
    dsum: ArrayLike | None,
    sum: ArrayLike,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    out: Array | None = None,
) -> tuple[Array, Array]:
    """The gradients of `add_rms_norm`.

    Parameters
    ----------
    dy, dsum, sum, rstd, weight, out
        As `add_layer_norm_backward` takes them; sum and rstd as `add_rms_norm_forward` returned them.

    Returns
    -------
    dx : ndarray, shape and dtype of the sum
        Gradient of x, which is that of the residual as well.
    dweight : ndarray, shape of the normalized axes

    Raises
    ------
    TypeError, ValueError
        As `layer_norm_backward`.

    Examples
    --------
    >>> import fastbn
    >>> y, total, rstd = fastbn.add_rms_norm_forward([[1.0, -1.0, 3.0, 3.0]], [[0.0, 0.0, 4.0, 4.0]], 4)
    >>> fastbn.add_rms_norm_backward([[1.0, 1.0, 0.0, 0.0]], None, total, rstd)
    (array([[0.2, 0.2, 0. , 0. ]]), array([ 0.2, -0.2,  0. ,  0. ]))
    """
    return plans.call(_RMS_BACKWARD, (None,), dy, sum, rstd, (None, weight, None, None, None, dsum, out))[:2]


def _rms_eps(eps: Any, x: Array) -> Any:
    """The default of RMS norm, which is torch's, where there is none."""
    return float(np.finfo(_checks.COMPUTED_IN[x.dtype]).eps) if eps is None else eps


# Group norm and instance norm -----------------------------------------------------------------------------------------


def group_norm(
    x: ArrayLike,
    num_groups: int,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    axis: int = 1,
    activation: Activation = None,
    residual: ArrayLike | None = None,
    where: ArrayLike | None = None,
    out: Array | None = None,
) -> Array:
    """Group normalization: neighbouring channels of a sample together, by their mean and variance at all positions.

    Parameters
    ----------
    x : array_like, shape (N, C, ...)
        float16, bfloat16, float32 or float64, of two axes or more; axis 0 counts the samples.
    num_groups : int
        A divisor of C; each group has C / num_groups channels.
    weight, bias : array_like, shape (C,), optional
        Float scale and shift of each channel; 1 and 0 where left out.
    eps : float
        Added to the variance; not negative.
    axis : int
        The channels' axis of x, any but the first.
    activation : str or tuple, optional
        What y goes through, see the module `fastbn.functional`.
    residual : array_like, shape and dtype of x, optional
        Added to y before the activation.
    where : array_like of bool, optional
        Which elements count, see the module `fastbn.functional`.
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
        If a shape does not fit x, `axis` is 0 or out of range, `num_groups` does not divide C, `eps` is negative or not
        finite, the activation is unknown, or `out` is read-only, misaligned, or overlaps itself or an argument other
        than x.

    Notes
    -----
    With mean and (biased) var over the channels and positions of a group::

        y = activation((x - mean) / sqrt(var + eps) * weight + bias + residual)

    For accuracy, memory, units and the like, which all operations share, see the module `fastbn.functional`.

    References
    ----------
    .. [1] Y. Wu and K. He, "Group Normalization", ECCV 2018, section 3.

    Examples
    --------
    >>> import fastbn
    >>> fastbn.group_norm([[1.0, 3.0, 10.0, 30.0]], 2, eps=0)
    array([[-1.,  1., -1.,  1.]])
    """
    if type(axis) is not int:
        axis = _checks.integer(axis, "axis")
    if type(num_groups) is not int:
        num_groups = _checks.integer(num_groups, "num_groups")
    others = None if residual is where is out is None else (residual, where, out)
    return plans.call(_GROUP, (num_groups, axis, eps, activation), x, weight, bias, others)


def group_norm_forward(
    x: ArrayLike,
    num_groups: int,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    axis: int = 1,
    activation: Activation = None,
    residual: ArrayLike | None = None,
    where: ArrayLike | None = None,
    out: Array | None = None,
) -> tuple[Array, Statistics, Statistics]:
    """Group normalization that also returns its statistics.

    Parameters
    ----------
    x, num_groups, weight, bias, eps, axis, activation, residual, where, out
        As `group_norm` takes them.

    Returns
    -------
    y : ndarray, shape and dtype of x
    mean, rstd : ndarray of float64, shape (N, num_groups)
        Mean and 1 / sqrt(var + eps) of each group.

    Raises
    ------
    TypeError, ValueError
        As `group_norm`.

    Examples
    --------
    >>> import fastbn
    >>> y, mean, rstd = fastbn.group_norm_forward([[1.0, 3.0, 10.0, 30.0]], 2, eps=0)
    >>> mean, rstd
    (array([[ 2., 20.]]), array([[1. , 0.1]]))
    """
    if type(axis) is not int:
        axis = _checks.integer(axis, "axis")
    if type(num_groups) is not int:
        num_groups = _checks.integer(num_groups, "num_groups")
    others = None if residual is where is out is None else (residual, where, out)
    return plans.call(_GROUP_FORWARD, (num_groups, axis, eps, activation), x, weight, bias, others)


@overload
def group_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    mean: ArrayLike,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    axis: int = 1,
    bias: ArrayLike | None = None,
    activation: Activation = None,
    residual: None = None,
    where: ArrayLike | None = None,
    y: ArrayLike | None = None,
    out: Array | None = None,
) -> tuple[Array, Array, Array]: ...
@overload
def group_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    mean: ArrayLike,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    axis: int = 1,
    bias: ArrayLike | None = None,
    activation: Activation = None,
    residual: ArrayLike,
    where: ArrayLike | None = None,
    y: ArrayLike | None = None,
    out: Array | None = None,
) -> tuple[Array, Array, Array, Array]: ...
def group_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    mean: ArrayLike,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    axis: int = 1,
    bias: ArrayLike | None = None,
    activation: Activation = None,
    residual: ArrayLike | None = None,
    where: ArrayLike | None = None,
    y: ArrayLike | None = None,
    out: Array | None = None,
) -> tuple[Array, ...]:
    """The gradients of group normalization.

    Parameters
    ----------
    dy : array_like, shape and dtype of x
        Gradient of y.
    x : array_like, shape (N, C, ...), or None
        The input of the forward; None with `y`.
    mean, rstd : array_like, shape (N, num_groups)
        What `group_norm_forward` returned.
    weight : array_like, shape (C,), optional
        The weight of the forward.
    axis : int
        The channels' axis of x, any but the first.
    bias, activation, residual, where
        Those of the forward.
    y : array_like, shape (N, C, ...), optional
        The result of the forward, to start from instead of x, see the module `fastbn.functional`.
    out : ndarray, shape and dtype of x, optional
        Where to write dx; may be x or dy.

    Returns
    -------
    dx : ndarray, shape and dtype of x
    dweight, dbias : ndarray, shape (C,)
    dresidual : ndarray, shape and dtype of x
        Only with a residual.

    Raises
    ------
    TypeError
        If the type or dtype of an argument is not as above.
    ValueError
        If a shape does not fit x, `axis` is 0 or out of range, the activation is unknown, `y` is given and cannot be
        undone, or `out` is read-only, misaligned, or overlaps itself or an argument other than x and dy.

    Notes
    -----
    The formulas are those of `batch_norm_backward`, with avg over a group and the sums over all axes but `axis`.

    Examples
    --------
    >>> import fastbn
    >>> x = [[1.0, 3.0, 10.0, 30.0]]
    >>> y, mean, rstd = fastbn.group_norm_forward(x, 2, eps=0)
    >>> dx, dweight, dbias = fastbn.group_norm_backward([[0.0, 1.0, 2.0, 1.0]], x, mean, rstd)
    >>> dweight, dbias
    (array([ 0.,  1., -2.,  1.]), array([0., 1., 2., 1.]))
    """
    if type(axis) is not int:
        axis = _checks.integer(axis, "axis")
    others: Any = mean, weight
    if not (bias is residual is where is out is None):
        others = mean, weight, bias, residual, where, None, out
    if y is not None:
        _checks.either(x, y)
        return _from_y(_GROUP_BACKWARD, (axis, activation), dy, y, rstd, others)
    return plans.call(_GROUP_BACKWARD, (axis, activation), dy, x, rstd, others)


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
    activation: Activation = None,
    where: ArrayLike | None = None,
    out: Array | None = None,
) -> Array:
    """Instance normalization: each channel of a sample by its mean and variance over all positions.

    Parameters
    ----------
    x : array_like, shape (N, C, ...)
        float16, bfloat16, float32 or float64, of two axes or more; axis 0 counts the samples.
    running_mean, running_var : array_like, shape (C,), optional
        The statistics that normalize where `use_input_stats` is false.  Otherwise ndarrays that are updated in place.
    weight, bias : array_like, shape (C,), optional
        Float scale and shift of each channel; 1 and 0 where left out.
    use_input_stats : bool
        Whether to normalize by the statistics of x.
    momentum : float
        Weight of x in the running statistics.
    eps : float
        Added to the variance; not negative.
    axis : int
        The channels' axis of x, any but the first.
    activation : str or tuple, optional
        What y goes through, see the module `fastbn.functional`.
    where : array_like of bool, optional
        Which elements count, see the module `fastbn.functional`.
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
        As `batch_norm`, where `use_input_stats` takes the place of `training` and the values are those of a channel of
        one sample; also if `axis` is 0, but never for an `eps` of 0.

    Notes
    -----
    Formulas and updates are those of `batch_norm`, for each sample by itself; the running arrays take in the samples'
    average.  With `use_input_stats` false it is `batch_norm` with `training` false.

    References
    ----------
    .. [1] D. Ulyanov, A. Vedaldi and V. Lempitsky, "Instance Normalization: The Missing Ingredient for Fast
       Stylization", arXiv:1607.08022, 2016, section 2.

    Examples
    --------
    >>> import fastbn
    >>> fastbn.instance_norm([[[1.0, 3.0], [10.0, 30.0]]], eps=0)
    array([[[-1.,  1.],
            [-1.,  1.]]])
    """
    if type(axis) is not int:
        axis = _checks.integer(axis, "axis")
    if _checks.flag(use_input_stats, "use_input_stats"):
        if running_mean is running_var is None:
            _checks.real(momentum, "momentum")
            others: Any = None if where is out is None else (None, where, out)
            return plans.call(_INSTANCE, (None, axis, eps, activation), x, weight, bias, others)
        given = (x, weight, bias), (running_mean, running_var, None), (None, where, out)
        return _train(_INSTANCE_TRAINING, (None, axis, eps, activation), *given, momentum, wanted=False)[0]
    others = running_mean, running_var, None, where, out
    return plans.call(_INSTANCE_EVALUATION, (axis, eps, momentum, activation), x, weight, bias, others)


def instance_norm_forward(
    x: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    axis: int = 1,
    activation: Activation = None,
    where: ArrayLike | None = None,
    out: Array | None = None,
) -> tuple[Array, Statistics, Statistics]:
    """Instance normalization by the statistics of x, which it returns as well.

    Parameters
    ----------
    x, weight, bias, eps, axis, activation, where, out
        As `instance_norm` takes them.

    Returns
    -------
    y : ndarray, shape and dtype of x
    mean, rstd : ndarray of float64, shape (N, C)
        Mean and 1 / sqrt(var + eps) of each channel of each sample.

    Raises
    ------
    TypeError, ValueError
        As `instance_norm`.

    Examples
    --------
    >>> import fastbn
    >>> y, mean, rstd = fastbn.instance_norm_forward([[[1.0, 3.0], [10.0, 30.0]]], eps=0)
    >>> mean, rstd
    (array([[ 2., 20.]]), array([[1. , 0.1]]))
    """
    return instance_norm_with_running(x, (weight, bias), (None, None), 0.0, eps, axis, out, (activation, where))


def instance_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    mean: ArrayLike,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    axis: int = 1,
    bias: ArrayLike | None = None,
    activation: Activation = None,
    where: ArrayLike | None = None,
    y: ArrayLike | None = None,
    out: Array | None = None,
) -> tuple[Array, Array, Array]:
    """The gradients of instance normalization by the statistics of x.

    Parameters
    ----------
    dy, x, weight, axis, bias, activation, where, y, out
        As `group_norm_backward` takes them.
    mean, rstd : array_like, shape (N, C)
        What `instance_norm_forward` returned.

    Returns
    -------
    dx : ndarray, shape and dtype of x
    dweight, dbias : ndarray, shape (C,)

    Raises
    ------
    TypeError, ValueError
        As `group_norm_backward`.

    Examples
    --------
    >>> import fastbn
    >>> x = [[[1.0, 3.0], [10.0, 30.0]]]
    >>> y, mean, rstd = fastbn.instance_norm_forward(x, eps=0)
    >>> dx, dweight, dbias = fastbn.instance_norm_backward([[[0.0, 1.0], [2.0, 1.0]]], x, mean, rstd)
    >>> dweight, dbias
    (array([ 1., -1.]), array([1., 3.]))
    """
    if type(axis) is not int:
        axis = _checks.integer(axis, "axis")
    others: Any = mean, weight
    if not (bias is where is out is None):
        others = mean, weight, bias, None, where, None, out
    if y is not None:
        _checks.either(x, y)
        return _from_y(_INSTANCE_BACKWARD, (axis, activation), dy, y, rstd, others)
    return plans.call(_INSTANCE_BACKWARD, (axis, activation), dy, x, rstd, others)


def instance_norm_with_running(
    x: Any,
    affine: tuple[Any, Any],
    running: tuple[Any, Any],
    momentum: Any,
    eps: Any,
    axis: Any,
    out: Any,
    extras: tuple[Any, Any],
) -> tuple[Array, Array, Array]:
    """Instance normalization with the instances' statistics, whose averages go into the running ones.

    affine: weight and bias; running: mean and variance; extras: activation and where.
    """
    if type(axis) is not int:
        axis = _checks.integer(axis, "axis")
    activation, where = extras
    settings = None, axis, eps, activation
    if running[0] is running[1] is None:
        _checks.real(momentum, "momentum")
        others = None if where is out is None else (None, where, out)
        return plans.call(_INSTANCE_FORWARD, settings, x, *affine, others)
    return _train(_INSTANCE_TRAINING, settings, (x, *affine), (*running, None), (None, where, out), momentum)


def _check_statistics_of_groups(
    keep: int, settings: tuple[Any, ...], operands: tuple[Any, ...]
) -> tuple[tuple[Any, ...], forward.Statistics]:
    """num_groups: None for instance norm."""
    num_groups, axis, eps, activation = settings
    x, weight, bias, *running, residual, where, out = operands
    x = _checks.array(x, "x")
    _checks.rank(x, 2)
    channel = _checks.sample_axis(axis, x)
    channels = x.shape[channel]
    groups = channels if num_groups is None else _checks.groups(num_groups, channels)
    w, b = _affine(weight, bias, (channels,), x)
    eps = _checks.eps(eps)
    if running:
        _checks.running(*running, (channels,))
    activation, mask, added = _checks.extras(x, activation, where, residual)
    _checks.out(out, (x,))
    if num_groups is None and x.size == len(x) * channels > 0:
        raise ValueError(f"Expected more than 1 spatial element when training, got input size {x.shape}")
    accept = _accept_of_instances if running else None
    args, kept = (channel, groups), (0, channel)
    decided = forward.Statistics(_views.group_view, args, eps, keep, True, activation, kept, groups, accept)
    return (x, w, b, *running, added, mask, out), decided


def _accept_of_instances(counts: Array) -> None:
    if counts.min() < 2:
        raise ValueError("where leaves fewer than 2 values of a channel of a sample; expected more when training")


def _check_instance_evaluation(
    settings: tuple[Any, ...], operands: tuple[Any, ...]
) -> tuple[tuple[Any, ...], forward.Given]:
    x = _checks.array(operands[0], "x")
    _checks.rank(x, 2)
    _checks.sample_axis(settings[0], x)
    return _check_evaluation(settings, (x, *operands[1:]))


def _check_groups_backward(
    by_channel: bool, settings: tuple[Any, ...], operands: tuple[Any, ...]
) -> tuple[tuple[Any, ...], backward.Gradients]:
    """by_channel: each group is one channel; else rstd tells their number."""
    axis, activation = settings
    dy, x, rstd, mean, weight, bias, residual, where, dsum, out = operands
    dy, x = _checks.gradient(dy, x)
    _checks.rank(x, 2)
    channel = _checks.sample_axis(axis, x)
    channels = x.shape[channel]
    groups = channels if by_channel else _checks.groups_of(rstd, channels)
    shape = (x.shape[0], groups)
    r = _checks.given(rstd, "rstd", shape)
    w, b = _checks.vector(weight, "weight", (channels,)), _checks.vector(bias, "bias", (channels,))
    activation, mask, added = _checks.extras(x, activation, where, residual)
    _checks.out(out, (x, dy))
    m = _checks.given(mean, "mean", shape)
    args, kept = (channel, groups), (0, channel)
    decided = backward.Gradients(_views.group_view, args, (channels,), True, True, activation, kept, groups)
    return (dy, x, r, m, w, b, added, mask, dsum, out), decided


_GROUP, _GROUP_FORWARD = (
    plans.Operation(_FORWARD_OPERANDS, partial(_check_statistics_of_groups, keep), forward.plan)
    for keep in (forward.ONLY_Y, forward.RSTD)
)
_INSTANCE, _INSTANCE_FORWARD, _INSTANCE_TRAINING = (
    plans.Operation(names, partial(_check_statistics_of_groups, keep), forward.plan)
    for names, keep in (
        (_FORWARD_OPERANDS, forward.ONLY_Y),
        (_FORWARD_OPERANDS, forward.RSTD),
        (_TRAINING_OPERANDS, forward.VARIANCE),
    )
)
_INSTANCE_EVALUATION = plans.Operation(
    _TRAINING_OPERANDS.replace("running_", ""), _check_instance_evaluation, forward.plan_with_statistics
)
_GROUP_BACKWARD, _INSTANCE_BACKWARD = (
    plans.Operation(_BACKWARD_OPERANDS, partial(_check_groups_backward, by_channel), backward.plan, same=2)
    for by_channel in (False, True)
)
