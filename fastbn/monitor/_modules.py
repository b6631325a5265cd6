"""Modules of torch as the monitor sees them, fastbn.torch's among them.

Torch runs a hook of all modules here, not one of each: hooks of a module are saved and copied with it.
"""

from typing import Any
from weakref import WeakSet

from fastbn.monitor import _record
from fastbn.monitor._watch import Watch, running_of

_OVER_TRAILING = ("LayerNorm", "RMSNorm")

_armed: dict[int, WeakSet["TorchWatch"]] = {}  # by the module's id
_hook: Any = None  # what torch gave for the hook of all modules, while there is one


class TorchWatch(Watch):
    """A normalization module of torch."""

    _undo: Any = None  # takes the hook away from the last input's gradient

    def arm(self) -> None:
        _armed.setdefault(id(self.layer), WeakSet()).add(self)
        _keep_hook()

    def let_go(self) -> None:
        _armed.get(id(self.layer), WeakSet()).discard(self)
        _keep_hook()
        self._leave_gradient()

    def _leave_gradient(self) -> None:
        if self._undo is not None:
            self._undo()
            self._undo = None

    def see(self, x: Any, y: Any) -> None:
        """Look at what went in and came out."""
        module = self.layer
        self._leave_gradient()
        self.values = {}
        if not _has_values(x) or not _has_values(y):
            return
        one_sample = getattr(module, "_get_no_batch_dim", None)
        single = one_sample is not None and x.dim() == one_sample()
        axis = -1 if any(cls.__name__ in _OVER_TRAILING for cls in type(module).__mro__) else 1
        running = running_of(module)
        statistics = None if running is None else (_array(running[0]), _array(running[1]))
        before, after = (_array(v[None] if single else v) for v in (x, y))
        activation = getattr(module, "activation", None)
        self.values |= _record.of_call(before, after, axis, None, activation, statistics, None)
        if x.requires_grad:
            self._undo = x.register_hook(self._gradient).remove

    def _gradient(self, dx: Any) -> None:
        self.values["input_gradient"] = _record.norm(_array(dx))

    def _parameter_gradients(self) -> dict[str, float]:
        named = {name: getattr(self.layer, name, None) for name in ("weight", "bias")}
        kept = {name: p for name, p in named.items() if p is not None and (p.is_leaf or p.retains_grad)}
        grads = {name: p.grad for name, p in kept.items() if p.grad is not None}
        return {f"{name}_gradient": _record.norm(_array(grad)) for name, grad in grads.items()}


def _keep_hook() -> None:
    """Have torch call the hook as long as somebody looks."""
    global _hook
    for key in [key for key, watches in _armed.items() if not watches]:
        del _armed[key]
    if _armed and _hook is None:
        from torch.compiler import disable
        from torch.nn.modules.module import register_module_forward_hook

        _hook = register_module_forward_hook(disable(_after_forward), with_kwargs=True)
    elif not _armed and _hook is not None:
        from torch.nn.modules import module

        _hook.remove()
        # torch 2.13 forgets this half of a hook, by which it tells whether there are any
        getattr(module, "_global_forward_hooks_with_kwargs", {}).pop(_hook.id, None)
        _hook = None


def _after_forward(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
    for watch in tuple(_armed.get(id(module), ())):
        if module.training and watch.layer is module:
            watch.see(args[0] if args else next(iter(kwargs.values())), output)


def _has_values(tensor: Any) -> bool:
    """Whether it is a tensor with elements in memory, as it is not within torch.vmap and torch.func.grad."""
    if not hasattr(tensor, "numel") or not tensor.numel() or tensor.device.type == "meta":
        return False
    try:
        tensor.detach().data_ptr()
    except (RuntimeError, NotImplementedError):
        return False
    return True


def _array(tensor: Any) -> Any:
    tensor = tensor.detach().cpu()
    if str(tensor.layout) != "torch.strided":
        tensor = tensor.to_dense()
    return (tensor.float() if tensor.element_size() == 2 else tensor).numpy()


def is_module(value: Any) -> bool:
    """Whether it is a torch module, without importing torch."""
    return hasattr(value, "named_modules") and hasattr(value, "register_forward_hook")


def is_norm(module: Any) -> bool:
    """By the names of torch's own classes among the bases: torch itself is not imported for it."""
    names = {cls.__name__ for cls in type(module).__mro__ if cls.__module__.startswith("torch.nn.modules")}
    return bool(names & {"_NormBase", "LayerNorm", "GroupNorm", "RMSNorm"})
