"""Weights of a norm count only where they lie along its own axes, whatever their number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import fastbn
import fastbn.files

make = onnx.helper.make_node


def saved(path: Path, nodes: list[Any], shape: tuple[int, ...], **values: Any) -> Path:
    held = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()]
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in "xy")
    graph = onnx.helper.make_graph(nodes, "norm", [x], [y], held)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]), path / "model.onnx")
    return path / "model.onnx"


def found(path: Path) -> tuple[Any, str]:
    """The only norm of a file, as a layer or as what the file says of an unknown one."""
    with fastbn.files.read(path) as file:
        layers = list(file.layers().values())
        return (layers[0] if layers else None), " ".join(map(str, file.unknown.values()))


@pytest.mark.parametrize(("scale", "known"), [((4,), True), ((1, 4), True), ((4, 1), False), ((1, 4, 1), False)])
@pytest.mark.parametrize("written_out", [False, True])
def test_trailing_norms(tmp_path: Path, scale: tuple[int, ...], known: bool, written_out: bool) -> None:
    nodes = [make("LayerNormalization", ["x", "scale"], ["y"], axis=-1)]
    if written_out:
        nodes = [
            make("Pow", ["x", "two"], ["squares"]),
            make("ReduceMean", ["squares"], ["mean"], axes=[-1]),
            make("Add", ["mean", "eps"], ["above"]),
            make("Sqrt", ["above"], ["root"]),
            make("Div", ["x", "root"], ["quotient"]),
            make("Mul", ["quotient", "scale"], ["y"]),
        ]
    weight = np.arange(4, dtype=np.float32).reshape(scale)
    path = saved(tmp_path, nodes, (2, 4, 4), two=np.float32(2), eps=np.float32(1e-3), scale=weight)
    layer, why = found(path)
    if known:
        assert (layer.weight == weight.ravel()).all()
    else:
        assert layer is None
        assert "other axes" in why


@pytest.mark.parametrize(
    ("scale", "known"), [((4, 1, 1), True), ((1, 4, 1, 1), True), ((4,), False), ((4, 1), False), ((1, 1, 4, 1), False)]
)
def test_group_norm_of_a_square(tmp_path: Path, scale: tuple[int, ...], known: bool) -> None:
    weight = np.arange(4, dtype=np.float32).reshape(scale)
    layer, _ = found(saved(tmp_path, group_norm(), (2, 4, 4, 4), **constants([0, 2, -1], [2, 4, 4, 4]), scale=weight))
    assert isinstance(layer, fastbn.GroupNorm)
    assert (layer.num_groups, layer.num_channels) == (2, 4)
    assert (layer.weight is not None) == known
    if known:
        assert (layer.weight == weight.ravel()).all()


@pytest.mark.parametrize(
    ("groups", "known"),
    [([0, 2, -1], True), ([2, 2, -1], True), ([-1, 2, 32], True), ([1, 2, -1], False), ([-1, 2, 16], False)],
)
def test_groups_of_each_sample(tmp_path: Path, groups: list[int], known: bool) -> None:
    values = constants(groups, [2, 4, 4, 4])
    layer, why = found(saved(tmp_path, group_norm(), (2, 4, 4, 4), **values, scale=np.ones((4, 1, 1), np.float32)))
    assert (layer is not None) == known
    assert known or "several samples" in why


def group_norm() -> list[Any]:
    return [
        make("Reshape", ["x", "groups"], ["split"]),
        make("InstanceNormalization", ["split", "one", "zero"], ["normal"]),
        make("Reshape", ["normal", "joint"], ["joined"]),
        make("Mul", ["joined", "scale"], ["y"]),
    ]


def constants(groups: list[int], shape: list[int]) -> dict[str, Any]:
    one = np.ones(2, np.float32)
    return {"groups": np.array(groups), "joint": np.array(shape), "one": one, "zero": 0 * one}
