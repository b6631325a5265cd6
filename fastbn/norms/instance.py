"""Instance normalization: a group is a channel of a sample."""

from __future__ import annotations

from numpy.typing import ArrayLike

from fastbn.engine import arguments, forward, groups, plans
from fastbn.norms.shared import Activation, Array, Kind, Statistics, backward_of, forward_of, from_y, train


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
        axis = arguments.integer(axis, "axis")
    if arguments.flag(use_input_stats, "use_input_stats"):
        if running_mean is running_var is None:
            others = None if where is out is None else (None, where, out)
            return plans.call(_INSTANCE, (axis, eps, activation, momentum), x, weight, bias, others)
        running, beside, settings = (running_mean, running_var, None), (None, where, out), (axis, eps, activation)
        return train(_INSTANCE_TRAINING, settings, (x, weight, bias), running, beside, momentum, False)[0]
    given = running_mean, running_var, None, where, out
    return plans.call(_INSTANCE_EVALUATION, (axis, eps, activation, momentum), x, weight, bias, given)


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
    if type(axis) is not int:
        axis = arguments.integer(axis, "axis")
    others = None if where is out is None else (None, where, out)
    return plans.call(_INSTANCE_FORWARD, (axis, eps, activation), x, weight, bias, others)


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
        axis = arguments.integer(axis, "axis")
    others = mean, weight, bias, None, where, None, out
    if y is not None:
        return from_y(_INSTANCE_BACKWARD, (axis, activation), dy, arguments.either(x, y), rstd, others)
    return plans.call(_INSTANCE_BACKWARD, (axis, activation), dy, x, rstd, others)


def _accept_of_instances(counts: Array) -> None:
    if counts.min() < 2:
        raise ValueError("where leaves fewer than 2 values of a channel of a sample; expected more when training")


_KIND = Kind(groups.of_instances, single="spatial element")
_INSTANCE, _INSTANCE_FORWARD = (forward_of(_KIND, returns) for returns in (forward.ONLY_Y, forward.RSTD))
_INSTANCE_TRAINING = forward_of(
    _KIND._replace(accept=_accept_of_instances), forward.VARIANCE, "running_mean running_var"
)
INSTANCE = _INSTANCE_FORWARD, _INSTANCE_TRAINING  # as `norm_with_running` takes them
_INSTANCE_EVALUATION = forward_of(Kind(groups.of_channels_of_samples), forward.GIVEN, "running_mean running_var")
_INSTANCE_BACKWARD = backward_of(_KIND)
