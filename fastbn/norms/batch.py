"""Batch normalization: a group is a channel."""

from __future__ import annotations

from typing import overload

from numpy.typing import ArrayLike

from fastbn.engine import arguments, forward, groups, plans
from fastbn.norms.shared import (
    Activation,
    Array,
    Kind,
    Statistics,
    backward_of,
    forward_of,
    from_y,
    train,
)


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
        Applied to y in the same pass; see the module `fastbn.functional`.
    residual : array_like, shape and dtype of x, optional
        Added to y before the activation.
    where : array_like of bool, optional
        Which elements count; see the module `fastbn.functional`.
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
        axis = arguments.integer(axis, "axis")
    if training is not False and arguments.flag(training, "training"):
        if running_mean is running_var is None:
            others = None if residual is where is out is None else (residual, where, out)
            return plans.call(_BATCH, (axis, eps, activation, momentum), x, weight, bias, others)
        running, beside, settings = (running_mean, running_var, None), (residual, where, out), (axis, eps, activation)
        return train(_BATCH_TRAINING, settings, (x, weight, bias), running, beside, momentum, False)[0]
    given = running_mean, running_var, residual, where, out
    return plans.call(EVALUATION, (axis, eps, activation, momentum), x, weight, bias, given)


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
    if type(axis) is not int:
        axis = arguments.integer(axis, "axis")
    if running_mean is running_var is None:
        others = None if residual is where is out is None else (residual, where, out)
        return plans.call(_BATCH_FORWARD, (axis, eps, activation, momentum), x, weight, bias, others)
    running, beside, settings = (running_mean, running_var, None), (residual, where, out), (axis, eps, activation)
    return train(_BATCH_TRAINING, settings, (x, weight, bias), running, beside, momentum)


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
        The result of the forward, to start from instead of x; see the module `fastbn.functional`.
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
        axis = arguments.integer(axis, "axis")
    if training is not True:
        training = arguments.flag(training, "training")
    others = mean, weight, bias, residual, where, None, out
    if y is not None:
        return from_y(_BATCH_BACKWARD, (axis, activation, training), dy, arguments.either(x, y), rstd, others)
    return plans.call(_BATCH_BACKWARD, (axis, activation, training), dy, x, rstd, others)


def _accept_of_channels(counts: Array) -> None:
    if counts.min() < 2:
        few = int(counts.argmin())
        raise ValueError(
            f"where leaves {int(counts[few])} of the values of channel {few}; expected more than 1 when training"
        )


_KIND = Kind(groups.of_channels, zero=False, single="value per channel", accept=_accept_of_channels)
_BATCH, _BATCH_FORWARD, STATISTICS_OF_BATCH = (
    forward_of(_KIND, returns) for returns in (forward.ONLY_Y, forward.RSTD, forward.VARIANCE)
)
_BATCH_TRAINING = forward_of(_KIND, forward.VARIANCE, "running_mean running_var")
BATCH = _BATCH_FORWARD, _BATCH_TRAINING  # as `norm_with_running` takes them
EVALUATION = forward_of(Kind(groups.of_channels), forward.GIVEN, "running_mean running_var")
_BATCH_BACKWARD = backward_of(_KIND)
