"""Norms in the graphs inside If, Loop and Scan, and in functions, are told; what those graphs take is not folded."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fastbn import files

SIX = {name: np.linspace(0.5, 2, 6).astype(np.float32) for name in ("scale", "bias", "mean", "var")}
WEIGHT = np.ones((6, 6, 1, 1), np.float32)


def value(name, kind=TensorProto.FLOAT, shape=(1, 6, 2, 2)):
    return helper.make_tensor_value_info(name, kind, shape)


def branch(nodes, output):
    return helper.make_graph(nodes, output, [], [value(output)])


def conditional(then, otherwise, name="choice"):
    made = [branch(nodes, f"{name}_{k}") for k, nodes in enumerate((then, otherwise))]
    return helper.make_node("If", ["which"], ["y"], name=name, then_branch=made[0], else_branch=made[1])


def batch(source, output, name):
    return helper.make_node("BatchNormalization", [source, *SIX], [output], name=name)


def write(path, nodes, functions=(), outputs=("y",)):
    tensors = [numpy_helper.from_array(array, name) for name, array in {**SIX, "w": WEIGHT}.items()]
    inputs = [value("x"), value("which", TensorProto.BOOL, ())]
    graph = helper.make_graph(nodes, "g", inputs, [value(name) for name in outputs], tensors)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    model = helper.make_model(graph, opset_imports=opsets, functions=functions)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def test_norms_of_branches_are_told(tmp_path):
    inner = conditional(
        [helper.make_node("LayerNormalization", ["x", "last"], ["inner_0"], name="deep")],
        [helper.make_node("Identity", ["x"], ["inner_1"])],
        "inner",
    )
    inner.output[0] = "choice_1"
    last = numpy_helper.from_array(np.ones(2, np.float32))
    constant = helper.make_node("Constant", [], ["last"], value=last)
    choice = conditional([batch("x", "choice_0", "bn")], [constant, inner])
    path = write(tmp_path / "m.onnx", [choice])
    with files.read(path) as file:
        assert file.layers() == {}
        assert file.unknown.keys() == {"choice/then_branch/bn", "choice/else_branch/inner/then_branch/deep"}
        assert "BatchNormalization in a graph inside the If choice" in file.unknown["choice/then_branch/bn"]


def test_norms_of_functions_are_told_beside_those_of_the_graph(tmp_path):
    nodes = [
        helper.make_node("Mul", ["a", "a"], ["s"]),
        helper.make_node("ReduceMean", ["s"], ["m"], axes=[-1]),
        helper.make_node("Sqrt", ["m"], ["r"]),
        helper.make_node("Div", ["a", "r"], ["b"]),
    ]
    opsets = [helper.make_opsetid("", 17)]
    written = helper.make_function("own", "scaled", ["a"], ["b"], nodes, opsets)
    plain = helper.make_function("own", "plain", ["a", *SIX], ["b"], [batch("a", "b", "bn")], opsets)
    calls = [
        batch("x", "c", "main"),
        helper.make_node("scaled", ["c"], ["d"], domain="own"),
        helper.make_node("plain", ["d", *SIX], ["y"], domain="own"),
    ]
    with files.read(write(tmp_path / "m.onnx", calls, [written, plain])) as file:
        assert [*file.layers()] == ["main"]
        assert file.unknown.keys() == {"own::scaled", "own::plain/bn"}
        assert "as of a norm that is written out" in file.unknown["own::scaled"]


@pytest.mark.parametrize("taken", ["inside", "as what a branch gives", "nowhere else"])
def test_what_a_branch_takes_is_not_folded_away(tmp_path, taken):
    conv = helper.make_node("Conv", ["x", "w"], ["c"], name="conv")
    source = {"inside": "c", "as what a branch gives": "c", "nowhere else": "x"}[taken]
    then = [helper.make_node("Identity", [source], ["choice_0"])]
    choice = conditional(then, [helper.make_node("Identity", ["n"], ["choice_1"])])
    if taken == "as what a branch gives":
        del choice.attribute[0].g.node[:]
        choice.attribute[0].g.output[0].name = "c"
    model = write if taken != "as what a branch gives" else write_unchecked
    path = model(tmp_path / "m.onnx", [conv, batch("c", "n", "bn"), choice])
    with files.read(path) as file:
        folded = file.fold()
    assert ("mean" not in folded) == (taken == "nowhere else")
    assert ("w_bias" in folded) == (taken == "nowhere else")


def write_unchecked(path, nodes):
    tensors = [numpy_helper.from_array(array, name) for name, array in {**SIX, "w": WEIGHT}.items()]
    inputs = [value("x"), value("which", TensorProto.BOOL, ())]
    model = helper.make_model(helper.make_graph(nodes, "g", inputs, [value("y")], tensors))
    path.write_bytes(model.SerializeToString())
    return path


def test_an_attribute_of_another_type_names_the_file(tmp_path):
    node = batch("x", "y", "bn")
    node.attribute.append(helper.make_attribute("epsilon", "small"))
    path = write_unchecked(tmp_path / "m.onnx", [node])
    for method in ("layers", "fold"):
        with files.read(path) as file, pytest.raises(ValueError, match=r"m\.onnx: node 'bn'.*'epsilon' has type 3"):
            getattr(file, method)()
