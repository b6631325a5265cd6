"""Backward functions against central differences, and against the float64 reference over the whole table of shapes."""

import tracemalloc

import numpy as np
import pytest
from against_reference import assert_gradients_close, check_backward
from cases import (
    CASES,
    FLOATS,
    HUGE,
    LARGE,
    LAYOUTS,
    MEDIUM,
    OFFSETS,
    OVER_CHANNELS,
    SMALL,
    VIEWS,
    Case,
    assert_close,
    assert_same_bits,
    by_channel,
    central_differences,
    channels_first_view,
    channels_last_view,
    gradient_tolerance,
    ids,
    memory_order,
    strided,
    trailing,
)

import fastbn
from fastbn import reference

# Central differences --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", SMALL, ids=ids)
def test_central_differences(case):
    x, dy, parameters = case.data(np.float64), case.upstream(np.float64), case.parameters(np.float64)
    # a large eps keeps the function smooth where a pair of values happens to lie close together
    _, statistics = case.forward(fastbn, x, **parameters, eps=0.1)
    gradients = case.backward(fastbn, dy, x, statistics, weight=parameters["weight"])
    for gradient, expected in zip(gradients, central_differences(case, dy, x, parameters, eps=0.1), strict=True):
        assert_close(gradient, expected, 1e-8, scale=1.0)


# The table ------------------------------------------------------------------------------------------------------------


@pytest.mark.full
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("case", CASES, ids=ids)
def test_backward(case, offset, dtype):
    dx, *sums = check_backward(case, case.upstream(dtype), case.data(dtype, offset), offset)
    assert dx.dtype == dtype
    for value in sums:
        assert value.shape == case.parameter_shape
        assert value.dtype == dtype


@pytest.mark.full
@pytest.mark.parametrize("case", HUGE, ids=ids)
def test_backward_beyond_the_cache(case):
    check_backward(case, case.upstream(np.float32), case.data(np.float32, 1e3), 1e3)


@pytest.mark.full
@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("case", MEDIUM, ids=ids)
def test_forward_and_backward_together(case, offset):
    """With the statistics that fastbn itself saved."""
    x, dy, parameters = case.data(np.float32, offset), case.upstream(np.float32), case.parameters(np.float32)
    _, statistics = case.forward(fastbn, x, **parameters)
    _, truth = case.forward(reference, x, **parameters)
    gradients = case.backward(fastbn, dy, x, statistics, weight=parameters["weight"])
    expected = case.backward(reference, dy, x, truth, weight=parameters["weight"])
    assert_gradients_close(case, gradients, expected, truth, gradient_tolerance(np.float32))


@pytest.mark.full
@pytest.mark.parametrize("offset", [0.5, 1e3])
@pytest.mark.parametrize("case", MEDIUM, ids=ids)
def test_upstream_gradient_with_a_mean(case, offset):
    # avg(g) is then most of g: what is left after it is taken away must still be right
    dy = case.upstream(np.float32) + np.float32(offset)
    x = case.data(np.float32)
    _, statistics = case.forward(reference, x)
    gradients = case.backward(fastbn, dy, x, statistics)
    expected = case.backward(reference, dy, x, statistics)
    assert_gradients_close(case, gradients, expected, statistics, gradient_tolerance(np.float32), offset)


# Weight ---------------------------------------------------------------------------------------------------------------


@pytest.mark.full
@pytest.mark.parametrize("case", MEDIUM, ids=ids)
def test_without_weight(case):
    check_backward(case, case.upstream(np.float32), case.data(np.float32, 10.0), 10.0, named={})


@pytest.mark.full
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("weight_dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("case", MEDIUM, ids=ids)
def test_weight_of_other_float_types(case, dtype, weight_dtype):
    weight = case.parameters(weight_dtype)["weight"]
    dx, *sums = check_backward(case, case.upstream(dtype), case.data(dtype), named={"weight": weight})
    assert dx.dtype == dtype
    assert {value.dtype for value in sums} == {weight.dtype}


@pytest.mark.parametrize("case", MEDIUM, ids=ids)
def test_weight_and_statistics_with_strides(case):
    dy, x, weight = case.upstream(np.float32), case.data(np.float32), case.parameters(np.float32)["weight"]
    _, statistics = case.forward(fastbn, x)
    expected = case.backward(fastbn, dy, x, statistics, weight=weight)
    gradients = case.backward(fastbn, dy, x, tuple(map(strided, statistics)), weight=strided(weight))
    for gradient, truth in zip(gradients, expected, strict=True):
        assert_same_bits(gradient, truth)


# Frozen statistics ----------------------------------------------------------------------------------------------------

FROZEN = [case for case in CASES if case.op == "batch_norm"] + [Case("batch_norm", (1, 5)), Case("batch_norm", (1, 1))]


@pytest.mark.full
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("case", FROZEN, ids=ids)
def test_frozen_statistics(case, offset, dtype):
    """Statistics that are constants, and not those of the data."""
    x, dy, weight = case.data(dtype, offset), case.upstream(dtype), case.parameters(dtype)["weight"]
    rng = np.random.default_rng(3)
    mean, rstd = rng.standard_normal(case.parameter_shape) + offset, rng.uniform(0.5, 2.0, case.parameter_shape)
    gradients = case.backward(fastbn, dy, x, (mean, rstd), weight=weight, training=False)
    expected = case.backward(reference, dy, x, (mean, rstd), weight=weight, training=False)
    assert_gradients_close(case, gradients, expected, (mean, rstd), gradient_tolerance(dtype, offset))


# Memory layouts -------------------------------------------------------------------------------------------------------


@pytest.mark.full
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("case", VIEWS, ids=ids)
def test_channels_last_view_of_channels_first_shape(case, offset, dtype):
    dy, x = channels_last_view(case.upstream(dtype)), channels_last_view(case.data(dtype, offset))
    dx, *_ = check_backward(case, dy, x, offset)
    assert memory_order(dx) == memory_order(x)


@pytest.mark.full
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("case", OVER_CHANNELS, ids=ids)
def test_trailing_axis_that_is_the_channel_axis_in_memory(case, dtype):
    dy, x = channels_first_view(case.upstream(dtype)), channels_first_view(case.data(dtype, 1e3))
    dx, *_ = check_backward(case, dy, x, 1e3)
    assert memory_order(dx) == memory_order(x)


@pytest.mark.full
@pytest.mark.parametrize("layout_x", LAYOUTS)
@pytest.mark.parametrize("layout_dy", LAYOUTS)
@pytest.mark.parametrize("case", MEDIUM, ids=ids)
def test_layouts_of_dy_and_x_are_independent(case, layout_dy, layout_x):
    dy, x = LAYOUTS[layout_dy](case.upstream(np.float32)), LAYOUTS[layout_x](case.data(np.float32, 1e3))
    for array in (dy, x):
        array.setflags(write=False)
    check_backward(case, dy, x, 1e3)


@pytest.mark.full
@pytest.mark.parametrize("case", MEDIUM, ids=ids)
def test_a_gradient_that_was_broadcast(case):
    """The gradient of a sum: one read-only number, seen as the whole array."""
    check_backward(case, np.broadcast_to(np.float32(2.0), case.shape), case.data(np.float32))


# Where the result goes ------------------------------------------------------------------------------------------------


@pytest.mark.full
@pytest.mark.parametrize("layout", ["plain", "channels-last-view", "steps"])
@pytest.mark.parametrize("destination", ["another", "dy", "x"])
@pytest.mark.parametrize("case", MEDIUM + LARGE, ids=ids)
def test_out(case, destination, layout):
    arrange = LAYOUTS[layout]
    dy, x = arrange(case.upstream(np.float32)), arrange(case.data(np.float32))
    weight = case.parameters(np.float32)["weight"]
    _, statistics = case.forward(fastbn, x)
    fresh = case.backward(fastbn, dy, x, statistics, weight=weight)
    out = {"another": arrange(np.full(case.shape, np.nan, np.float32)), "dy": dy, "x": x}[destination]
    gradients = case.backward(fastbn, dy, x, statistics, weight=weight, out=out)
    assert gradients[0] is out
    for gradient, expected in zip(gradients, fresh, strict=True):
        assert_same_bits(gradient, expected)


# Nothing to normalize -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    "case", [*by_channel((0, 6, 4, 4), (2,)), *by_channel((0, 4, 6), (3,), -1), *trailing((0, 7), 7)], ids=ids
)
def test_empty_batch(case, dtype):
    x = np.empty(case.shape, dtype)
    statistics = [np.zeros(case.statistics_shape)] * (1 if case.op == "rms_norm" else 2)
    dx, *sums = case.backward(fastbn, x, x, statistics, weight=case.parameters(dtype)["weight"])
    assert dx.shape == case.shape
    assert dx.dtype == dtype
    for value in sums:
        np.testing.assert_array_equal(value, np.zeros(case.parameter_shape))


@pytest.mark.full
@pytest.mark.parametrize("groups", [1, 64])
@pytest.mark.parametrize("plane", [(2,), (2, 2), (3, 3)])
def test_scratch_is_small_beside_x(groups, plane):
    """Even where a channel has but a few elements in a sample, whose sums would be as large as they are."""
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, 300, 64, *plane), dtype=np.float32)
    _, mean, rstd = fastbn.group_norm_forward(x, groups)
    arguments, out = (dy, x, mean, rstd), np.empty_like(x)
    fastbn.group_norm_backward(*arguments, out=out)  # compiles
    tracemalloc.start()
    fastbn.group_norm_backward(*arguments, out=out)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < x.nbytes / 2


@pytest.mark.parametrize("axis", [1, -1])
def test_an_infinite_gradient_stays_infinite(axis):
    x, dy = np.random.default_rng(0).normal(1000, 1, (2, 4, 5, 9, 9)).astype(np.float32)  # whose means are rounded
    _, mean, rstd = fastbn.batch_norm_forward(x, axis=axis)
    dy[1, 2, 3, 3] = np.inf
    _, dweight, dbias = fastbn.batch_norm_backward(dy, x, mean, rstd, axis=axis)
    assert np.isinf(dweight).sum() == np.isinf(dbias).sum() == 1
    assert not np.isnan(dweight).any()
