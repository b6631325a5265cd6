"""Calls like an earlier one, as most are: what is left to ask of them takes a third of the time of asking everything.

What decides about a call is looked up as a whole; of weights and statistics it is asked whether they fit.
"""

from typing import Any

import torch
from torch import Tensor

from fastbn.torch._plans import COMPUTED_IN, Plan

__all__ = ["PLAIN", "direct_plan", "fit_running", "fits_beside", "is_plain", "may_be_known", "remember"]

PLAIN = (Tensor, torch.nn.Parameter)

_known: dict[Any, Plan] = {}  # by what decides about a call
_MOST = 4096

_is_compiling = torch.compiler.is_compiling
_transforms_active = torch._C._are_functorch_transforms_active
_modes = torch._C._len_torch_dispatch_stack
_tracing = torch._C._get_tracing_state
_strided = torch.strided


def is_plain(x: Tensor) -> bool:
    """Whether the values of x lie in memory one after the other, and not those with the other sign."""
    return x.is_contiguous() and not x.is_neg()


def may_be_known(x: Any) -> bool:
    """Whether a call of x is looked for among the earlier ones."""
    return (
        not _is_compiling()
        and type(x) in PLAIN
        and x.is_cpu
        and x.layout is _strided
        and not x.is_nested
        and not x.is_neg()
        and not _modes()
        and not _transforms_active()
        and _tracing() is None
    )


def fits_beside(x: Tensor, residual: Tensor | None) -> bool:
    """Whether a residual, if there is one, is a tensor like x."""
    return residual is None or (
        type(residual) in PLAIN
        and residual.dtype is x.dtype
        and residual.shape == x.shape
        and residual.is_cpu
        and residual.layout is _strided
    )


def direct_plan(key: Any, weight: Tensor | None, bias: Tensor | None) -> Plan | None:
    """The plan of an earlier call with this key, if weight and bias can be told by their addresses.

    There are such as there were in that call.
    """
    try:
        plan = _known.get(key)
    except TypeError:  # something that is to be refused in other words
        return None
    if plan is None:
        return None
    shape, compute = plan.weight_shape, plan.compute
    w, b = weight, bias  # in a loop it would take a tenth of a microsecond more
    if w is not None and not (
        type(w) in PLAIN
        and w.dtype is compute
        and w.is_cpu
        and w.shape == shape
        and w.is_contiguous()
        and not w.is_neg()
    ):
        return None
    if b is not None and not (
        type(b) in PLAIN
        and b.dtype is compute
        and b.is_cpu
        and b.shape == shape
        and b.is_contiguous()
        and not b.is_neg()
    ):
        return None
    return plan


def fit_running(plan: Plan, running: tuple[Any, Any, float] | None, training: bool) -> bool:
    """Whether running statistics are as batch norm takes them."""
    if running is None:
        return training
    mean, var, momentum = running
    if mean is None or var is None or type(mean) not in PLAIN or type(var) not in PLAIN:
        return False
    if not mean.shape == var.shape == plan.weight_shape or mean.dtype is not var.dtype or mean.dtype not in COMPUTED_IN:
        return False
    return mean.is_cpu and var.is_cpu and (not training or type(momentum) is float)


def remember(key: Any, plan: Plan) -> None:
    """Know calls with this key from now on."""
    if len(_known) >= _MOST:
        _known.clear()
    _known[key] = plan
