#!/usr/bin/env bash
# onnxscript 0.7.2, onnx_ir 1.1.0, onnx 1.23.2, onnxruntime 1.32.0.  A BatchNormalization with training_mode=1 takes its statistics
# from the batch.  onnxscript's optimizer drops that attribute where nobody reads the new running statistics, and folds the
# norm, with the ones that were given, into the Gemm before it.  The same results as before were expected.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install onnxscript==0.7.2 onnx_ir==1.1.0 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
expect 'before [-1.0, 1.0], optimized [-4.5, -3.5]' <<'PY'
import numpy as np
import onnxruntime
import onnxscript.optimizer
from onnx import TensorProto, helper, numpy_helper

values = {"weight": [[1]], "scale": [1], "shift": [0], "mean": [10], "var": [4]}
held = [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in values.items()]
nodes = [
    helper.make_node("Gemm", ["x", "weight"], ["c"]),
    helper.make_node(
        "BatchNormalization",
        ["c", "scale", "shift", "mean", "var"],
        ["y", "new_mean", "new_var"],
        training_mode=1,
        epsilon=1e-9,
    ),
]
x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 1]) for name in "xy")
graph = helper.make_graph(nodes, "trains", [x], [y], held)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def results(model):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    computed = session.run(None, {"x": np.array([[1], [3]], np.float32)})[0]
    return [round(float(value), 2) for value in computed.ravel()]


before = results(model)
print(f"before {before}, optimized {results(onnxscript.optimizer.optimize(model))}")
PY
