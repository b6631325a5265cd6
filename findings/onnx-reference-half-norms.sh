#!/usr/bin/env bash
# onnx 1.23.2, onnxruntime 1.32.0.  LayerNormalization and RMSNormalization of float16 with stash_type 1, that is, float32 inside:
# onnx's ReferenceEvaluator takes no other stash_type, and sums in float16 all the same, so that values of 300 give 0 or NaN.
# What ONNX Runtime computes was expected of both: about 1 and -1, and 1.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
expect 'LayerNormalization: reference [0.0, -0.0], runtime [1.0, -1.0]; RMSNormalization: reference [0.0, -0.0], runtime [1.0, -1.0]' <<'PY'
import warnings

import numpy as np
import onnxruntime
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

warnings.simplefilter("ignore")
feed = {"x": np.array([[300, -300]], np.float16), "scale": np.ones(2, np.float16)}
told = []
for name in ("LayerNormalization", "RMSNormalization"):
    node = helper.make_node(name, ["x", "scale"], ["y"], stash_type=1)
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT16, a.shape) for n, a in feed.items()]
    graph = helper.make_graph([node], "one", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT16, [1, 2])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    reference, runtime = (run.run(None, feed)[0][0].tolist() for run in (ReferenceEvaluator(model), session))
    told.append(f"{name}: reference {reference}, runtime {runtime}")
print("; ".join(told))
PY
