#!/usr/bin/env bash
# onnxslim 0.1.98, onnx 1.23.2, onnxruntime 1.32.0.  A vector that is multiplied onto the result of a convolution counts along the
# width, by ONNX's broadcasting.  onnxslim folds it into the convolution as one scale a channel where it has as many elements
# as there are channels.  The same results as before were expected, or the multiplication left as it is.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install onnxslim==0.1.98 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
expect 'before [[1.0, 2.0], [1.0, 2.0]], slimmed [[1.0, 1.0], [2.0, 2.0]]' <<'PY'
import numpy as np
import onnxruntime
import onnxslim
from onnx import TensorProto, helper, numpy_helper

nodes = [helper.make_node("Conv", ["x", "weight"], ["c"]), helper.make_node("Mul", ["c", "scale"], ["y"])]
constants = {"weight": np.ones((2, 1, 1, 1), np.float32), "scale": np.array([1, 2], np.float32)}
graph = helper.make_graph(
    nodes,
    "scaled",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 1, 2])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, 1, 2])],
    [numpy_helper.from_array(value, name) for name, value in constants.items()],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def channels(model):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.ones((1, 1, 1, 2), np.float32)})[0].reshape(2, 2).tolist()


before = channels(model)
print(f"before {before}, slimmed {channels(onnxslim.slim(model))}")
PY
