"""Where a result begins decides how it is written, and makes no difference to any bit."""

import numpy as np
import pytest

import fastbn


def beginning_at(offset, like):
    """An array like another whose memory begins so many bytes behind a cache line."""
    memory = np.empty(like.nbytes + 128, np.uint8)
    return np.ndarray(like.shape, like.dtype, memory, -memory.ctypes.data % 64 + offset)


@pytest.mark.parametrize("operation", ["layer_norm", "rms_norm"])
@pytest.mark.parametrize(("rows", "length"), [(33000, 128), (22000, 96)])
def test_rows_of_whole_lines(operation, rows, length):
    """Large enough for stores past the cache: forward from 16 MB on, backward from 8."""
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, rows, length), np.float32)
    weight = rng.random(length, np.float32)
    forward, backward = (getattr(fastbn, f"{operation}_{way}") for way in ("forward", "backward"))
    y, *statistics = forward(x, length, weight)
    dx, *gradients = backward(dy, x, *statistics, weight=weight)
    for offset in (0, 16):
        np.testing.assert_array_equal(forward(x, length, weight, out=beginning_at(offset, x))[0], y)
        again, *more = backward(dy, x, *statistics, weight=weight, out=beginning_at(offset, x))
        np.testing.assert_array_equal(again, dx)
        for one, other in zip(more, gradients, strict=True):
            np.testing.assert_array_equal(one, other)
    expected = getattr(fastbn, operation)(x[:100], length, weight)  # a small array, written in the ordinary way
    np.testing.assert_array_equal(y[:100], expected)
