"""Norms of an ONNX model that are not in its main graph: in the graphs of If, Loop and Scan, and in functions."""

from collections.abc import Iterable, Iterator
from typing import Any

from fastbn.files._content import Unknown
from fastbn.files._onnx_norms import OPERATORS

_WRITTEN_OUT = {"ReduceMean", "Sqrt"}  # which every norm that is written out in simpler operators has


def inner_norms(model: Any) -> dict[str, Unknown]:
    """What they are called, and where they are."""
    found: dict[str, Unknown] = {}
    for node in model.graph.node:
        for name, why in _in_graphs(node, node.name or "/".join(node.output[:1])):
            found.setdefault(name, Unknown(why, {}, ()))
    for function in model.functions:
        where = f"{function.domain}::{function.name}"
        for name, why in _in_nodes(function.node, where, f"the function {where}"):
            found.setdefault(name, Unknown(why, {}, ()))
    return found


def _in_graphs(node: Any, path: str) -> Iterator[tuple[str, str]]:
    for given in node.attribute:
        for graph in (given.g, *given.graphs):
            yield from _in_nodes(graph.node, f"{path}/{given.name}", f"a graph inside the {node.op_type} {path}")


def _in_nodes(nodes: Iterable[Any], path: str, where: str) -> Iterator[tuple[str, str]]:
    kinds = set()
    for node in nodes:
        name = f"{path}/{node.name or '/'.join(node.output[:1])}"
        kinds.add(node.op_type)
        if node.op_type in OPERATORS:
            yield name, f"{node.op_type} in {where}; only those of the main graph are read"
        yield from _in_graphs(node, name)
    if kinds >= _WRITTEN_OUT:
        yield path, f"operators as of a norm that is written out, in {where}; only those of the main graph are read"
