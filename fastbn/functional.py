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

from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastbn import _calls, _checks, _launch, _running, _views
from fastbn._quiet import quietly
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
    if training is not False and _checks.flag(training, "training"):
        running, more = (running_mean, running_var, None), (activation, residual, where)
        return batch_norm_with_running(x, weight, bias, running, momentum, eps, axis, out, *more, wanted=False)[0]
    key, again, plain = None, None, activation is residual is where is None
    if plain and type(axis) is int and type(eps) is float and type(momentum) is float:
        key, again = _calls.recall(("batch", axis, eps, momentum), (x, running_mean, running_var, weight, bias), out)
    if again is not None:
        return again(x, weight, bias, running_mean, running_var, out)
    given, x = x, _checks.array(x, "x")
    _checks.rank(x, 2)
    channel = _checks.axis(axis, x)
    shape = (x.shape[channel],)
    w, b = _affine(weight, bias, shape, x)
    _checks.real(momentum, "momentum")
    eps = _checks.eps(eps)
    mean = _checks.statistic(running_mean, "running_mean", shape)
    var = _checks.statistic(running_var, "running_var", shape)
    also = _checks.also(x, activation, where, residual, (channel,))
    _checks.out(out, (x, given), running_mean, running_var, weight, bias, residual, where)
    key = _calls.unchanged(key, (x, w, b, mean, var), (given, weight, bias, running_mean, running_var))
    return _calls.apply(x, channel, w, b, eps, mean, var, out, key, also)


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
    running, more = (running_mean, running_var, None), (activation, residual, where)
    return batch_norm_with_running(x, weight, bias, running, momentum, eps, axis, out, *more)


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
    wanted: bool = True,
) -> tuple[Array, Array, Array]:
    """Batch normalization by the statistics of x; running: with the counter of batches, all updated as one.

    wanted: whether mean and rstd are.
    """
    running_mean, running_var, _ = running
    key, again, plain = None, None, activation is residual is where is None
    alone = running_mean is None and running_var is None
    keep = (_calls.RSTD if wanted else _calls.ONLY_Y) if alone else _calls.VARIANCE
    if plain and type(axis) is int and type(eps) is float and type(momentum) is float:
        updated, arrays = () if alone else (running_mean, running_var), (x, weight, bias, running_mean, running_var)
        key, again = _calls.recall(("batch forward", axis, eps, momentum, keep), arrays, out, updated=updated)
    if again is not None:
        y, mean, spread = again(x, weight, bias, out)
        if not alone:
            n = x.size // mean.size
            _running.update(running, mean, spread, n / (n - 1), momentum, eps if wanted else -1.0)
        return y, mean, spread
    given, x = x, _checks.array(x, "x")
    _checks.rank(x, 2)
    channel = _checks.axis(axis, x)
    shape = (x.shape[channel],)
    w, b = _affine(weight, bias, shape, x)
    eps, momentum = _checks.eps(eps, zero=False), _checks.real(momentum, "momentum")
    _checks.running(running_mean, running_var, shape, x, weight, bias, residual, where)
    also = _checks.also(x, activation, where, residual, (channel,))
    _checks.out(out, (x, given), weight, bias, running_mean, running_var, residual, where)
    count: Any = x.size // x.shape[channel] if x.size else 0
    if count == 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {x.shape}")
    if count and also.counts is not None:
        count = also.counts
        if count.min() < 2:
            few = int(count.argmin())
            raise ValueError(
                f"where leaves {int(count[few])} of the values of channel {few}; expected more than 1 when training"
            )
    key = _calls.unchanged(key, (x, w, b), (given, weight, bias))
    y, mean, spread = _calls.normalize(x, _views.batch_view, (channel,), w, b, eps, out, keep, key=key, also=also)
    if x.size and not alone:
        _running.update(running, mean, spread, count / (count - 1), momentum, eps if wanted else -1.0)
    return y, mean, spread


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
    key, again, plain = None, None, bias is activation is residual is where is y is None
    if plain and training is True and type(axis) is int:
        key, again = _calls.recall(("batch backward", axis), (dy, x, mean, rstd, weight), out, like=2)
    if again is not None:
        return again(dy, x, mean, rstd, weight, out)
    given, (dy, x) = (x, y, dy), _checks.gradient(dy, _checks.either(x, y))
    _checks.rank(x, 2)
    channel = _checks.axis(axis, x)
    shape = (x.shape[channel],)
    r = _checks.given(rstd, "rstd", shape)
    w, b = _checks.vector(weight, "weight", shape), _checks.vector(bias, "bias", shape)
    also = _checks.also(x, activation, where, residual, (channel,))
    through_statistics = _checks.flag(training, "training")
    _checks.out(out, (x, dy, *given), weight, mean, rstd, bias, residual, where)
    if y is None:
        m = _checks.given(mean, "mean", shape)
    else:
        along = [-1 if a == channel else 1 for a in range(x.ndim)]
        x, m = _undone(x, also, *_along(along, r, w, b)), np.zeros(shape)
    key = _calls.unchanged(key, (dy, x, m, r), (given[2], given[0], mean, rstd))
    args = _views.batch_view, (channel,), w, shape, out, through_statistics, also, b
    return _calls.differentiate(dy, x, m, r, *args, key=key)


def _along(shape: list[int], *vectors: Array | None) -> Any:
    return [None if v is None else v.reshape(shape) for v in vectors]


@quietly
def _undone(y: Array, also: _checks.Also, rstd: Array, weight: Array | None, bias: Array | None) -> Array:
    """x - mean, from y; the other arrays broadcast to it."""
    if also.residual is not None:
        raise ValueError("a residual is given; expected none where backward starts from y")
    if also.activation is not None and (type(also.activation) is not LeakyRelu or also.activation.parameter <= 0):
        raise ValueError("the activation cannot be undone; expected None or 'leaky_relu' where backward starts from y")
    if weight is not None and not np.all(weight):
        raise ValueError("weight has zeros; expected none where backward starts from y")
    compute = _checks.COMPUTED_IN[y.dtype]
    scale = (rstd if weight is None else rstd * weight).astype(compute)
    z = y.astype(compute)
    if also.activation is not None:
        np.divide(z, compute.type(also.activation.parameter), out=z, where=z < 0)
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
    return _trailing(x, normalized_shape, weight, bias, eps, out, True, activation, where, keep=_calls.ONLY_Y)[0]


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
    return _trailing_forward(x, normalized_shape, weight, bias, eps, out, True, activation, where)


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
    return _trailing_backward(dy, x, mean, rstd, weight, out, True, bias, activation, where, y)


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
    return _trailing(x, normalized_shape, weight, None, eps, out, False, activation, where, keep=_calls.ONLY_Y)[0]


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
    y, _, rstd = _trailing_forward(x, normalized_shape, weight, None, eps, out, False, activation, where)
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
    return _trailing_backward(dy, x, None, rstd, weight, out, False, None, activation, where, y)[:2]


def _is_exact(normalized_shape: Any) -> bool:
    """Whether it is made of int alone; as a key, 5.0 would pass for 5."""
    if type(normalized_shape) is tuple:
        return all(type(n) is int for n in normalized_shape)
    return type(normalized_shape) is int


def _trailing_forward(
    x: Any,
    normalized_shape: Any,
    weight: Any,
    bias: Any,
    eps: Any,
    out: Any,
    centered: bool,
    activation: Any,
    where: Any,
) -> tuple[Array, Array, Array]:
    arguments = x, normalized_shape, weight, bias, eps, out, centered, activation, where
    return _trailing(*arguments, keep=_calls.RSTD)


def _trailing(
    x: Any,
    normalized_shape: Any,
    weight: Any,
    bias: Any,
    eps: Any,
    out: Any,
    centered: bool,
    activation: Any,
    where: Any,
    keep: int,
) -> tuple[Array, Array, Array]:
    key, again = None, None
    if activation is None and where is None and _is_exact(normalized_shape) and (eps is None or type(eps) is float):
        key, again = _calls.recall((centered, normalized_shape, eps, keep), (x, weight, bias), out)
    if again is not None:
        return again(x, weight, bias, out)
    arguments = x, normalized_shape, weight, bias, eps, out, centered, activation, where
    given = x, weight, bias
    x, w, b, eps, trailing, also = _trailing_arguments(*arguments)
    key = _calls.unchanged(key, (x, w, b), given)
    return _calls.normalize(x, _views.layer_view, (trailing,), w, b, eps, out, keep, centered, key, also)


def _trailing_arguments(
    x: Any,
    normalized_shape: Any,
    weight: Any,
    bias: Any,
    eps: Any,
    out: Any,
    centered: bool,
    activation: Any = None,
    where: Any = None,
) -> tuple[Array, Array | None, Array | None, float, int, _checks.Also]:
    given, x = x, _checks.array(x, "x")
    shape = _checks.normalized_shape(normalized_shape, x)
    w, b = _affine(weight, bias, shape, x)
    eps = _checks.eps(eps if centered else _rms_eps(eps, x))
    also = _checks.also(x, activation, where, None, tuple(range(x.ndim - len(shape))))
    _checks.out(out, (x, given), weight, bias, where)
    return x, w, b, eps, len(shape), also


def _trailing_backward(
    dy: Any,
    x: Any,
    mean: Any,
    rstd: Any,
    weight: Any,
    out: Any,
    centered: bool,
    bias: Any = None,
    activation: Any = None,
    where: Any = None,
    y: Any = None,
    dsum: Any = None,
) -> Any:  # as many gradients as its caller says
    key, again = None, None
    if bias is activation is where is y is dsum is None:
        key, again = _calls.recall(("trailing backward", centered), (dy, x, mean, rstd, weight), out, like=2)
    if again is not None:
        return again(dy, x, mean, rstd, weight, out)
    given, (dy, x) = (x, y, dy), _checks.gradient(dy, _checks.either(x, y))
    lead, shape = _checks.leading(rstd, "rstd", x)
    r = _checks.given(rstd, "rstd", lead)
    w, b = _checks.vector(weight, "weight", shape), _checks.vector(bias, "bias", shape)
    also = _checks.also(x, activation, where, None, tuple(range(len(lead))))
    added = None if dsum is None else _checks.like(dsum, "dsum", x)
    _checks.out(out, (x, dy, *given), weight, mean, rstd, bias, where, dsum)
    m: Array | None = None
    if y is None:
        m = _checks.given(mean, "mean", lead) if centered else None
    else:
        x = _undone(x, also, r.reshape(lead + (1,) * len(shape)), w, b)
        m = np.zeros(lead) if centered else None
    key = _calls.unchanged(key, (dy, x, m, r), (given[2], given[0], mean, rstd))
    args = _views.layer_view, (len(shape),), w, shape, out
    return _calls.differentiate(dy, x, m, r, *args, also=also, bias=b, dsum=added, key=key)


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
    return _add(x, residual, normalized_shape, weight, bias, eps, out, centered=True)[:2]


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
    y, total, mean, var = _add(x, residual, normalized_shape, weight, bias, eps, out, centered=True)
    return y, total, mean, _calls.rstd(var, eps)


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
    return _trailing_backward(dy, sum, mean, rstd, weight, out, True, dsum=dsum)


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
    return _add(x, residual, normalized_shape, weight, None, eps, out, centered=False)[:2]


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
    arguments = x, residual, normalized_shape, weight, None, eps, out
    y, total, _, var = _add(*arguments, centered=False)
    return y, total, _calls.rstd(var, _rms_eps(eps, y))


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
    return _trailing_backward(dy, sum, None, rstd, weight, out, False, dsum=dsum)[:2]


def _rms_eps(eps: Any, x: Array) -> Any:
    """The default of RMS norm, which is torch's, where there is none."""
    return float(np.finfo(_checks.COMPUTED_IN[x.dtype]).eps) if eps is None else eps


def _add(
    x: Any, residual: Any, normalized_shape: Any, weight: Any, bias: Any, eps: Any, out: Any, centered: bool
) -> tuple[Array, Array, Array, Array]:
    """y, sum, mean and variance."""
    x, w, b, eps, trailing, _ = _trailing_arguments(x, normalized_shape, weight, bias, eps, out, centered)
    residual = _checks.like(residual, "residual", x)
    _checks.out(out, (x,), residual)
    return _calls.normalize_sum(x, residual, trailing, w, b, eps, out, centered)


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
    return _group(x, num_groups, weight, bias, eps, axis, out, _calls.ONLY_Y, activation, residual, where)[0]


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
    return _group(x, num_groups, weight, bias, eps, axis, out, _calls.RSTD, activation, residual, where)


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
    more = bias, activation, residual, where, y
    return _group_backward(dy, x, mean, rstd, weight, axis, out, False, *more)


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
    if _checks.flag(use_input_stats, "use_input_stats"):
        arguments = x, weight, bias, running_mean, running_var, momentum, eps, axis, out
        return instance_norm_with_running(*arguments, activation, where)[0]
    x = _checks.array(x, "x")
    _checks.rank(x, 2)
    _checks.sample_axis(axis, x)
    more: dict[str, Any] = {"axis": axis, "activation": activation, "where": where, "out": out}
    return batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps, **more)


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
    return instance_norm_with_running(x, weight, bias, None, None, 0.0, eps, axis, out, activation, where)


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
    return _group_backward(dy, x, mean, rstd, weight, axis, out, True, bias, activation, None, where, y)


def _group(
    x: Any,
    num_groups: Any,
    weight: Any,
    bias: Any,
    eps: Any,
    axis: Any,
    out: Any,
    keep: int,
    activation: Any,
    residual: Any,
    where: Any,
    key: Any = None,
) -> tuple[Array, Array, Array]:
    """y, mean and variance or rstd; key: what to remember the call by, where the caller has looked already."""
    plain = key is activation is residual is where is None
    if plain and type(num_groups) is int and type(axis) is int and type(eps) is float:
        key, again = _calls.recall(("group", num_groups, axis, eps, keep), (x, weight, bias), out)
        if again is not None:
            return again(x, weight, bias, out)
    given, x = x, _checks.array(x, "x")
    _checks.rank(x, 2)
    channel = _checks.sample_axis(axis, x)
    channels = x.shape[channel]
    args = (channel, _checks.groups(num_groups, channels))
    w, b = _affine(weight, bias, (channels,), x)
    eps = _checks.eps(eps)
    also = _checks.also(x, activation, where, residual, (0, channel), args[1])
    _checks.out(out, (x, given), weight, bias, residual, where)
    key = _calls.unchanged(key, (x, w, b), (given, weight, bias))
    return _calls.normalize(x, _views.group_view, args, w, b, eps, out, keep, key=key, also=also)


def _group_backward(
    dy: Any,
    x: Any,
    mean: Any,
    rstd: Any,
    weight: Any,
    axis: Any,
    out: Any,
    by_channel: bool,
    bias: Any,
    activation: Any,
    residual: Any,
    where: Any,
    y: Any,
) -> Any:  # as many gradients as its caller says
    """by_channel: a group a channel; else rstd tells their number."""
    key, again = None, None
    if bias is activation is residual is where is y is None and type(axis) is int:
        key, again = _calls.recall(("group backward", axis, by_channel), (dy, x, mean, rstd, weight), out, like=2)
    if again is not None:
        return again(dy, x, mean, rstd, weight, out)
    given, (dy, x) = (x, y, dy), _checks.gradient(dy, _checks.either(x, y))
    _checks.rank(x, 2)
    channel = _checks.sample_axis(axis, x)
    channels = x.shape[channel]
    groups = channels if by_channel else _checks.groups_of(rstd, channels)
    shape = (x.shape[0], groups)
    r = _checks.given(rstd, "rstd", shape)
    w, b = _checks.vector(weight, "weight", (channels,)), _checks.vector(bias, "bias", (channels,))
    also = _checks.also(x, activation, where, residual, (0, channel), groups)
    _checks.out(out, (x, dy, *given), weight, mean, rstd, bias, residual, where)
    if y is None:
        m = _checks.given(mean, "mean", shape)
    else:
        along = [-1 if a == channel else 1 for a in range(x.ndim)]
        each = np.repeat(r, channels // max(groups, 1), axis=1).reshape([x.shape[0], *along[1:]])
        x, m = _undone(x, also, each, *_along(along, w, b)), np.zeros(shape)
    key = _calls.unchanged(key, (dy, x, m, r), (given[2], given[0], mean, rstd))
    args = _views.group_view, (channel, groups), w, (channels,), out
    return _calls.differentiate(dy, x, m, r, *args, also=also, bias=b, key=key)


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
    activation: Any = None,
    where: Any = None,
) -> tuple[Array, Array, Array]:
    """Instance normalization with the instances' statistics, whose averages go into the running ones."""
    key, again, alone = None, None, running_mean is None and running_var is None
    if activation is None and where is None and type(axis) is int and type(eps) is type(momentum) is float:
        running, arrays = () if alone else (running_mean, running_var), (x, weight, bias, running_mean, running_var)
        key, again = _calls.recall(("instance", axis, eps, momentum), arrays, out, updated=running)
    if again is not None:
        y, mean, spread = again(x, weight, bias, out)
        if not alone:
            elements = x.size // mean.size
            _update_running_of_samples((running_mean, running_var, None), mean, spread, elements, momentum, eps)
        return y, mean, spread
    given, x = x, _checks.array(x, "x")
    _checks.rank(x, 2)
    channel = _checks.sample_axis(axis, x)
    channels = x.shape[channel]
    eps, momentum = _checks.eps(eps), _checks.real(momentum, "momentum")
    _checks.running(running_mean, running_var, (channels,), x, weight, bias, where)
    _checks.out(out, (x, given), running_mean, running_var)
    count: Any = x.size // (x.shape[0] * channels) if x.size else 0
    if count == 1:
        raise ValueError(f"Expected more than 1 spatial element when training, got input size {x.shape}")
    if count and where is not None and not alone:
        mask: Any = _checks.where(where, x)
        count = _checks.counts(mask, x.shape, (0, channel), channels)
        if count.min() < 2:
            raise ValueError("where leaves fewer than 2 values of a channel of a sample; expected more when training")
    key = _calls.unchanged(key, (x,), (given,))
    keep = _calls.RSTD if alone else _calls.VARIANCE
    y, mean, spread = _group(x, channels, weight, bias, eps, axis, out, keep, activation, None, where, key)
    if x.size and not alone:
        _update_running_of_samples((running_mean, running_var, None), mean, spread, count, momentum, eps)
    return y, mean, spread


@quietly
def _update_running_of_samples(
    running: _running.Running, mean: Array, var: Array, count: Any, momentum: float, eps: float
) -> None:
    """Take the averages over the samples into running statistics; then put rstd in the place of var."""
    unbiased = var * (count / (count - 1))
    _running.update(running, mean.mean(0), unbiased.mean(0), 1.0, momentum)
    _launch.take_roots(var, eps)
