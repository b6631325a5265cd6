"""The normalizations of torch.nn.functional on fastbn's kernels, with the activation and the residual sum behind them.

What holds for all of them:

Tensors
    float32, float64, bfloat16 and float16 on the CPU, of any strides.  The result has the strides that torch would give
    it; a large one lives in memory that is used again, see `fastbn.set_memory_pool`.  For all others (other devices,
    function transforms such as vmap, arguments that are not as they should be) the call goes to torch's own operations,
    which compute it or refuse it in their words.
activation
    "relu", "leaky_relu" (or, with its slope, ("leaky_relu", 0.01)), "sigmoid", "silu", "gelu" or "gelu_tanh", in the
    same pass over memory.  Backward computes it again instead of keeping it.
residual
    A tensor of the shape and dtype of the input that is added before the activation.
Accuracy and bits
    As `fastbn.functional` says: statistics about an element of the group, in float64; the same bits for any number of
    threads.
Derivatives
    Backward by fastbn's kernels; gradients of gradients by torch's operations, float32 in float64.  No forward mode.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.overrides import handle_torch_function, has_torch_function

from fastbn.torch import _formulas, _operators, _small
from fastbn.torch._autograd import Running, normalized, plain
from fastbn.torch._known import PLAIN, direct_plan, fit_running, may_be_known, remember
from fastbn.torch._plans import COMPUTED_IN, Plan, Request, plan_of

__all__ = ["batch_norm", "group_norm", "instance_norm", "layer_norm", "rms_norm"]

Activation = str | tuple[str, float] | None

_EPS = {dtype: torch.finfo(compute).eps for dtype, compute in COMPUTED_IN.items()}  # of RMS norm, where left out
_transforms_active = torch._C._are_functorch_transforms_active
_modes = torch._C._len_torch_dispatch_stack
_is_grad_enabled = torch.is_grad_enabled


def _how(x: Any, residual: Any) -> str:
    """Which way a call goes: "kernel", "operator" (while graphs are captured), "torch" or "override"."""
    if torch.compiler.is_compiling():
        return "operator" if x.dtype in COMPUTED_IN and x.device.type == "cpu" else "torch"
    if type(x) not in PLAIN or (residual is not None and type(residual) not in PLAIN):
        if has_torch_function((x, residual)):
            return "override"
        if not isinstance(x, Tensor):
            return "torch"
        return "operator" if x.device.type == "cpu" and x.dtype in COMPUTED_IN else "torch"
    if x.dtype not in COMPUTED_IN or not x.is_cpu or x.layout is not torch.strided or _transforms_active():
        return "torch"
    if torch._C._get_tracing_state() is not None:  # of torch.jit.trace, for which sizes are tensors
        return "torch"
    return "operator" if _modes() else "kernel"


def _fits(x: Tensor, shape: Sequence[int], *vectors: Tensor | None) -> bool:
    """Whether weights and statistics are ordinary tensors of this shape."""
    for v in vectors:
        if v is not None and (type(v) not in PLAIN or v.shape != shape or not v.is_cpu or v.dtype not in COMPUTED_IN):
            return False
    return True


def _eager(
    request: Request,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    running: Running | None,
    key: Any = None,
) -> Tensor:
    """A call on the kernels, all of whose arguments fit; key: that of later ones like it."""
    plan = plan_of(request, x)
    if key is not None:
        remember(key, plan)
    return _computed(plan, x, weight, bias, residual, running)


def _computed(
    plan: Plan,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    running: Running | None,
    direct: bool = False,
) -> Tensor:
    """A call as planned; direct: whether weight and bias are."""
    wants_gradients = _is_grad_enabled() and (
        x.requires_grad
        or (weight is not None and weight.requires_grad)
        or (bias is not None and bias.requires_grad)
        or (residual is not None and residual.requires_grad)
    )
    if wants_gradients or forward_ad._current_level >= 0:
        return normalized(x, weight, bias, residual, plan, running, direct)
    if direct and running is not None and plan.small_given is not None and _small.take(*running[:2]):
        return plan.small_given(x, weight, bias, *running[:2])
    return plain(plan, x, weight, bias, residual, running, direct)[0]


def _checked_residual(x: Tensor, residual: Tensor | None) -> None:
    if residual is None:
        return
    if residual.shape != x.shape:
        raise ValueError(f"residual has shape {tuple(residual.shape)}; expected {tuple(x.shape)}, that of input")
    if residual.dtype != x.dtype:
        raise TypeError(f"residual has dtype {residual.dtype}; expected {x.dtype}, that of input")


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
    key = None
    if residual is None and type(eps) is float and may_be_known(input):
        frozen = None if training or running_mean is None else running_mean.dtype
        given = weight is None, bias is None
        key = "batch", input.shape, input.stride(), input.dtype, frozen, eps, activation, *given
        plan = direct_plan(key, weight, bias)
        if plan is not None:
            running = None if running_mean is running_var is None else (running_mean, running_var, momentum)
            if fit_running(plan, running, training):
                return _computed(plan, input, weight, bias, None, running, True)
    how = _how(input, residual)
    if how == "override":
        arguments = input, running_mean, running_var, weight, bias, training, momentum, eps
        return handle_torch_function(
            batch_norm, (input, residual), *arguments, activation=activation, residual=residual
        )
    if how != "torch":
        _checked_residual(input, residual)
        running = running_mean, running_var, momentum
        if _batch_fits(input, weight, bias, running, training, eps):
            frozen = None if training or running_mean is None else running_mean.dtype
            request = Request(
                "batch", 0, eps, activation, weight is not None, bias is not None, residual is not None, frozen
            )
            if how == "operator":
                return _operators.norm(request, input, weight, bias, residual, running)
            tracked = None if running_mean is None and running_var is None else running
            return _eager(request, input, weight, bias, residual, tracked, key)
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
    return _fits(x, x.shape[1:2], weight, bias, mean, var)


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
    key = None
    of_itself = residual is running_mean is running_var is None and use_input_stats and type(eps) is float
    if of_itself and may_be_known(input):
        given = weight is None, bias is None
        key = "instance", input.shape, input.stride(), input.dtype, eps, activation, *given
        plan = direct_plan(key, weight, bias)
        if plan is not None:
            return _computed(plan, input, weight, bias, None, None, True)
    how = _how(input, residual)
    if how == "override":
        arguments = input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps
        return handle_torch_function(
            instance_norm, (input, residual), *arguments, activation=activation, residual=residual
        )
    if how != "torch":
        _checked_residual(input, residual)
        running = running_mean, running_var, momentum
        enough = input.ndim > 2 and input.numel() > input.shape[0] * input.shape[1]
        if enough and _batch_fits(input, weight, bias, running, use_input_stats, eps):
            kind, number, frozen = ("instance", input.shape[1], None) if use_input_stats else ("batch", 0, True)
            request = Request(
                kind,  # type: ignore[arg-type]
                number,
                eps,
                activation,
                weight is not None,
                bias is not None,
                residual is not None,
                running_mean.dtype if frozen and running_mean is not None else None,
            )
            if how == "operator":
                return _operators.norm(request, input, weight, bias, residual, running)
            tracked = None if running_mean is None and running_var is None else running
            return _eager(request, input, weight, bias, residual, tracked, key)
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
    key = None
    if residual is None and type(eps) is float and type(num_groups) is int and may_be_known(input):
        given = weight is None, bias is None
        key = "group", input.shape, input.stride(), input.dtype, num_groups, eps, activation, *given
        plan = direct_plan(key, weight, bias)
        if plan is not None:
            return _computed(plan, input, weight, bias, None, None, True)
    how = _how(input, residual)
    if how == "override":
        arguments = input, num_groups, weight, bias, eps
        return handle_torch_function(
            group_norm, (input, residual), *arguments, activation=activation, residual=residual
        )
    if how != "torch":
        _checked_residual(input, residual)
        if _group_fits(input, num_groups, eps) and _fits(input, input.shape[1:2], weight, bias):
            request = Request(
                "group", num_groups, eps, activation, weight is not None, bias is not None, residual is not None
            )
            if how == "operator":
                return _operators.norm(request, input, weight, bias, residual, None)
            return _eager(request, input, weight, bias, residual, None, key)
    y = F.group_norm(input, num_groups, weight, bias, eps)
    return _formulas.completed(y, activation, residual)


def _group_fits(x: Tensor, num_groups: int, eps: float) -> bool:
    """Whether the kernels take it; torch refuses what has one value a group, too."""
    if x.ndim < 2 or x.numel() == 0 or type(num_groups) is not int or not (type(eps) is float and eps > 0):
        return False
    return num_groups > 0 and x.shape[1] % num_groups == 0 and x.numel() > x.shape[0] * num_groups


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    activation: Activation = None,
    residual: Tensor | None = None,
) -> Tensor:
    """Layer normalization with the arguments of torch.nn.functional.layer_norm.

    Parameters
    ----------
    input : Tensor, shape (..., *normalized_shape)
        float16, bfloat16, float32 or float64.
    normalized_shape : sequence of int
        The lengths of the trailing axes that share statistics.
    weight, bias : Tensor, shape `normalized_shape`, optional
        Scale and shift of each element.
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
        As torch.nn.functional.layer_norm, and as `batch_norm` for activation and residual.

    Examples
    --------
    >>> import torch, fastbn.torch
    >>> fastbn.torch.layer_norm(torch.tensor([[0.0, 2.0, 4.0, 6.0]]), (4,)).round(decimals=3)
    tensor([[-1.3420, -0.4470,  0.4470,  1.3420]])
    """
    key = None
    if type(normalized_shape) is list:
        normalized_shape = tuple(normalized_shape)
    if residual is None and type(eps) is float and may_be_known(input):
        key = "layer", input.shape, input.dtype, normalized_shape, eps, activation, weight is None, bias is None
        plan = direct_plan(key, weight, bias)
        if plan is not None:
            if plan.small is not None and not _is_grad_enabled() and forward_ad._current_level < 0:
                return plan.small(input, weight, bias)
            return _computed(plan, input, weight, bias, None, None, True)
    how = _how(input, residual)
    if how == "override":
        arguments = input, normalized_shape, weight, bias, eps
        return handle_torch_function(
            layer_norm, (input, residual), *arguments, activation=activation, residual=residual
        )
    if how != "torch":
        _checked_residual(input, residual)
        if _trailing_fits(input, normalized_shape, eps, weight, bias):
            axes = len(normalized_shape)
            request = Request(
                "layer", axes, eps, activation, weight is not None, bias is not None, residual is not None
            )
            if how == "operator":
                return _operators.norm(request, input, weight, bias, residual, None)
            return _eager(request, input, weight, bias, residual, None, key)
    y = F.layer_norm(input, normalized_shape, weight, bias, eps)
    return _formulas.completed(y, activation, residual)


def _trailing_fits(x: Tensor, shape: Any, eps: float, *parameters: Tensor | None) -> bool:
    """Whether the kernels take it."""
    if not isinstance(shape, (tuple, list)) or not shape or type(eps) is not float or eps <= 0:
        return False
    axes = len(shape)
    if x.ndim < axes or x.numel() == 0 or x.shape[x.ndim - axes :] != tuple(shape):
        return False
    return _fits(x, x.shape[x.ndim - axes :], *parameters)


def rms_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
    *,
    activation: Activation = None,
    residual: Tensor | None = None,
) -> Tensor:
    """RMS normalization with the arguments of torch.nn.functional.rms_norm.

    Parameters
    ----------
    input : Tensor, shape (..., *normalized_shape)
        float16, bfloat16, float32 or float64.
    normalized_shape : sequence of int
        The lengths of the trailing axes that share statistics.
    weight : Tensor, shape `normalized_shape`, optional
        Scale of each element.
    eps : float, optional
        Added to the mean of the squares; without it, the epsilon of the type computed in.
    activation, residual
        As `batch_norm` takes them.

    Returns
    -------
    y : Tensor, shape and dtype of input

    Raises
    ------
    ValueError, RuntimeError
        As torch.nn.functional.rms_norm, and as `batch_norm` for activation and residual.

    Examples
    --------
    >>> import torch, fastbn.torch
    >>> fastbn.torch.rms_norm(torch.tensor([[1.0, -1.0, 7.0, 7.0]]), (4,))
    tensor([[ 0.2000, -0.2000,  1.4000,  1.4000]])
    """
    key = None
    if type(normalized_shape) is list:
        normalized_shape = tuple(normalized_shape)
    if residual is None and (eps is None or type(eps) is float) and may_be_known(input):
        key = "rms", input.shape, input.dtype, normalized_shape, eps, activation, weight is None
        plan = direct_plan(key, weight, None)
        if plan is not None:
            return _computed(plan, input, weight, None, None, None, True)
    how = _how(input, residual)
    if how == "override":
        arguments = input, normalized_shape, weight, eps
        return handle_torch_function(rms_norm, (input, residual), *arguments, activation=activation, residual=residual)
    if how != "torch":
        _checked_residual(input, residual)
        real = _EPS[input.dtype] if eps is None else eps
        if _trailing_fits(input, normalized_shape, real, weight):
            axes = len(normalized_shape)
            request = Request("rms", axes, real, activation, weight is not None, False, residual is not None)
            if how == "operator":
                return _operators.norm(request, input, weight, None, residual, None)
            return _eager(request, input, weight, None, residual, None, key)
    y = F.rms_norm(input, normalized_shape, weight, eps)
    return _formulas.completed(y, activation, residual)
