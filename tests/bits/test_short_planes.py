"""Planes of every small size, which begin anywhere in a cache line: right, and the same bits by one thread and all."""

import numpy as np
import pytest
from cases import Case, assert_close, assert_same_bits, gradient_scales
from internals import pace

import fastbn
from fastbn import reference

FORWARD, BACKWARD = 5e-7, 2e-6  # of the scale of the output
PLANES = (*range(1, 71), 73, 127, 131, 251, 257, 509, 521, 1021, 1031, 2053)


def cases(plane):
    """Batch norm of few and of more samples, which may be read in different ways, and groups of adjacent planes."""
    yield from (Case("batch_norm", (samples, 6, plane)) for samples in (3, 8))
    yield Case("group_norm", (3, 6, plane), 2)
    if plane > 1:
        yield Case("instance_norm", (3, 5, plane))


def results(case, dtype=np.float32, **fused):
    """y, statistics and gradients of a call, after a first one that is checked and planned; and what they are of."""
    x, dy = case.data(dtype, 3.0), case.upstream(dtype)
    parameters = case.parameters(np.float64 if dtype == np.float64 else np.float32)
    again = parameters if fused else {"weight": parameters["weight"]}
    for _ in range(2):
        y, statistics = case.forward(fastbn, x, **parameters, **fused)
        gradients = case.backward(fastbn, dy, x, statistics, **again, **fused)
    return (y, *statistics, *gradients), (x, dy, parameters, statistics)


@pytest.mark.full
@pytest.mark.parametrize("plane", PLANES)
def test_short_planes_are_right(plane):
    for case in cases(plane):
        (y, _, rstd, *gradients), (x, dy, parameters, statistics) = results(case)
        expected, (_, expected_rstd) = case.forward(reference, x, **parameters)
        assert_close(y, expected, FORWARD)
        np.testing.assert_allclose(rstd, expected_rstd, rtol=2e-7)
        expected = case.backward(reference, dy, x, statistics, weight=parameters["weight"])
        for a, e, scale in zip(gradients, expected, gradient_scales(case, statistics), strict=True):
            assert_close(a, e, BACKWARD, scale)


@pytest.mark.full
@pytest.mark.parametrize("fused", [{}, {"activation": "relu"}], ids=["plain", "relu"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_threads_change_no_bit_of_short_planes(dtype, fused, monkeypatch):
    for case in (case for plane in PLANES[::6] for case in cases(plane)):
        with fastbn.num_threads(1):
            alone, _ = results(case, dtype, **fused)
        with monkeypatch.context() as patch:
            patch.setattr(pace, "SERIAL_BYTES", 0)
            patch.setattr(pace, "TEAM_BYTES", 0)  # as if the array were large
            together, _ = results(case, dtype, **fused)
        for one, other in zip(together, alone, strict=True):
            assert_same_bits(one, other)
