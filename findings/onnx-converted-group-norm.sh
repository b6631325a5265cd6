#!/usr/bin/env bash
# onnx 1.23.2, onnxruntime 1.32.0.  Until opset 20 GroupNormalization has a scale and a bias for each group, from 21 on for each channel.  The version
# converter changes the number of the opset, and no scale.  Of a model of 18, which ONNX Runtime runs and the checker refuses as deprecated, it
# makes one that the checker passes and ONNX Runtime refuses.  Scales repeated for each channel were expected.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
expect 'opset 18: scale [2], checked False, run True
opset 21: scale [2], checked True, run False' <<'PY'
import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

onnxruntime.set_default_logger_severity(4)
x = np.random.default_rng(0).normal(size=(2, 4, 3, 3)).astype(np.float32)
weights = [numpy_helper.from_array(np.ones(2, np.float32), name) for name in ("scale", "bias")]
ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, x.shape) for name in "xy"]
node = helper.make_node("GroupNormalization", ["x", "scale", "bias"], ["y"], num_groups=2)
graph = helper.make_graph([node], "norm", ends[:1], ends[1:], weights)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def works(function, *arguments, **settings):
    try:
        function(*arguments, **settings)
    except Exception:
        return False
    return True


def run(model):
    onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})


for given in (model, onnx.version_converter.convert_version(model, 21)):
    checked = works(onnx.checker.check_model, given, full_check=True)
    scale = next(weight for weight in given.graph.initializer if weight.name == "scale")
    opset = given.opset_import[0].version
    print(f"opset {opset}: scale {list(scale.dims)}, checked {checked}, run {works(run, given)}")
PY
