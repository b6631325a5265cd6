#!/usr/bin/env bash
# apache-tvm 0.27.0.post1, onnx 1.23.2, onnxruntime 1.32.0.  ONNX's LayerNormalization has two more outputs, the mean and the inverse of the
# standard deviation, which the gradients take.  TVM's frontend gives 0 for both, without a word.  The mean and the inverse deviation of
# each row were expected, or an error.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install apache-tvm==0.27.0.post1 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
expect 'runtime: y [[-1.0, 1.0], [-1.0, 1.0]], mean [[2.0], [15.0]], inverse [[1.0], [0.2]]
TVM: y [[-1.0, 1.0], [-1.0, 1.0]], mean 0.0, inverse 0.0' <<'PY'
import numpy as np
import onnxruntime
import tvm
from onnx import TensorProto, helper, numpy_helper
from tvm import relax
from tvm.relax.frontend.onnx import from_onnx

values = np.array([[1, 3], [10, 20]], np.float32)
shapes = {"y": [2, 2], "mean": [2, 1], "inverse": [2, 1]}
node = helper.make_node("LayerNormalization", ["x", "scale"], list(shapes), epsilon=0.0)
x, *outputs = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in {"x": [2, 2], **shapes}.items())
scale = numpy_helper.from_array(np.ones(2, np.float32), "scale")
graph = helper.make_graph([node], "norm", [x], outputs, [scale])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
compiled = tvm.compile(relax.transform.LegalizeOps()(from_onnx(model)), target="llvm")
machine = relax.VirtualMachine(compiled, tvm.cpu())
given = {"runtime": session.run(None, {"x": values}), "TVM": [o.numpy() for o in machine["main"](tvm.runtime.tensor(values))]}
for name, results in given.items():
    told = (f"{key} {np.round(value.astype(float), 2).tolist()}" for key, value in zip(shapes, results))
    print(f"{name}: {', '.join(told)}")
PY
