#!/usr/bin/env bash
# onnx 1.23.2, onnxruntime 1.32.0.  BatchNormalization in inference, operator set 9 to 13: onnx's ReferenceEvaluator blends
# the batch's mean and variance into the ones it is given, so that its mean of 2 counts a tenth and more.  The same
# from both was expected: (x - 0) / 1 = x.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
expect 'operator set 9: reference [0.8, 2.8], runtime [1.0, 3.0]; operator set 15: reference [1.0, 3.0], runtime [1.0, 3.0]' <<'PY'
import numpy as np
import onnxruntime
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

names = ["x", "scale", "bias", "mean", "var"]
arrays = [np.array([[1], [3]], np.float32), *(np.full(1, v, np.float32) for v in (1, 0, 0, 1))]
feed = dict(zip(names, arrays))
told = []
for version in (9, 15):
    node = helper.make_node("BatchNormalization", names, ["y"], epsilon=0.0)
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, a.shape) for n, a in feed.items()]
    graph = helper.make_graph([node], "one", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 1])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    results = [run.run(None, feed)[0].ravel() for run in (ReferenceEvaluator(model), session)]
    reference, runtime = ([round(float(v), 2) for v in r] for r in results)
    told.append(f"operator set {version}: reference {reference}, runtime {runtime}")
print("; ".join(told))
PY
