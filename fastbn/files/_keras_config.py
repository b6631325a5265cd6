"""What a Keras config tells: the layers by name, and which stands before which."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

_LINEAR = ("Dense", "Conv1D", "Conv2D", "Conv3D", "Convolution1D", "Convolution2D", "Convolution3D")
_TRANSPOSED = ("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose")
_DEPTHWISE = ("DepthwiseConv1D", "DepthwiseConv2D")
DEEPEST = 64
_LONGEST_PATH = 500  # of layers between an input and a norm
_RANK_KEPT = (
    "Activation", "Add", "AveragePooling", "Conv", "Dense", "Depthwise", "Dropout", "ELU", "LeakyReLU", "MaxPooling",
    "Multiply", "PReLU", "ReLU", "Separable", "Softmax", "SpatialDropout", "UpSampling", "ZeroPadding",
)  # fmt: skip


class Config:
    """A config as the JSON that it is."""

    def __init__(self, root: dict[str, Any]) -> None:
        self._layers: dict[str, list[tuple[str, dict[str, Any]]]] = {}
        self._before: dict[str, list[str]] = {}  # whose outputs a layer takes
        self._takers: dict[str, list[str]] = {}  # who takes a layer's output
        self._after: dict[str, int] = {}  # how often that is, as the model's output included
        for kind, config, record in _layers(root, 0):
            name = config.get("name")
            if isinstance(name, str):
                self._layers.setdefault(name, []).append((kind, config | {"__rank__": _rank(record)}))
        for model in _models(root, 0):
            self._edges(model)

    def layer(self, name: str) -> tuple[str, dict[str, Any]] | None:
        """The class and the config of a layer, if its name is that of one alone."""
        found = self._layers.get(name, [])
        if len(found) != 1:
            return None
        kind, config = found[0]
        return kind, config | {"__rank__": config["__rank__"] or self._rank(name, 0)}

    def _rank(self, name: str, depth: int) -> int | None:
        """The rank of a layer's input, from the shape of the network's through layers that keep the rank."""
        before = self._before.get(name, [])
        if not before or depth > _LONGEST_PATH or len(self._layers.get(before[0], [])) != 1:
            return None
        kind, config = self._layers[before[0]][0]
        if kind == "InputLayer":
            shape = config.get("batch_shape") or config.get("batch_input_shape")
            return len(shape) if isinstance(shape, list) else None
        return self._rank(before[0], depth + 1) if kind.startswith(_RANK_KEPT) or "Normalization" in kind else None

    def _edges(self, model: dict[str, Any]) -> None:
        config = model["config"]
        layers = [layer for layer in config["layers"] if isinstance(layer, dict)]
        names = [layer.get("name") or (layer.get("config") or {}).get("name") for layer in layers]
        if model.get("class_name") == "Sequential":
            for first, second in pairwise(names):
                self._edge(first, second)
            return
        for name, layer in zip(names, layers, strict=True):
            nodes = layer.get("inbound_nodes") or []
            for before in _histories(nodes, 0):
                self._edge(before, name)
            if isinstance(nodes, list) and len(nodes) > 1:
                self._edge(name, name)  # applied more than once: its weights serve several places
        for name in _strings(config.get("output_layers") or [], 0):
            self._after[name] = self._after.get(name, 0) + 1

    def _edge(self, first: Any, second: Any) -> None:
        if isinstance(first, str) and isinstance(second, str):
            self._before.setdefault(second, []).append(first)
            self._takers.setdefault(first, []).append(second)
            self._after[first] = self._after.get(first, 0) + 1

    def linear_beside(self, name: str) -> tuple[str, dict[str, Any]] | None:
        """The linear layer beside a batch norm that can take it over, before it or behind, and how to fold into it."""
        norm = self.layer(name)
        if norm is None:
            return None
        before, after = self._alone(self._before, name), self._alone(self._takers, name)
        if before is not None and self._after.get(before) == 1:
            found = self.layer(before)
            if found is not None and found[1].get("activation") in ("linear", None):
                told = _folded(*found, norm[1])
                if told is not None:
                    return before, told
        if after is not None and self._after.get(name) == 1 and self._alone(self._before, after) is not None:
            found = self.layer(after)
            if found is not None and found[0] not in _TRANSPOSED and _sees_no_padding(*found):
                told = _folded(*found, norm[1])
                if told is not None:
                    return after, {**told, "before": True}
        return None

    def _alone(self, edges: dict[str, list[str]], name: str) -> str | None:
        found = edges.get(name, [])
        return found[0] if len(found) == 1 else None


def _folded(kind: str, config: dict[str, Any], norm: dict[str, Any]) -> dict[str, Any] | None:
    """How a batch norm of this config is folded into the layer; None if it cannot be."""
    axis, rank = norm.get("axis", -1), norm.get("__rank__")
    axis = axis[0] if isinstance(axis, list) and axis else axis
    last = axis == -1 or (rank is not None and axis == rank - 1)
    if last != (kind == "Dense" or config.get("data_format", "channels_last") != "channels_first"):
        return None
    if kind in _LINEAR:
        return {"groups": config.get("groups", 1)}
    if kind in _TRANSPOSED and config.get("groups", 1) == 1:
        return {"transposed": True}
    return {} if kind in _DEPTHWISE else None


def _sees_no_padding(kind: str, config: dict[str, Any]) -> bool:
    """Whether every output sees the whole kernel, and no zeros that the norm before did not make."""
    return kind == "Dense" or config.get("padding") == "valid"


def _children(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []


def _layers(value: Any, depth: int) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    if depth > DEEPEST:
        return
    if isinstance(value, dict) and isinstance(value.get("class_name"), str) and isinstance(value.get("config"), dict):
        yield value["class_name"], value["config"], value
    for inner in _children(value):
        yield from _layers(inner, depth + 1)


def _models(value: Any, depth: int) -> Iterator[dict[str, Any]]:
    if depth > DEEPEST:
        return
    if (
        isinstance(value, dict)
        and isinstance(value.get("config"), dict)
        and isinstance(value["config"].get("layers"), list)
    ):
        yield value
    for inner in _children(value):
        yield from _models(inner, depth + 1)


def _histories(value: Any, depth: int) -> Iterator[str]:
    """The layers whose outputs stand in inbound_nodes, of Keras 3 or of Keras 2."""
    if depth > DEEPEST:
        return
    if isinstance(value, dict) and isinstance(value.get("keras_history"), list):
        yield from (part for part in value["keras_history"][:1] if isinstance(part, str))
        return
    if isinstance(value, list) and len(value) in (3, 4) and isinstance(value[0], str) and isinstance(value[1], int):
        yield value[0]
        return
    for inner in _children(value):
        yield from _histories(inner, depth + 1)


def _strings(value: Any, depth: int) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif depth < DEEPEST:
        for inner in _children(value):
            yield from _strings(inner, depth + 1)


def _rank(record: dict[str, Any]) -> int | None:
    """The rank of the input, where the config was saved of a built layer."""
    shape = (
        (record.get("build_config") or {}).get("input_shape") if isinstance(record.get("build_config"), dict) else None
    )
    return len(shape) if isinstance(shape, list) else None
