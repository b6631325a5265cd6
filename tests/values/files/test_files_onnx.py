"""ONNX graphs made node by node: every opset's normalizations, and what is not folded."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import fastbn
from fastbn import files

RNG = np.random.default_rng(0)
X = RNG.normal(1, 2, (2, 6, 3, 4)).astype(np.float32)
SIX = {name: RNG.uniform(0.5, 2, 6).astype(np.float32) for name in ("scale", "bias", "mean", "var")}


def model_of(path, nodes, constants, opset, outputs=("y",), shape=(2, 6, 3, 4)):
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 4) for name in outputs]
    graph = helper.make_graph(nodes, "g", [x], made, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    path.write_bytes(model.SerializeToString())
    return path


def node(operator, inputs, outputs=("y",), **attributes):
    return helper.make_node(operator, list(inputs), list(outputs), name=outputs[0], **attributes)


def batch(source="x", output="y", **attributes):
    return node("BatchNormalization", [source, *SIX], [output], **attributes)


EXPECTED = fastbn.batch_norm(X, SIX["mean"], SIX["var"], SIX["scale"], SIX["bias"], eps=1e-3)


@pytest.mark.parametrize("opset", [6, 7, 9, 14, 15])
def test_batch_norm_of_every_opset(tmp_path, opset):
    more = {"is_test": 1} if opset == 6 else {"spatial": 1} if opset == 7 else {}
    path = model_of(tmp_path / "m.onnx", [batch(epsilon=1e-3, momentum=0.8, **more)], SIX, opset)
    with files.read(path) as file:
        layer = file.layers(eps=7.0)["y"]
        assert (layer.eps, layer.momentum) == (1e-3, 0.2)
        np.testing.assert_allclose(layer(X), EXPECTED, rtol=1e-6)


@pytest.mark.parametrize(
    ("opset", "outputs", "more"), [(15, ("y", "m", "v"), {"training_mode": 1}), (9, ("y", *"mvab"), {})]
)
def test_a_batch_norm_that_trains_is_unknown(tmp_path, opset, outputs, more):
    path = model_of(tmp_path / "m.onnx", [node("BatchNormalization", ["x", *SIX], outputs, **more)], SIX, opset)
    with files.read(path) as file:
        assert file.layers() == {}
        assert "it trains" in file.unknown["y"]


def test_names_are_not_asked(tmp_path):
    """torch's exporter merges equal initializers: a running mean may be the tensor "bias"."""
    names = {"scale": "a.running_var", "bias": "b", "mean": "b", "var": "a.running_var"}
    constants = {"a.running_var": SIX["var"], "b": SIX["mean"]}
    path = model_of(tmp_path / "m.onnx", [node("BatchNormalization", ["x", *names.values()])], constants, 15)
    with files.read(path) as file:
        expected = fastbn.batch_norm(X, SIX["mean"], SIX["var"], SIX["var"], SIX["mean"])
        np.testing.assert_allclose(file.layers()["y"](X), expected, rtol=1e-6)


@pytest.mark.parametrize(("opset", "length"), [(18, 3), (18, 6), (21, 6), (21, 3)])
def test_group_norm_by_the_length_of_its_scale(tmp_path, opset, length):
    scale, bias = SIX["scale"][:length], SIX["bias"][:length]
    group = node("GroupNormalization", ["x", "s", "b"], num_groups=3, epsilon=1e-4)
    path = model_of(tmp_path / "m.onnx", [group], {"s": scale, "b": bias}, opset)
    with files.read(path) as file:
        layers = file.layers()
        full = [np.repeat(value, 6 // length) for value in (scale, bias)]
        np.testing.assert_allclose(layers["y"](X), fastbn.group_norm(X, 3, *full, 1e-4), rtol=1e-6)
        assert file.state(layers)["s"].tobytes() == scale.tobytes()
        layers["y"].weight[0] += 1
        if length == 3:
            with pytest.raises(ValueError, match="6 values; expected 3"):
                file.state(layers)


@pytest.mark.parametrize(("axis", "shape"), [(-1, (4,)), (3, (4,)), (2, (3, 4)), (-2, (3, 4))])
@pytest.mark.parametrize("operator", ["LayerNormalization", "RMSNormalization"])
def test_norms_over_trailing_axes(tmp_path, operator, axis, shape):
    scale = np.random.default_rng(1).uniform(0.5, 2, shape).astype(np.float32)
    path = model_of(tmp_path / "m.onnx", [node(operator, ["x", "s"], axis=axis, epsilon=1e-4)], {"s": scale}, 23)
    with files.read(path) as file:
        of = (
            fastbn.rms_norm(X, shape, scale, 1e-4)
            if operator[0] == "R"
            else fastbn.layer_norm(X, shape, scale, None, 1e-4)
        )
        np.testing.assert_allclose(file.layers()["y"](X), of, rtol=1e-5, atol=1e-6)


WEIGHT = {"w": RNG.normal(size=(6, 6, 3, 3)).astype(np.float32)}


def batch_norms_left(path):
    with files.read(path) as file:
        model = file._content.graph.folded()
        onnx.checker.check_model(model)
        return sum(node.op_type == "BatchNormalization" for node in model.graph.node), model


def test_what_is_folded_and_what_is_not(tmp_path):
    path, conv = tmp_path / "m.onnx", node("Conv", ["x", "w"], ["c"])
    constants = SIX | WEIGHT
    left, model = batch_norms_left(model_of(path, [conv, batch("c")], constants, 15))
    assert left == 0
    assert [tensor.name for tensor in model.graph.initializer] == ["w", "w_bias"]
    weight, bias = fastbn.fold(WEIGHT["w"], None, (SIX["mean"], SIX["var"], SIX["scale"], SIX["bias"]))
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    np.testing.assert_array_equal(arrays["w"], weight)
    np.testing.assert_array_equal(arrays["w_bias"], bias)
    # its input is an output of the model, or something stands between
    assert batch_norms_left(model_of(path, [conv, batch("c")], constants, 15, outputs=("y", "c")))[0] == 1
    relu = node("Relu", ["c"], ["r"])
    assert batch_norms_left(model_of(path, [conv, relu, batch("r")], constants, 15))[0] == 1
    # before a convolution: only where it does not pad
    assert batch_norms_left(model_of(path, [batch("x", "b"), node("Conv", ["b", "w"])], constants, 15))[0] == 0
    padded = node("Conv", ["b", "w"], pads=[1, 1, 1, 1])
    assert batch_norms_left(model_of(path, [batch("x", "b"), padded], constants, 15))[0] == 1
    same = node("Conv", ["b", "w"], auto_pad="SAME_UPPER")
    assert batch_norms_left(model_of(path, [batch("x", "b"), same], constants, 15))[0] == 1


@pytest.mark.parametrize(("shape", "folded"), [((6,), True), ((1, 6), True), ((1,), True), ((6, 1), False)])
def test_a_bias_of_samples_is_not_one_of_channels(tmp_path, shape, folded):
    """As many numbers as there are outputs, but along the samples, of which there are as many."""
    constants = SIX | {"w": WEIGHT["w"].reshape(-1)[:24].reshape(4, 6), "b": np.arange(6, dtype=np.float32)}
    constants["b"] = constants["b"][: np.prod(shape)].reshape(shape)
    nodes = [node("Gemm", ["x", "w", "b"], ["c"]), batch("c")]
    path = model_of(tmp_path / "m.onnx", nodes, constants, 15, shape=(6, 4))
    with files.read(path) as file:
        model = file._content.graph.folded()
    x = RNG.normal(size=(6, 4)).astype(np.float32)
    y = fastbn.batch_norm(
        x @ constants["w"] + constants["b"], SIX["mean"], SIX["var"], SIX["scale"], SIX["bias"], eps=1e-5
    )
    (made,) = ReferenceEvaluator(model).run(None, {"x": x})
    np.testing.assert_allclose(made, y, rtol=1e-5, atol=1e-5)
    assert [made.op_type for made in model.graph.node] == ["Gemm", "BatchNormalization"][: 2 - folded]


def test_a_weight_of_two_convolutions_stays_for_the_other(tmp_path):
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        batch("c", "y"),
        node("Conv", ["x", "w"], ["other"]),
    ]
    left, model = batch_norms_left(model_of(tmp_path / "m.onnx", nodes, SIX | WEIGHT, 15, outputs=("y", "other")))
    assert left == 0
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    np.testing.assert_array_equal(arrays["w"], WEIGHT["w"])
    first, second = (made for made in model.graph.node if made.op_type == "Conv")
    assert second.input[1] == "w"
    weight, _ = fastbn.fold(WEIGHT["w"], None, (SIX["mean"], SIX["var"], SIX["scale"], SIX["bias"]))
    np.testing.assert_array_equal(arrays[first.input[1]], weight)
