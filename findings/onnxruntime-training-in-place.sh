#!/usr/bin/env bash
# onnxruntime 1.32.0, onnx 1.23.2.  BatchNormalization with training_mode=1 writes its new running statistics over the ones it was
# given, and the optimizer has by then made one of all constants of equal value: of a fresh layer, bias and mean, scale and variance.
# So the norm's own bias and scale change, and the same input gives another result in every run.  [-1, 1] was expected of every
# run, as without optimization, where a model in which they are one constant from the start does the same.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
expect 'plain [[-1.0, 1.0], [-1.0, 1.0]]; optimized [[-0.8, 1.2], [-0.62, 1.38]]' <<'PY'
import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

values = {"scale": [1, 1], "bias": [0, 0], "mean": [0, 0], "var": [1, 1]}
held = [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in values.items()]
outputs = ["y", "new_mean", "new_var"]
node = helper.make_node("BatchNormalization", ["x", *values], outputs, training_mode=1, epsilon=1e-9)
x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 2]) for n in "xy")
graph = helper.make_graph([node], "trains", [x], [y], held)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
feed = {"x": np.array([[1, 1], [3, 3]], np.float32)}
levels = onnxruntime.GraphOptimizationLevel
told = []
for name, level in (("plain", levels.ORT_DISABLE_ALL), ("optimized", levels.ORT_ENABLE_ALL)):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    runs = [[round(float(v), 2) for v in session.run(None, feed)[0][:, 0]] for _ in range(2)]
    told.append(f"{name} {runs}")
print("; ".join(told))
PY
