"""Layer and RMS normalization: a group is what has the same index on the leading axes."""

from __future__ import annotations

from numpy.typing import ArrayLike

from fastbn.engine import arguments, forward, groups, plans
from fastbn.norms.shared import Activation, Array, Kind, Statistics, backward_of, forward_of, from_y


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
        Applied to y in the same pass; see the module `fastbn.functional`.
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
        normalized_shape = arguments.lengths(normalized_shape)
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
        normalized_shape = arguments.lengths(normalized_shape)
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
        The result of the forward, to start from instead of x; see the module `fastbn.functional`.
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
    others = mean, weight, bias, None, where, None, out
    if y is not None:
        return from_y(LAYER_BACKWARD, (None, activation), dy, arguments.either(x, y), rstd, others)
    return plans.call(LAYER_BACKWARD, (None, activation), dy, x, rstd, others)


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
        normalized_shape = arguments.lengths(normalized_shape)
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
        normalized_shape = arguments.lengths(normalized_shape)
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
    others = None, weight, None, None, where, None, out
    if y is not None:
        return from_y(RMS_BACKWARD, (None, activation), dy, arguments.either(x, y), rstd, others)[:2]
    return plans.call(RMS_BACKWARD, (None, activation), dy, x, rstd, others)[:2]


_CENTERED, _UNCENTERED = (Kind(groups.of_rows, centered=centered) for centered in (True, False))
_LAYER, _LAYER_FORWARD, ADD_LAYER = (
    forward_of(_CENTERED, returns) for returns in (forward.ONLY_Y, forward.RSTD, forward.SUM)
)
_RMS, _RMS_FORWARD, ADD_RMS = (
    forward_of(_UNCENTERED, returns) for returns in (forward.ONLY_Y, forward.RSTD, forward.SUM)
)
LAYER_BACKWARD, RMS_BACKWARD = map(backward_of, (_CENTERED, _UNCENTERED))
ADD_LAYER_BACKWARD, ADD_RMS_BACKWARD = (backward_of(kind, "sum") for kind in (_CENTERED, _UNCENTERED))
