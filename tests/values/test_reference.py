"""The reference is itself held to numbers worked out by hand, to rational arithmetic, and to PyTorch in float64."""

from fractions import Fraction
from math import sqrt

import numpy as np
import pytest
from cases import CASES, MEDIUM, SMALL, assert_close, central_differences, ids

from fastbn import reference

# Numbers worked out by hand -------------------------------------------------------------------------------------------


def test_layer_norm_of_four_numbers():
    # mean 2.5, variance 1.25; with eps = 1.25 the root is sqrt(2.5)
    y, mean, rstd = reference.layer_norm_forward(np.array([[1.0, 2.0, 3.0, 4.0]]), 4, eps=1.25)
    np.testing.assert_allclose(y, np.array([[-1.5, -0.5, 0.5, 1.5]]) / sqrt(2.5), rtol=1e-15)
    assert (mean, rstd) == (2.5, 1 / sqrt(2.5))


def test_layer_norm_does_not_lose_a_large_mean():
    y = reference.layer_norm(np.array([[40000.0, 40001.0, 40002.0, 40003.0]]), 4, eps=0.0)
    np.testing.assert_allclose(y, np.array([[-1.5, -0.5, 0.5, 1.5]]) / sqrt(1.25), rtol=1e-15)


def test_layer_norm_affine_is_per_element():
    y = reference.layer_norm(np.array([[0.0, 2.0]]), 2, np.array([10.0, 100.0]), np.array([1.0, 2.0]), eps=0.0)
    np.testing.assert_array_equal(y, [[-9.0, 102.0]])


def test_rms_norm_of_three_and_four():
    y, rstd = reference.rms_norm_forward(np.array([[3.0, 4.0]]), 2, np.array([1.0, 2.0]), eps=0.0)
    np.testing.assert_allclose(y, np.array([[3.0, 8.0]]) / sqrt(12.5), rtol=1e-15)
    np.testing.assert_allclose(rstd, [1 / sqrt(12.5)], rtol=1e-15)


@pytest.mark.parametrize(
    ("dtype", "eps"), [(np.float16, 2.0**-23), (np.float32, 2.0**-23), (np.float64, 2.0**-52)], ids=str
)
def test_rms_norm_eps_is_that_of_the_type_computed_in(dtype, eps):
    assert reference.rms_norm_forward(np.zeros((1, 2), dtype), 2)[1] == 1 / sqrt(eps)


def test_batch_norm_shares_statistics_over_batch_and_plane():
    # channel 0 holds 0, 1, 2, 3 over both samples, channel 1 holds 10 and 20 twice each
    x = np.array([[[0.0, 1.0], [10.0, 20.0]], [[2.0, 3.0], [20.0, 10.0]]])
    y, mean, rstd = reference.batch_norm_forward(x, np.array([2.0, 1.0]), np.array([0.0, 5.0]), eps=0.0)
    np.testing.assert_array_equal(mean, [1.5, 15.0])
    np.testing.assert_allclose(rstd, [1 / sqrt(1.25), 0.2], rtol=1e-15)
    np.testing.assert_allclose(y[:, 0].ravel(), np.array([-3.0, -1.0, 1.0, 3.0]) / sqrt(1.25), rtol=1e-15)
    np.testing.assert_allclose(y[:, 1].ravel(), [4.0, 6.0, 6.0, 4.0], rtol=1e-15)


def test_running_statistics_move_by_momentum_towards_the_unbiased_variance():
    x = np.array([[1.0], [2.0], [3.0], [6.0]])  # mean 3; squared deviations 4 + 1 + 0 + 9 = 14, over n - 1 = 3
    running_mean, running_var = np.array([1.0]), np.array([1.0])
    reference.batch_norm(x, running_mean, running_var, training=True, momentum=0.25)
    np.testing.assert_allclose(running_mean, [0.75 * 1 + 0.25 * 3], rtol=1e-15)
    np.testing.assert_allclose(running_var, [0.75 * 1 + 0.25 * 14 / 3], rtol=1e-15)


def test_batch_norm_in_evaluation_uses_the_running_statistics_as_they_are():
    running_mean, running_var = np.array([1.0, 0.0]), np.array([3.0, 8.0])
    y = reference.batch_norm(np.array([[5.0, 6.0]]), running_mean, running_var, eps=1.0)
    np.testing.assert_array_equal(y, [[2.0, 2.0]])
    np.testing.assert_array_equal([running_mean, running_var], [[1.0, 0.0], [3.0, 8.0]])


def test_group_norm_groups_neighbouring_channels():
    y, mean, _ = reference.group_norm_forward(np.array([[1.0, 3.0, 10.0, 30.0]]), 2, eps=0.0)
    np.testing.assert_array_equal(mean, [[2.0, 20.0]])
    np.testing.assert_allclose(y, [[-1.0, 1.0, -1.0, 1.0]], rtol=1e-15)


def test_instance_norm_averages_the_statistics_of_instances():
    x = np.array([[[0.0, 2.0]], [[10.0, 16.0]]])  # means 1 and 13; unbiased variances 2 and 18
    running_mean, running_var = np.zeros(1), np.zeros(1)
    y = reference.instance_norm(x, running_mean, running_var, momentum=1.0, eps=0.0)
    np.testing.assert_allclose(y, [[[-1.0, 1.0]], [[-1.0, 1.0]]], rtol=1e-15)
    np.testing.assert_allclose([running_mean, running_var], [[7.0], [10.0]], rtol=1e-15)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e5, 1e30, -1e-38])
def test_a_constant_group_is_exactly_its_bias(value):
    y = reference.layer_norm(np.full((2, 7), value), 7, bias=np.arange(7.0))
    np.testing.assert_array_equal(y, np.tile(np.arange(7.0), (2, 1)))


# Exact rational arithmetic --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e6])
def test_moments_agree_with_exact_arithmetic(offset):
    x = (np.random.default_rng(0).standard_normal((1, 50)) + offset).astype(np.float32)
    values = [Fraction(float(v)) for v in x[0]]
    mean = sum(values) / 50
    var = sum((v - mean) ** 2 for v in values) / 50
    _, mean_found, rstd_found = reference.layer_norm_forward(x, 50, eps=2.0**-10)
    np.testing.assert_allclose(mean_found, [float(mean)], rtol=4e-16, atol=1e-16)
    np.testing.assert_allclose(rstd_found, [1 / sqrt(float(var) + 2.0**-10)], rtol=1e-15)


# Gradients ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", SMALL, ids=ids)
def test_gradients_agree_with_central_differences(case):
    x, dy, parameters = case.data(np.float64), case.upstream(np.float64), case.parameters(np.float64)
    # a large eps keeps the function smooth where a pair of values happens to lie close together
    statistics = case.forward(reference, x, **parameters, eps=0.1)[1]
    gradients = case.backward(reference, dy, x, statistics, weight=parameters["weight"])
    for gradient, expected in zip(gradients, central_differences(case, dy, x, parameters, eps=0.1), strict=True):
        assert_close(gradient, expected, 1e-8, scale=1.0)


# PyTorch --------------------------------------------------------------------------------------------------------------

TORCH_CASES = [case for case in CASES if 120 < np.prod(case.shape) < 2000]


def torch_normalize(torch, case, x, weight, bias=None):
    if not case.by_channel:
        function = getattr(torch.nn.functional, case.op)
        shape = case.parameter_shape
        return function(x, shape, weight, eps=1e-5) if bias is None else function(x, shape, weight, bias, eps=1e-5)
    moved = x.movedim(case.axis, 1)
    if case.op == "group_norm":
        y = torch.nn.functional.group_norm(moved, case.arg, weight, bias)
    elif case.op == "batch_norm":
        y = torch.nn.functional.batch_norm(moved, None, None, weight, bias, training=True)
    else:
        y = torch.nn.functional.instance_norm(moved, weight=weight, bias=bias)
    return y.movedim(1, case.axis)


@pytest.mark.parametrize("case", TORCH_CASES + MEDIUM, ids=ids)
def test_values_and_gradients_agree_with_torch(torch, case):
    x, dy, parameters = case.data(np.float64), case.upstream(np.float64), case.parameters(np.float64)
    leaves = [torch.tensor(v, requires_grad=True) for v in (x, *parameters.values())]
    expected = torch_normalize(torch, case, *leaves)
    expected_gradients = torch.autograd.grad(expected, leaves, torch.tensor(dy))
    y, statistics = case.forward(reference, x, **parameters, eps=1e-5)
    assert_close(y, expected.detach().numpy(), 1e-12)
    gradients = case.backward(reference, dy, x, statistics, weight=parameters["weight"])
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        assert_close(gradient, expected_gradient.numpy(), 1e-11, scale=1.0)


@pytest.mark.parametrize("function", ["batch_norm", "instance_norm"])
def test_running_statistics_agree_with_torch(torch, function):
    x = np.random.default_rng(0).standard_normal((4, 3, 5)) + 2
    arrays = {"running_mean": np.array([0.0, 1.0, 2.0]), "running_var": np.array([1.0, 2.0, 3.0])}
    tensors = {name: torch.tensor(v) for name, v in arrays.items()}
    training = {"training": True} if function == "batch_norm" else {}
    y = getattr(reference, function)(x, **arrays, **training, momentum=0.3)
    expected = getattr(torch.nn.functional, function)(torch.tensor(x), **tensors, **training, momentum=0.3)
    np.testing.assert_allclose(y, expected.numpy(), rtol=1e-12, atol=1e-13)
    for name in arrays:
        np.testing.assert_allclose(arrays[name], tensors[name].numpy(), rtol=1e-13)


@pytest.mark.parametrize("function", ["batch_norm", "instance_norm"])
def test_evaluation_and_its_gradients_agree_with_torch(torch, function):
    rng = np.random.default_rng(0)
    (x, dy), (mean, var, weight, bias) = rng.standard_normal((2, 4, 3, 5)), rng.uniform(0.5, 1.5, (4, 3))
    frozen = {"training": False} if function == "batch_norm" else {"use_input_stats": False}
    y = getattr(reference, function)(x, mean, var, weight, bias, **frozen, eps=1e-3)
    leaves = [torch.tensor(v, requires_grad=True) for v in (x, weight, bias)]
    expected = getattr(torch.nn.functional, function)(
        leaves[0], torch.tensor(mean), torch.tensor(var), *leaves[1:], **frozen, eps=1e-3
    )
    np.testing.assert_allclose(y, expected.detach().numpy(), rtol=1e-12, atol=1e-13)
    gradients = reference.batch_norm_backward(dy, x, mean, 1 / np.sqrt(var + 1e-3), weight, training=False)
    for gradient, truth in zip(gradients, torch.autograd.grad(expected, leaves, torch.tensor(dy)), strict=True):
        np.testing.assert_allclose(gradient, truth.numpy(), rtol=1e-11, atol=1e-12)
