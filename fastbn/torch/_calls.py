"""What all normalizations of torch.nn.functional here have in common: which way a call goes, and the ways."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.autograd import forward_ad
from torch.overrides import has_torch_function

from fastbn.torch import _small
from fastbn.torch._autograd import Running, normalized, plain, small_normalized
from fastbn.torch._known import PLAIN, remember
from fastbn.torch._plans import COMPUTED_IN, Plan, Request, plan_of

__all__ = ["Activation", "checked_residual", "computed", "eager", "fits", "has_own_values", "how"]

Activation = str | tuple[str, float] | None

_transforms_active = torch._C._are_functorch_transforms_active
_modes = torch._C._len_torch_dispatch_stack
_is_grad_enabled = torch.is_grad_enabled


def how(x: Any, residual: Any) -> str:
    """Which way a call goes: "kernel", "operator" (while graphs are captured), "torch" or "override"."""
    if torch.compiler.is_compiling():
        return "operator" if x.dtype in COMPUTED_IN and x.device.type == "cpu" else "torch"
    if type(x) not in PLAIN or (residual is not None and type(residual) not in PLAIN):
        if has_torch_function((x, residual)):
            return "override"
        if not isinstance(x, Tensor) or not all(_may_be_operand(t) for t in (x, residual)):
            return "torch"
        return "operator" if x.device.type == "cpu" and x.dtype in COMPUTED_IN else "torch"
    if x.dtype not in COMPUTED_IN or not x.is_cpu or x.layout is not torch.strided or _transforms_active():
        return "torch"
    if x.is_nested:
        return "torch"
    if torch._C._get_tracing_state() is not None:  # of torch.jit.trace, for which sizes are tensors
        return "torch"
    return "operator" if _modes() else "kernel"


def _may_be_operand(t: Tensor | None) -> bool:
    """Whether the operator takes it: no tensor that knows torch's own operators alone, as nested and distributed do."""
    return t is None or has_own_values(t) or isinstance(t, (FakeTensor, FunctionalTensor))


def has_own_values(t: Tensor) -> bool:
    """Whether the values lie in a tensor's own memory, and operators are not told to its class."""
    return type(t).__torch_dispatch__ is _not_told and t.layout is torch.strided and not t.is_nested


_not_told = Tensor.__torch_dispatch__


def fits(x: Tensor, shape: Sequence[int], *vectors: Tensor | None) -> bool:
    """Whether weights and statistics are ordinary tensors of this shape."""
    for v in vectors:
        if v is not None and (type(v) not in PLAIN or v.shape != shape or not v.is_cpu or v.dtype not in COMPUTED_IN):
            return False
    return True


def eager(
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
    return computed(plan, x, weight, bias, residual, running)


def computed(
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
        if direct and plan.small_back is not None:
            return small_normalized(x, weight, bias, plan, running)
        return normalized(x, weight, bias, residual, plan, running, direct)
    if direct and running is None and plan.small is not None:
        return plan.small(x, weight, bias)
    if direct and running is not None and plan.small_given is not None and _small.take(*running[:2]):
        return plan.small_given(x, weight, bias, *running[:2])
    return plain(plan, x, weight, bias, residual, running, direct)[0]


def checked_residual(x: Tensor, residual: Tensor | None) -> None:
    if residual is None:
        return
    if residual.shape != x.shape:
        raise ValueError(f"residual has shape {tuple(residual.shape)}; expected {tuple(x.shape)}, that of input")
    if residual.dtype != x.dtype:
        raise TypeError(f"residual has dtype {residual.dtype}; expected {x.dtype}, that of input")
