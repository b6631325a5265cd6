"""Normalizations that an exporter has written out in simpler operators."""

from math import prod
from typing import Any

import numpy as np

from fastbn.files._content import Norm, Unknown
from fastbn.files._onnx_graph import Graph, attribute
from fastbn.files._onnx_norms import misplaced, trailing_shape


def group_norm(graph: Graph, node: Any) -> Norm | Unknown | None:
    """Group norm as an instance norm of groups: Reshape, InstanceNormalization of 1 and 0, Reshape, Mul, Add."""
    before, after = graph.maker(node.input[0]), graph.taker(node.output[0])
    if before is None or after is None or (before.op_type, after.op_type) != ("Reshape", "Reshape"):
        return None
    unit = [graph.value(name) for name in node.input[1:3]]
    if len(unit) < 2 or unit[0] is None or unit[1] is None:
        return None
    groups = unit[0].size
    known = graph.shape(before.input[0]) or graph.shape(after.output[0])
    channels = known[1] if known and len(known) > 1 else None
    result = graph.shape(after.output[0]) or known
    arrays, _ = affine(graph, after, channels, None if result is None else len(result))
    plain = bool((unit[0] == 1).all() and (unit[1] == 0).all())
    if channels is None and "weight" in arrays:
        channels = prod(graph.entries[arrays["weight"]].shape)
    if not plain or channels is None or channels % groups:
        why = (
            "an instance norm between two Reshapes"
            + ("" if plain else " with weights of its own")
            + ": of which channels?"
        )
        return Unknown(why, arrays, (groups,))
    if _samples(graph, before) is False:
        return Unknown(
            "an instance norm between two Reshapes, of several samples together or parts of one", arrays, (groups,)
        )
    eps = float(f"{attribute(node, 'epsilon', 1e-5):.7g}")
    return Norm("group", arrays, (channels,), eps, False, groups=groups)


def _samples(graph: Graph, node: Any) -> bool | None:
    """Whether a Reshape leaves the first axis as it is; None if the file does not tell."""
    sizes, known = graph.value(node.input[1]), graph.shape(node.input[0])
    if sizes is None or not known or known[0] is None or not np.size(sizes):
        return None
    target = [int(n) for n in np.asarray(sizes).reshape(-1)]
    first, *rest = (known[i] if n == 0 and i < len(known) else n for i, n in enumerate(target))
    if first != -1:
        return first == known[0]
    if None in known or None in rest or prod(n for n in rest if n is not None) < 1:
        return None
    return known[0] * prod(n for n in rest if n is not None) == prod(n for n in known if n is not None)


def affine(graph: Graph, node: Any, size: int | None, rank: int | None = None) -> tuple[dict[str, str], Any]:
    """The constants that a norm's result is multiplied by and that are added to it, and the last of these nodes.

    size: of constants that count, if others do not; rank: of the result, where they must lie along its second axis.
    """
    arrays: dict[str, str] = {}
    last = node
    for operator, role in (("Mul", "weight"), ("Add", "bias")):
        following = graph.taker(last.output[0])
        if following is None or following.op_type != operator:
            continue
        values = [found for name in following.input if (found := graph.constant(name)) is not None]
        if len(values) != 1:
            continue
        shape = graph.entries[values[0]].shape
        if (size is None or prod(shape) == size) and (rank is None or _along_channels(shape, rank)):
            arrays[role], last = values[0], following
    return arrays, last


def _along_channels(shape: tuple[int, ...], rank: int) -> bool:
    """Whether an array that is broadcast against one of this rank has a number for each place of the second axis."""
    return all(n == 1 for i, n in enumerate(shape, rank - len(shape)) if i != 1)


def written_out(graph: Graph, node: Any) -> tuple[Norm | Unknown, Any] | None:
    """Layer or RMS norm from the mean of squares on: the norm and its last node, or None if it is another mean."""
    square = graph.maker(node.input[0])
    base = None if square is None else _squared(graph, square)
    if base is None:
        return None
    found = _rsqrt(graph, node)
    if found is None:
        return None
    eps, root, inverse = found
    scaled = _scaled(graph, root, inverse, base)
    if scaled is None:
        return None
    axes = _axes(graph, node)
    if axes is None or sorted(axes) != list(range(-len(axes), 0)):
        return None
    subtraction = graph.maker(base)
    centred = subtraction is not None and subtraction.op_type == "Sub" and _is_mean(graph, subtraction, axes)
    source = graph.origin(subtraction.input[0]) if centred else base
    arrays, last = affine(graph, scaled, None)
    kind = "layer" if centred else "rms"
    if kind == "rms" and "bias" in arrays:
        del arrays["bias"]  # an addition behind a norm that has none
        last = graph.taker(scaled.output[0])
    own = graph.entries[arrays["weight"]].shape if "weight" in arrays else ()
    shape = trailing_shape(graph, source, own, -len(axes))
    if shape is None or prod(shape) != prod(own or shape):
        return Unknown(f"a {kind} norm written out, over axes whose sizes the file does not tell", arrays, own), last
    if any(misplaced(graph.entries[name].shape, shape) for name in arrays.values()):
        return Unknown(
            f"a {kind} norm written out, whose weights lie along other axes than its mean", arrays, own
        ), last
    return Norm(kind, arrays, shape, eps, False), last


def _squared(graph: Graph, node: Any) -> str | None:
    if node.op_type == "Pow" and graph.scalar(node.input[1]) == 2:
        return graph.origin(node.input[0])
    if node.op_type == "Mul" and graph.origin(node.input[0]) == graph.origin(node.input[1]):
        return graph.origin(node.input[0])
    return None


def _rsqrt(graph: Graph, node: Any) -> tuple[float, str, bool] | None:
    """eps, the value of the root, and whether it is 1 / root; from the mean of squares on."""
    added = graph.taker(node.output[0])
    if added is None or added.op_type != "Add":
        return None
    eps = next((number for name in added.input if (number := graph.scalar(name)) is not None), None)
    root = graph.taker(added.output[0])
    if eps is None or root is None or root.op_type != "Sqrt":
        return None
    eps = float(f"{eps:.7g}")
    following = graph.taker(root.output[0])
    if following is not None and following.op_type == "Reciprocal":
        return eps, following.output[0], True
    if following is not None and following.op_type == "Div" and graph.scalar(following.input[0]) == 1:
        return eps, following.output[0], True
    return eps, root.output[0], False


def _scaled(graph: Graph, root: str, inverse: bool, base: str) -> Any:
    """The node that divides the centred values by the root."""
    node = graph.taker(root)
    if node is None or node.op_type != ("Mul" if inverse else "Div"):
        return None
    operands = [graph.origin(name) for name in node.input]
    if inverse:
        return node if base in operands else None
    return node if operands[0] == base else None


def _axes(graph: Graph, node: Any) -> list[int] | None:
    """The axes of a mean, counted from the last; None if the rank would have to be known and is not."""
    axes = attribute(node, "axes", None)
    if axes is None and len(node.input) > 1:
        value = graph.value(node.input[1])
        axes = None if value is None else [int(n) for n in np.asarray(value).reshape(-1)]
    if not axes or attribute(node, "keepdims", 1) != 1:
        return None
    if all(n < 0 for n in axes):
        return list(axes)
    known = graph.shape(node.input[0])
    return None if known is None else [n - len(known) if n >= 0 else n for n in axes]


def _is_mean(graph: Graph, node: Any, axes: list[int]) -> bool:
    """Whether a Sub takes a value's own mean over these axes from it."""
    mean = graph.maker(node.input[1])
    if mean is None or mean.op_type != "ReduceMean" or graph.origin(mean.input[0]) != graph.origin(node.input[0]):
        return False
    over = _axes(graph, mean)
    return over is not None and sorted(over) == sorted(axes)
