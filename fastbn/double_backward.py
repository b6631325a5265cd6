"""The gradients of the backward functions: what a loss on gradients, such as a gradient penalty, needs.

A backward function takes dy, x and weight to dx, dweight and dbias.  Given the gradients of a loss for these three,
each function here returns its gradients for the first three.  What `fastbn.functional` says about arrays, accuracy,
bits and errors holds here too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy.typing import ArrayLike, NDArray

from fastbn._quiet import quietly
from fastbn.engine import arguments, groups
from fastbn.engine.double_backward import Operands, differentiate

__all__ = [
    "batch_norm_double_backward",
    "group_norm_double_backward",
    "instance_norm_double_backward",
    "layer_norm_double_backward",
    "rms_norm_double_backward",
]

Array = NDArray[Any]


# The operations -------------------------------------------------------------------------------------------------------


@quietly
def batch_norm_double_backward(
    ddx: ArrayLike,
    dy: ArrayLike,
    x: ArrayLike,
    mean: ArrayLike,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    ddweight: ArrayLike | None = None,
    ddbias: ArrayLike | None = None,
    axis: int = 1,
    training: bool = True,
) -> tuple[Array, Array, Array]:
    """The gradients of `batch_norm_backward`.

    Parameters
    ----------
    ddx : array_like, shape and dtype of x
        Gradient of the dx that `batch_norm_backward` returned.
    dy, x, mean, rstd, weight, axis, training
        As `batch_norm_backward` took them.
    ddweight, ddbias : array_like, shape (C,), optional
        Gradients of the dweight and dbias that it returned; zero where left out.

    Returns
    -------
    ddy : ndarray, shape and dtype of x
        Gradient for dy.
    gx : ndarray, shape and dtype of x
        Gradient for x, on which mean and rstd depend, unless `training` is false.
    gweight : ndarray, shape (C,)
        Gradient for weight.

    Raises
    ------
    TypeError, ValueError
        As `batch_norm_backward`; also if ddx does not have the shape and dtype of x, or ddweight or ddbias not the
        shape of weight.

    Notes
    -----
    With h = (x - mean) * rstd, g = dy * weight, p = dy * ddweight, avg over the elements of a channel, and
    P(v) = v - avg(v) - h * avg(v * h)::

        ddy = rstd * P(ddx) * weight + h * ddweight + ddbias
        gx = rstd * P(p - rstd * (ddx * avg(g * h) + g * avg(ddx * h))) - rstd**2 * h * avg(ddx * P(g))
        gweight = sum(dy * rstd * P(ddx))

    With `training` false, P(v) = v in ddy and gweight, and gx = rstd * p.

    References
    ----------
    .. [1] I. Gulrajani, F. Ahmed, M. Arjovsky, V. Dumoulin and A. Courville, "Improved Training of Wasserstein GANs",
       NeurIPS 2017, section 4: the gradient penalty.

    Examples
    --------
    >>> import fastbn
    >>> x, dy = [[1.0], [2.0], [4.0]], [[0.0], [1.0], [0.0]]
    >>> y, mean, rstd = fastbn.batch_norm_forward(x)
    >>> dx, dweight, dbias = fastbn.batch_norm_backward(dy, x, mean, rstd)
    >>> ddy, gx, gweight = fastbn.batch_norm_double_backward(2 * dx, dy, x, mean, rstd)  # of the sum of dx**2
    >>> gweight.round(3), (2 * dx * dx).sum(axis=0).round(3)  # dx is proportional to weight, which is 1
    (array([0.827]), array([0.827]))
    """
    affine, through = (weight, ddweight, ddbias), arguments.flag(training, "training")
    return _differentiated(groups.of_channels, (axis,), (ddx, dy, x), (rstd, mean), affine, through)


@quietly
def layer_norm_double_backward(
    ddx: ArrayLike,
    dy: ArrayLike,
    x: ArrayLike,
    mean: ArrayLike,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    ddweight: ArrayLike | None = None,
    ddbias: ArrayLike | None = None,
) -> tuple[Array, Array, Array]:
    """The gradients of `layer_norm_backward`.

    Parameters
    ----------
    ddx : array_like, shape and dtype of x
        Gradient of the dx that `layer_norm_backward` returned.
    dy, x, mean, rstd, weight
        As `layer_norm_backward` took them.
    ddweight, ddbias : array_like, shape of the normalized axes, optional
        Gradients of the dweight and dbias that it returned; zero where left out.

    Returns
    -------
    ddy, gx : ndarray, shape and dtype of x
        Gradients for dy and x.
    gweight : ndarray, shape of the normalized axes
        Gradient for weight.

    Raises
    ------
    TypeError, ValueError
        As `layer_norm_backward`; also if ddx does not have the shape and dtype of x, or ddweight or ddbias not the
        shape of weight.

    Notes
    -----
    The formulas are those of `batch_norm_double_backward`, with avg over the normalized axes and the sum over all
    others.

    Examples
    --------
    >>> import fastbn
    >>> x, dy = [[1.0, 2.0, 4.0]], [[0.0, 1.0, 0.0]]
    >>> y, mean, rstd = fastbn.layer_norm_forward(x, 3)
    >>> ddy, gx, gweight = fastbn.layer_norm_double_backward([[1.0, 1.0, 1.0]], dy, x, mean, rstd)
    >>> bool(abs(ddy).max() < 1e-12)  # the elements of dx add up to 0, whatever dy is
    True
    """
    return _differentiated(groups.of_rows, (None,), (ddx, dy, x), (rstd, mean), (weight, ddweight, ddbias))


@quietly
def rms_norm_double_backward(
    ddx: ArrayLike,
    dy: ArrayLike,
    x: ArrayLike,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    ddweight: ArrayLike | None = None,
) -> tuple[Array, Array, Array]:
    """The gradients of `rms_norm_backward`.

    Parameters
    ----------
    ddx, dy, x, rstd, weight, ddweight
        As `layer_norm_double_backward` takes them; rstd as `rms_norm_forward` returned it.

    Returns
    -------
    ddy, gx, gweight
        As `layer_norm_double_backward` returns them.

    Raises
    ------
    TypeError, ValueError
        As `layer_norm_double_backward`.

    Notes
    -----
    The formulas are those of `batch_norm_double_backward` with h = x * rstd and P(v) = v - h * avg(v * h), avg over the
    normalized axes and the sum over all others.

    Examples
    --------
    >>> import fastbn
    >>> x, dy = [[1.0, -1.0, 7.0, 7.0]], [[1.0, 1.0, 0.0, 0.0]]
    >>> y, rstd = fastbn.rms_norm_forward(x, 4, eps=0)
    >>> ddy, gx, gweight = fastbn.rms_norm_double_backward(x, dy, x, rstd)
    >>> bool(abs(ddy).max() < 1e-12)  # dx is perpendicular to x, whatever dy is
    True
    """
    return _differentiated(groups.of_rows, (None,), (ddx, dy, x), (rstd,), (weight, ddweight, None))


@quietly
def group_norm_double_backward(
    ddx: ArrayLike,
    dy: ArrayLike,
    x: ArrayLike,
    mean: ArrayLike,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    ddweight: ArrayLike | None = None,
    ddbias: ArrayLike | None = None,
    axis: int = 1,
) -> tuple[Array, Array, Array]:
    """The gradients of `group_norm_backward`.

    Parameters
    ----------
    ddx : array_like, shape and dtype of x
        Gradient of the dx that `group_norm_backward` returned.
    dy, x, mean, rstd, weight, axis
        As `group_norm_backward` took them.
    ddweight, ddbias : array_like, shape (C,), optional
        Gradients of the dweight and dbias that it returned; zero where left out.

    Returns
    -------
    ddy, gx : ndarray, shape and dtype of x
        Gradients for dy and x.
    gweight : ndarray, shape (C,)
        Gradient for weight.

    Raises
    ------
    TypeError, ValueError
        As `group_norm_backward`; also if ddx does not have the shape and dtype of x, or ddweight or ddbias not the
        shape of weight.

    Notes
    -----
    The formulas are those of `batch_norm_double_backward`, with avg over a group of a sample.

    Examples
    --------
    >>> import fastbn
    >>> x, dy = [[[1.0, 2.0], [4.0, 8.0]]], [[[0.0, 1.0], [0.0, 0.0]]]
    >>> y, mean, rstd = fastbn.group_norm_forward(x, 1)
    >>> ddy, gx, gweight = fastbn.group_norm_double_backward([[[1.0, 1.0], [1.0, 1.0]]], dy, x, mean, rstd)
    >>> bool(abs(ddy).max() < 1e-12)  # the elements of dx add up to 0, whatever dy is
    True
    """
    return _differentiated(groups.of_groups, (None, axis), (ddx, dy, x), (rstd, mean), (weight, ddweight, ddbias))


@quietly
def instance_norm_double_backward(
    ddx: ArrayLike,
    dy: ArrayLike,
    x: ArrayLike,
    mean: ArrayLike,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    ddweight: ArrayLike | None = None,
    ddbias: ArrayLike | None = None,
    axis: int = 1,
) -> tuple[Array, Array, Array]:
    """The gradients of `instance_norm_backward`.

    Parameters
    ----------
    ddx, dy, x, mean, rstd, weight, ddweight, ddbias, axis
        As `group_norm_double_backward` takes them; mean and rstd as `instance_norm_forward` returned them.

    Returns
    -------
    ddy, gx, gweight
        As `group_norm_double_backward` returns them.

    Raises
    ------
    TypeError, ValueError
        As `group_norm_double_backward`.

    Examples
    --------
    >>> import fastbn
    >>> x, dy = [[[1.0, 2.0], [4.0, 8.0]]], [[[0.0, 1.0], [0.0, 0.0]]]
    >>> y, mean, rstd = fastbn.instance_norm_forward(x)
    >>> ddy, gx, gweight = fastbn.instance_norm_double_backward(dy, dy, x, mean, rstd, ddbias=[10.0, 20.0])
    >>> ddy.round(2)
    array([[[10., 10.],
            [20., 20.]]])
    """
    return _differentiated(groups.of_instances, (axis,), (ddx, dy, x), (rstd, mean), (weight, ddweight, ddbias))


# Arguments ------------------------------------------------------------------------------------------------------------


def _differentiated(
    groups_of: Callable[..., groups.Groups],
    told: tuple[Any, ...],
    arrays: tuple[Any, Any, Any],
    statistics: tuple[Any, ...],
    affine: tuple[Any, ...],
    through_statistics: bool = True,
) -> tuple[Array, Array, Array]:
    """told: what groups_of takes beside; arrays: ddx, dy and x; statistics: rstd, and mean if there is one.

    affine: weight, ddweight and ddbias.
    """
    (ddx, dy, x), (rstd, *means) = arrays, statistics
    dy, x = arguments.gradient(dy, x)
    v = arguments.like(ddx, "ddx", x)
    parted = groups_of(x, rstd, *told)
    r = arguments.float64_statistic(rstd, "rstd", parted.statistics)
    m = arguments.float64_statistic(means[0], "mean", parted.statistics) if means else None
    named = zip(affine, ("weight", "ddweight", "ddbias"), strict=True)
    w, a, b = (arguments.vector(value, name, parted.weights) for value, name in named)
    return differentiate(Operands(v, dy, x, m, r, w, a, b), parted, through_statistics)
