"""The normalization operators of ONNX, of every opset."""

from collections.abc import Callable
from math import prod
from typing import Any

from fastbn.files._content import Norm, Unknown
from fastbn.files._onnx_graph import Graph, attribute


def inputs(graph: Graph, node: Any, roles: tuple[str, ...]) -> dict[str, str] | None:
    """The constants that a node takes after its first input, by position; None if one is computed."""
    result = {}
    for role, name in zip(roles, node.input[1:], strict=False):
        if name:
            found = graph.constant(name)
            if found is None:
                return None
            result[role] = found
    return result


def _computed(node: Any) -> Unknown:
    return Unknown(f"{node.op_type} with weights that the graph computes, which are none of the file's", {}, ())


def batch_norm(graph: Graph, node: Any) -> Norm | Unknown:
    arrays = inputs(graph, node, ("weight", "bias", "running_mean", "running_var"))
    if arrays is None or len(arrays) < 4:
        return _computed(node)
    shape = (prod(graph.entries[arrays["running_mean"]].shape),)
    trains = attribute(node, "training_mode", 0) or (
        graph.opset < 14 and len([name for name in node.output if name]) > 1
    )
    if trains:
        return Unknown(
            "it trains: it normalizes by the batch's own statistics, as training_mode or its outputs tell",
            arrays,
            shape,
        )
    if attribute(node, "spatial", 1) == 0:
        return Unknown("spatial=0: statistics of each position, not of each channel", arrays, shape)
    eps, momentum = _float(node, "epsilon", 1e-5), round(1 - _float(node, "momentum", 0.9), 7)
    return Norm("batch", arrays, shape, eps, False, momentum)


def _float(node: Any, name: str, default: float) -> float:
    """A float32 attribute as the decimal number that it was written as."""
    value = attribute(node, name, None)
    return default if value is None else float(f"{value:.7g}")


def instance_norm(graph: Graph, node: Any) -> Norm | Unknown:
    arrays = inputs(graph, node, ("weight", "bias"))
    if arrays is None or "weight" not in arrays:
        return _computed(node)
    shape = (prod(graph.entries[arrays["weight"]].shape),)
    known = graph.shape(node.input[0])
    return Norm("instance", arrays, shape, _float(node, "epsilon", 1e-5), False, rank=len(known) if known else None)


def group_norm(graph: Graph, node: Any) -> Norm | Unknown:
    """By the length of the scale: one a channel or one a group, whatever the opset says."""
    arrays, groups = inputs(graph, node, ("weight", "bias")), attribute(node, "num_groups", 1)
    if arrays is None or "weight" not in arrays:
        return _computed(node)
    length, known = prod(graph.entries[arrays["weight"]].shape), graph.shape(node.input[0])
    channels = known[1] if known and len(known) > 1 else None
    if length == groups and channels is None and graph.opset < 21:
        return Unknown("a scale for each group, of channels whose number the file does not tell", arrays, (length,))
    shape = (length if channels is None else channels,)
    if groups < 1 or shape[0] % groups or length not in (groups, shape[0]):
        return Unknown(f"{length} scales for {groups} groups of {shape[0]} channels", arrays, shape)
    return Norm("group", arrays, shape, _float(node, "epsilon", 1e-5), False, groups=groups)


def _trailing(kind: str) -> Callable[[Graph, Any], Norm | Unknown]:
    def recognise(graph: Graph, node: Any) -> Norm | Unknown:
        arrays = inputs(graph, node, ("weight", "bias") if kind == "layer" else ("weight",))
        if arrays is None or "weight" not in arrays:
            return _computed(node)
        own, axis = graph.entries[arrays["weight"]].shape, attribute(node, "axis", -1)
        shape = trailing_shape(graph, node.input[0], own, axis)
        if shape is None:
            return Unknown(
                f"it normalizes from axis {axis} on, of an input whose rank the file does not tell", arrays, own
            )
        if any(misplaced(graph.entries[name].shape, shape) for name in arrays.values()):
            return Unknown(f"its weights of shape {own} lie along other axes than it normalizes over", arrays, own)
        return Norm(kind, arrays, shape, _float(node, "epsilon", 1e-5), False)

    return recognise


def trailing_shape(graph: Graph, name: str, own: tuple[int, ...], axis: int) -> tuple[int, ...] | None:
    """The shape that a norm of the axes from `axis` on has, by its weight or, where that is shorter, by its input."""
    known = graph.shape(name)
    count = -axis if axis < 0 else None if known is None else len(known) - axis
    if count is None:
        return None
    if count == len(own):
        return own
    sizes = known[len(known) - count :] if known is not None and len(known) >= count > 0 else ()
    return tuple(n for n in sizes if n is not None) if sizes and None not in sizes else None


def misplaced(own: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether an array has as many numbers as the last axes, of `shape`, but is broadcast along others."""
    if prod(own) != prod(shape) or prod(own) == 1:
        return False
    return _without_leading_ones(own) != _without_leading_ones(shape)


def _without_leading_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[next((i for i, n in enumerate(shape) if n != 1), len(shape)) :]


OPERATORS: dict[str, Callable[[Graph, Any], Norm | Unknown]] = {
    "BatchNormalization": batch_norm,
    "InstanceNormalization": instance_norm,
    "GroupNormalization": group_norm,
    "LayerNormalization": _trailing("layer"),
    "RMSNormalization": _trailing("rms"),
    "SimplifiedLayerNormalization": _trailing("rms"),
}
