"""What the tests' processes compute.  A module, so that processes made by spawn and by pickle find it."""

import threading

import numpy as np
from internals import pace

import fastbn
from fastbn import reference

pace.TEAM_BYTES = pace.SERIAL_BYTES  # from here on all threads, so that arrays can be small and tests quick


def _array(*shape):
    return np.random.default_rng(0).standard_normal(shape, np.float32)


SMALL, LARGE = _array(2, 16, 8, 16), _array(8, 16, 32, 64)  # the one serial, the other parallel
WEIGHT, BIAS = _array(16), _array(16) + 1


def _close(actual, expected, tolerance):
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())


def _results(library, x, axis=1):
    y, mean, rstd = library.batch_norm_forward(x, WEIGHT, BIAS, axis=axis)
    return y, mean, rstd, *library.batch_norm_backward(np.cos(x), x, mean, rstd, WEIGHT, axis=axis)


def _rows(library, x):
    return [library.layer_norm(x, x.shape[-1])]


def check_rows(_=None):
    """One operation, which has two kernels."""
    for x in (SMALL, LARGE):
        _close(_rows(fastbn, x), _rows(reference, x), 1e-6)
    return "right"


def check_columns():
    """Channels last: other kernels than those of `check`."""
    _close(_results(fastbn, SMALL, axis=-1), _results(reference, SMALL, axis=-1), 5e-6)
    return "right"


def check_fused(axis=1):
    """An activation, a residual and a mask in one call."""
    c = SMALL.shape[axis]
    named = {"weight": np.ones(c, np.float32), "bias": BIAS[:c], "axis": axis, "activation": "gelu"}
    named |= {"residual": np.sin(SMALL), "where": SMALL < 1}
    results = []
    for library in (fastbn, reference):
        y, mean, rstd = library.batch_norm_forward(SMALL, **named)
        results.append((y, *library.batch_norm_backward(np.cos(SMALL), SMALL, mean, rstd, **named)))
    _close(*results, 5e-6)
    return "right"


def check(_=None):
    """Forward and backward, serial and parallel, against the definitions."""
    for x in (SMALL, LARGE):
        _close(_results(fastbn, x), _results(reference, x), 5e-6)
    return check_rows()


def in_threads(work=check, count=8, times=3):
    """The same in as many threads at once; raises what was raised in any of them."""
    start, errors = threading.Barrier(count), []

    def run():
        start.wait()
        try:
            for _ in range(times):
                work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return "right"
