"""Forward results, saved statistics and running statistics against the float64 reference."""

import numpy as np
import pytest
from against_reference import assert_statistics_close, check_forward
from cases import (
    CASES,
    FLOATS,
    HUGE,
    LARGE,
    LAYOUTS,
    MEDIUM,
    OFFSETS,
    OPERATIONS,
    OVER_CHANNELS,
    VIEWS,
    Case,
    assert_close,
    assert_same_bits,
    by_channel,
    channels_first_view,
    channels_last_view,
    forward_tolerance,
    ids,
    memory_order,
    strided,
    trailing,
)

import fastbn
from fastbn import reference

# Values ---------------------------------------------------------------------------------------------------------------


@pytest.mark.full
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("case", CASES, ids=ids)
def test_forward(case, offset, dtype):
    check_forward(case, case.data(dtype, offset), offset)


@pytest.mark.full
@pytest.mark.parametrize("case", HUGE, ids=ids)
def test_forward_beyond_the_cache(case):
    check_forward(case, case.data(np.float32, 1e3), 1e3)


@pytest.mark.full
@pytest.mark.parametrize("eps", [1e-12, 1e-3, 1.0])
@pytest.mark.parametrize("case", MEDIUM, ids=ids)
def test_eps(case, eps):
    x = 0.1 * case.data(np.float32)
    expected, expected_statistics = case.forward(reference, x, eps=eps)
    y, statistics = case.forward(fastbn, x, eps=eps)
    assert_close(y, expected, forward_tolerance(np.float32))
    assert_statistics_close(case, statistics, expected_statistics, forward_tolerance(np.float32))
    assert_close(case.normalize(fastbn, x, eps=eps), expected, forward_tolerance(np.float32))


@pytest.mark.parametrize("dtype", FLOATS)
def test_default_eps_of_rms_norm_is_that_of_the_type(dtype):
    tiny = np.full((3, 8), np.sqrt(np.finfo(dtype).eps), dtype)  # as large as the eps itself
    expected, _ = reference.rms_norm_forward(tiny, 8)
    assert_close(fastbn.rms_norm(tiny, 8), expected, forward_tolerance(dtype))
    assert_close(fastbn.rms_norm_forward(tiny, 8)[0], expected, forward_tolerance(dtype))


@pytest.mark.full
@pytest.mark.parametrize("case", MEDIUM, ids=ids)
def test_an_outlier_in_front_spoils_nothing(case):
    # wherever the sums are shifted by a group's first element, it is as bad a shift as can be
    x = case.data(np.float32)
    x[(slice(None), *(0,) * (x.ndim - 1))] = 1e4
    x[(0,) * x.ndim] = -3e4
    expected, expected_statistics = case.forward(reference, x)
    y, statistics = case.forward(fastbn, x)
    assert_close(y, expected, forward_tolerance(np.float32))
    assert_statistics_close(case, statistics, expected_statistics, forward_tolerance(np.float32))


# Weight and bias ------------------------------------------------------------------------------------------------------


# One type is enough for what follows: the types differ in a kernel's compilation, not in its source.


@pytest.mark.full
@pytest.mark.parametrize("given", [(), ("weight",), ("bias",)], ids=["neither", "weight", "bias"])
@pytest.mark.parametrize("case", MEDIUM, ids=ids)
def test_weight_and_bias_are_independently_optional(case, given):
    x = case.data(np.float32, 10.0)
    named = {name: value for name, value in case.parameters(np.float32).items() if name in given}
    expected, _ = case.forward(reference, x, **named)
    assert_close(case.forward(fastbn, x, **named)[0], expected, forward_tolerance(np.float32))
    assert_close(case.normalize(fastbn, x, **named), expected, forward_tolerance(np.float32))


@pytest.mark.full
@pytest.mark.parametrize(
    ("dtype", "weight_dtype", "bias_dtype"),
    [
        (np.float32, np.float64, np.float64),
        (np.float32, np.float16, np.float16),
        (np.float32, np.float64, np.float32),
        (np.float64, np.float32, np.float32),
    ],
)
@pytest.mark.parametrize("case", MEDIUM, ids=ids)
def test_weight_and_bias_of_other_float_types(case, dtype, weight_dtype, bias_dtype):
    x = case.data(dtype)
    types = {"weight": weight_dtype, "bias": bias_dtype}
    named = {name: value.astype(types[name]) for name, value in case.parameters(np.float64).items()}
    y, _ = case.forward(fastbn, x, **named)
    assert y.dtype == dtype
    assert_close(y, case.forward(reference, x, **named)[0], forward_tolerance(dtype))


@pytest.mark.full
@pytest.mark.parametrize("case", MEDIUM, ids=ids)
def test_weight_and_bias_with_strides(case):
    x, parameters = case.data(np.float32), case.parameters(np.float32)
    expected, _ = case.forward(fastbn, x, **parameters)
    for view in (strided, lambda v: np.flip(np.flip(v).copy())):
        assert_same_bits(case.forward(fastbn, x, **{name: view(v) for name, v in parameters.items()})[0], expected)


# Memory layouts -------------------------------------------------------------------------------------------------------


@pytest.mark.full
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("case", VIEWS, ids=ids)
def test_channels_last_view_of_channels_first_shape(case, offset, dtype):
    x = channels_last_view(case.data(dtype, offset))
    assert memory_order(check_forward(case, x, offset)) == memory_order(x)


@pytest.mark.full
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("case", OVER_CHANNELS, ids=ids)
def test_trailing_axis_that_is_the_channel_axis_in_memory(case, offset, dtype):
    x = channels_first_view(case.data(dtype, offset))
    assert memory_order(check_forward(case, x, offset)) == memory_order(x)


@pytest.mark.full
@pytest.mark.parametrize("case", VIEWS, ids=ids)
def test_memory_decides_not_the_names_of_axes(case):
    view = channels_last_view(case.data(np.float32))
    plain = np.moveaxis(view, 1, -1)
    y, statistics = case.forward(fastbn, view, **case.parameters(np.float32))
    last = Case(case.op, plain.shape, case.arg, axis=-1)
    y_last, statistics_last = last.forward(fastbn, plain, **case.parameters(np.float32))
    assert_same_bits(np.moveaxis(y, 1, -1), y_last)
    for value, value_last in zip(statistics, statistics_last, strict=True):
        assert_same_bits(value, value_last)


@pytest.mark.full
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", MEDIUM, ids=ids)
def test_layouts(case, layout):
    x = LAYOUTS[layout](case.data(np.float32, 1e3))
    x.setflags(write=False)
    check_forward(case, x, 1e3)


# Where the result goes ------------------------------------------------------------------------------------------------


@pytest.mark.full
@pytest.mark.parametrize("layout", ["plain", "channels-last-view", "steps"])
@pytest.mark.parametrize("case", MEDIUM + LARGE, ids=ids)
def test_out_and_in_place(case, layout):
    arrange, parameters = LAYOUTS[layout], case.parameters(np.float32)
    x = arrange(case.data(np.float32))
    fresh, fresh_statistics = case.forward(fastbn, x, **parameters)
    out = arrange(np.full(case.shape, np.nan, np.float32))
    for destination in (out, x.copy(order="K")):
        source = x if destination is out else destination
        y, statistics = case.forward(fastbn, source, **parameters, out=destination)
        assert y is destination
        assert_same_bits(y, fresh)
        for value, fresh_value in zip(statistics, fresh_statistics, strict=True):
            assert_same_bits(value, fresh_value)
    for destination in (out, x):
        source = x if destination is out else destination
        assert case.normalize(fastbn, source, **parameters, out=destination) is destination
        assert_same_bits(destination, fresh)


@pytest.mark.full
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", MEDIUM, ids=ids)
def test_out_in_another_memory_order(case, layout):
    x = case.data(np.float32)
    expected, _ = case.forward(reference, x)
    for source in (x, channels_last_view(x), strided(x)):
        out = LAYOUTS[layout](np.full(case.shape, np.nan, np.float32))
        assert case.forward(fastbn, source, out=out)[0] is out
        assert_close(out, expected, forward_tolerance(np.float32))


def test_steps_of_out_leave_the_gaps_alone():
    x = np.random.default_rng(0).standard_normal((4, 10)).astype(np.float32)
    parent = np.zeros((4, 20), np.float32)
    fastbn.layer_norm(x, 10, out=parent[:, ::2])
    assert_close(parent[:, ::2], reference.layer_norm(x, 10), forward_tolerance(np.float32))
    assert not parent[:, 1::2].any()


# Evaluation -----------------------------------------------------------------------------------------------------------


def evaluate(library, case, x, mean, var, **named):
    frozen = {"training": False} if case.op == "batch_norm" else {"use_input_stats": False}
    return getattr(library, case.op)(x, mean, var, **frozen, **case.keywords, **named)


def running_statistics(case, dtype, offset=0.0):
    rng = np.random.default_rng(3)
    mean, var = rng.standard_normal(case.parameter_shape) + offset, rng.uniform(0.5, 2.0, case.parameter_shape)
    return mean.astype(dtype), var.astype(dtype)


@pytest.mark.full
@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize(
    ("dtype", "running_dtype"), [(np.float32, np.float32), (np.float32, np.float64), (np.float64, np.float64)]
)
@pytest.mark.parametrize(
    "case", [case for case in CASES + VIEWS if case.op in ("batch_norm", "instance_norm")], ids=ids
)
def test_evaluation(case, dtype, running_dtype, offset):
    x, parameters, (mean, var) = (
        case.data(dtype, offset),
        case.parameters(dtype),
        running_statistics(case, running_dtype, offset),
    )
    for array in (x, mean, var):
        array.setflags(write=False)
    if case in VIEWS:
        x = channels_last_view(x)
    y = evaluate(fastbn, case, x, mean, var, **parameters)
    assert y.dtype == dtype
    assert memory_order(y) == memory_order(x)
    assert_close(y, evaluate(reference, case, x, mean, var, **parameters), forward_tolerance(dtype, offset))


@pytest.mark.parametrize("shape", [(1, 5), (1, 5, 1, 1), (1, 1), (3, 1, 1)])
def test_evaluation_of_single_values(shape):
    check = Case("batch_norm", shape)
    x, (mean, var) = check.data(np.float32), running_statistics(check, np.float32)
    expected = reference.batch_norm(x, mean, var)
    assert_close(fastbn.batch_norm(x, mean, var), expected, forward_tolerance(np.float32))
    assert_close(fastbn.instance_norm(x, mean, var, use_input_stats=False), expected, forward_tolerance(np.float32))


@pytest.mark.full
@pytest.mark.parametrize("case", by_channel((4, 6, 9, 11)), ids=ids)
def test_evaluation_in_place(case):
    x, parameters, (mean, var) = (
        case.data(np.float32),
        case.parameters(np.float32),
        running_statistics(case, np.float32),
    )
    fresh = evaluate(fastbn, case, x, mean, var, **parameters)
    assert evaluate(fastbn, case, x, mean, var, **parameters, out=x) is x
    assert_same_bits(x, fresh)


# Running statistics ---------------------------------------------------------------------------------------------------

UPDATES = {
    "batch_norm": lambda library, x, **named: library.batch_norm(x, **named, training=True),
    "batch_norm_forward": lambda library, x, **named: library.batch_norm_forward(x, **named)[0],
    "instance_norm": lambda library, x, **named: library.instance_norm(x, **named),
}


@pytest.fixture(params=UPDATES.values(), ids=UPDATES)
def update(request):
    return request.param


def running_pair(dtype, channels=3):
    return {
        "running_mean": np.linspace(-1, 1, channels).astype(dtype),
        "running_var": np.linspace(0.5, 2, channels).astype(dtype),
    }


def batch(dtype, seed=0, shape=(4, 3, 7)):
    """Every channel has its own mean and spread."""
    channels = np.arange(1.0, shape[1] + 1).reshape(-1, *(1,) * (len(shape) - 2))
    return (np.random.default_rng(seed).standard_normal(shape) * channels + 3 * channels).astype(dtype)


def assert_running_close(running, expected, tolerance):
    for name, value in expected.items():
        np.testing.assert_allclose(running[name], value, rtol=tolerance, err_msg=name)


@pytest.mark.full
@pytest.mark.parametrize("momentum", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("running_dtype", FLOATS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_running_statistics(update, dtype, running_dtype, momentum):
    x, running, expected = batch(dtype), running_pair(running_dtype), running_pair(np.float64)
    y = update(fastbn, x, **running, momentum=momentum)
    expected_y = update(reference, x, **expected, momentum=momentum)
    assert_close(y, expected_y, forward_tolerance(dtype))
    assert_running_close(running, expected, 1e-12 if dtype == running_dtype == np.float64 else 1e-6)
    assert_same_bits(y, update(fastbn, x))  # neither momentum nor the old statistics touch y
    if momentum == 0.0:
        for name, before in running_pair(running_dtype).items():
            assert_same_bits(running[name], before)


@pytest.mark.parametrize("only", ["running_mean", "running_var"])
def test_each_running_array_is_optional(update, only):
    x, both, one = batch(np.float32), running_pair(np.float64), running_pair(np.float64)
    update(fastbn, x, **both)
    update(fastbn, x, **{only: one[only]})
    assert_same_bits(one[only], both[only])
    assert not np.array_equal(one[only], running_pair(np.float64)[only])


@pytest.mark.full
@pytest.mark.parametrize("running_dtype", FLOATS)
def test_running_arrays_with_strides_are_updated_in_place(update, running_dtype):
    x, plain = batch(np.float32), running_pair(running_dtype)
    update(fastbn, x, **plain)
    steps = {name: strided(value) for name, value in running_pair(running_dtype).items()}
    backwards = {name: np.flip(np.flip(value).copy()) for name, value in running_pair(running_dtype).items()}
    for running in (steps, backwards):
        update(fastbn, x, **running)
        for name, value in plain.items():
            assert_same_bits(running[name], value)
    for value in steps.values():
        assert np.isnan(value.base[..., 1::2]).all()  # the gaps


@pytest.mark.full
@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 129, 131), (40, 3, 5), (2, 3, 2, 3, 4), (8, 3, 50, 41)])
@pytest.mark.parametrize("memory", [np.ascontiguousarray, channels_last_view], ids=["channels-first", "channels-last"])
def test_running_statistics_of_other_shapes(shape, memory):
    x, running, expected = memory(batch(np.float32, shape=shape)), running_pair(np.float64), running_pair(np.float64)
    fastbn.batch_norm(x, **running, training=True)
    reference.batch_norm(x, **expected, training=True)
    assert_running_close(running, expected, 1e-6)


@pytest.mark.full
@pytest.mark.parametrize("running_dtype", FLOATS)
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_running_statistics_after_a_thousand_updates(update, running_dtype, offset):
    running, expected = running_pair(running_dtype), running_pair(np.float64)
    for seed in range(1000):
        x = batch(np.float32, seed) + np.float32(offset)
        update(fastbn, x, **running)
        update(reference, x, **expected)
    assert_running_close(running, expected, 1e-6)


# Nothing to normalize -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    "case",
    [
        *by_channel((0, 6, 4, 4), (2,)),
        *by_channel((0, 4, 6), (3,), axis=-1),
        *trailing((0, 7), 7),
        *trailing((3, 0, 7), 7),
    ],
    ids=ids,
)
def test_empty_batch(case, dtype):
    x = np.empty(case.shape, dtype)
    y, statistics = case.forward(fastbn, x, **case.parameters(dtype))
    assert y.shape == case.shape
    assert y.dtype == dtype
    for value in statistics:
        assert value.shape == case.statistics_shape
        assert value.dtype == np.float64
    assert case.normalize(fastbn, x, **case.parameters(dtype), out=x) is x


@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 4, 4), (2, 3, 0)])
def test_empty_batch_leaves_running_statistics_alone(update, shape):
    running = running_pair(np.float32)
    assert update(fastbn, np.empty(shape, np.float32), **running).shape == shape
    for name, before in running_pair(np.float32).items():
        assert_same_bits(running[name], before)


def test_every_operation_is_in_the_table():
    assert {case.op for case in CASES} == set(OPERATIONS)
