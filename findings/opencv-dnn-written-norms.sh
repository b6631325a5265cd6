#!/usr/bin/env bash
# opencv-python-headless 5.0.0.93, onnx 1.23.2, onnxruntime 1.32.0.  OpenCV's importer takes what looks like a layer norm or a group norm in
# single operators for one, and does not look at what is divided, at the groups, nor along which axis the scale lies: x / deviation has
# the mean subtracted, two samples normalized together are normalized each for itself, a scale along the height counts along the
# channels.  The results that ONNX Runtime gives without optimization were expected.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install opencv-python-headless==5.0.0.93 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
expect 'x / deviation: runtime [0.45, 1.34, 2.24, 3.13], OpenCV [-1.34, -0.45, 0.45, 1.34]
both samples in one group: runtime [-1.26, -0.63, 0.63, 1.26], OpenCV [-1.0, 1.0, -1.0, 1.0]
scale along the height: runtime [-1.0, 10.0, -1.0, 10.0], OpenCV [-1.0, 1.0, -10.0, 10.0]' <<'PY'
import cv2
import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

make = helper.make_node


def results(x, nodes, constants):
    held = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    first, last = (helper.make_tensor_value_info(name, TensorProto.FLOAT, x.shape) for name in "xy")
    graph = helper.make_graph(nodes, "norm", [first], [last], held)
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    network = cv2.dnn.readNetFromONNX(np.frombuffer(content, np.uint8))
    network.setInput(x)
    given = session.run(None, {"x": x})[0], network.forward()
    runtime, opencv = (y.astype(np.float64).round(2).ravel().tolist() for y in given)
    return f"runtime {runtime}, OpenCV {opencv}"


def layer_norm(x, divided):
    nodes = [
        make("ReduceMean", ["x"], ["mean"], axes=[-1]),
        make("Sub", ["x", "mean"], ["centred"]),
        make("Pow", ["centred", "two"], ["squares"]),
        make("ReduceMean", ["squares"], ["variance"], axes=[-1]),
        make("Add", ["variance", "epsilon"], ["above"]),
        make("Sqrt", ["above"], ["deviation"]),
        make("Div", [divided, "deviation"], ["quotient"]),
        make("Mul", ["quotient", "scale"], ["scaled"]),
        make("Add", ["scaled", "shift"], ["y"]),
    ]
    width = x.shape[-1]
    constants = {"two": 2, "epsilon": 1e-9, "scale": np.ones(width), "shift": np.zeros(width)}
    return results(x, nodes, {name: np.asarray(value, np.float32) for name, value in constants.items()})


def group_norm(x, groups, scale):
    nodes = [
        make("Reshape", ["x", "groups"], ["split"]),
        make("InstanceNormalization", ["split", "ones", "zeros"], ["normal"], epsilon=1e-9),
        make("Reshape", ["normal", "shape"], ["joined"]),
        make("Mul", ["joined", "scale"], ["scaled"]),
        make("Add", ["scaled", "shift"], ["y"]),
    ]
    constants = {"ones": np.ones(groups[1]), "zeros": np.zeros(groups[1]), "scale": scale, "shift": np.zeros_like(scale)}
    held = {name: np.asarray(value, np.float32) for name, value in constants.items()}
    return results(x, nodes, held | {"groups": np.array(groups), "shape": np.array(x.shape)})


print("x / deviation:", layer_norm(np.array([[[1, 3, 5, 7]]], np.float32), "x"))
values = np.array([0, 2, 6, 8], np.float32)
print("both samples in one group:", group_norm(values.reshape(2, 2, 1, 1), (1, 1, -1), np.ones((2, 1, 1))))
print("scale along the height:", group_norm(values.reshape(1, 2, 2, 1), (0, 2, -1), [[1], [10]]))
PY
