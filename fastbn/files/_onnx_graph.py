"""The graph of an ONNX model: who makes and takes each value, which are constants, and the norms among the nodes."""

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from fastbn.files._content import Found, Norm, Unknown
from fastbn.files._onnx import Tensors
from fastbn.files._source import Array, Source, Table

_TRANSPARENT = ("Identity", "Cast", "Dropout")
_INPUTS = dict.fromkeys((*_TRANSPARENT, "Reshape", "ReduceMean", "Sqrt", "Reciprocal"), 1)
_INPUTS |= dict.fromkeys(("Add", "Sub", "Mul", "Div", "Pow", "Conv", "ConvTranspose", "Gemm", "MatMul"), 2)
_INPUTS |= dict.fromkeys(("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"), 2)
_INPUTS |= {"BatchNormalization": 5, "InstanceNormalization": 3, "GroupNormalization": 3}


class Graph:
    """An ONNX model's main graph, looked at by positions of inputs, never by names."""

    def __init__(self, source: Source, model: Any) -> None:
        self.source, self.model = source, model
        self._tensors = Tensors(source)
        self.entries = Table(source)
        for tensor in model.graph.initializer:
            self._tensors.add(self.entries, tensor.name, tensor)
        self.nodes = list(model.graph.node)
        self.producers: dict[str, Any] = {}
        self.consumers: dict[str, list[Any]] = {}
        for node in self.nodes:
            if len(node.input) < _INPUTS.get(node.op_type, 0) or not node.output:
                source.bad(f"a node {node.op_type[:80]} has {len(node.input)} inputs and {len(node.output)} outputs")
            for name in filter(None, node.output):
                if name in self.producers or name in self.entries:
                    source.bad(f"the value {name[:200]!r} is made twice")
                self.producers[name] = node
            for name in (*filter(None, node.input), *captured(node)):
                self.consumers.setdefault(name, []).append(node)
            if node.op_type == "Constant":
                for attribute in node.attribute:
                    self._constant(node, attribute)
        self.outputs = {output.name for output in model.graph.output}
        self.opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=1)
        self._ranks: dict[str, tuple[int | None, ...]] | None = None

    def close(self) -> None:
        self._tensors.close()

    def _constant(self, node: Any, attribute: Any) -> None:
        from onnx import numpy_helper

        if attribute.name == "value":
            self._tensors.add(self.entries, node.output[0], attribute.t)
        elif attribute.name in ("value_float", "value_floats"):
            values = np.array(attribute.f if attribute.name == "value_float" else list(attribute.floats), np.float32)
            self._tensors.add(self.entries, node.output[0], numpy_helper.from_array(values))
        elif attribute.name in ("value_int", "value_ints"):
            integers = np.array(attribute.i if attribute.name == "value_int" else list(attribute.ints), np.int64)
            self._tensors.add(self.entries, node.output[0], numpy_helper.from_array(integers))

    def constant(self, name: str) -> str | None:
        """The name of the constant that a value is, through nodes that change nothing."""
        for _ in range(10):
            if name in self.entries:
                return name
            node = self.producers.get(name)
            if node is None or node.op_type != "Identity":
                return None
            name = node.input[0]
        return None

    def value(self, name: str) -> Array | None:
        found = self.constant(name)
        return None if found is None else self.entries[found].read()

    def scalar(self, name: str) -> float | None:
        """A constant of one element."""
        found = self.constant(name)
        if found is None or prod(self.entries[found].shape) != 1:
            return None
        return float(self.entries[found].read().reshape(-1)[0])

    def shape(self, name: str) -> tuple[int | None, ...] | None:
        """The sizes of a value's axes as far as the model tells or they can be inferred."""
        if self._ranks is None:
            self._ranks = self._shapes(self.model)
            if not self._ranks.keys() >= {node.output[0] for node in self.nodes if node.output}:
                self._ranks |= self._inferred()
        return self._ranks.get(name)

    def _inferred(self) -> dict[str, tuple[int | None, ...]]:
        import onnx

        try:
            return self._shapes(onnx.shape_inference.infer_shapes(self.model))
        except Exception:  # of several kinds, by the version: a model that cannot be inferred tells no more shapes
            return {}

    def _shapes(self, model: Any) -> dict[str, tuple[int | None, ...]]:
        graph = model.graph
        result: dict[str, tuple[int | None, ...]] = {}
        for info in [*graph.input, *graph.output, *graph.value_info]:
            if info.type.tensor_type.HasField("shape"):
                dims = info.type.tensor_type.shape.dim
                result[info.name] = tuple(d.dim_value if d.HasField("dim_value") else None for d in dims)
        return result

    def maker(self, name: str) -> Any:
        """The node that makes a value, through casts."""
        node = self.producers.get(name)
        for _ in range(10):
            if node is None or node.op_type not in _TRANSPARENT:
                return node
            node = self.producers.get(node.input[0])
        return None

    def origin(self, name: str) -> str:
        """The value itself, through casts."""
        for _ in range(10):
            node = self.producers.get(name)
            if node is None or node.op_type not in _TRANSPARENT:
                return name
            name = node.input[0]
        return name

    def taker(self, name: str) -> Any:
        """The one node that takes a value, through casts; None if there are several, or it is an output."""
        for _ in range(10):
            nodes = self.consumers.get(name, [])
            if len(nodes) != 1 or name in self.outputs:
                return None
            if nodes[0].op_type not in _TRANSPARENT:
                return nodes[0]
            name = nodes[0].output[0]
        return None

    def norms(self) -> Found:
        """The norms of the main graph, and those elsewhere as unknown."""
        from fastbn.files._onnx_inner import inner_norms

        try:
            norms, unknown = self._own_norms()
        except WrongAttribute as error:
            self.source.bad(str(error))
        return norms, unknown | inner_norms(self.model)

    def _own_norms(self) -> Found:
        from fastbn.files._onnx_norms import OPERATORS
        from fastbn.files._onnx_patterns import group_norm, written_out

        norms: dict[str, Norm] = {}
        unknown: dict[str, Unknown] = {}
        for node in self.nodes:
            made: Norm | Unknown | None = None
            name = node.name or node.output[0]
            recognise: Callable[..., Norm | Unknown | None] | None = OPERATORS.get(node.op_type)
            if recognise is not None:
                made = group_norm(self, node) if node.op_type == "InstanceNormalization" else None
                made = made or recognise(self, node)
            elif node.op_type == "ReduceMean" and (found := written_out(self, node)) is not None:
                made, last = found
                name = last.name or last.output[0]
            if isinstance(made, Norm):
                _once(self.source, norms, name)
                norms[name] = made
            elif made is not None:
                unknown[name] = made
        return norms, unknown

    def folded_arrays(self) -> dict[str, Array]:
        """The constants of the model with its batch norms folded."""
        from onnx import numpy_helper

        return {tensor.name: np.array(numpy_helper.to_array(tensor)) for tensor in self.folded().graph.initializer}

    def folded(self) -> Any:
        """The model with its batch norms folded, its external data in it."""
        from fastbn.files._onnx_fold import Folding

        try:
            return Folding(self).model
        except WrongAttribute as error:
            self.source.bad(str(error))


def _once(source: Source, norms: dict[str, Norm], name: str) -> None:
    if name in norms:
        source.bad(f"two nodes are called {name[:200]!r}")


def captured(node: Any) -> set[str]:
    """The values that the graphs in a node take from outside, or call by the same names inside."""
    names: set[str] = set()
    for given in node.attribute:
        for graph in (given.g, *given.graphs):
            names.update(output.name for output in graph.output)
            for inner in graph.node:
                names.update(filter(None, inner.input))
                names |= captured(inner)
    return names


class WrongAttribute(ValueError):
    """An attribute of another type than ONNX gives the attribute of this name."""


# AttributeProto's numbers of types: float, int, string, ints
_KINDS = (
    dict.fromkeys(("epsilon", "momentum", "alpha", "beta"), 1)
    | dict.fromkeys(("axis", "num_groups", "spatial", "training_mode", "group", "transA", "transB", "keepdims"), 2)
    | {"auto_pad": 3, "axes": 7, "pads": 7}
)


def attribute(node: Any, name: str, default: Any) -> Any:
    """An attribute's number, string or list, of the type that ONNX gives the attribute of this name."""
    for given in node.attribute:
        if given.name == name:
            kind = _KINDS[name]
            if given.type != kind:
                raise WrongAttribute(
                    f"node {node.name!r}, {node.op_type}: attribute {name!r} has type {given.type}; expected {kind}"
                )
            return {1: given.f, 2: given.i, 3: given.s, 7: list(given.ints)}[kind]
    return default
