"""One plan for many threads, and in processes forked from the one that made it: the bits of the first call."""

import os
import threading

import numpy as np
import pytest
import remembered
from processes import python

import fastbn

AT_ONCE = 8
CHANNELS = 16


def a_call(shape, axis, activation):
    """A forward and its backward on arrays that are made once: all that they return."""
    rng = np.random.default_rng(7)
    x, dy, residual = (rng.standard_normal(shape).astype(np.float32) for _ in range(3))
    weight, bias = rng.uniform(0.5, 1.5, CHANNELS), rng.standard_normal(CHANNELS)
    named = {"bias": bias, "axis": axis, "activation": activation, "residual": residual}

    def run():
        y, mean, rstd = fastbn.batch_norm_forward(x, weight, **named)
        rows = fastbn.layer_norm(x, x.shape[-1], activation=activation)
        return y, mean, rstd, rows, *fastbn.batch_norm_backward(dy, x, mean, rstd, weight, **named)

    return run


def bits(results):
    return [np.ascontiguousarray(result).tobytes() for result in results]


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        pytest.param((4, CHANNELS, 6, 5), 1, id="runs"),
        pytest.param((4, 6, 5, CHANNELS), -1, id="columns", marks=pytest.mark.full),
        pytest.param((8, CHANNELS, 48, 48), 1, id="for several threads each", marks=pytest.mark.full),
    ],
)
def test_a_plan_that_many_threads_use_at_once_gives_the_bits_of_its_first_call(shape, axis):
    call = a_call(shape, axis, "relu")
    first, kept = bits(call()), remembered.number()
    start, found = threading.Barrier(AT_ONCE), []

    def run():
        start.wait()
        found.extend(bits(call()) == first for _ in range(5))

    threads = [threading.Thread(target=run) for _ in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert remembered.number() == kept > 0
    assert len(found) == 5 * AT_ONCE
    assert all(found)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system forks no processes")
def test_a_plan_gives_the_same_bits_in_a_forked_process():
    program = """
        import hashlib, os, sys
        import remembered
        from test_plans_shared import CHANNELS, a_call, bits

        calls = [a_call((4, CHANNELS, 6, 5), 1, "relu"), a_call((8, CHANNELS, 48, 48), 1, "relu")]

        def digest():
            return hashlib.sha256(b"".join(part for call in calls for part in bits(call()))).hexdigest()

        first, kept = digest(), remembered.number()
        for _ in range(2):
            child = os.fork()
            if child == 0:
                same = digest() == first and remembered.number() == kept
                os._exit(0 if same else 3)
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        print(digest() == first)
    """
    where = os.path.dirname(__file__)
    out, _ = python(f"import sys; sys.path.insert(0, {where!r})", program)
    assert out.split() == ["0", "0", "True"]
