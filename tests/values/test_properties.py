"""What holds for every shape, stride and value: drawn by hypothesis."""

from math import prod

import numpy as np
import pytest
from cases import (
    FLOATS,
    OPERATIONS,
    Case,
    assert_close,
    assert_same_bits,
    forward_tolerance,
    gradient_scales,
    gradient_tolerance,
)
from hypothesis import assume, given
from hypothesis import strategies as st

import fastbn
from fastbn import reference

pytestmark = pytest.mark.full


@st.composite
def some_case(draw, operations=OPERATIONS):
    op = draw(st.sampled_from(operations))
    shape = tuple(draw(st.lists(st.integers(1, 7), min_size=2, max_size=5)))
    shape = tuple(n * draw(st.sampled_from((1, 1, 1, 5))) for n in shape)
    if op in ("layer_norm", "rms_norm"):
        return Case(op, shape, shape[draw(st.integers(0, len(shape) - 1)) :])
    axis = draw(st.integers(1, len(shape) - 1))
    channels = shape[axis]
    groups = draw(st.sampled_from([g for g in range(1, channels + 1) if channels % g == 0]))
    shared = {"batch_norm": channels, "instance_norm": shape[0] * channels, "group_norm": shape[0] * groups}[op]
    assume(prod(shape) // shared > 1)  # statistics of a single value make no sense
    return Case(op, shape, groups if op == "group_norm" else None, draw(st.sampled_from((axis, axis - len(shape)))))


@st.composite
def some_layout(draw, rank, orders=st.permutations):
    """A function to an array of the same values and shape with its axes in any order in memory, steps and signs."""
    order = draw(orders(range(rank)))
    steps = draw(st.lists(st.sampled_from((1, 1, 2, 3, -1, -2)), min_size=rank, max_size=rank))

    def arrange(values):
        lengths = [values.shape[a] * abs(steps[a]) for a in order]
        view = np.full(lengths, np.nan, values.dtype)[tuple(slice(None, None, steps[a]) for a in order)]
        view = view.transpose(np.argsort(order))
        view[...] = values
        return view

    return arrange


dtypes = st.sampled_from(FLOATS)
seeds = st.integers(0, 2**32 - 1)
offsets = st.sampled_from((0.0, 0.0, -7.0, 1e3, -1e6))
SUBTRACT_A_MEAN = [op for op in OPERATIONS if op != "rms_norm"]
BY_SAMPLE = [op for op in OPERATIONS if op != "batch_norm"]


def results(case, x, dy):
    """Everything a case computes: y, statistics, gradients."""
    parameters = case.parameters(x.dtype)
    y, saved = case.forward(fastbn, x, **parameters)
    return y, *saved, *case.backward(fastbn, dy, x, saved, weight=parameters["weight"])


def assert_all_same_bits(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        assert_same_bits(a, b)


@given(st.data(), some_case(), dtypes, offsets, seeds)
def test_steps_and_signs_make_no_difference_to_any_bit(data, case, dtype, offset, seed):
    x, dy = case.data(dtype, offset, seed), case.upstream(dtype)
    arrange = data.draw(some_layout(len(case.shape), orders=st.just))
    assert_all_same_bits(results(case, arrange(x), arrange(dy)), results(case, x, dy))


@given(st.data(), some_case(), dtypes, offsets, seeds)
def test_layouts_of_the_arrays_are_independent(data, case, dtype, offset, seed):
    x, dy, out = (
        data.draw(some_layout(len(case.shape)))(v)
        for v in (case.data(dtype, offset, seed), *[case.upstream(dtype)] * 2)
    )
    parameters = case.parameters(dtype)
    expected, statistics = case.forward(reference, x, **parameters)
    assert case.normalize(fastbn, x, **parameters, out=out) is out
    assert_close(out, expected, forward_tolerance(dtype, offset))
    dx = case.backward(fastbn, dy, x, statistics, weight=parameters["weight"], out=out)[0]
    assert dx is out
    expected = case.backward(reference, dy, x, statistics, weight=parameters["weight"])[0]
    assert_close(dx, expected, gradient_tolerance(dtype, offset), gradient_scales(case, statistics)[0])


@given(st.data(), some_case(), dtypes, offsets, seeds)
def test_broadcast_arrays(data, case, dtype, offset, seed):
    repeated = data.draw(st.lists(st.booleans(), min_size=len(case.shape), max_size=len(case.shape)))
    part = case.data(dtype, offset, seed)[tuple(slice(0, 1) if r else slice(None) for r in repeated)]
    x, dy = np.broadcast_to(part, case.shape), np.broadcast_to(dtype(0.5), case.shape)
    expected, statistics = case.forward(reference, x, **case.parameters(dtype))
    y, *others = results(case, x, dy)
    _, *others_of_copies = results(case, x.copy(), dy.copy())
    assert_close(y, expected, forward_tolerance(dtype, offset))
    for value, same in zip(others, others_of_copies, strict=True):
        assert_close(value, same, gradient_tolerance(dtype, offset), max(gradient_scales(case, statistics)))


@given(some_case(), dtypes, offsets, seeds)
def test_running_it_again_gives_the_same_bits(case, dtype, offset, seed):
    x, dy = case.data(dtype, offset, seed), case.upstream(dtype)
    assert_all_same_bits(results(case, x, dy), results(case, x, dy))


@given(st.data(), some_case(BY_SAMPLE), dtypes, offsets, seeds)
def test_a_sample_alone_has_the_bits_it_has_in_a_batch(data, case, dtype, offset, seed):
    assume(case.by_channel or len(case.parameter_shape) < len(case.shape))
    i = data.draw(st.integers(0, case.shape[0] - 1))
    x, dy, parameters = case.data(dtype, offset, seed), case.upstream(dtype), case.parameters(dtype)
    y, statistics = case.forward(fastbn, x, **parameters)
    y_alone, statistics_alone = case.forward(fastbn, x[i : i + 1], **parameters)
    assert_all_same_bits((y_alone, *statistics_alone), (y[i : i + 1], *(value[i : i + 1] for value in statistics)))
    dx = case.backward(fastbn, dy, x, statistics, weight=parameters["weight"])[0]
    dx_alone = case.backward(fastbn, dy[i : i + 1], x[i : i + 1], statistics_alone, weight=parameters["weight"])[0]
    assert_same_bits(dx_alone, dx[i : i + 1])


@given(some_case(SUBTRACT_A_MEAN), dtypes, seeds, st.integers(-(2**17), 2**17))
def test_shifting_the_values_changes_nothing(case, dtype, seed, shift):
    x = np.round(8 * case.data(np.float64, seed=seed)) / 8  # so that x + shift is exact in float32 too
    dy = case.upstream(dtype)
    y, _, _, dx, *_ = results(case, x.astype(dtype), dy)
    y_shifted, _, rstd, dx_shifted, *_ = results(case, (x + shift).astype(dtype), dy)
    assert_close(y_shifted, y, 2 * forward_tolerance(dtype, shift))
    assert_close(dx_shifted, dx, 2 * gradient_tolerance(dtype, shift), gradient_scales(case, [rstd])[0])


@given(some_case(), dtypes, seeds, st.integers(-12, 12))
def test_scaling_the_values_and_eps_changes_nothing(case, dtype, seed, exponent):
    x, parameters, scale = case.data(dtype, seed=seed), case.parameters(dtype), 2.0**exponent
    y, (*_, rstd) = case.forward(fastbn, x, **parameters, eps=1e-5)
    y_scaled, (*_, rstd_scaled) = case.forward(fastbn, x * dtype(scale), **parameters, eps=1e-5 * scale**2)
    assert_close(y_scaled, y, forward_tolerance(dtype))
    np.testing.assert_allclose(rstd_scaled * scale, rstd, rtol=forward_tolerance(dtype))


@given(some_case(), st.just(np.float32), seeds)
def test_weight_and_bias_come_last(case, dtype, seed):
    x, parameters = case.data(dtype, seed=seed), case.parameters(dtype)
    shape = (
        [-1 if a == case.axis % len(case.shape) else 1 for a in range(len(case.shape))] if case.by_channel else case.arg
    )
    weight, bias = (parameters[name].reshape(shape) if name in parameters else 0 for name in ("weight", "bias"))
    plain = case.normalize(fastbn, x).astype(np.float64)
    assert_close(case.normalize(fastbn, x, **parameters), plain * weight + bias, 2 * forward_tolerance(dtype))


@given(st.data(), some_case(), dtypes, seeds, st.sampled_from((np.nan, np.inf, -np.inf)))
def test_a_value_that_is_not_finite_stays_in_its_group(data, case, dtype, seed, poison):
    index = tuple(data.draw(st.integers(0, n - 1)) for n in case.shape)
    parameters = case.parameters(dtype)
    clean, poisoned, missing = (case.data(dtype, seed=seed) for _ in range(3))
    poisoned[index], missing[index] = poison, np.nan
    with np.errstate(invalid="ignore"):
        group = np.isnan(case.forward(reference, missing)[0])
        # RMS norm of an infinity: rstd is 0, so finite values give 0 and the infinity itself inf * 0 = NaN
        expected, _ = case.forward(reference, poisoned, **parameters)
    y, _ = case.forward(fastbn, poisoned, **parameters)
    np.testing.assert_array_equal(y[group], expected[group])
    assert_same_bits(y[~group], case.forward(fastbn, clean, **parameters)[0][~group])
