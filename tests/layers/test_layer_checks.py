"""What a layer refuses: when it is made, when something is assigned to it later, and another's context."""

import numpy as np
import pytest

from fastbn import layers

X = np.random.default_rng(0).normal(size=(2, 4, 3, 3)).astype(np.float32)

EVERY = {
    "BatchNorm2d": lambda **given: layers.BatchNorm2d(4, **given),
    "InstanceNorm2d": lambda **given: layers.InstanceNorm2d(4, track_running_stats=True, **given),
    "GroupNorm": lambda **given: layers.GroupNorm(2, 4, **given),
    "LayerNorm": lambda **given: layers.LayerNorm(3, **given),
    "RMSNorm": lambda **given: layers.RMSNorm(3, **given),
    "LayerNorm2d": lambda **given: layers.LayerNorm2d(4, **given),
    "RMSNorm2d": lambda **given: layers.RMSNorm2d(4, **given),
    "GlobalResponseNorm": lambda **given: layers.GlobalResponseNorm(4, **given),
    "FilterResponseNorm2d": lambda **given: layers.FilterResponseNorm2d(4, **given),
}
NO_EPS = [("1e-5", TypeError, "eps is '1e-5'; expected a number"), (-1, ValueError, "eps is -1; expected zero or")]


def state(layer):
    return {name: value.copy() for name, value in layer.state_dict().items()}


def assert_state(layer, before):
    for name, value in state(layer).items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize(("wrong", "error", "words"), NO_EPS)
@pytest.mark.parametrize("name", EVERY)
def test_eps_is_checked_when_a_layer_is_made(name, wrong, error, words):
    with pytest.raises(error, match=words):
        EVERY[name](eps=wrong)


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize(("wrong", "error"), [("1e-5", TypeError), (-1, ValueError), (np.nan, ValueError)])
@pytest.mark.parametrize("name", EVERY)
def test_eps_that_is_assigned_later_is_checked_in_calls(name, wrong, error, mode):
    layer = EVERY[name]().train(mode)
    layer.eps = wrong
    before = state(layer)
    for call in (layer, layer.forward):
        with pytest.raises(error, match=r"^eps is .*; expected"):
            call(X)
    assert_state(layer, before)


@pytest.mark.parametrize("name", ["BatchNorm2d", "InstanceNorm2d"])
def test_momentum_is_checked_when_a_layer_is_made_and_in_calls(name):
    for wrong, error in (("0.1", TypeError), (np.nan, ValueError), ([0.1], TypeError)):
        with pytest.raises(error, match=r"^momentum is .*; expected a .*number$"):
            EVERY[name](momentum=wrong)
        layer = EVERY[name]()
        layer.momentum, before = wrong, state(layer)
        with pytest.raises(error, match=r"^momentum is .*; expected a .*number$"):
            layer(X)
        assert_state(layer, before)
    assert EVERY[name](momentum=None).momentum is None


@pytest.mark.parametrize(
    ("made", "assigned", "error", "words"),
    [
        ({}, {"virtual_batch_size": "2"}, TypeError, "virtual_batch_size is '2'; expected an integer"),
        ({}, {"virtual_batch_size": 0}, ValueError, "virtual_batch_size is 0; expected at least 1"),
        ({"momentum": None}, {"virtual_batch_size": 2}, ValueError, "cannot be combined with momentum=None"),
        ({"virtual_batch_size": 2}, {"momentum": None}, ValueError, "cannot be combined with momentum=None"),
        ({}, {"renorm": 5}, ValueError, "renorm is 5; expected a pair of limits, r_max and d_max"),
        ({}, {"renorm": (0.5, 0)}, ValueError, r"r_max is 0\.5; expected at least 1"),
        ({}, {"renorm": (1, "a")}, TypeError, "d_max is 'a'; expected a number"),
        ({}, {"axis": "1"}, TypeError, "axis is '1'; expected an integer"),
        ({}, {"axis": 4}, ValueError, r"axis is 4; expected -4 to 3, an axis of x, which has shape \(2, 4, 3, 3\)"),
        ({}, {"running_mean": [0.0] * 4}, TypeError, "running_mean is of type list; expected a NumPy array"),
    ],
)
def test_options_of_batch_norm_that_are_assigned_later(made, assigned, error, words):
    layer = layers.BatchNorm2d(4, **made)
    before = state(layer)
    for name, value in assigned.items():
        setattr(layer, name, value)
    with pytest.raises(error, match=words):
        layer(X)
    layer.running_mean = before["running_mean"]
    assert_state(layer, before)


@pytest.mark.parametrize("limits", [3, (0.5, 1), (1, -1), (np.nan, 1), ("a", 1)])
def test_limits_of_renormalization_are_checked_when_a_layer_is_made(limits):
    with pytest.raises((TypeError, ValueError), match=r"^(renorm|r_max|d_max) is .*; expected"):
        layers.BatchNorm2d(4, renorm=limits)


def test_running_statistics_of_other_types_in_evaluation_are_read_by_call_and_forward_alike():
    layer = layers.BatchNorm2d(4).eval()
    layer.running_mean, layer.running_var = [0.5] * 4, np.full(4, 2.0)
    y, context = layer.forward(X)
    np.testing.assert_array_equal(layer(X), y)
    layer.running_var += 1  # the context has a snapshot
    np.testing.assert_array_equal(context.rstd, 1 / np.sqrt(np.full(4, 2.0) + 1e-5))
    layer.running_mean = "a"
    for call in (layer, layer.forward):
        with pytest.raises(TypeError, match="running_mean has dtype <U1; expected a float dtype"):
            call(X)


def test_an_empty_normalized_shape():
    for make in (layers.LayerNorm, layers.RMSNorm):
        with pytest.raises(ValueError, match="normalized_shape is empty; expected"):
            make(())
        assert make(n for n in (3, 3)).normalized_shape == (3, 3)


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (np.ones(5), ValueError, r"weight has shape \(5,\); expected \(4,\), or what broadcasts to it"),
        (np.ones((4, 1)), ValueError, r"weight has shape \(4, 1\); expected \(4,\)"),
        (np.ones(4, complex), TypeError, "weight has dtype complex128; expected numbers"),
        (["a"] * 4, TypeError, "weight has dtype <U1; expected numbers"),
        (None, TypeError, "weight is None; expected"),
    ],
)
def test_what_cannot_be_assigned_to_a_parameter(value, error, words):
    layer = layers.GroupNorm(2, 4)
    layer.weight = [1, 2, 3, 4]
    with pytest.raises(error, match=words):
        layer.weight = value
    np.testing.assert_array_equal(layer.weight, [1, 2, 3, 4])
    layer.weight = 2
    np.testing.assert_array_equal(layer.weight, 2)


@pytest.mark.parametrize("own", EVERY)
@pytest.mark.parametrize("other", EVERY)
def test_the_context_of_another_kind_of_layer(own, other):
    layer, (y, context) = EVERY[own](), EVERY[other]().forward(X)
    if own == other:
        assert layer.backward(y, context).shape == X.shape
        return
    with pytest.raises(ValueError, match=f"^context is of .*; expected what forward\\(x\\) of this layer .*: {own}"):
        layer.backward(y, context)
    assert not any(np.any(gradient) for gradient in layer.grads.values())
