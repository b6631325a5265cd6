"""The node tests of ONNX's own backend suite, for every normalization operator that fastbn computes.

The *_expanded cases hold the same operator written out in smaller ones, for backends that lack it.  Their data still
says what the operator must give, so fastbn computes it with the attributes of the case they expand.
"""

import re
from collections import Counter

import numpy as np
import onnx
import pytest
from onnx.backend.test.loader import load_model_tests

import fastbn


def BatchNormalization(x, scale, bias, mean, var, *, epsilon=1e-5, momentum=0.9, training_mode=0):
    if not training_mode:
        return (fastbn.batch_norm(x, mean, var, scale, bias, eps=epsilon),)
    # ONNX's momentum is the decay of the old value.  Its running variance is the biased one, which rstd still tells.
    running_mean, unused = mean.copy(), var.copy()
    y, _, rstd = fastbn.batch_norm_forward(x, scale, bias, running_mean, unused, 1 - momentum, epsilon)
    return y, running_mean, momentum * var + (1 - momentum) * (rstd**-2 - epsilon)


def GroupNormalization(x, scale, bias, *, num_groups, epsilon=1e-5, stash_type=1):
    return (fastbn.group_norm(x, num_groups, scale, bias, epsilon),)


def InstanceNormalization(x, scale, bias, *, epsilon=1e-5):
    return (fastbn.instance_norm(x, weight=scale, bias=bias, eps=epsilon),)


def LayerNormalization(x, scale, bias, *, axis=-1, epsilon=1e-5, stash_type=1):
    return fastbn.layer_norm_forward(x, x.shape[axis:], scale, bias, epsilon)


def RMSNormalization(x, scale, *, axis=-1, epsilon=1e-5, stash_type=1):
    return (fastbn.rms_norm(x, x.shape[axis:], scale, epsilon),)


def MeanVarianceNormalization(x, *, axes=(0, 2, 3)):
    assert tuple(axes) == (0, 2, 3)  # then it is batch norm, with an eps small enough not to count
    return (fastbn.batch_norm(x, training=True, eps=1e-12),)


OPERATORS = {
    function.__name__: function
    for function in (
        BatchNormalization,
        GroupNormalization,
        InstanceNormalization,
        LayerNormalization,
        RMSNormalization,
        MeanVarianceNormalization,
    )
}


def collect():
    tests = load_model_tests(kind="node")
    operators = {t.name: node for t in tests for node in t.model.graph.node if node.op_type in OPERATORS}
    for test in tests:
        name = re.sub(r"_expanded(_ver\d+)?$", "", test.name)
        if name in operators:
            yield test.name, operators[name], test


CASES = list(collect())


def test_every_operator_brought_its_cases():
    assert len(CASES) >= 100
    found = Counter(node.op_type for _, node, _ in CASES)
    least = {"BatchNormalization": 4, "GroupNormalization": 4, "InstanceNormalization": 2, "LayerNormalization": 57}
    least |= {"RMSNormalization": 38, "MeanVarianceNormalization": 3}
    assert not {name: number for name, number in least.items() if found[name] < number}


@pytest.mark.parametrize(("node", "test"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_onnx(node, test):
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    assert test.data_sets
    for inputs, expected in test.data_sets:
        outputs = OPERATORS[node.op_type](*inputs, **attributes)
        assert outputs[0].dtype == expected[0].dtype
        for output, truth in zip(outputs[: len(expected)], expected, strict=True):
            # the expected values were themselves computed in float32: the suite's own tolerance is 1e-3
            np.testing.assert_allclose(output.reshape(truth.shape), truth, rtol=1e-5, atol=2e-6)
