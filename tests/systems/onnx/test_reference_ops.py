"""fastbn.onnx: ONNX's reference evaluator with fastbn's operators, beside ONNX's node cases and ONNX Runtime."""

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnx.backend.test.loader import load_model_tests
from onnx.reference import ReferenceEvaluator

import fastbn
from fastbn import reference

OPERATORS = {
    "BatchNormalization",
    "LayerNormalization",
    "GroupNormalization",
    "InstanceNormalization",
    "RMSNormalization",
    "MeanVarianceNormalization",
}
CASES = [
    case
    for case in load_model_tests(kind="node")
    if case.model is not None and any(node.op_type in OPERATORS for node in case.model.graph.node)
]


def one_node(operator, inputs, outputs=("y",), opset=15, **attributes):
    """A model of one node; inputs: arrays by name."""
    node = helper.make_node(operator, list(inputs), list(outputs), **attributes)
    types = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.float64): TensorProto.DOUBLE}
    ins = [helper.make_tensor_value_info(n, types[a.dtype], a.shape) for n, a in inputs.items()]
    kind = types[next(iter(inputs.values())).dtype]
    graph = helper.make_graph([node], "one", ins, [helper.make_tensor_value_info(n, kind, None) for n in outputs])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def evaluate(model, inputs):
    return ReferenceEvaluator(model, new_ops=fastbn.onnx.reference_ops()).run(None, inputs)


def by_runtime(model, inputs):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


def data(shape=(4, 6, 5, 7), seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def batch_norm_inputs(shape=(4, 6, 5, 7)):
    rng, channels = np.random.default_rng(1), shape[1]
    given = {name: rng.uniform(0.5, 2, channels).astype(np.float32) for name in ("scale", "bias", "mean", "var")}
    return {"x": data(shape), **given}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_node_cases(case):
    for inputs, expected in case.data_sets:
        names = [value.name for value in case.model.graph.input]
        outputs = evaluate(case.model, dict(zip(names, inputs, strict=False)))
        for y, wanted in zip(outputs, expected, strict=True):
            np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=2e-6)


def test_the_cases_are_all_there():
    counted = Counter(node.op_type for case in CASES for node in case.model.graph.node if node.op_type in OPERATORS)
    assert set(counted) == OPERATORS
    assert sum(counted.values()) >= 47


@pytest.mark.parametrize("opset", [7, 8, 9, 13, 14, 15])
def test_batch_norm_in_inference_in_every_version(opset):
    inputs = batch_norm_inputs()
    model = one_node("BatchNormalization", inputs, opset=opset, epsilon=1e-3)
    (y,), (expected,) = evaluate(model, inputs), by_runtime(model, inputs)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5)


def test_batch_norm_in_training():
    inputs = batch_norm_inputs()
    names = ("y", "running_mean", "running_var")
    model = one_node("BatchNormalization", inputs, names, training_mode=1, momentum=0.8)
    for y, expected in zip(evaluate(model, inputs), by_runtime(model, inputs), strict=True):
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_batch_norm_of_one_value_a_channel_in_training():
    inputs = batch_norm_inputs((1, 6, 1, 1))
    model = one_node("BatchNormalization", inputs, ("y", "m", "v"), training_mode=1)
    y, mean, var = evaluate(model, inputs)
    np.testing.assert_array_equal(y.reshape(-1), inputs["bias"])
    np.testing.assert_allclose(mean, 0.9 * inputs["mean"] + 0.1 * inputs["x"].reshape(-1), rtol=1e-6)
    np.testing.assert_allclose(var, 0.9 * inputs["var"], rtol=1e-6)


def test_batch_norm_of_version_one_and_per_element():
    inputs = batch_norm_inputs()
    model = one_node("BatchNormalization", inputs, opset=6, is_test=1)
    expected = one_node("BatchNormalization", inputs, opset=15)
    np.testing.assert_array_equal(evaluate(model, inputs)[0], evaluate(expected, inputs)[0])
    x = data((5, 2, 3))
    each = {"x": x, **{n: data((2, 3), i) ** 2 + 0.5 for i, n in enumerate(("scale", "bias", "mean", "var"))}}
    (y,) = evaluate(one_node("BatchNormalization", each, opset=7, spatial=0), each)
    scale, bias, mean, var = (each[n].astype(np.float64) for n in ("scale", "bias", "mean", "var"))
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(var + 1e-5) * scale + bias, rtol=0, atol=1e-5)


@pytest.mark.parametrize("length", [3, 6])
def test_group_norm_takes_a_scale_a_group_or_a_channel(length):
    x = data()
    inputs = {"x": x, "scale": data((length,), 1), "bias": data((length,), 2)}
    (y,) = evaluate(one_node("GroupNormalization", inputs, opset=18 if length == 3 else 21, num_groups=3), inputs)
    each = [np.repeat(inputs[n], 6 // length) for n in ("scale", "bias")]
    np.testing.assert_allclose(y, reference.group_norm(x, 3, *each), rtol=0, atol=2e-6)


@pytest.mark.parametrize("axes", [(0, 2, 3), (1,), (0, 1, 2, 3), (-1,)])
@pytest.mark.parametrize("scale", [1.0, 1e-9])
def test_mean_variance_normalization(axes, scale):
    x = data(dtype=np.float64) * scale + 3.0 * scale
    (y,) = evaluate(one_node("MeanVarianceNormalization", {"x": x}, opset=13, axes=axes), {"x": x})
    expected = (x - x.mean(axes, keepdims=True)) / (x.std(axes, keepdims=True) + 1e-9)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-9)


def test_a_large_mean_costs_no_digits():
    x = (data((8, 64)) + 1e4).astype(np.float32)
    inputs = {"x": x, "scale": np.ones(64, np.float32), "bias": np.zeros(64, np.float32)}
    (y,) = evaluate(one_node("LayerNormalization", inputs, opset=17), inputs)
    np.testing.assert_allclose(y, reference.layer_norm(x, 64), rtol=0, atol=1e-6)


def test_a_constant_is_its_bias():
    inputs = {"x": np.full((2, 3, 4), 1e5, np.float32), "scale": data((3,)), "bias": data((3,), 1)}
    (y,) = evaluate(one_node("InstanceNormalization", inputs, opset=6), inputs)
    np.testing.assert_array_equal(y, np.broadcast_to(inputs["bias"][:, None], y.shape))


def test_onnx_itself_is_left_alone():
    assert onnx.reference.ops.load_op("", "LayerNormalization", 17).__module__.startswith("onnx.")
