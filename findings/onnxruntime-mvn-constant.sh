#!/usr/bin/env bash
# onnxruntime 1.32.0, onnx 1.23.2.  MeanVarianceNormalization is (x - mean) / (std + 1e-9) by its definition, a function of simpler
# operators; ONNX Runtime leaves the 1e-9 out, and a constant channel, such as one of a black image, becomes NaN.  0 was expected, as
# onnx's ReferenceEvaluator gives, and as ONNX Runtime itself gives for the same steps written out.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
expect 'reference [0.0, 0.0], runtime [nan, nan], written out [0.0, 0.0]' <<'PY'
import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

feed = {"x": np.full((1, 1, 1, 2), 5, np.float32)}
one = [helper.make_node("MeanVarianceNormalization", ["x"], ["y"], axes=[0, 2, 3])]
steps = [
    helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0, 2, 3]),
    helper.make_node("Sub", ["x", "mean"], ["d"]),
    helper.make_node("Mul", ["d", "d"], ["squared"]),
    helper.make_node("ReduceMean", ["squared"], ["var"], axes=[0, 2, 3]),
    helper.make_node("Sqrt", ["var"], ["std"]),
    helper.make_node("Add", ["std", "epsilon"], ["divisor"]),
    helper.make_node("Div", ["d", "divisor"], ["y"]),
]
epsilon = numpy_helper.from_array(np.array(1e-9, np.float32), "epsilon")


def model(nodes, *constants):
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, 1, 2]) for name in "xy")
    graph = helper.make_graph(nodes, "g", [x], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def runtime(*parts):
    content = model(*parts).SerializeToString()
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, feed)[0].ravel().tolist()


reference = ReferenceEvaluator(model(one)).run(None, feed)[0].ravel().tolist()
print(f"reference {reference}, runtime {runtime(one)}, written out {runtime(steps, epsilon)}")
PY
