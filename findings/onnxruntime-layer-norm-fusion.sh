#!/usr/bin/env bash
# onnxruntime 1.32.0, onnx 1.23.2.  The optimizer takes what looks like a layer norm in single operators for one, and does
# not look at the exponent nor at the order of the subtraction: (mean - x) / sqrt(variance) changes its sign, and the mean of
# fourth powers becomes that of squares.  The same results with and without optimization were expected.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
expect 'mean - x: plain 1.34, optimized -1.34; fourth power: plain -0.94, optimized -1.34' <<'PY'
import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper


def first(exponent, reverse, level):
    make = helper.make_node
    nodes = [
        make("ReduceMean", ["x"], ["mean"], axes=[-1], keepdims=1),
        make("Sub", ["mean", "x"] if reverse else ["x", "mean"], ["centred"]),
        make("Pow", ["centred", "exponent"], ["power"]),
        make("ReduceMean", ["power"], ["moment"], axes=[-1], keepdims=1),
        make("Add", ["moment", "eps"], ["above"]),
        make("Sqrt", ["above"], ["root"]),
        make("Div", ["centred", "root"], ["quotient"]),
        make("Mul", ["quotient", "scale"], ["scaled"]),
        make("Add", ["scaled", "shift"], ["y"]),
    ]
    constants = {"exponent": exponent, "eps": 1e-5, "scale": np.ones(4), "shift": np.zeros(4)}
    held = [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy")
    graph = helper.make_graph(nodes, "norm", [x], [y], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return round(float(session.run(None, {"x": np.arange(4, dtype=np.float32)[None]})[0][0, 0]), 2)


levels = onnxruntime.GraphOptimizationLevel
told = []
for name, exponent, reverse in (("mean - x", 2, True), ("fourth power", 4, False)):
    plain, optimized = (first(exponent, reverse, v) for v in (levels.ORT_DISABLE_ALL, levels.ORT_ENABLE_ALL))
    told.append(f"{name}: plain {plain}, optimized {optimized}")
print("; ".join(told))
PY
