"""What an operation gives, both ways, beside the definitions in float64."""

import numpy as np
from cases import assert_close, assert_same_bits, forward_tolerance, gradient_scales, gradient_tolerance, memory_order

import fastbn
from fastbn import reference


def twice(call):
    """What the call returns, whose second time, which fastbn may go about in a shorter way, gives the same bits."""
    first, second = call(), call()
    for a, b in zip(arrays_of(first), arrays_of(second), strict=True):
        assert_same_bits(a, b)
    return second


def arrays_of(results):
    """The arrays in tuples of tuples."""
    return [a for part in results for a in arrays_of(part)] if isinstance(results, tuple) else [results]


def assert_statistics_close(case, statistics, expected, tolerance):
    for value in statistics:
        assert value.dtype == np.float64
        assert value.shape == case.statistics_shape
    *means, rstd = statistics
    *expected_means, expected_rstd = expected
    np.testing.assert_allclose(rstd, expected_rstd, rtol=tolerance)
    for mean, expected_mean in zip(means, expected_means, strict=True):
        # counted in standard deviations, whatever the mean: that is what becomes an error of y
        assert np.max(np.abs(mean - expected_mean) * expected_rstd) <= tolerance


def check_forward(case, x, offset=0.0):
    parameters, tolerance = case.parameters(x.dtype), forward_tolerance(x.dtype, offset)
    expected, expected_statistics = case.forward(reference, x, **parameters)
    before = x.copy()
    y, statistics = twice(lambda: case.forward(fastbn, x, **parameters))
    assert y.dtype == x.dtype
    assert_close(y, expected, tolerance)
    assert_statistics_close(case, statistics, expected_statistics, tolerance)
    assert_same_bits(case.normalize(fastbn, x, **parameters), y)
    assert_same_bits(x, before)
    return y


def check_backward(case, dy, x, offset=0.0, named=None, **frozen):
    """Given the reference's statistics of the same data, so that only backward is judged."""
    named = {"weight": case.parameters(x.dtype)["weight"]} if named is None else named
    _, statistics = case.forward(reference, x)
    before = dy.copy(), x.copy()
    gradients = twice(lambda: case.backward(fastbn, dy, x, statistics, **named, **frozen))
    expected = case.backward(reference, dy, x, statistics, **named, **frozen)
    assert_gradients_close(case, gradients, expected, statistics, gradient_tolerance(x.dtype, offset))
    for after, array in zip((dy, x), before, strict=True):
        assert_same_bits(after, array)
    return gradients


def assert_gradients_close(case, gradients, expected, statistics, tolerance, upstream=1.0):
    assert len(gradients) == (2 if case.op == "rms_norm" else 3)
    scales = gradient_scales(case, statistics, upstream)[: len(gradients)]
    for gradient, truth, scale in zip(gradients, expected, scales, strict=True):
        rounding = np.finfo(gradient.dtype).eps / 2  # counts where a weight is of a narrower type than x
        assert_close(gradient, truth, tolerance + rounding, scale)


def both_ways(case, library, x, dy, named, more):
    """(y, dx, ...), and the statistics."""
    y, statistics = case.forward(library, x, **named, **more)
    return (y, *case.backward(library, dy, x, statistics, **named, **more)), statistics


def check_fused(case, dtype, more, offset=0.0, place=lambda a: a):
    """Forward and backward with what `more` names: an activation, a residual, a mask."""
    x, dy, named = case.data(dtype, offset), case.upstream(dtype), case.parameters(dtype)
    expected, statistics = both_ways(case, reference, x, dy, named, more)
    actual, _ = twice(lambda: both_ways(case, fastbn, place(x), place(dy), named, more))
    assert len(actual) == len(expected)
    assert_close(actual[0], expected[0], forward_tolerance(dtype, offset), 1.0)
    scales = (*gradient_scales(case, statistics)[: 2 if case.op == "rms_norm" else 3], 1.0)
    for a, b, scale in zip(actual[1:], expected[1:], scales, strict=False):
        assert_close(a, b, gradient_tolerance(dtype, offset), scale)
    assert all(memory_order(a) == memory_order(place(x)) for a in actual if a.shape == x.shape)
    return actual
