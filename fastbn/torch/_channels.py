"""The normalizations with a weight a channel: batch, instance and group norm."""

from torch import Tensor
from torch.nn import functional as F
from torch.overrides import handle_torch_function

from fastbn.torch import _formulas, _operators
from fastbn.torch._autograd import Running
from fastbn.torch._calls import Activation, checked_residual, computed, eager, fits, how
from fastbn.torch._known import direct_plan, fit_running, fits_beside, may_be_known
from fastbn.torch._plans import Request

__all__ = ["batch_norm", "group_norm", "instance_norm"]


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    activation: Activation = None,
    residual: Tensor | None = None,
) -> Tensor:
    """Batch normalization with the arguments of torch.nn.functional.batch_norm.

    Parameters
    ----------
    input : Tensor, shape (N, C, ...)
        float16, bfloat16, float32 or float64.
    running_mean, running_var : Tensor, shape (C,), optional
        The statistics that normalize where `training` is false; in training, they are updated in place.
    weight, bias : Tensor, shape (C,), optional
        Scale and shift of each channel.
    training : bool
        Whether to normalize by the statistics of the input.
    momentum : float
        Weight of the input in the running statistics.
    eps : float
        Added to the variance.
    activation : str or tuple, optional
        What the sum goes through, see the module.
    residual : Tensor, shape and dtype of input, optional
        Added before the activation.

    Returns
    -------
    y : Tensor, shape and dtype of input

    Raises
    ------
    ValueError, RuntimeError
        As torch.nn.functional.batch_norm; ValueError or TypeError if the activation is unknown, or the residual's shape
        or dtype is another.

    Notes
    -----
    ::

        y = activation((x - mean) / sqrt(var + eps) * weight + bias + residual)

    See `fastbn.batch_norm` for the running statistics and the module for all else.

    Examples
    --------
    >>> import torch, fastbn.torch
    >>> x = torch.tensor([[1.0, 10.0], [3.0, 30.0]])
    >>> fastbn.torch.batch_norm(x, None, None, training=True, activation="relu").round(decimals=3)
    tensor([[0., 0.],
            [1., 1.]])
    """
    key, given = None, (weight is not None, bias is not None, residual is not None)
    if type(eps) is float and may_be_known(input) and fits_beside(input, residual):
        frozen = None if training or running_mean is None else running_mean.dtype
        key = "batch", input.shape, input.stride(), input.dtype, frozen, eps, activation, *given
        plan = direct_plan(key, weight, bias)
        if plan is not None:
            running = None if running_mean is running_var is None else (running_mean, running_var, momentum)
            if fit_running(plan, running, training):
                return computed(plan, input, weight, bias, residual, running, True)
    way = how(input, residual)
    if way == "override":
        arguments = input, running_mean, running_var, weight, bias, training, momentum, eps
        return handle_torch_function(
            batch_norm, (input, residual), *arguments, activation=activation, residual=residual
        )
    if way != "torch":
        checked_residual(input, residual)
        running = running_mean, running_var, momentum
        if _batch_fits(input, weight, bias, running, training, eps):
            frozen = None if training or running_mean is None else running_mean.dtype
            request = Request("batch", 0, eps, activation, *given, frozen)
            if way == "operator":
                return _operators.norm(request, input, weight, bias, residual, running)
            tracked = None if running_mean is None and running_var is None else running
            return eager(request, input, weight, bias, residual, tracked, key)
    y = F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    return _formulas.completed(y, activation, residual)


def _batch_fits(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, running: Running, training: bool, eps: float
) -> bool:
    """Whether the kernels take it: all that torch computes too, but for an eps that may end in NaN."""
    if x.ndim < 2 or not (type(eps) is float and eps > 0) or x.numel() == 0:
        return False
    mean, var, momentum = running
    if training:
        if x.numel() == x.shape[1] or type(momentum) is not float:
            return False
    elif mean is None or var is None or mean.dtype != var.dtype:
        return False
    return fits(x, x.shape[1:2], weight, bias, mean, var)


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    activation: Activation = None,
    residual: Tensor | None = None,
) -> Tensor:
    """Instance normalization with the arguments of torch.nn.functional.instance_norm.

    Parameters
    ----------
    input : Tensor, shape (N, C, ...)
        float16, bfloat16, float32 or float64.
    running_mean, running_var : Tensor, shape (C,), optional
        As `batch_norm` takes them.
    weight, bias : Tensor, shape (C,), optional
        Scale and shift of each channel.
    use_input_stats : bool
        Whether to normalize by the statistics of the input.
    momentum : float
        Weight of the input in the running statistics.
    eps : float
        Added to the variance.
    activation, residual
        As `batch_norm` takes them.

    Returns
    -------
    y : Tensor, shape and dtype of input

    Raises
    ------
    ValueError, RuntimeError
        As torch.nn.functional.instance_norm, and as `batch_norm` for activation and residual.

    Examples
    --------
    >>> import torch, fastbn.torch
    >>> fastbn.torch.instance_norm(torch.tensor([[[1.0, 3.0]]])).round(decimals=3)
    tensor([[[-1.,  1.]]])
    """
    key, given = None, (weight is not None, bias is not None, residual is not None)
    of_itself = running_mean is running_var is None and use_input_stats and type(eps) is float
    if of_itself and may_be_known(input) and fits_beside(input, residual):
        key = "instance", input.shape, input.stride(), input.dtype, eps, activation, *given
        plan = direct_plan(key, weight, bias)
        if plan is not None:
            return computed(plan, input, weight, bias, residual, None, True)
    way = how(input, residual)
    if way == "override":
        arguments = input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps
        return handle_torch_function(
            instance_norm, (input, residual), *arguments, activation=activation, residual=residual
        )
    if way != "torch":
        checked_residual(input, residual)
        running = running_mean, running_var, momentum
        enough = input.ndim > 2 and input.numel() > input.shape[0] * input.shape[1]
        if enough and _batch_fits(input, weight, bias, running, use_input_stats, eps):
            kind, number = ("instance", input.shape[1]) if use_input_stats else ("batch", 0)
            frozen = None if use_input_stats or running_mean is None else running_mean.dtype
            request = Request(kind, number, eps, activation, *given, frozen)  # type: ignore[arg-type]
            if way == "operator":
                return _operators.norm(request, input, weight, bias, residual, running)
            tracked = None if running_mean is None and running_var is None else running
            return eager(request, input, weight, bias, residual, tracked, key)
    empty = isinstance(input, Tensor) and input.ndim > 2 and input.shape[0] == 0 and input.shape[2:].numel() > 1
    if empty and use_input_stats and weight is not None:  # torch's own looks for a first sample, and fails
        y = F.group_norm(input, input.shape[1], weight, bias, eps)
    else:
        y = F.instance_norm(input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)
    return _formulas.completed(y, activation, residual)


def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    activation: Activation = None,
    residual: Tensor | None = None,
) -> Tensor:
    """Group normalization with the arguments of torch.nn.functional.group_norm.

    Parameters
    ----------
    input : Tensor, shape (N, C, ...)
        float16, bfloat16, float32 or float64.
    num_groups : int
        Into how many groups the channels are split.
    weight, bias : Tensor, shape (C,), optional
        Scale and shift of each channel.
    eps : float
        Added to the variance.
    activation, residual
        As `batch_norm` takes them.

    Returns
    -------
    y : Tensor, shape and dtype of input

    Raises
    ------
    ValueError, RuntimeError
        As torch.nn.functional.group_norm, and as `batch_norm` for activation and residual.

    Examples
    --------
    >>> import torch, fastbn.torch
    >>> fastbn.torch.group_norm(torch.tensor([[1.0, 3.0, 10.0, 30.0]]), 2).round(decimals=3)
    tensor([[-1.,  1., -1.,  1.]])
    """
    key, given = None, (weight is not None, bias is not None, residual is not None)
    numbers_fit = type(eps) is float and type(num_groups) is int
    if numbers_fit and may_be_known(input) and fits_beside(input, residual):
        key = "group", input.shape, input.stride(), input.dtype, num_groups, eps, activation, *given
        plan = direct_plan(key, weight, bias)
        if plan is not None:
            return computed(plan, input, weight, bias, residual, None, True)
    way = how(input, residual)
    if way == "override":
        arguments = input, num_groups, weight, bias, eps
        return handle_torch_function(
            group_norm, (input, residual), *arguments, activation=activation, residual=residual
        )
    if way != "torch":
        checked_residual(input, residual)
        if _group_fits(input, num_groups, eps) and fits(input, input.shape[1:2], weight, bias):
            request = Request("group", num_groups, eps, activation, *given)
            if way == "operator":
                return _operators.norm(request, input, weight, bias, residual, None)
            return eager(request, input, weight, bias, residual, None, key)
    y = F.group_norm(input, num_groups, weight, bias, eps)
    return _formulas.completed(y, activation, residual)


def _group_fits(x: Tensor, num_groups: int, eps: float) -> bool:
    """Whether the kernels take it; torch refuses what has one value a group, too."""
    if x.ndim < 2 or x.numel() == 0 or type(num_groups) is not int or not (type(eps) is float and eps > 0):
        return False
    return num_groups > 0 and x.shape[1] % num_groups == 0 and x.numel() > x.shape[0] * num_groups
