#!/usr/bin/env bash
# onnx 1.23.2, onnxruntime 1.32.0.  onnx's ReferenceEvaluator sums LRN's squares for as many channels as there are samples, so
# that of one sample all channels but the first are not normalized; and its LpNormalization with p = 1 divides by the sum of
# the values, not of their magnitudes.  What ONNX Runtime computes was expected of both.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
expect 'LRN: reference [0.6, -3.0], runtime [0.6, -0.43]; LpNormalization: reference [-0.5, 1.5], runtime [0.25, -0.75]' <<'PY'
import numpy as np
import onnxruntime
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

feed = {"x": np.array([1, -3], np.float32).reshape(1, 2, 1, 1)}
told = []
for name, options in (
    ("LRN", {"size": 1, "alpha": 2.0 / 3, "beta": 1.0, "bias": 1.0}),
    ("LpNormalization", {"axis": 1, "p": 1}),
):
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 2, 1, 1]) for n in "xy")
    graph = helper.make_graph([helper.make_node(name, ["x"], ["y"], **options)], "one", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    results = [run.run(None, feed)[0].ravel() for run in (ReferenceEvaluator(model), session)]
    reference, runtime = ([round(float(v), 2) for v in r] for r in results)
    told.append(f"{name}: reference {reference}, runtime {runtime}")
print("; ".join(told))
PY
