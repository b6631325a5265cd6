"""Folding the batch norms of an ONNX model into the nodes beside them."""

from typing import Any

import numpy as np

from fastbn.files._content import Norm, values_of
from fastbn.files._onnx_graph import Graph, attribute, captured
from fastbn.files._onnx_norms import batch_norm, misplaced
from fastbn.files._source import Array
from fastbn.folding import fold

_LINEAR = ("Conv", "ConvTranspose", "Gemm")


class Folding:
    """Makes a model without the batch norms that a convolution or linear map beside them can take over."""

    def __init__(self, graph: Graph) -> None:
        import onnx

        self._graph = graph
        self.model = onnx.ModelProto()
        self.model.CopyFrom(graph.model)
        self._nodes = list(self.model.graph.node)
        self._values: dict[str, Array] = {}  # constants that have changed or are new
        self._count = 0
        self._look()
        for node in list(self._nodes):
            if node.op_type == "BatchNormalization" and isinstance(norm := batch_norm(graph, node), Norm):
                self._after(node, norm) or self._before(node, norm)
        self._write()

    def _look(self) -> None:
        self._producers = {name: node for node in self._nodes for name in node.output if name}
        self._takers: dict[str, list[Any]] = {}
        for node in self._nodes:
            for name in (*filter(None, node.input), *captured(node)):
                self._takers.setdefault(name, []).append(node)

    def _affine(self, node: Any, norm: Norm) -> tuple[Any, ...]:
        values = values_of(norm, {key: self._value(key) for key in norm.arrays.values()}, node.name or node.output[0])
        return (*(values[k] for k in ("running_mean", "running_var", "weight", "bias")), norm.eps)

    def _value(self, name: str) -> Array:
        return self._values[name] if name in self._values else self._graph.entries[name].read()

    def _constant(self, name: str) -> str | None:
        return name if name in self._values else self._graph.constant(name)

    def _alone(self, name: str) -> bool:
        return len(self._takers.get(name, [])) == 1 and name not in self._graph.outputs

    def _after(self, node: Any, norm: Norm) -> bool:
        """Into the node that makes the norm's input."""
        value = node.input[0]
        maker = self._producers.get(value)
        if maker is None or not self._alone(value) or not self._fold(maker, self._affine(node, norm), False):
            return False
        maker.output[0] = node.output[0]
        self._drop(node)
        return True

    def _before(self, node: Any, norm: Norm) -> bool:
        """Into the node that takes the norm's output, where no padding of zeros comes between."""
        value = node.output[0]
        if not self._alone(value):
            return False
        taker = self._takers[value][0]
        padded = any(attribute(taker, "pads", [])) or attribute(taker, "auto_pad", b"NOTSET") not in (
            b"NOTSET",
            b"VALID",
        )
        if taker.op_type not in ("Conv", "Gemm") or padded or taker.input[0] != value:
            return False
        if not self._fold(taker, self._affine(node, norm), True):
            return False
        taker.input[0] = node.input[0]
        self._drop(node)
        return True

    def _fold(self, maker: Any, affine: tuple[Any, ...], before: bool) -> bool:
        if maker.op_type not in _LINEAR or len(maker.input) < 2:
            return False
        weight_name = self._constant(maker.input[1])
        bias_name = self._constant(maker.input[2]) if len(maker.input) > 2 and maker.input[2] else None
        if weight_name is None or (len(maker.input) > 2 and maker.input[2] and bias_name is None):
            return False
        weight = self._value(weight_name)
        bias = None if bias_name is None else self._value(bias_name)
        gemm = maker.op_type == "Gemm"
        if gemm and not _is_plain(maker):
            return False
        turned = gemm and not attribute(maker, "transB", 0)
        w = weight.T if turned else weight
        transposed = maker.op_type == "ConvTranspose"
        groups = 1 if gemm else attribute(maker, "group", 1)
        if bias is not None:
            outputs = w.shape[1] * groups if transposed else w.shape[0]
            if bias.size not in (1, outputs) or bias.ndim > 2 or misplaced(bias.shape, (outputs,)):
                return False
            bias = np.broadcast_to(bias.reshape(-1), (outputs,))
        new, shift = fold(w, bias, affine, transposed=transposed, groups=groups, before=before)
        self._set(maker, 1, weight_name, np.ascontiguousarray(new.T if turned else new))
        self._set(maker, 2, bias_name or f"{weight_name}_bias", shift)
        return True

    def _set(self, node: Any, position: int, name: str, value: Array) -> None:
        """Give a node a constant, of the old name where no other node takes it."""
        while len(node.input) <= position:
            node.input.append("")
        old = node.input[position]
        if old != name or len(self._takers.get(old, [])) != 1 or name in self._graph.outputs:
            taken = self._values.keys() | self._graph.entries.keys() | self._takers.keys() | self._producers.keys()
            while name in taken:
                self._count += 1
                name = f"{name.rsplit('_folded_', 1)[0]}_folded_{self._count}"
        node.input[position] = name
        self._values[name] = value
        self._look()

    def _drop(self, node: Any) -> None:
        self._nodes = [other for other in self._nodes if other is not node]
        self._look()

    def _write(self) -> None:
        """Nodes and constants of the new model; constants that no node takes any more are left out."""
        from onnx import helper, numpy_helper

        graph = self.model.graph
        used = set(self._takers) | self._graph.outputs
        nodes = [node for node in self._nodes if node.op_type != "Constant" or node.output[0] in used]
        nodes = [node for node in nodes if node.op_type != "Constant" or node.output[0] not in self._values]
        tensors = [t for t in graph.initializer if t.name in used and t.name not in self._values]
        tensors = [numpy_helper.from_array(self._value(t.name), t.name) if t.data_location == 1 else t for t in tensors]
        tensors += [numpy_helper.from_array(value, name) for name, value in self._values.items() if name in used]
        constants = {t.name for t in graph.initializer}
        kept_inputs = [info for info in graph.input if info.name in used or info.name not in constants]
        if self.model.ir_version < 4:  # every constant is an input there
            there = {info.name for info in kept_inputs}
            kept_inputs += [
                helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in tensors if t.name not in there
            ]
        copies = [_copied(part) for part in (nodes, tensors, kept_inputs)]
        for field, part in zip((graph.node, graph.initializer, graph.input), copies, strict=True):
            del field[:]
            field.extend(part)


def _is_plain(gemm: Any) -> bool:
    return attribute(gemm, "alpha", 1.0) == 1 and attribute(gemm, "beta", 1.0) == 1 and not attribute(gemm, "transA", 0)


def _copied(messages: list[Any]) -> list[Any]:
    result = []
    for message in messages:
        copy = type(message)()
        copy.CopyFrom(message)
        result.append(copy)
    return result
