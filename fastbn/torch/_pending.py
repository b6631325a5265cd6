"""Norms that wait for what stands behind them.

In a converted model, a norm with an activation or a residual sum behind it returns a tensor that is not computed yet.
The sum and the activation are taken in as they come by, and all is computed in one pass; whatever else touches the
tensor gets the norm's own result.  So the model's code decides what is computed, as ever; the conversion has only found
out where waiting is worth it.
"""

import inspect
import sys
import warnings
from collections.abc import Callable
from types import CodeType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.modules import module as _module
from torch.utils._pytree import tree_map_only

__all__ = [
    "SUM",
    "Behind",
    "Call",
    "Pending",
    "Place",
    "Waiting",
    "calling_frame",
    "code_at",
    "is_watched",
    "may_wait",
    "settled",
    "watches_all",
]

SUM = "residual sum"
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


class Place:
    """A function of a class, from which modules are called."""

    def __init__(self, owner: type, name: str) -> None:
        self.owner, self.name = owner, name
        self.code = code_at(owner, name)

    def __deepcopy__(self, memo: Any) -> "Place":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Code cannot be pickled, nor can a class that is no attribute of a module: from there, nothing waits."""
        owner = self.owner if "<locals>" not in self.owner.__qualname__ else object
        return Place, (owner, self.name)


def code_at(owner: type, name: str) -> CodeType | None:
    """The code of a function of a class, behind its decorators."""
    function = vars(owner).get(name)
    return getattr(inspect.unwrap(function), "__code__", None) if callable(function) else None


class Behind:
    """Where a norm's result goes, from the function that calls the norm."""

    def __init__(self, place: Place, modules: tuple[torch.nn.Module, ...], texts: tuple[str, ...]) -> None:
        self.place = place
        self.modules = modules  # that take the result
        self.text = " + ".join(texts)  # for the report
        self.activated = texts[-1] != SUM  # whether an activation stands behind, or the sum is all


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
    if norm._forward_hooks or norm._backward_hooks or norm._backward_pre_hooks or is_replaced(norm) or watches_all():
        return False
    frame = calling_frame()
    if frame is None or frame.f_code is not behind.place.code:
        return False
    if not behind.modules:
        return True
    parent = caller_of(frame)
    own = getattr(parent, "_modules", {}).values()
    return all(not is_watched(module) and any(m is module for m in own) for module in behind.modules)


def watches_all() -> bool:
    """Whether there are hooks on all modules."""
    return bool(
        _module._global_forward_hooks
        or _module._global_forward_pre_hooks
        or _module._global_backward_hooks
        or _module._global_backward_pre_hooks
    )


def is_watched(module: torch.nn.Module) -> bool:
    """Whether a module has hooks, or something else in the place of its forward."""
    hooks = module._forward_pre_hooks or module._forward_hooks or module._backward_hooks or module._backward_pre_hooks
    return bool(hooks) or is_replaced(module)


def is_replaced(module: torch.nn.Module) -> bool:
    """Whether something else was put in the place of a module's forward: a function, or what torch has compiled."""
    return "forward" in module.__dict__ or module._compiled_call_impl is not None


def caller_of(frame: Any) -> Any:
    """The instance whose method runs in a frame, or None.

    Up to Python 3.12, what there is to ask is a copy of all local variables, which would keep them alive until the
    function returns.
    """
    names = frame.f_code.co_varnames
    if not names:  # no method; of a module, what there is to ask are its own names
        return None
    found = frame.f_locals
    instance = found.get(names[0])
    if type(found) is dict:
        found.clear()
    return instance


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


class Call:
    """A norm's call that waits."""

    __slots__ = ("arguments", "code", "function", "is_done", "ordered", "shape", "tracked", "version", "waits", "x")

    def __init__(self, function: Callable[..., Tensor], x: Tensor, arguments: tuple[Any, ...]) -> None:
        self.function, self.x, self.arguments = function, x, arguments
        self.version = None if x.is_inference() else x._version
        self.tracked = torch.is_grad_enabled()
        self.shape = x.shape
        self.ordered = True  # whether a residual has to have x's strides, or it has any
        self.waits = True  # for an activation, or the sum is all
        self.code: CodeType | None = None  # that has called the norm
        self.is_done = False

    def computed(self, activation: Any, residual: Tensor | None = None) -> Tensor:
        """The result; a second one, of code that was traced on another way, does not count the batch again."""
        if self.version is not None and self.x._version != self.version:
            raise _changed("input", "residual sum or the activation")
        if self.tracked and not torch.is_grad_enabled():
            self._look_for_functions()
        arguments = self.arguments
        if self.is_done and len(arguments) == _WITH_STATISTICS and arguments[4]:
            arguments = (None, None, *arguments[2:])
        self.is_done = True
        if self.tracked is torch.is_grad_enabled():
            return self.function(self.x, *arguments, activation=activation, residual=residual)
        with torch.set_grad_enabled(self.tracked):
            return self.function(self.x, *arguments, activation=activation, residual=residual)

    def is_differentiated(self) -> bool:
        """Whether a gradient goes through the norm."""
        return any(isinstance(t, Tensor) and t.requires_grad for t in (self.x, *self.arguments))

    def _look_for_functions(self) -> None:
        """Raise if an autograd function got what waits: torch would not take the gradient further than to there."""
        if not self.is_differentiated():
            return
        frame: Any = sys._getframe(1)
        while frame is not None and frame.f_code is not self.code:
            if frame.f_code is APPLY:
                raise RuntimeError(
                    "an autograd function got the result of a norm before it was computed, on another way through a "
                    "forward than the one that was traced; convert the model with "
                    "fastbn.torch.convert(model, fuse=False)"
                )
            frame = frame.f_back


_WITH_STATISTICS = 7  # arguments has a norm with running ones: these two, weight, bias, training, momentum, eps


def _changed(what: str, behind: str) -> RuntimeError:
    return RuntimeError(
        f"the {what} of a norm was changed in place before the {behind} behind it was computed; "
        "convert the model with fastbn.torch.convert(model, fuse=False)"
    )


APPLY = torch.autograd.Function.apply.__func__.__code__  # type: ignore[attr-defined]


class Waiting(Tensor):
    """A result that is not computed yet, and without elements until then."""

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Reached by what does not ask tensors first, as functions of torch.jit and torch.func."""
        return func(*tree_map_only(cls, cls._unseen, args), **tree_map_only(cls, cls._unseen, kwargs or {}))

    def _unseen(self) -> Tensor:
        """The result for what torch would not take the gradient through."""
        raise NotImplementedError


class Pending(Waiting):
    """The result of a norm, or of a norm and the residual sum behind it."""

    call: Call
    residual: tuple[Tensor, int] | None  # and its version
    value: Tensor | None

    @staticmethod
    def of(call: Call, residual: tuple[Tensor, int] | None = None) -> "Pending":
        """That of a call."""
        pending = Tensor._make_subclass(Pending, _NOTHING)
        pending.__dict__.update(call=call, residual=residual, value=None)
        return pending

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        first = args[0] if args else None
        if type(first) is Pending and first.__dict__["value"] is None and _is_tracked_as_ever(first):
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
        args, kwargs = tree_map_only(Pending, settled, (args, kwargs))
        return func(*args, **kwargs)

    def _unseen(self) -> Tensor:
        call, residual = self.__dict__["call"], self.__dict__["residual"]
        if call.tracked and (call.is_differentiated() or (residual is not None and residual[0].requires_grad)):
            message = (
                "a function of torch.jit or torch.func, which takes no gradient through it, got the result of a norm "
                "before it was computed, on another way through a forward than the one that was traced; convert the "
                "model with fastbn.torch.convert(model, fuse=False)"
            )
            warnings.warn(message, stacklevel=2)  # too, for torch.jit keeps an error's words to itself
            raise RuntimeError(message)
        return settled(self)


_NOTHING = torch.empty(0)


def _is_tracked_as_ever(pending: Pending) -> bool:
    """Whether gradients are recorded here if they were where the norm was called: else there are two results."""
    tracked: bool = pending.__dict__["call"].tracked
    return tracked is torch.is_grad_enabled()


def _summed(function: Any, args: tuple[Any, Any]) -> Tensor | None:
    """What waits with a residual now, or is computed with it, if this is a sum that can be taken in."""
    in_place = function in _SUMS_IN_PLACE
    if not in_place and function not in _SUMS:
        return None
    for pending, other in (args, args[::-1]):
        if type(pending) is Pending and pending.__dict__["value"] is None and pending.__dict__["residual"] is None:
            if type(other) is Pending:
                other = settled(other)
            if _is_tracked_as_ever(pending) and _fits(pending.__dict__["call"], other):
                return _with_residual(pending, other, in_place)
        if in_place:
            return None
    return None


def _with_residual(pending: Pending, other: Tensor, in_place: bool) -> Tensor:
    call: Call = pending.__dict__["call"]
    if call.waits:
        residual = other, 0 if other.is_inference() else other._version
        if not in_place:
            return Pending.of(call, residual)
        pending.__dict__["residual"] = residual
        return pending
    y = call.computed(None, other)
    if in_place:
        pending.__dict__["value"] = y
    return y


def _fits(call: Call, other: Any) -> bool:
    """Whether it is a residual in the memory order of x: another one would have to be copied."""
    return (
        type(other) in (Tensor, torch.nn.Parameter)
        and other.shape == call.shape
        and other.dtype == call.x.dtype
        and other.device == call.x.device
        and (not call.ordered or other.stride() == call.x.stride())
    )


def settled(pending: Pending) -> Tensor:
    """The result, computed now if it has not been."""
    value: Tensor | None = pending.__dict__["value"]
    if value is None:
        value = pending.__dict__["value"] = _computed(pending, None)
    return value


def _computed(pending: Pending, activation: Any) -> Tensor:
    call, residual = pending.__dict__["call"], pending.__dict__["residual"]
    if residual is None:
        return call.computed(activation)
    added, version = residual
    if not added.is_inference() and added._version != version:
        raise _changed("residual", "activation")
    return call.computed(activation, added)
