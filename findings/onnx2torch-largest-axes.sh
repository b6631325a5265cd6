#!/usr/bin/env bash
# onnx2torch 1.5.15, onnx 1.23.2, torch 2.13.0.  ReduceMax, ReduceMin and ReduceProd go one axis at a time, in sorted order, and count down the axes that follow by
# those already gone, which is right for axes counted from the front only.  The maximum over [-2, -1], height and width, without keepdims
# is taken over height, then over -2, by now the channels: of 2 images of 3 channels come 2 by 5 numbers, one for each column, and where width
# and channels agree nothing fails.  Means, sums and norms over the same axes are right, as is [2, 3], and so is keepdims=1.  The maximum
# over the axes that are written was expected.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install onnx==1.23.2 torch==2.13.0 numpy==2.4.6
"$folder/environment/bin/pip" install --no-deps onnx2torch==1.5.15 # torchvision is for boxes only
expect 'ReduceMean over [-2, -1]: (2, 3), as ONNX says True
ReduceMax over [-2, -1]: (2, 5), as ONNX says False
ReduceMin over [-2, -1]: (2, 5), as ONNX says False
ReduceProd over [-2, -1]: (2, 5), as ONNX says False
ReduceMax over [2, 3]: (2, 3), as ONNX says True
ReduceMax over [0, -1]: (2, 3), as ONNX says False
ReduceMax over [-2, -1] of as many columns as channels: (2, 3), as ONNX says False' <<'PY'
import sys
import types
import warnings

warnings.simplefilter("ignore")
sys.modules["torchvision"] = types.ModuleType("torchvision")
sys.modules["torchvision.ops"] = types.ModuleType("torchvision.ops")
sys.modules["torchvision.ops"].roi_align = None

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from onnx2torch import convert

for op, axes, columns, said in (
    ("ReduceMean", [-2, -1], 5, ""),
    ("ReduceMax", [-2, -1], 5, ""),
    ("ReduceMin", [-2, -1], 5, ""),
    ("ReduceProd", [-2, -1], 5, ""),
    ("ReduceMax", [2, 3], 5, ""),
    ("ReduceMax", [0, -1], 5, ""),
    ("ReduceMax", [-2, -1], 3, " of as many columns as channels"),
):
    x = np.random.default_rng(0).standard_normal((2, 3, 4, columns)).astype(np.float32)
    shape = [size for axis, size in enumerate(x.shape) if axis not in (axes[0] % 4, axes[1] % 4)]
    graph = helper.make_graph(
        [helper.make_node(op, ["x"], ["y"], axes=axes, keepdims=0)],
        "reduced",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    found = convert(model)(torch.from_numpy(x)).numpy()
    true = ReferenceEvaluator(model).run(None, {"x": x})[0]
    same = found.shape == true.shape and np.allclose(found, true, rtol=1e-4)
    print(f"{op} over {axes}{said}: {found.shape}, as ONNX says {same}")
PY
