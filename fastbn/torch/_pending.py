"""Norms that wait for what stands behind them.

In a converted model, a norm with an activation or a residual sum behind it returns a tensor that is not computed yet.
The sum and the activation are taken in as they come by, and all is computed in one pass; whatever else touches the
tensor gets the norm's own result.  So the model's code decides what is computed, as ever; the conversion has only found
out where waiting is worth it.
"""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.modules import module as _module
from torch.utils._pytree import tree_map_only

__all__ = ["Behind", "Pending", "calling_frame", "may_wait"]

_SUMS = (Tensor.add, Tensor.__add__, Tensor.__radd__, torch.add)
_SUMS_IN_PLACE = (Tensor.add_, Tensor.__iadd__)
_SIMPLE: dict[Any, str] = {
    F.relu: "relu",
    torch.relu: "relu",
    Tensor.relu: "relu",
    F.sigmoid: "sigmoid",
    torch.sigmoid: "sigmoid",
    Tensor.sigmoid: "sigmoid",
    F.silu: "silu",
}
_IN_PLACE: dict[Any, str] = {
    torch.relu_: "relu",
    F.relu_: "relu",
    Tensor.relu_: "relu",
    torch.sigmoid_: "sigmoid",
    Tensor.sigmoid_: "sigmoid",
}
_MODULES: dict[type, str] = {
    torch.nn.ReLU: "relu",
    torch.nn.Sigmoid: "sigmoid",
    torch.nn.SiLU: "silu",
    torch.nn.LeakyReLU: "leaky_relu",
    torch.nn.GELU: "gelu",
}


class Behind:
    """Where a norm's result goes: the class whose forward calls it, and the modules that take it there."""

    def __init__(self, parent: type, modules: tuple[torch.nn.Module, ...], text: str) -> None:
        self.parent = parent
        self.modules = modules
        self.text = text  # for the report


def activation_of(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, bool] | None:
    """The activation that a call is, as `fastbn.torch` names it, and whether it is in place; None for other calls."""
    if function in _SIMPLE:
        in_place = kwargs.get("inplace", args[1] if len(args) > 1 else False)
        return (_SIMPLE[function], bool(in_place)) if len(args) <= 2 and not kwargs.keys() - {"inplace"} else None
    if function in _IN_PLACE:
        return (_IN_PLACE[function], True) if len(args) == 1 and not kwargs else None
    if function is F.leaky_relu:
        slope = kwargs.get("negative_slope", args[1] if len(args) > 1 else 0.01)
        in_place = kwargs.get("inplace", args[2] if len(args) > 2 else False)
        return (("leaky_relu", float(slope)), bool(in_place)) if isinstance(slope, (int, float)) else None
    if function is F.gelu:
        kind = kwargs.get("approximate", args[1] if len(args) > 1 else "none")
        return ("gelu" if kind == "none" else "gelu_tanh", False)
    return None


def name_of_module(module: torch.nn.Module) -> str | None:
    """The activation that a module is; None for others and for subclasses."""
    return _MODULES.get(type(module))


def may_wait(behind: Behind, norm: torch.nn.Module) -> bool:
    """Whether nobody but what the conversion has seen can see the norm's result: no hooks, and the same caller."""
    if norm._forward_hooks or norm._backward_hooks or norm._backward_pre_hooks:
        return False
    if _module._global_forward_hooks or _module._global_forward_pre_hooks:
        return False
    if _module._global_backward_hooks or _module._global_backward_pre_hooks:
        return False
    frame = calling_frame()
    if frame is None or frame.f_code is not getattr(getattr(behind.parent, "forward", None), "__code__", None):
        return False
    if not behind.modules:
        return True
    parent = frame.f_locals.get("self")
    own = getattr(parent, "_modules", {}).values()
    for module in behind.modules:
        if module._forward_pre_hooks or module._forward_hooks or module._backward_hooks or module._backward_pre_hooks:
            return False
        if not any(m is module for m in own):
            return False
    return True


def calling_frame() -> Any:
    """The frame that has called the module: the one before that of Module.__call__."""
    frame: Any = sys._getframe(2)
    for _ in range(8):
        if frame is None:
            return None
        if frame.f_code is _CALL:
            return frame.f_back
        frame = frame.f_back
    return None


_CALL = torch.nn.Module._wrapped_call_impl.__code__


class Pending(Tensor):
    """The result of a norm that is not computed yet."""

    call: tuple[Callable[..., Tensor], Tensor, tuple[Any, ...]]
    like: tuple[Any, Any]
    residual: Tensor | None
    version: int | None
    tracked: bool
    value: Tensor | None

    @staticmethod
    def of(function: Callable[..., Tensor], x: Tensor, arguments: tuple[Any, ...], size: Any = None) -> "Pending":
        """That of function(x, *arguments); size: its shape, and any strides will do; None: shape and strides of x."""
        pending = Tensor._make_subclass(Pending, _NOTHING)
        version = None if x.is_inference() else x._version
        pending.__dict__.update(
            call=(function, x, arguments),
            like=(x.shape, x.stride()) if size is None else (size, None),
            residual=None,
            value=None,
            version=version,
            tracked=torch.is_grad_enabled(),
        )
        return pending

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        first = args[0] if args else None
        if type(first) is Pending and _value(first) is None:
            activation = activation_of(func, args, kwargs)
            if activation is not None:
                y = _computed(first, activation[0])
                if activation[1]:
                    first.__dict__["value"] = y
                return y
        if not kwargs and len(args) == 2:
            found = _summed(func, args)
            if found is not None:
                return found
        args, kwargs = tree_map_only(Pending, _settled, (args, kwargs))
        return func(*args, **kwargs)


_NOTHING = torch.empty(0)


def _value(pending: Pending) -> Tensor | None:
    return pending.__dict__["value"]


def _summed(function: Any, args: tuple[Any, Any]) -> Tensor | None:
    """What waits with a residual now, if this is a sum that can be taken in."""
    in_place = function in _SUMS_IN_PLACE
    if not in_place and function not in _SUMS:
        return None
    for pending, other in (args, args[::-1]):
        if type(pending) is Pending and _value(pending) is None and pending.__dict__["residual"] is None:
            if type(other) is Pending:
                other = _settled(other)
            if _fits(pending, other):
                pending.__dict__["residual"] = other
                return pending
        if in_place:
            return None
    return None


def _fits(pending: Pending, other: Any) -> bool:
    """Whether it is a residual in the memory order of x: another one would have to be copied."""
    _, x, _ = pending.__dict__["call"]
    shape, strides = pending.__dict__["like"]
    return (
        type(other) in (Tensor, torch.nn.Parameter)
        and other.shape == shape
        and other.dtype == x.dtype
        and other.device == x.device
        and (strides is None or other.stride() == strides)
    )


def _settled(pending: Pending) -> Tensor:
    """The result, computed now if it has not been."""
    value = _value(pending)
    if value is None:
        value = pending.__dict__["value"] = _computed(pending, None)
    return value


def _computed(pending: Pending, activation: Any) -> Tensor:
    state = pending.__dict__
    function, x, arguments = state["call"]
    if state["version"] is not None and x._version != state["version"]:
        raise RuntimeError(
            "the input of a norm was changed in place before the residual sum behind it was computed; "
            "convert the model with fastbn.torch.convert(model, fuse=False)"
        )
    with torch.set_grad_enabled(state["tracked"]):
        return function(x, *arguments, activation=activation, residual=state["residual"])
