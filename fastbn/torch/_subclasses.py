"""Subclasses of torch's norms, as libraries have them: they keep what is theirs, and what they call is fastbn's.

A subclass with torch's forward gets fastbn's.  One with a forward of its own runs it, and there the norms of
torch.nn.functional, and the forward of the class above, are on fastbn.
"""

import copyreg
import dis
import inspect
from types import CellType, CodeType, FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.jit import ScriptFunction
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from fastbn.torch import functional, layers
from fastbn.torch._known import may_be_known
from fastbn.torch._pending import Call, Pending, is_watched, name_of_module, settled, watches_all

__all__ = ["least_of", "subclass_of", "subclassed"]

# Elements from which on the functions that a forward calls are fastbn's: to have them so takes 20 to 80 us of Python.
_LEAST = 1 << 19

_OWN = "_fastbn_subclass_of"  # under which a class made here has the one that it was made of
_WITH_STATISTICS = "running_mean", "running_var", "weight", "bias"
_FUNCTIONS: dict[Any, tuple[Any, tuple[str, ...]]] = {  # fastbn's, and its arguments behind the input
    F.batch_norm: (functional.batch_norm, (*_WITH_STATISTICS, "training", "momentum", "eps")),
    F.instance_norm: (functional.instance_norm, (*_WITH_STATISTICS, "use_input_stats", "momentum", "eps")),
    F.layer_norm: (functional.layer_norm, ("normalized_shape", "weight", "bias", "eps")),
    F.group_norm: (functional.group_norm, ("num_groups", "weight", "bias", "eps")),
    F.rms_norm: (functional.rms_norm, ("normalized_shape", "weight", "eps")),
}
_NAMES = {function.__name__ for function in _FUNCTIONS}


class _OnFastbn(TorchFunctionMode):
    """Within it, the norms of torch.nn.functional are fastbn's."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        own, _ = _FUNCTIONS.get(func, (func, ()))
        return own(*args, **(kwargs or {}))


class _Waiting(TorchFunctionMode):
    """Their results wait for an activation, too, if that is the next that comes.

    Whatever else comes first might read or change the statistics, the weights, or the input.
    """

    def __init__(self, code: CodeType | None) -> None:
        super().__init__()
        self.code = code  # of the forward that runs
        self.last: Pending | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.last is not None and not any(a is self.last for a in args):
            self.settle()
        self.last = None
        result = self._result(func, args, kwargs)
        if type(result) is Pending:
            self.last = result
        return result

    def _result(self, func: Any, args: Any, kwargs: Any) -> Any:
        own, names = _FUNCTIONS.get(func, (func, ()))
        given = {**dict(zip(names, args[1:], strict=False)), **kwargs}
        if not names or len(args) < 1 or len(given) < len(names) or not may_be_known(args[0]):
            return own(*args, **kwargs)
        call = Call(own, args[0], tuple(given[name] for name in names))
        call.code = self.code
        return Pending.of(call)

    def settle(self) -> None:
        """Compute what waits, for its statistics if for nothing else."""
        last, self.last = self.last, None
        if last is not None:
            settled(last)


_on_fastbn = _OnFastbn()


class _OwnForward:
    """What a subclass has before a forward of its own."""

    own_forward = True
    _calls_functions: bool  # of torch.nn.functional, and not the forward of the class above alone
    _may_fuse: bool

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        """That of the class, where it calls fastbn's norms."""
        forward = super().forward  # type: ignore[misc]
        if not self._calls_functions or torch.compiler.is_compiling() or _is_small_or_traced(*args, **kwargs):
            return forward(*args, **kwargs)
        if not (self._may_fuse and self.__dict__.get("_fuses") and _is_simple(self)):
            with _on_fastbn:
                return forward(*args, **kwargs)
        waiting = _Waiting(getattr(forward, "__code__", None))
        try:
            with waiting:
                y = forward(*args, **kwargs)
        finally:
            waiting.settle()
        return y if type(y) is Tensor else tree_map_only(Pending, settled, y)


def _is_small_or_traced(*args: Any, **kwargs: Any) -> bool:
    """Whether a forward is left to torch for what it gets: few elements, or what torch traces with."""
    if torch._C._get_tracing_state() is not None:
        return True
    given = (*args, *kwargs.values())
    if given and isinstance(given[0], Tensor) and given[0].numel() < _LEAST:
        return True
    return any(type(a) is Proxy for a in given)


def least_of(module: Any) -> int:
    """The number of elements from which on a subclass's norms are fastbn's."""
    return _LEAST if module.own_forward and module._calls_functions else 0


def _is_simple(module: nn.Module) -> bool:
    """Whether nothing in a module sees what waits: it holds activations that norms take in, and no hooks."""
    held = [m for m in module._modules.values() if m is not None]
    known = all(type(m) is nn.Identity or name_of_module(m) is not None for m in held)
    if not known or watches_all() or any(map(is_watched, held)):
        return False
    return all(not callable(v) or (_is_of_torch(v) and not _is_opaque(v)) for v in vars(module).values())


def _is_of_torch(value: Any) -> bool:
    """Whether a function or class is torch's."""
    return (getattr(value, "__module__", None) or "torch").split(".")[0] in ("torch", "fastbn")


def _is_opaque(value: Any) -> bool:
    """Whether it is called with the memory of a tensor, or may be: a compiled function, say."""
    if isinstance(value, FunctionType):
        return hasattr(value, "_torchdynamo_orig_callable")
    return isinstance(value, ScriptFunction | nn.Module) or (callable(value) and not _is_of_torch(value))


class _Remade:
    """What a class has that was made here and cannot be found by its name."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Nothing: a library that keeps lists of its subclasses did not write this one."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        reduced = super().__reduce_ex__(max(protocol, 2))  # below, a class has to be found by its name
        if not isinstance(reduced, tuple) or reduced[0] is not copyreg.__newobj__:  # type: ignore[attr-defined]
            return reduced
        return _new, (subclassed(type(self)), *reduced[1][1:]), *reduced[2:]


def _new(own: type, *args: Any) -> Any:
    """An instance without attributes of what a class of a library is on fastbn."""
    cls = subclass_of(own)
    if cls is None:
        raise TypeError(f"{own.__name__} is no norm any more that fastbn.torch.convert would convert")
    return cls.__new__(cls, *args)


def subclass_of(own: type) -> type | None:
    """What a subclass of torch's norms is on fastbn; None if it is none, or computes by itself."""
    base = next((cls for cls in own.__mro__ if cls in layers.CLASSES), None)
    if base is None or own is base or own.__module__.startswith("torch.") or issubclass(own, layers.Fusable):
        return None
    between = own.__mro__[: own.__mro__.index(base)]
    if any(name in vars(cls) for cls in between for name in _TAKEN):
        return None
    codes = [getattr(vars(cls)["forward"], "__code__", None) for cls in between if "forward" in vars(cls)]
    called: set[str] = set().union(*map(_names, codes))
    if codes and called.isdisjoint({"forward", *_NAMES}):
        return None
    for cls in own.__subclasses__():
        if vars(cls).get(_OWN) is own:
            return cls
    names: dict[str, Any] = {name: getattr(own, name) for name in ("__module__", "__qualname__", "__doc__")} | {
        _OWN: own
    }
    if codes:
        names["_calls_functions"] = not called.isdisjoint(_NAMES) or "super" not in called  # but a class by its name
        names["_may_fuse"] = not any(_may_keep(vars(cls).get("forward"), own, set()) for cls in between)
    return type(own.__name__, (_Remade, *[_OwnForward] * bool(codes), own, layers.CLASSES[base]), names)


_TAKEN = ("_call", "_computed_with", "_apply_instance_norm", "__reduce_ex__", "__reduce__")  # that are needed here


def _names(code: Any) -> set[str]:
    """The names of functions and attributes in code, and in the functions within."""
    return set(code.co_names).union(*map(_names, code.co_consts)) if isinstance(code, CodeType) else set()


def _may_keep(function: Any, own: type, seen: set[CodeType]) -> bool:
    """Whether a function, or one that it calls, may hand a result on to what has to have it computed.

    That is an autograd function, a compiled one, or what lives on after the call.
    """
    if isinstance(function, staticmethod | classmethod | property):
        function = function.fget if isinstance(function, property) else function.__func__
    function = inspect.unwrap(function) if isinstance(function, FunctionType) else None
    if function is None or function.__code__ in seen or _is_of_torch(function):
        return False
    seen.add(function.__code__)
    names = _names(function.__code__)
    if not names.isdisjoint(_KEEPING) or _stores(function.__code__):
        return True
    spaces = [function.__globals__, *(vars(cls) for cls in own.__mro__ if not _is_of_torch(cls))]
    found = [space[name] for space in spaces for name in names if name in space]
    found += [vars(m).get(name) for m in found if isinstance(m, ModuleType) for name in names]
    found += [cell.cell_contents for cell in function.__closure__ or () if cell != CellType()]
    return any((_is_opaque(f) and not isinstance(f, _KINDS)) or _may_keep(f, own, seen) for f in found)


_KINDS = (type, staticmethod, classmethod, property)
_KEEPING = {"apply", "append", "checkpoint", "compile", "func", "grad", "setattr", "vmap"}


def _stores(code: CodeType) -> bool:
    """Whether code, or a function within, sets attributes or what others see."""
    if any(i.opname in _STORES for i in dis.get_instructions(code)):
        return True
    return any(isinstance(c, CodeType) and _stores(c) for c in code.co_consts)


_STORES = {"STORE_ATTR", "STORE_SUBSCR", "STORE_GLOBAL", "STORE_SLICE"}


def subclassed(cls: type) -> type | None:
    """The class of a library that a class was made of here, or None."""
    found: type | None = vars(cls).get(_OWN)
    return found
