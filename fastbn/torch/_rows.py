"""The normalizations over trailing axes: layer and RMS norm."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.overrides import handle_torch_function

from fastbn.torch import _formulas, _operators
from fastbn.torch._calls import Activation, checked_residual, computed, eager, fits, how
from fastbn.torch._known import direct_plan, may_be_known
from fastbn.torch._plans import COMPUTED_IN, Request

__all__ = ["layer_norm", "rms_norm"]

_EPS = {dtype: torch.finfo(compute).eps for dtype, compute in COMPUTED_IN.items()}  # of RMS norm, where left out
_is_grad_enabled = torch.is_grad_enabled


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
    if residual is None and type(eps) is float and may_be_known(input) and input.is_contiguous():
        key = "layer", input.shape, input.dtype, normalized_shape, eps, activation, weight is None, bias is None
        plan = direct_plan(key, weight, bias)
        if plan is not None:
            if plan.small is not None and not _is_grad_enabled() and forward_ad._current_level < 0:
                return plan.small(input, weight, bias)
            return computed(plan, input, weight, bias, None, None, True)
    way = how(input, residual)
    if way == "override":
        arguments = input, normalized_shape, weight, bias, eps
        return handle_torch_function(
            layer_norm, (input, residual), *arguments, activation=activation, residual=residual
        )
    if way != "torch":
        checked_residual(input, residual)
        if _trailing_fits(input, normalized_shape, eps, weight, bias):
            axes = len(normalized_shape)
            request = Request(
                "layer", axes, eps, activation, weight is not None, bias is not None, residual is not None
            )
            if way == "operator":
                return _operators.norm(request, input, weight, bias, residual, None)
            return eager(request, input, weight, bias, residual, None, key)
    y = F.layer_norm(input, normalized_shape, weight, bias, eps)
    return _formulas.completed(y, activation, residual)


def _trailing_fits(x: Tensor, shape: Any, eps: float, *parameters: Tensor | None) -> bool:
    """Whether the kernels take it."""
    if not isinstance(shape, (tuple, list)) or not shape or type(eps) is not float or eps <= 0:
        return False
    axes = len(shape)
    if x.ndim < axes or x.numel() == 0 or x.shape[x.ndim - axes :] != tuple(shape):
        return False
    return fits(x, x.shape[x.ndim - axes :], *parameters)


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
    if residual is None and (eps is None or type(eps) is float) and may_be_known(input) and input.is_contiguous():
        key = "rms", input.shape, input.dtype, normalized_shape, eps, activation, weight is None
        plan = direct_plan(key, weight, None)
        if plan is not None:
            return computed(plan, input, weight, None, None, None, True)
    way = how(input, residual)
    if way == "override":
        arguments = input, normalized_shape, weight, eps
        return handle_torch_function(rms_norm, (input, residual), *arguments, activation=activation, residual=residual)
    if way != "torch":
        checked_residual(input, residual)
        real = _EPS[input.dtype] if eps is None else eps
        if _trailing_fits(input, normalized_shape, real, weight):
            axes = len(normalized_shape)
            request = Request("rms", axes, real, activation, weight is not None, False, residual is not None)
            if way == "operator":
                return _operators.norm(request, input, weight, None, residual, None)
            return eager(request, input, weight, None, residual, None, key)
    y = F.rms_norm(input, normalized_shape, weight, eps)
    return _formulas.completed(y, activation, residual)
