#!/usr/bin/env bash
# openvino 2026.4.1, onnx 1.23.2, onnxruntime 1.32.0.  LayerNormalization along the last axis with a scale of shape (rows, 1), one number
# for each row: where there are as many columns, OpenVINO takes the numbers for those of the columns.  And an RMS norm written out in
# single operators with a scale that has an axis more than x: the result has lost that axis.  What ONNX Runtime gives was expected.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install openvino==2026.4.1 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
expect 'scale of rows: OpenVINO [[-1.0, 10.0], [-1.0, 10.0]], runtime [[-1.0, 1.0], [-10.0, 10.0]]
scale of (1, 1, 2): OpenVINO (2, 2), runtime (1, 2, 2)' <<'PY'
import numpy as np
import onnxruntime
import openvino
from onnx import TensorProto, helper, numpy_helper

x = np.array([[1, 2], [3, 5]], np.float32)
core = openvino.Core()


def results(nodes, shape, **constants):
    held = [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()]
    first, last = (helper.make_tensor_value_info(*pair) for pair in (("x", TensorProto.FLOAT, [2, 2]), ("y", TensorProto.FLOAT, shape)))
    graph = helper.make_graph(nodes, "norm", [first], [last], held)
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    compiled = core.compile_model(core.read_model(content), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return compiled([x])[0], session.run(None, {"x": x})[0]


make = helper.make_node
layer = [make("LayerNormalization", ["x", "scale"], ["y"], epsilon=1e-9)]
first, second = (y.round(2).tolist() for y in results(layer, [2, 2], scale=[[1], [10]]))
print(f"scale of rows: OpenVINO {first}, runtime {second}")
rms = [
    make("Pow", ["x", "two"], ["squares"]),
    make("ReduceMean", ["squares"], ["mean"], axes=[-1]),
    make("Add", ["mean", "epsilon"], ["above"]),
    make("Sqrt", ["above"], ["root"]),
    make("Div", ["x", "root"], ["normal"]),
    make("Mul", ["normal", "scale"], ["y"]),
]
first, second = (y.shape for y in results(rms, [1, 2, 2], two=2, epsilon=1e-6, scale=np.ones((1, 1, 2))))
print(f"scale of (1, 1, 2): OpenVINO {first}, runtime {second}")
PY
