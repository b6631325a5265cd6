"""Group normalization: a group is some channels of a sample."""

from __future__ import annotations

from typing import overload

from numpy.typing import ArrayLike

from fastbn.engine import arguments, forward, groups, plans
from fastbn.norms.shared import Activation, Array, Kind, Statistics, backward_of, forward_of, from_y


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
        axis = arguments.integer(axis, "axis")
    if type(num_groups) is not int:
        num_groups = arguments.integer(num_groups, "num_groups")
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
        axis = arguments.integer(axis, "axis")
    if type(num_groups) is not int:
        num_groups = arguments.integer(num_groups, "num_groups")
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
        axis = arguments.integer(axis, "axis")
    others = mean, weight, bias, residual, where, None, out
    if y is not None:
        return from_y(_GROUP_BACKWARD, (None, axis, activation), dy, arguments.either(x, y), rstd, others)
    return plans.call(_GROUP_BACKWARD, (None, axis, activation), dy, x, rstd, others)


_KIND = Kind(groups.of_groups, told=2)
_GROUP, _GROUP_FORWARD = (forward_of(_KIND, returns) for returns in (forward.ONLY_Y, forward.RSTD))
_GROUP_BACKWARD = backward_of(_KIND)
