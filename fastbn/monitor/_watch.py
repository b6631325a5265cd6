"""Layers as the monitor sees them: fastbn's own, and modules of torch."""

from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any

from fastbn.engine import arguments
from fastbn.layers import Layer
from fastbn.monitor import _record

_OVER_TRAILING = ("LayerNorm", "RMSNorm")


class Watch:
    """A layer of fastbn: while it is armed, its forward and backward leave their numbers in `values`."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.values: dict[str, float] = {}
        self._undo: list[Callable[[], Any]] = []

    def arm(self) -> None:
        """From now on, look."""
        for name, look in (("forward", self._after_forward), ("backward", self._after_backward)):
            vars(self.layer)[name] = self._looking(getattr(self.layer, name), look)
        self._undo.append(lambda: [vars(self.layer).pop(name, None) for name in ("forward", "backward")])

    def disarm(self) -> dict[str, float]:
        """Look no longer; what was seen, the gradients of the parameters as they are now included."""
        while self._undo:
            self._undo.pop()()
        values, self.values = self.values, {}
        return values | self._parameter_gradients() if values else values

    @staticmethod
    def _looking(call: Callable[..., Any], look: Callable[..., None]) -> Callable[..., Any]:
        @wraps(call)
        def looking(x: Any, *args: Any, **kwargs: Any) -> Any:
            result = call(x, *args, **kwargs)
            look(x, result)
            return result

        return looking

    def _after_forward(self, x: Any, result: Any) -> None:
        layer, (y, _) = self.layer, result
        axis = getattr(layer, "axis", -1)
        mean, var = getattr(layer, "running_mean", None), getattr(layer, "running_var", None)
        running = None if mean is None or var is None else (mean, var)
        self.values |= _record.of_input(arguments.ndarray(x, "x"), axis, running)
        self.values |= _record.of_output(y, axis, layer.activation)

    def _after_backward(self, dy: Any, result: Any) -> None:
        self.values["input_gradient"] = _record.norm(result[0] if isinstance(result, tuple) else result)

    def _parameter_gradients(self) -> dict[str, float]:
        grads = self.layer.grads
        return {f"{name}_gradient": _record.norm(grads[name]) for name in ("weight", "bias") if name in grads}


class TorchWatch(Watch):
    """A normalization module of torch, fastbn.torch's among them."""

    def arm(self) -> None:
        self._undo.append(self.layer.register_forward_hook(self._hook).remove)

    def _hook(self, module: Any, args: tuple[Any, ...], output: Any) -> None:
        if not module.training:
            return
        axis = -1 if any(cls.__name__ in _OVER_TRAILING for cls in type(module).__mro__) else 1
        mean, var = getattr(module, "running_mean", None), getattr(module, "running_var", None)
        running = None if mean is None or var is None else (_array(mean), _array(var))
        self.values |= _record.of_input(_array(args[0]), axis, running)
        self.values |= _record.of_output(_array(output), axis, getattr(module, "activation", None))
        if args[0].requires_grad:
            self._undo.append(args[0].register_hook(self._gradient).remove)

    def _gradient(self, dx: Any) -> None:
        self.values["input_gradient"] = _record.norm(_array(dx))

    def _parameter_gradients(self) -> dict[str, float]:
        named = {name: getattr(self.layer, name, None) for name in ("weight", "bias")}
        grads = {name: p.grad for name, p in named.items() if p is not None and p.grad is not None}
        return {f"{name}_gradient": _record.norm(_array(grad)) for name, grad in grads.items()}


def _array(tensor: Any) -> Any:
    tensor = tensor.detach()
    return (tensor.float() if tensor.element_size() == 2 else tensor).numpy()


def watches(layers: Any) -> dict[str, Watch]:
    """By name: of a mapping, of layers in a row, of one layer, or of a torch model."""
    if isinstance(layers, Layer):
        layers = [layers]
    if _is_module(layers):
        named = {name or type(module).__name__: module for name, module in layers.named_modules() if _is_norm(module)}
        if not named:
            raise ValueError(f"layers is a {type(layers).__name__} without a normalization module")
        return {name: TorchWatch(module) for name, module in named.items()}
    if isinstance(layers, Mapping):
        pairs: Iterable[tuple[str, Any]] = ((str(name), layer) for name, layer in layers.items())
    elif isinstance(layers, Iterable):
        pairs = ((f"{i}.{type(layer).__name__}", layer) for i, layer in enumerate(layers))
    else:
        raise TypeError(
            f"layers is a {type(layers).__name__}; expected layers, a mapping of names to layers, or a model"
        )
    result = {name: _watch(name, layer) for name, layer in pairs}
    if not result:
        raise ValueError("layers is empty; expected at least one layer")
    return result


def _watch(name: str, layer: Any) -> Watch:
    if isinstance(layer, Layer):
        return Watch(layer)
    if _is_module(layer) and _is_norm(layer):
        return TorchWatch(layer)
    raise TypeError(f"layer {name!r} is a {type(layer).__name__}; expected a normalization layer of fastbn or of torch")


def _is_module(value: Any) -> bool:
    return hasattr(value, "named_modules") and hasattr(value, "register_forward_hook")


def _is_norm(module: Any) -> bool:
    """By the names of torch's own classes among the bases: torch itself is not imported for it."""
    names = {cls.__name__ for cls in type(module).__mro__ if cls.__module__.startswith("torch.nn.modules")}
    return bool(names & {"_NormBase", "LayerNorm", "GroupNorm", "RMSNorm"})
