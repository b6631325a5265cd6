"""From what a user gives to what is watched, under names."""

from collections.abc import Iterable, Mapping
from typing import Any

from fastbn.layers import Layer
from fastbn.monitor._modules import TorchWatch, is_module, is_norm
from fastbn.monitor._watch import Watch


def watches(layers: Any) -> dict[str, Watch]:
    """By name: of a mapping, of layers in a row, of one layer, or of a torch model."""
    if isinstance(layers, Layer):
        layers = [layers]
    if is_module(layers):
        named = {name or type(module).__name__: module for name, module in layers.named_modules() if is_norm(module)}
        if not named:
            raise ValueError(f"layers is of type {type(layers).__name__}, without a normalization module")
        return {name: TorchWatch(module) for name, module in named.items()}
    if isinstance(layers, Mapping):
        pairs = [(str(name), layer) for name, layer in layers.items()]
    elif isinstance(layers, Iterable) and not isinstance(layers, str):
        pairs = [(f"{i}.{type(layer).__name__}", layer) for i, layer in enumerate(layers)]
    else:
        raise TypeError(
            f"layers is of type {type(layers).__name__}; expected layers, a mapping of names to layers, or a model"
        )
    result = {name: _watch(name, layer) for name, layer in pairs}
    if not result:
        raise ValueError("layers is empty; expected at least one layer")
    if len(result) < len(pairs):
        raise ValueError(f"layers has two names that read alike, of {[name for name, _ in pairs]}; expected others")
    return result


def _watch(name: str, layer: Any) -> Watch:
    if isinstance(layer, Layer):
        return Watch(layer)
    if is_module(layer) and is_norm(layer):
        return TorchWatch(layer)
    given = type(layer).__name__
    raise TypeError(f"layer {name!r} is of type {given}; expected a normalization layer of fastbn or of torch")
