"""Layer and RMS normalization of a sum, as in the blocks of a transformer."""

from __future__ import annotations

from numpy.typing import ArrayLike

from fastbn.engine import arguments, plans
from fastbn.norms.shared import Array, Statistics
from fastbn.norms.trailing import ADD_LAYER, ADD_LAYER_BACKWARD, ADD_RMS, ADD_RMS_BACKWARD


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
        normalized_shape = arguments.lengths(normalized_shape)
    return plans.call(ADD_LAYER, (normalized_shape, eps, None), x, weight, bias, (residual, None, out))[:2]


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
        normalized_shape = arguments.lengths(normalized_shape)
    return plans.call(ADD_LAYER, (normalized_shape, eps, None), x, weight, bias, (residual, None, out))


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
    return plans.call(ADD_LAYER_BACKWARD, (None, None), dy, sum, rstd, (mean, weight, None, None, None, dsum, out))


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
        normalized_shape = arguments.lengths(normalized_shape)
    return plans.call(ADD_RMS, (normalized_shape, eps, None), x, weight, None, (residual, None, out))[:2]


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
        normalized_shape = arguments.lengths(normalized_shape)
    y, total, _, rstd = plans.call(ADD_RMS, (normalized_shape, eps, None), x, weight, None, (residual, None, out))
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
    return plans.call(ADD_RMS_BACKWARD, (None, None), dy, sum, rstd, (None, weight, None, None, None, dsum, out))[:2]
