"""A norm written out in simpler operators is a layer norm only where its mean and variance are of the same axes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import fastbn
import fastbn.files


@pytest.mark.parametrize(("axes", "kind"), [([-1], fastbn.LayerNorm), ([-2, -1], fastbn.RMSNorm)])
def test_mean_and_variance_of_the_same_axes(tmp_path: Path, axes: list[int], kind: type) -> None:
    make = onnx.helper.make_node
    nodes = [
        make("ReduceMean", ["x"], ["mean"], axes=axes, keepdims=1),
        make("Sub", ["x", "mean"], ["centred"]),
        make("Pow", ["centred", "two"], ["squares"]),
        make("ReduceMean", ["squares"], ["variance"], axes=[-1], keepdims=1),
        make("Add", ["variance", "eps"], ["above"]),
        make("Sqrt", ["above"], ["root"]),
        make("Div", ["centred", "root"], ["quotient"]),
        make("Mul", ["quotient", "scale"], ["y"]),
    ]
    values = {"two": np.float32(2), "eps": np.float32(1e-3), "scale": np.arange(1, 6, dtype=np.float32)}
    held = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()]
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2, 3, 5]) for name in "xy")
    graph = onnx.helper.make_graph(nodes, "written_out", [x], [y], held)
    path = tmp_path / "model.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)]), path)
    with fastbn.files.read(path) as file:
        (norm,) = file.layers().values()
    assert type(norm) is kind
