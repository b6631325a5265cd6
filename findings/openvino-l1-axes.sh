#!/usr/bin/env bash
# openvino 2026.4.1, onnx 1.23.2, onnxruntime 1.32.0.  ReduceL1 has its axes as an attribute up to operator set 17.  From 13 on OpenVINO
# looks for them among the inputs, where ReduceSum has them since then, finds none and reduces over all: rows that a model divides by
# their L1 norm are divided by that of the whole batch.  ReduceLogSum and ReduceLogSumExp, too, ReduceL2 not.  Rows whose magnitudes add
# up to 1 were expected.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install openvino==2026.4.1 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
expect 'operator set 12: OpenVINO [[0.25, -0.75], [0.5, 0.5]], ONNX Runtime [[0.25, -0.75], [0.5, 0.5]]
operator set 13: OpenVINO [[0.125, -0.375], [0.25, 0.25]], ONNX Runtime [[0.25, -0.75], [0.5, 0.5]]
operator set 17: OpenVINO [[0.125, -0.375], [0.25, 0.25]], ONNX Runtime [[0.25, -0.75], [0.5, 0.5]]' <<'PY'
import numpy as np
import onnxruntime
import openvino
from onnx import TensorProto, helper

values = np.array([[1, -3], [2, 2]], np.float32)
core = openvino.Core()
for version in (12, 13, 17):
    nodes = [
        helper.make_node("ReduceL1", ["x"], ["norm"], axes=[1], keepdims=1),
        helper.make_node("Div", ["x", "norm"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 2]) for name in "xy")
    graph = helper.make_graph(nodes, "l1", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=8)
    content = model.SerializeToString()
    compiled = core.compile_model(core.read_model(content), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    results = [compiled([values])[0], session.run(None, {"x": values})[0]]
    first, second = (np.round(result, 3).tolist() for result in results)
    print(f"operator set {version}: OpenVINO {first}, ONNX Runtime {second}")
PY
