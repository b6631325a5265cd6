#!/usr/bin/env bash
# onnxconverter-common 1.16.0, onnx 1.23.2.  `convert_float_to_float16` makes every number over 10,000 of a model 10,000, though float16 goes to
# 65,504, and every number below 1e-7 that is not 0 1e-7: a warning tells so.  A running mean of 20,000 and variance of 40,000 become 10,000
# both, and 20,200, which batch norm turns into 1, becomes 102.  Only numbers that do not fit were expected to change.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install onnxconverter-common==1.16.0 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
expect 'mean 20000.0 -> 10000.0, variance 40000.0 -> 10000.0
result 1.0 -> 102.0' <<'PY'
import warnings

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxconverter_common import float16

warnings.simplefilter("ignore")
values = {"scale": 1.0, "bias": 0.0, "mean": 20_000.0, "variance": 40_000.0}
graph = helper.make_graph(
    [helper.make_node("BatchNormalization", ["x", *values], ["y"])],
    "norm",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1])],
    [numpy_helper.from_array(np.array([value], np.float32), name) for name, value in values.items()],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
models = [model, float16.convert_float_to_float16(model, keep_io_types=True)]


def stored(name):
    found = [next(i for i in m.graph.initializer if i.name == name) for m in models]
    return " -> ".join(str(numpy_helper.to_array(i).item()) for i in found)


def result(m):
    session = onnxruntime.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"])
    return round(session.run(None, {"x": np.array([[20_200.0]], np.float32)})[0].item(), 2)


print(f"mean {stored('mean')}, variance {stored('variance')}")
print("result", " -> ".join(str(result(m)) for m in models))
PY
